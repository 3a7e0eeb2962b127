"""Random changes to a batch of images, for training: `aug(x, rng) -> a new array`.

    augment = Compose(Shift(2), Flip(), Noise(0.02))
    trainer.fit(X, y, epochs=10, augment=augment)

    moved            Affine Crop Flip RandomResizedCrop Shift
    colours          ColorJitter Noise Normalize
    covered          CutOut RandomErasing
    two in one       CutMix MixUp, which change the targets too
    put together     Compose OneOf

x is (N, C, H, W), of a float type or of integers (uint8 pixels); the type stays, `Normalize` apart, and integers are
rounded and kept in their range. What is random comes from `rng` alone, each image on its own, and what an image moves
away from is filled with zeros. Each augmentation is a small frozen object; `config` gives it as data, `from_config`
rebuilds it.

`aug(x, rng, masks=m) -> (x, m)` moves masks (N, H, W) or (N, K, H, W), labels of pixels, as it moves their images, to
the nearest pixel and with 0 where nothing is; colours and covers leave them as they are. `aug(x, rng, targets=t) ->
(x, t)` mixes targets (N, …), floats such as probabilities of classes, as it mixes their images; a Trainer does so with
class indices. With both: `(x, m, t)`.
"""

from __future__ import annotations

import copy
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

__all__ = [
    "Affine", "Augment", "ColorJitter", "Compose", "Crop", "CutMix", "CutOut", "Flip", "MixUp", "Noise", "Normalize",
    "OneOf", "RandomErasing", "RandomResizedCrop", "Shift", "from_config",
]  # fmt: skip

