"""Random changes to a batch of images, for training: `aug(x, rng) -> a new array`.

    augment = Compose(Shift(2), Flip(), Noise(0.02))
    trainer.fit(X, y, epochs=10, augment=augment)

x is (N, C, H, W), of a float type or of integers (uint8 pixels); the type stays, `Normalize` apart, and integers are
rounded and kept in their range. What is random comes from `rng` alone, each image on its own, and what an image moves
away from is filled with zeros. Each augmentation is a small frozen object; `config` gives it as data, `from_config`
rebuilds it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv._ext import augment as kernels
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.random import as_generator
from fastconv.window import integers

__all__ = ["Affine", "Augment", "Compose", "Crop", "CutOut", "Flip", "Noise", "Normalize", "Shift", "from_config"]


@dataclass(frozen=True)
class Augment:
    """Base of the augmentations."""

    def __call__(self, x: Any, rng: np.random.Generator | int | None = None) -> np.ndarray:
        """A changed copy of the batch x (N, C, H, W). Raises ShapeError for other axes, TypeError for no numbers."""
        x = np.asarray(x)
        if x.ndim != 4:
            raise ShapeError(f"{self._name}: x must have 4 axes (N C H W), got {x.ndim}: shape {x.shape}")
        if x.dtype.kind not in "fiu":
            raise TypeError(f"{self._name}: x must hold floats or integers, got {x.dtype}")
        return self._apply(x, as_generator(rng))

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    @property
    def _name(self) -> str:
        return type(self).__name__

    def config(self) -> dict[str, Any]:
        """The augmentation as data, for JSON; ValueError for one that is not fastconv's own."""
        if AUGMENTS.get(self._name) is not type(self):
            raise ValueError(f"{self._name}: only fastconv's own augmentations can be saved")
        return {"augment": self._name, **dataclasses.asdict(self)}

    def _check(self, name: str, low: float, high: float = np.inf) -> None:
        value = getattr(self, name)
        if isinstance(value, (np.generic, np.ndarray)) and not value.ndim:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{self._name}: {name} must be a number, got {value!r}")
        if not low <= value <= high or not np.isfinite(value):
            bounds = f"at least {low:g}" if high == np.inf else f"in [{low:g}, {high:g}]"
            raise ValueError(f"{self._name}: {name} must be finite and {bounds}, got {value!r}")
        object.__setattr__(self, name, value)

    def _integer(self, name: str, low: int) -> None:
        object.__setattr__(self, name, integers(self._name, name, getattr(self, name), 1, low)[0])


