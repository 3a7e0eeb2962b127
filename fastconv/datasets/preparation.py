"""Image files for a trained net: any size, any mode, dark on light or light on dark.

`read_image` prepares one as a net's own training images were: `net.preparation` says how. `digit_ink` finds the ink of
a drawn, printed or photographed digit; `as_mnist` and `as_digits` bring it to the form of the two data sets, by the
recipes that made them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fastconv.datasets.image_files import ImageFile, load_image, opened
from fastconv.layers.base import Layer
from fastconv.machine.threads import get_num_threads

__all__ = ["METHODS", "as_digits", "as_mnist", "digit_ink", "gray_levels", "prepare", "prepared", "read_image"]

METHODS = ("mnist", "digits", "picture")
BLOCK = 32  # images that are prepared before the first of them is looked at

LONGEST = 1024  # pixels; a larger picture of a digit is reduced before its ink is looked for
CONTRAST = 0.06  # of the whole range; below it there is nothing to read
SPECK = 0.03  # of the largest piece of ink; smaller pieces are dirt
EDGE = 0.35  # of full ink: where a stroke's edge is taken to be
FINE = 160  # pixels of a digit's longer side while its strokes are worked on
MARGIN = 24
UPRIGHT = 0.7  # wholly upright, a 7 looks like a 1
WIDEST = FINE * 22 // 32
PEN = (1.5, 4.0)  # pixels of a box of 20: the widths of MNIST's strokes, but for the outermost tenth
INK = 31  # per cent of the pixels of 32x32: what every class of the digits set has

Gray = np.ndarray  # (H, W) float64
Shape = tuple[int, ...]  # (C, H, W)


def read_image(path: str | os.PathLike[str], net: Layer) -> np.ndarray:
    """An image file as a batch of one, (1, C, H, W) float32 in [0, 1], prepared as the net's training images were.

        net = fastconv.load("runs/digits-1")
        probabilities = fastconv.functional.softmax(net(fastconv.datasets.read_image("seven.png", net)))

    `net.preparation` says how: {"method": "picture", "image_shape": (C, H, W)}. A "picture" is resized; of "digits" and
    "mnist" the ink is looked for, dark on light or light on dark, and brought to that set's form. Nets that `fastconv
    train` left have it; to others it can be given. Raises ValueError where it is missing and for an image that shows no
    digit, FormatError for what is no image, OSError, and ImportError without Pillow.
    """
    preparation = getattr(net, "preparation", None)
    if preparation is None or not {"method", "image_shape"} <= preparation.keys():
        raise ValueError(
            "read_image: the net does not say how its images are prepared; write "
            'net.preparation = {"method": "picture", "image_shape": (C, H, W)}'
        )
    method, shape = preparation["method"], tuple(preparation["image_shape"])
    if method not in METHODS:
        raise ValueError(f"read_image: the net's preparation must be one of {', '.join(METHODS)}, got {method!r}")
    return prepare(Path(path), method, shape)[np.newaxis]


def prepare(path: Path, preparation: str, shape: Shape) -> np.ndarray:
    """The image file as a net's input (C, H, W), float32 in [0, 1]; preparation: "mnist", "digits" or "picture".

    A picture is only resized, as `load_folder` does it. Raises OSError, FormatError for what is no image, ValueError
    for one that shows nothing.
    """
    if preparation == "picture":
        return load_image(path, size=(shape[1], shape[2]), channels=shape[0])
    with opened(path) as image:
        levels = gray_levels(image)
    return (as_mnist if preparation == "mnist" else as_digits)(levels, shape)


def prepared(files: Sequence[Path], preparation: str, shape: Shape) -> Iterator[np.ndarray | Exception]:
    """`prepare` of every file in order, or what it raised; in threads, a block ahead."""

    def read(file: Path) -> np.ndarray | Exception:
        try:
            return prepare(file, preparation, shape)
        except (OSError, ValueError, MemoryError) as error:
            return error if str(file) in str(error) else type(error)(f"{file}: {error}")

    threads = min(get_num_threads(), len(files))
    if threads < 2:
        yield from map(read, files)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), BLOCK):
            yield from pool.map(read, files[start : start + BLOCK])


def gray_levels(image: ImageFile) -> Gray:
    """An image as gray levels in [0, 1]; what is transparent takes the shade that contrasts with the rest."""
    levels, opacity = image.levels(LONGEST)
    if opacity is None:
        return levels
    behind = 0.0 if (levels * opacity).sum() > opacity.sum() / 2 else 1.0
    shown: Gray = levels * opacity + behind * (1 - opacity)
    return shown


def digit_ink(levels: Gray) -> Gray:
    """How much ink each pixel holds, 0 to 1: light from dark told apart, uneven lighting, noise and specks removed.

    Raises ValueError for an image that shows nothing.
    """
    if np.ptp(levels) < CONTRAST:
        raise ValueError("the image is blank: nothing to read")
    ink = _white_on_black(levels)
    paper = _background(ink)
    if ink is levels:
        ink = ink - paper
    else:  # dark ink takes away a share of the light that falls on the paper
        ink = (ink - paper) / np.maximum(1 - paper, CONTRAST)
    full = np.quantile(ink[ink > _otsu(ink)], 0.75)
    floor = 4 * _noise(ink)
    if full - floor < CONTRAST / 2:
        raise ValueError("the image is blank: nothing to read")
    return _without_specks(np.clip((ink - floor) / (full - floor), 0, 1))


def _noise(ink: Gray) -> float:
    """The noise's standard deviation, by the differences between neighbours, most of which cross no edge."""
    if min(ink.shape) < 24:  # too coarse to tell
        return 0.0
    differences = np.abs(np.diff(ink, axis=0)[:, 1:] - np.diff(ink, axis=0)[:, :-1])  # of differences: no slopes
    return float(np.median(differences)) / (0.6745 * 2)


def _white_on_black(levels: Gray) -> Gray:
    """The levels, or their inverse where the background, which is what most of the rim shows, is the lighter shade."""
    dark = levels <= _otsu(levels)
    rim = np.concatenate([dark[0], dark[-1], dark[1:-1, 0], dark[1:-1, -1]]).mean()
    share = rim if abs(rim - 0.5) > 0.1 else dark.mean()
    return levels if share > 0.5 else 1 - levels


def _otsu(levels: Gray) -> float:
    """The threshold that parts the values into the two most compact groups (Otsu, 1979)."""
    counts, edges = np.histogram(levels, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = np.nan_to_num(between, nan=-1.0)
    ties = np.flatnonzero(best >= best.max() * (1 - 1e-9))
    return float(edges[1:][ties[len(ties) // 2]])


def _background(ink: Gray) -> Gray:
    """The shade of the paper: a quadratic surface through what is no ink, so that shadows and vignettes go."""
    rows, columns = (np.linspace(-1, 1, n) for n in ink.shape)
    step = max(1, max(ink.shape) // 32)
    sample = ink[::step, ::step].ravel()
    paper = sample[sample <= _otsu(ink)]
    level = float(np.median(paper)) if paper.size else float(ink.min())
    if paper.size < 64 or np.ptp(paper) < 0.02:
        return np.full_like(ink, level)
    y, x = (axis.ravel() for axis in np.meshgrid(rows[::step], columns[::step], indexing="ij"))
    terms = np.stack([np.ones(y.size), y, x, y * y, x * y, x * x])
    surface = np.full(sample.shape, level)
    for _ in range(8):
        near = np.abs(sample - surface) < 0.15
        if near.sum() < 64:
            return np.full_like(ink, level)
        on_paper = terms[:, near]
        weights = np.linalg.solve(on_paper @ on_paper.T + 1e-9 * np.eye(6), on_paper @ sample[near])
        surface = weights @ terms
    c, cy, cx, cyy, cxy, cxx = weights
    y, x = rows[:, np.newaxis], columns[np.newaxis]
    paper_shade: Gray = c + cy * y + cx * x + cyy * y * y + cxy * x * y + cxx * x * x
    return paper_shade


def _without_specks(ink: Gray) -> Gray:
    from scipy import ndimage

    pieces, count = ndimage.label(ink > EDGE, np.ones((3, 3)))
    if count < 2:
        return ink
    sizes = np.bincount(pieces.ravel())[1:]
    kept = ndimage.binary_dilation(np.isin(pieces, 1 + np.flatnonzero(sizes >= SPECK * sizes.max())), iterations=2)
    return np.where(kept, ink, 0.0)


def _cropped(ink: Gray) -> Gray:
    """The box around the ink. ValueError where there is none, as of lines that were too thin for their length."""
    rows, columns = (np.flatnonzero((ink > EDGE).any(axis)) for axis in (1, 0))
    if not rows.size:
        raise ValueError("the image shows no digit: its ink is too faint or too thin")
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(ink: Gray, height: int, width: int) -> Gray:
    from PIL import Image

    image = Image.fromarray(ink.astype(np.float32))
    return np.clip(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64), 0, 1)


def as_mnist(levels: Gray, shape: Shape) -> np.ndarray:
    """MNIST's form (LeCun, 1998): white on black, in a box of 20x20, the centre of mass in the middle of 28x28.

    Pens much thinner or thicker than MNIST's are brought nearer to them. An image that is in this form stays as it is.
    """
    ink = digit_ink(levels)
    if levels.shape == shape[1:] and _is_centred(ink):
        return _white_on_black(levels).astype(np.float32)[np.newaxis]
    glyph = _scaled(_cropped(ink), FINE, FINE)
    mask = glyph > min(0.5, glyph.max() / 2)
    width = _pen_width(mask)
    wanted = min(max(width, PEN[0] * FINE / 20), PEN[1] * FINE / 20)
    if width != wanted:
        glyph = _cropped(_depth(mask) > (width - wanted) / 2)
    glyph = _scaled(glyph, 20 * shape[1] // 28, 20 * shape[2] // 28)
    image = np.zeros(shape, np.float32)
    corner = [
        int(np.clip(np.rint((extent - 1) / 2 - centre), 0, extent - length))
        for extent, centre, length in zip(shape[1:], _centre(glyph), glyph.shape, strict=True)
    ]
    image[0, corner[0] : corner[0] + glyph.shape[0], corner[1] : corner[1] + glyph.shape[1]] = glyph
    return image


def _is_centred(ink: Gray) -> bool:
    """Whether the ink has MNIST's extent, and its centre of mass the middle."""
    extent = max(_cropped(ink).shape) / max(ink.shape)
    off = max(abs(c - (n - 1) / 2) for c, n in zip(_centre(ink), ink.shape, strict=True))
    return bool(abs(extent - 20 / 28) < 1.5 / 28 and off < 1.5)


def _centre(ink: Gray) -> tuple[float, float]:
    """The centre of mass: row and column."""
    rows, columns = ink.sum(axis=1), ink.sum(axis=0)
    mass = rows.sum()
    return float(rows @ np.arange(len(rows)) / mass), float(columns @ np.arange(len(columns)) / mass)


def as_digits(levels: Gray, shape: Shape) -> np.ndarray:
    """The digits set's form (Alpaydin and Kaynak, 1998): the digit upright in a bitmap of 32 rows, which it fills, and
    at most 22 columns, drawn with the same amount of ink as any other; then the ink of each block of 4x4.

    An image that is in this form already is only reduced.
    """
    ink = digit_ink(levels)
    height, width = shape[1:]
    square = abs(ink.shape[0] - ink.shape[1]) <= 0.02 * len(ink)
    fills = _cropped(ink).shape[0] >= 0.95 * len(ink) and 0.2 < ink.mean() < 0.4
    if levels.shape == (height, width) or (square and fills):
        return _resized(_white_on_black(levels), height, width).astype(np.float32)[np.newaxis]
    glyph = _filling(_upright(_filling(ink, 4 * FINE)), WIDEST) > 0.5
    depth = _depth(glyph)
    level = np.partition(depth.ravel(), -INK * FINE * FINE // 100)[-INK * FINE * FINE // 100]
    glyph = _filling(depth >= level, WIDEST) > 0.5
    left = (FINE - glyph.shape[1]) // 2
    bitmap = np.zeros((FINE, FINE))
    bitmap[: len(glyph), left : left + glyph.shape[1]] = glyph
    return _resized(bitmap, height, width).astype(np.float32)[np.newaxis]


def _scaled(ink: Gray, height: int, width: int) -> Gray:
    """As large as fits."""
    factor = min(height / ink.shape[0], width / ink.shape[1])
    return _resized(ink, *(max(1, round(n * factor)) for n in ink.shape))


def _filling(ink: Gray, widest: int) -> Gray:
    """The box around the ink, FINE pixels high; squeezed where it would be wider than `widest`."""
    ink = _cropped(ink)
    return _resized(ink, FINE, min(widest, max(1, round(ink.shape[1] * FINE / ink.shape[0]))))


def _upright(ink: Gray) -> Gray:
    """Slanted strokes put more upright: sheared by most of what the ink's columns depend on its rows."""
    from scipy import ndimage

    row, column = _centre(ink)
    y, x = np.indices(ink.shape, float)
    y, x = y - row, x - column
    slant = UPRIGHT * (x * y * ink).sum() / max((y * y * ink).sum(), 1e-12)
    margin = math.ceil(abs(slant) * len(ink)) + 1
    wide = np.pad(ink, ((0, 0), (margin, margin)))
    sheared: Gray = ndimage.affine_transform(wide, [[1, 0], [slant, 1]], offset=[0, -slant * row], order=1)
    return sheared


def _depth(mask: np.ndarray) -> Gray:
    """How far inside the strokes a pixel lies; below zero outside, in a margin that leaves room to grow."""
    from scipy import ndimage

    wide = np.pad(mask, MARGIN)
    depth: Gray = ndimage.distance_transform_edt(wide) - ndimage.distance_transform_edt(~wide)
    return depth


def _pen_width(mask: np.ndarray) -> float:
    """The mean width of the strokes: in a bar, four times the mean distance to its edge."""
    depth = _depth(mask)
    return 4 * float(depth[depth > 0].mean() - 0.5)