TRIES = 10  # rectangles that are drawn before one that fits is given up
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Augment:
    """Base of the augmentations."""

    def __call__(
        self, x: Any, rng: np.random.Generator | int | None = None, *, masks: Any = None, targets: Any = None
    ) -> Any:
        """A changed copy of the batch x (N, C, H, W); with masks, targets or both a tuple, see the module.

        What is drawn does not depend on them. Raises ShapeError for other axes, TypeError for no numbers.
        """
        x = np.asarray(x)
        if x.ndim != 4:
            raise ShapeError(f"{self._name}: x must have 4 axes (N C H W), got {x.ndim}: shape {x.shape}")
        if x.dtype.kind not in "fiu":
            raise TypeError(f"{self._name}: x must hold floats or integers, got {x.dtype}")
        rng = as_generator(rng)
        if masks is None and targets is None:
            return self._apply(x, rng)
        planes, targets = self._checked(x, masks, targets)
        y, planes, targets = self._change(x, planes, targets, rng)
        if planes is not None and np.ndim(masks) == 3:
            planes = planes[:, 0]
        return (y, *(each for each in (planes, targets) if each is not None))

    def _checked(self, x: np.ndarray, masks: Any, targets: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Masks (N, K, H, W) and targets (N, …) that go with x."""
        if masks is not None:
            masks = np.asarray(masks)
            if masks.dtype.kind not in "fiub":
                raise TypeError(f"{self._name}: masks must hold numbers, got {masks.dtype}")
            if masks.ndim not in (3, 4) or (len(masks), *masks.shape[-2:]) != (len(x), *x.shape[2:]):
                wanted = f"({len(x)}, {x.shape[2]}, {x.shape[3]})"
                raise ShapeError(f"{self._name}: masks must be {wanted} or have K planes each, got {masks.shape}")
            masks = masks[:, None] if masks.ndim == 3 else masks
        if targets is not None:
            targets = np.asarray(targets)
            if targets.dtype.kind != "f":
                raise TypeError(
                    f"{self._name}: targets must be floats, which can be mixed, got {targets.dtype}; of class indices "
                    "write numpy.eye(classes)[targets]"
                )
            if not targets.ndim or len(targets) != len(x):
                raise ShapeError(f"{self._name}: targets must be (N, …) for {len(x)} images, got {targets.shape}")
        return masks, targets

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Masks (N, K, H, W), moved as `_apply` moves the images when it draws from the same `rng`."""
        return masks.copy()

    def _mix(self, targets: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Targets (N, …) of images of `size`, mixed as `_apply` mixes the images."""
        return targets.copy()

    def _change(
        self, x: np.ndarray, masks: np.ndarray | None, targets: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """All that goes with x, by the same draws."""
        for_masks, for_targets = copy.deepcopy(rng), copy.deepcopy(rng)
        masks = None if masks is None else self._move(masks, for_masks)
        targets = None if targets is None else self._mix(targets, (x.shape[2], x.shape[3]), for_targets)
        return self._apply(x, rng), masks, targets

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that their targets must be mixed too."""
        return False

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

    def _range(self, name: str, high: float = np.inf) -> None:
        """Two numbers, the first not larger, both positive and `high` at most."""
        pair = getattr(self, name)
        values = np.asarray(pair)
        if values.shape != (2,) or values.dtype.kind not in "fiu" or not 0 < values[0] <= values[1] <= min(high, 1e9):
            bounds = "" if high == np.inf else f", {high:g} at most"
            raise ValueError(f"{self._name}: {name} must be (least, largest), positive{bounds}; got {pair!r}")
        object.__setattr__(self, name, tuple(map(float, values)))

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

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._apply(masks, rng)


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

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._apply(masks, rng)


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

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._apply(masks, rng)


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

    def _apply(self, x: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        angle, factor, down, right = rng.uniform(-1, 1, (4, len(x), 1))
        angle, factor = np.deg2rad(self.rotate) * angle, 1 + self.scale * factor
        (h, w), cos, sin = x.shape[2:], np.cos(angle) / factor, np.sin(angle) / factor
        rows, columns = np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2
        y_place = cos * rows + (h + 1) / 2 - self.shift * down, -(sin * columns)
        x_place = sin * rows + (w + 1) / 2 - self.shift * right, cos * columns
        return _sampled("Affine", x, y_place, x_place, nearest)

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._apply(masks, rng, nearest=True)


Place = tuple[np.ndarray, np.ndarray]


def _sampled(name: str, x: np.ndarray, y_place: Place, x_place: Place, nearest: bool) -> np.ndarray:
    """The images x (N, C, H, W), bilinear between pixels and with zeros around, or the nearest pixel. Where pixel
    (i, j) of the result comes from, down and to the right and counted in the image with one zero around it, is the sum
    of i's and j's entries in a pair of tables (N, H') and (N, W')."""
    size = y_place[0].shape[1], y_place[1].shape[1]
    if nearest:
        x, y = _new(name, x, size)
        kernels.nearest(_bits(x), _bits(y), *y_place, *x_place)
        return y
    floats, y = _new(name, _floats(x), size)
    kernels.bilinear(floats, y, *y_place, *x_place)
    return _as(y, x.dtype)


@dataclass(frozen=True)
class RandomResizedCrop(Augment):
    """A random part of the image, resized to `size` (an int or (height, width); default: the image's own), bilinear.

    scale   the part's least and largest share of the image's area; ratio: of its width to its height (Szegedy et al.,
            2014). Where ten parts that are drawn do not fit, the largest in the middle that has such a ratio
    """

    size: int | tuple[int, int] | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", integers("RandomResizedCrop", "size", self.size, 2, 1))
        self._range("scale", 1)
        self._range("ratio")

    def _apply(self, x: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        size: Any = self.size or x.shape[2:]
        (top, left, height, width), _ = _rectangles((x.shape[2], x.shape[3]), len(x), self.scale, self.ratio, rng)
        places = []
        for start, length, out in ((top, height, size[0]), (left, width, size[1])):
            low, span = start[:, None], length[:, None]
            place = low + (np.arange(out) + 0.5) * span / out - 0.5
            places.append(np.clip(place, low, low + span - 1) + 1)
        rows, columns = places
        return _sampled("RandomResizedCrop", x, (rows, 0 * columns), (0 * rows, columns), nearest)

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._apply(masks, rng, nearest=True)


def _rectangles(
    image: tuple[int, int], n: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, Any]:
    """(top, left, height, width) of n random rectangles inside an image, (4, n) int, drawn in torchvision's way, and
    whether one of those that were drawn fits, (n,): else it is the largest in the middle."""
    area = image[0] * image[1] * rng.uniform(scale[0], scale[1], (TRIES, n))
    shape = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), (TRIES, n)))
    height, width = np.rint(np.sqrt(area / shape)).astype(int), np.rint(np.sqrt(area * shape)).astype(int)
    fits = (height >= 1) & (height <= image[0]) & (width >= 1) & (width <= image[1])
    first = fits.argmax(axis=0), np.arange(n)
    places = rng.random((2, n))
    whole = image[1] / image[0]
    likely = min(max(whole, ratio[0]), ratio[1])  # of the largest part in the middle
    largest = (image[0], round(image[0] * likely)) if whole > likely else (round(image[1] / likely), image[1])
    some = fits.any(axis=0)
    sides = [np.where(some, side[first], max(1, most)) for side, most in zip((height, width), largest, strict=True)]
    room = [length - side for length, side in zip(image, sides, strict=True)]
    drawn = [(place * (free + 1)).astype(int) for place, free in zip(places, room, strict=True)]
    corner = [np.where(some, place, free // 2) for place, free in zip(drawn, room, strict=True)]
    return np.stack([*corner, *sides]), some


@dataclass(frozen=True)
class ColorJitter(Augment):
    """Other brightness, contrast, saturation and hue, in this order, each image on its own.

    brightness, contrast, saturation   a factor from [max(0, 1 - b), 1 + b]: of the values, of their distance from the
                                       image's mean gray, of their distance from the pixel's own gray
    hue                                turns by up to this share of the circle of colours, 0.5 at most

    Floats are in [0, 1], integers up to their type's white, and stay there. Saturation and hue are of three channels,
    red, green and blue; images of others keep theirs.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, 0)
        self._check("hue", 0, 0.5)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        white = 1.0 if x.dtype.kind == "f" else float(np.iinfo(x.dtype).max)
        low = [max(0.0, 1 - width) for width in (self.brightness, self.contrast, self.saturation)]
        high = [1 + width for width in (self.brightness, self.contrast, self.saturation)]
        draws = rng.random((4, len(x)))
        factors = [(a + (b - a) * draw).astype(dtype) for a, b, draw in zip(low, high, draws, strict=False)]
        brightness, contrast, saturation = (factor.reshape(-1, 1, 1, 1) for factor in factors)
        turn = (self.hue * (2 * draws[3] - 1)).astype(dtype).reshape(-1, 1, 1)
        y = np.array(x, dtype, order="C")  # a mean's last bit depends on the order in memory
        y *= brightness
        np.clip(y, 0, white, out=y)
        if self.contrast:
            y = _blended(y, _gray(y).mean(axis=(1, 2, 3), keepdims=True), contrast, white)
        if x.shape[1] == 3:
            if self.saturation:
                y = _blended(y, _gray(y), saturation, white)
            if self.hue:
                y = _hue_turned(y, turn)
        return _as(y, x.dtype)


def _gray(x: np.ndarray) -> np.ndarray:
    """(N, 1, H, W): the luminance of three channels, of others their mean."""
    if x.shape[1] != 3:
        gray: np.ndarray = x.mean(axis=1, keepdims=True)
    else:
        red, green, blue = (np.asarray(share, x.dtype) for share in LUMINANCE)
        gray = red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:]
    return gray


def _blended(x: np.ndarray, other: np.ndarray, factor: np.ndarray, white: float) -> np.ndarray:
    blended: np.ndarray = other + (x - other) * factor
    np.clip(blended, 0, white, out=blended)
    return blended


def _hue_turned(x: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Red, green and blue (N, 3, H, W) of colours whose hue in HSV is turned, 1 the whole circle."""
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    most, least = x.max(axis=1), x.min(axis=1)
    spread = most - least
    safe = np.where(spread > 0, spread, 1)
    hue = np.where(
        most == red, (green - blue) / safe, np.where(most == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    hue += 6 * turn
    channels = []
    for offset in (5, 3, 1):
        k = np.mod(offset + hue, 6)
        channels.append(most - spread * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, axis=1)


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
class RandomErasing(Augment):
    """With probability `p` a random rectangle of the image becomes `value` (Zhong et al., 2017).

    scale   its least and largest share of the image's area; ratio: of its width to its height
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0

    def __post_init__(self) -> None:
        self._check("p", 0, 1)
        self._check("value", -np.inf)
        self._range("scale", 1)
        self._range("ratio")

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen = rng.random(len(x)) < self.p
        rectangles, fit = _rectangles((x.shape[2], x.shape[3]), len(x), self.scale, self.ratio, rng)
        inside = _inside(x.shape, *rectangles) & (chosen & fit)[:, None, None, None]
        erased: np.ndarray = np.where(inside, _as(np.asarray(float(self.value)), x.dtype), x)
        return erased


def _inside(
    shape: tuple[int, ...], top: np.ndarray, left: np.ndarray, height: np.ndarray, width: np.ndarray
) -> np.ndarray:
    """(N, 1, H, W): which pixels lie in their image's rectangle."""
    rows, columns = np.arange(shape[2]), np.arange(shape[3])
    tall = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    wide = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    inside: np.ndarray = tall[:, None, :, None] & wide[:, None, None, :]
    return inside


@dataclass(frozen=True)
class _Mix(Augment):
    """Two images in one, each image with another of the batch, and their targets by the same shares.

    What one image takes from another is drawn from Beta(alpha, alpha), for each image with probability `p`.
    """

    alpha: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        self._check("alpha", 0)
        self._check("p", 0, 1)
        if not self.alpha:
            raise ValueError(f"{self._name}: alpha must be positive, got 0")

    @property
    def mixes(self) -> bool:
        return True

    def _drawn(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The others (n,), each image's own share (n,), and two numbers in [0, 1) for a place (2, n)."""
        other, share = rng.permutation(n), rng.beta(self.alpha, self.alpha, n)
        share = np.where(rng.random(n) < self.p, share, 1.0)
        return other, share, rng.random((2, n))


def _shared(values: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """share * values + (1 - share) * the others' values; floats."""
    own = share.reshape(-1, *(1,) * (values.ndim - 1))
    mixed: np.ndarray = own * values + (1 - own) * values[other]
    return mixed


@dataclass(frozen=True)
class MixUp(_Mix):
    """Each image becomes a weighted mean with another of the batch, its target too (Zhang et al., 2017).

    alpha   the weight is drawn from Beta(alpha, alpha): small ones leave most images nearly alone; p: how often
    """

    alpha: float = 0.2

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        other, share, _ = self._drawn(len(x), rng)
        dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        return _as(_shared(x.astype(dtype), other, share.astype(dtype)), x.dtype)

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise ValueError("MixUp: masks cannot be mixed; CutMix cuts and pastes them")

    def _mix(self, targets: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        other, share, _ = self._drawn(len(targets), rng)
        mixed: np.ndarray = _shared(targets, other, share).astype(targets.dtype)
        return mixed


@dataclass(frozen=True)
class CutMix(_Mix):
    """A rectangle of each image becomes that of another of the batch, the target by the areas (Yun et al., 2019).

    alpha   the rectangle's share of the area is drawn from Beta(alpha, alpha), its centre uniformly; what lies outside
            the image is cut off; p: how often. Masks are cut and pasted like their images
    """

    def _rectangles(
        self, n: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], np.ndarray]:
        """The others, each rectangle's (top, left, height, width), and the shares that images keep."""
        other, share, places = self._drawn(n, rng)
        corners, sides = [], []
        for length, place in zip(size, places, strict=True):
            centre, half = (place * length).astype(int), (length * np.sqrt(1 - share)).astype(int) // 2
            low, high = np.clip(centre - half, 0, length), np.clip(centre + half, 0, length)
            corners.append(low)
            sides.append(high - low)
        return other, (*corners, *sides), 1 - sides[0] * sides[1] / (size[0] * size[1])

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        other, rectangles, _ = self._rectangles(len(x), (x.shape[2], x.shape[3]), rng)
        pasted: np.ndarray = np.where(_inside(x.shape, *rectangles), x[other], x)
        return pasted

    def _move(self, masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._apply(masks, rng)

    def _mix(self, targets: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        other, _, share = self._rectangles(len(targets), size, rng)
        mixed: np.ndarray = _shared(targets, other, share).astype(targets.dtype)
        return mixed


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
                raise TypeError(f"{self._name}: its parts must be augmentations, got {part!r}")
        object.__setattr__(self, "parts", parts)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.parts:
            return x.copy()
        for part in self.parts:
            x = part(x, rng)
        return x

    def _change(self, x: Any, masks: Any, targets: Any, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        if not self.parts:
            return super()._change(x, masks, targets, rng)
        for part in self.parts:
            x, masks, targets = part._change(x, masks, targets, rng)
        return x, masks, targets

    @property
    def mixes(self) -> bool:
        return any(part.mixes for part in self.parts)

    def config(self) -> dict[str, Any]:
        return {"augment": self._name, "parts": [part.config() for part in self.parts]}


@dataclass(frozen=True, init=False)
class OneOf(Compose):
    """One of its parts, all alike likely, for the whole batch: `OneOf(MixUp(), CutMix())`."""

    def __init__(self, *parts: Augment) -> None:
        if not parts:
            raise ValueError("OneOf: it must have parts")
        super().__init__(*parts)

    def _apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        changed: np.ndarray = self.parts[int(rng.integers(len(self.parts)))](x, rng)
        return changed

    def _change(self, x: Any, masks: Any, targets: Any, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        return self.parts[int(rng.integers(len(self.parts)))]._change(x, masks, targets, rng)


def _as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats as `dtype`; integers are rounded and kept in its range."""
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        np.rint(values, out=values)
        np.clip(values, limits.min, limits.max, out=values)
    return _typed(values, dtype)


AUGMENTS: dict[str, type[Augment]] = {
    cls.__name__: cls
    for cls in (
        Affine, ColorJitter, Compose, Crop, CutMix, CutOut, Flip, MixUp, Noise, Normalize, OneOf, RandomErasing,
        RandomResizedCrop, Shift,
    )
}  # fmt: skip


def from_config(config: Any) -> Augment:
    """Build an augmentation from `Augment.config`'s data; ValueError or TypeError for anything else."""
    cls = AUGMENTS.get(str(config.get("augment"))) if isinstance(config, dict) else None
    if cls is None:
        raise ValueError(f"no augmentation is configured by {str(config)[:80]!r}")
    options = {name: value for name, value in config.items() if name != "augment"}
    if issubclass(cls, Compose):
        parts = options.get("parts")
        if not isinstance(parts, list) or len(options) != 1:
            raise ValueError(f"{cls.__name__} is configured by its list of parts")
        return cls(*map(from_config, parts))
    return cls(**options)