def _new(name: str, x: np.ndarray, size: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """x in C order and an array for the changed images, on memory that is reused; of `size`, where it is another."""
    return np.ascontiguousarray(x), allocate(name, (*x.shape[:2], *(size or x.shape[2:])), x.dtype)


def _typed(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """x as `dtype`, itself where it is."""
    if x.dtype == dtype:
        return x
    y: np.ndarray = allocate("augment", x.shape, dtype)
    np.copyto(y, x, casting="unsafe")
    return y


def _floats(x: np.ndarray) -> np.ndarray:
    """x as what is computed with: float64, or else float32."""
    return _typed(x, np.dtype(np.float64 if x.dtype == np.float64 else np.float32))


def _bits(x: np.ndarray) -> np.ndarray:
    """x's elements as the kernels that move them know them: by their size."""
    return x.view(np.complex128 if x.itemsize == 16 else f"u{x.itemsize}")


def _windows(name: str, x: np.ndarray, top: np.ndarray, left: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """From each image the window of `size` whose corner is at (top, left), with zeros where it is outside."""
    x, y = _new(name, x, size)
    kernels.windows(_bits(x), _bits(y), top, left)
    return y


@dataclass(frozen=True)
class Shift(Augment):
    """Move by up to `pixels` whole pixels along each axis, every distance alike."""

    pixels: int = 1

    def __post_init__(self) -> None:
        self._integer("pixels", 0)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = rng.integers(0, 2 * self.pixels + 1, (2, len(x))) - self.pixels
        return _windows("Shift", x, top, left, x.shape[2:])


@dataclass(frozen=True)
class Crop(Augment):
    """A window of `size` (an int or (height, width); default: the image's own) at a random place of the image with
    `padding` zeros around it."""

    size: int | tuple[int, int] | None = None
    padding: int = 0

    def __post_init__(self) -> None:
        self._integer("padding", 0)
        if self.size is not None:
            object.__setattr__(self, "size", integers("Crop", "size", self.size, 2, 1))

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = self.size or x.shape[2:]  # type: ignore[misc]
        tops, lefts = (n + 2 * self.padding - s for n, s in zip(x.shape[2:], (height, width), strict=True))
        if min(tops, lefts) < 0:
            raise ShapeError(
                f"Crop: size {(height, width)} must fit the image {x.shape[2:]} with padding {self.padding}"
            )
        top, left = rng.integers(0, tops + 1, len(x)), rng.integers(0, lefts + 1, len(x))
        return _windows("Crop", x, top - self.padding, left - self.padding, (height, width))


@dataclass(frozen=True)
class Flip(Augment):
    """Mirror left to right with probability `p` (and, where `vertical`, top to bottom, on its own)."""

    p: float = 0.5
    horizontal: bool = True
    vertical: bool = False

    def __post_init__(self) -> None:
        self._check("p", 0, 1)
        for name in ("horizontal", "vertical"):
            object.__setattr__(self, name, bool(getattr(self, name)))

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        across, down = (
            (rng.random(len(x)) if wanted else np.ones(len(x))) < self.p * wanted
            for wanted in (self.horizontal, self.vertical)
        )
        x, y = _new("Flip", x)
        kernels.flip(_bits(x), _bits(y), across.view(np.uint8), down.view(np.uint8))
        return y


@dataclass(frozen=True)
class Affine(Augment):
    """Rotate by up to `rotate` degrees, scale by a factor in [1 - scale, 1 + scale] and move by up to `shift` pixels,
    about the image's centre, with bilinear interpolation."""

    rotate: float = 10.0
    scale: float = 0.1
    shift: float = 0.0

    def __post_init__(self) -> None:
        self._check("rotate", 0, 180)
        self._check("scale", 0, 0.9)
        self._check("shift", 0)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle, factor, down, right = rng.uniform(-1, 1, (4, len(x), 1))
        angle, factor = np.deg2rad(self.rotate) * angle, 1 + self.scale * factor
        (h, w), cos, sin = x.shape[2:], np.cos(angle) / factor, np.sin(angle) / factor
        rows, columns = np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2
        y_place = cos * rows + (h + 1) / 2 - self.shift * down, -(sin * columns)
        x_place = sin * rows + (w + 1) / 2 - self.shift * right, cos * columns
        return _sampled("Affine", x, y_place, x_place)


def _sampled(
    name: str, x: np.ndarray, y_place: tuple[np.ndarray, np.ndarray], x_place: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """The images x (N, C, H, W), bilinear between pixels, with zeros around. Where pixel (i, j) of the result comes
    from, down and to the right and counted in the image with one zero around it, is the sum of i's and j's entries in
    a pair of tables (N, H') and (N, W')."""
    floats, y = _new(name, _floats(x), (y_place[0].shape[1], y_place[1].shape[1]))
    kernels.bilinear(floats, y, *y_place, *x_place)
    return _as(y, x.dtype)


@dataclass(frozen=True)
class Noise(Augment):
    """Add normal noise with standard deviation `std`, in the units of x."""

    std: float = 0.05

    def __post_init__(self) -> None:
        self._check("std", 0)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        noise = allocate("Noise", x.shape, np.dtype(np.float64 if x.dtype == np.float64 else np.float32))
        rng.standard_normal(dtype=noise.dtype, out=noise)
        noise *= self.std
        noise += x
        return _as(noise, x.dtype)


@dataclass(frozen=True)
class CutOut(Augment):
    """Zeros in a square of `size` pixels about a random pixel, cut off at the border (DeVries and Taylor, 2017)."""

    size: int = 8

    def __post_init__(self) -> None:
        self._integer("size", 1)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = (rng.integers(0, length, len(x)) - self.size // 2 for length in x.shape[2:])
        x, y = _new("CutOut", x)
        np.copyto(y, x)
        kernels.cut(_bits(y), top, left, self.size)
        return y


@dataclass(frozen=True)
class Normalize(Augment):
    """(x - mean) / std, numbers or one per channel; integers become float32.

    Nothing here is random: what is trained with it must be evaluated with it. Where x cannot be normalised beforehand,
    a first layer BatchNorm2d(channels, affine=False) does it in training and inference alike.
    """

    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = np.asarray(getattr(self, name))
            if values.dtype.kind not in "fiu" or values.ndim > 1 or not np.isfinite(values).all():
                raise ValueError(
                    f"Normalize: {name} must be a finite number or one per channel, got {values.tolist()!r}"
                )
            object.__setattr__(self, name, tuple(values.tolist()) if values.ndim else values.item())
        if not np.all(np.asarray(self.std) > 0):
            raise ValueError(f"Normalize: std must be positive, got {self.std!r}")

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float32)
        mean, std = (np.asarray(value, dtype).reshape(1, -1, 1, 1) for value in (self.mean, self.std))
        if {mean.shape[1], std.shape[1]} - {1, x.shape[1]}:
            raise ShapeError(
                f"Normalize: mean and std must be one number or {x.shape[1]}, one per channel of {x.shape}"
            )
        y: np.ndarray = allocate("Normalize", x.shape, dtype)
        np.subtract(_typed(x, dtype), mean, out=y)
        y /= std
        return y


@dataclass(frozen=True, init=False)
class Compose(Augment):
    """One after the other: `Compose(Shift(1), Noise(0.1))`."""

    parts: tuple[Augment, ...]

    def __init__(self, *parts: Augment) -> None:
        for part in parts:
            if not isinstance(part, Augment):
                raise TypeError(f"Compose: its parts must be augmentations, got {part!r}")
        object.__setattr__(self, "parts", parts)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.parts:
            return x.copy()
        for part in self.parts:
            x = part(x, rng)
        return x

    def config(self) -> dict[str, Any]:
        return {"augment": "Compose", "parts": [part.config() for part in self.parts]}


def _as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats as `dtype`; integers are rounded and kept in its range."""
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        np.rint(values, out=values)
        np.clip(values, limits.min, limits.max, out=values)
    return _typed(values, dtype)


AUGMENTS: dict[str, type[Augment]] = {
    cls.__name__: cls for cls in (Affine, Compose, Crop, CutOut, Flip, Noise, Normalize, Shift)
}


def from_config(config: Any) -> Augment:
    """Build an augmentation from `Augment.config`'s data; ValueError or TypeError for anything else."""
    cls = AUGMENTS.get(str(config.get("augment"))) if isinstance(config, dict) else None
    if cls is None:
        raise ValueError(f"no augmentation is configured by {str(config)[:80]!r}")
    options = {name: value for name, value in config.items() if name != "augment"}
    if cls is Compose:
        parts = options.get("parts")
        if not isinstance(parts, list) or len(options) != 1:
            raise ValueError("Compose is configured by its list of parts")
        return Compose(*map(from_config, parts))
    return cls(**options)
