"""Augmentations: what they do, that they draw from `rng` alone, and that they are data."""

import json
import time

import numpy as np
import pytest

import fastconv
from fastconv import augment
from fastconv.augment import (
    Affine,
    ColorJitter,
    Compose,
    Crop,
    CutMix,
    CutOut,
    Flip,
    MixUp,
    Noise,
    Normalize,
    OneOf,
    RandomErasing,
    RandomResizedCrop,
    Shift,
)  # fmt: skip

ALL = [
    Shift(2),
    Crop(padding=3),
    Crop((5, 7), padding=1),
    Flip(vertical=True),
    Affine(20, 0.2, 1.5),
    Noise(0.3),
    CutOut(3),
    Normalize(0.5, (1.0, 2.0)),
    RandomResizedCrop(),
    RandomResizedCrop((5, 7), (0.2, 0.5), (0.5, 2)),
    ColorJitter(0.4, 0.4, 0.4, 0.2),
    RandomErasing(0.7, value=3),
    MixUp(0.4),
    CutMix(p=0.8),
    OneOf(Flip(), Shift(2)),
    Compose(Shift(1), Flip(), Noise(0.1)),
    Compose(),
]
SMALLER = (Crop((5, 7), padding=1), ALL[9])
DTYPES = (np.uint8, np.int16, np.float16, np.float32, np.float64)


def images(dtype=np.float32, n=12, c=2, h=8, w=9):
    return (np.random.default_rng(0).random((n, c, h, w)) * 250).astype(dtype)


@pytest.mark.parametrize("aug", ALL, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_augmentation(aug, dtype):
    x = images(dtype)
    before = x.copy()
    y = aug(x, np.random.default_rng(1))
    assert y.dtype == (np.float32 if isinstance(aug, Normalize) and np.dtype(dtype).kind in "iu" else dtype)
    assert y.shape == ((12, 2, 5, 7) if aug in SMALLER else x.shape)
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(aug(x, np.random.default_rng(1)), y)  # rng decides, and nothing else
    awkward = np.asfortranarray(x[:, :, ::-1])[:, :, ::-1]
    awkward.flags.writeable = False
    np.testing.assert_array_equal(aug(awkward, np.random.default_rng(1)), y)
    again = augment.from_config(json.loads(json.dumps(aug.config())))
    assert again == aug and hash(again) == hash(aug)
    assert aug(x[:0], np.random.default_rng(1)).shape == (0, *y.shape[1:])


def test_images_are_changed_one_by_one():
    x = np.repeat(images()[:1], 50, axis=0)
    for aug in ALL[:-1]:
        if not (isinstance(aug, Normalize) or aug.mixes):  # of equal images a mixture is the same again
            y = aug(x, np.random.default_rng(2))
            assert len(np.unique(y.reshape(50, -1), axis=0)) > 3, aug


def test_shift_and_crop():
    x = images(np.uint8, n=400, h=6, w=7) + 1
    shifted = Shift(2)(x, np.random.default_rng(3))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for before, after in zip(padded, shifted, strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if np.array_equal(before[:, i : i + 6, j : j + 7], after)]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25
    np.testing.assert_array_equal(Shift(0)(x, np.random.default_rng(3)), x)
    np.testing.assert_array_equal(Crop()(x, np.random.default_rng(3)), x)
    small = Crop(2)(x, np.random.default_rng(3))
    assert small.shape == (400, 2, 2, 2) and (small > 0).all()


def test_flip():
    x = images(n=300)
    y = Flip()(x, np.random.default_rng(4))
    turned = [np.array_equal(b, a[:, :, ::-1]) for a, b in zip(x, y, strict=True)]
    kept = [np.array_equal(b, a) for a, b in zip(x, y, strict=True)]
    assert sum(turned) + sum(kept) == 300 and 100 < sum(turned) < 200
    np.testing.assert_array_equal(Flip(1.0)(x, np.random.default_rng(4)), x[..., ::-1])
    up = Flip(1.0, horizontal=False, vertical=True)
    np.testing.assert_array_equal(up(x, np.random.default_rng(4)), x[..., ::-1, :])


def test_affine():
    x = images(h=9, w=9)
    np.testing.assert_allclose(Affine(0, 0)(x, np.random.default_rng(5)), x, rtol=1e-6)

    class Quarter:
        """Draws the same turn for every image: what `Affine` asks its generator for."""

        def __init__(self, *values):
            self.values = values

        def uniform(self, low, high, shape):
            return np.broadcast_to(np.reshape(self.values, (4, 1, 1)), shape)

    def turned(aug, *values):
        return aug._apply(x, Quarter(*values))

    np.testing.assert_allclose(turned(Affine(90, 0), 1, 0, 0, 0), np.rot90(x, -1, axes=(2, 3)), atol=1e-3)
    np.testing.assert_allclose(turned(Affine(180, 0), 1, 0, 0, 0), x[:, :, ::-1, ::-1], atol=1e-3)
    moved = turned(Affine(0, 0, 2), 0, 0, 1, 0)  # two pixels down
    np.testing.assert_allclose(moved[:, :, 2:], x[:, :, :-2], rtol=1e-5)
    assert not moved[:, :, :2].any()
    half = turned(Affine(0, 0, 0.5), 0, 0, 0, 1)  # half a pixel to the right: the mean of neighbours
    np.testing.assert_allclose(half[..., 1:], (x[..., 1:] + x[..., :-1]) / 2, rtol=1e-5)
    twice = turned(Affine(0, 0.5), 0, 1, 0, 0)  # larger by 1.5: the centre stays
    np.testing.assert_allclose(twice[:, :, 4, 4], x[:, :, 4, 4], rtol=1e-5)
    np.testing.assert_allclose(twice[:, :, 7, 4], x[:, :, 6, 4], rtol=1e-4)  # 4 + 3 / 1.5


def test_noise_cut_out_normalise():
    x = np.full((64, 3, 16, 16), 100.0, np.float32)
    noisy = Noise(5.0)(x, np.random.default_rng(6))
    assert abs(noisy.mean() - 100) < 0.2 and abs(noisy.std() - 5) < 0.1
    pixels = Noise(200.0)(x.astype(np.uint8), np.random.default_rng(6))
    assert pixels.min() == 0 and pixels.max() == 255
    holes = CutOut(5)(x, np.random.default_rng(7)) == 0
    assert (holes == holes[:, :1]).all() and (holes.sum(axis=(2, 3)) <= 25).all()
    assert holes.sum(axis=(2, 3)).max() == 25 and holes.sum(axis=(2, 3)).min() >= 9
    y = Normalize((100, 90, 80), 10)(x.astype(np.uint8), None)
    np.testing.assert_array_equal(y[0, :, 0, 0], [0, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shift(-1), "Shift: pixels must be at least 0, got -1"),
        (lambda: Shift(1.5), "Shift: pixels must be an integer, got 1.5"),
        (lambda: Flip(2), r"Flip: p must be finite and in \[0, 1\], got 2"),
        (lambda: Noise("loud"), "Noise: std must be a number, got 'loud'"),
        (lambda: Affine(rotate=float("nan")), "Affine: rotate must be finite"),
        (lambda: CutOut(0), "CutOut: size must be at least 1"),
        (lambda: Normalize(0, 0), "Normalize: std must be positive"),
        (lambda: Normalize(0, (1, 2, 3))(images()), "one number or 2, one per channel"),
        (lambda: Compose(print), "Compose: its parts must be augmentations"),
        (lambda: Crop(20)(images()), r"Crop: size \(20, 20\) must fit the image \(8, 9\) with padding 0"),
        (lambda: Shift(1)(np.zeros((3, 4))), r"Shift: x must have 4 axes \(N C H W\), got 2"),
        (lambda: Shift(1)(np.zeros((1, 1, 2, 2), complex)), "Shift: x must hold floats or integers, got complex128"),
        (lambda: augment.from_config({"augment": "eval"}), "no augmentation is configured by"),
        (lambda: augment.from_config([]), "no augmentation is configured by"),
        (lambda: augment.from_config({"augment": "Compose", "parts": 3}), "Compose is configured by its list of parts"),
        (lambda: OneOf(), "OneOf: it must have parts"),
        (lambda: OneOf(3), "OneOf: its parts must be augmentations, got 3"),
        (lambda: MixUp(0), "MixUp: alpha must be positive, got 0"),
        (lambda: CutMix(p=2), r"CutMix: p must be finite and in \[0, 1\], got 2"),
        (lambda: ColorJitter(hue=0.6), r"ColorJitter: hue must be finite and in \[0, 0.5\], got 0.6"),
        (lambda: RandomResizedCrop(scale=0.5), r"scale must be \(least, largest\), positive, 1 at most; got 0.5"),
        (lambda: RandomResizedCrop(scale=(0.5, 2)), r"scale must be \(least, largest\), positive, 1 at most"),
        (
            lambda: RandomErasing(ratio=(2, 1)),
            r"RandomErasing: ratio must be \(least, largest\), positive; got \(2, 1\)",
        ),
        (lambda: RandomErasing(ratio=(1, np.inf)), "RandomErasing: ratio must be"),
        (lambda: RandomErasing(value="x"), "RandomErasing: value must be a number"),
        (lambda: Flip()(images(), masks=np.zeros((12, 8, 8))), r"Flip: masks must be \(12, 8, 9\) or have K planes"),
        (
            lambda: Flip()(images(), masks=np.zeros((12, 8, 9), complex)),
            "Flip: masks must hold numbers, got complex128",
        ),
        (lambda: Flip()(images(), targets=np.zeros(12, int)), r"Flip: targets must be floats.*numpy.eye\(classes\)"),
        (lambda: Flip()(images(), targets=np.zeros(11)), r"Flip: targets must be \(N, …\) for 12 images, got \(11,\)"),
        (lambda: MixUp()(images(), masks=np.zeros((12, 8, 9))), "MixUp: masks cannot be mixed; CutMix cuts and pastes"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_shifting_a_batch_is_fast():
    x = images(n=128, c=1, h=28, w=28)
    rng = np.random.default_rng(8)
    fastest = 1.0
    for _ in range(50):
        begun = time.perf_counter()
        Shift(2)(x, rng)
        fastest = min(fastest, time.perf_counter() - begun)
    assert fastest < 1e-3


def test_lazy_name():
    assert fastconv.augment is augment


@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_pixel_by_pixel(dtype):
    """Against loops: each pixel between the four about the place that it comes from."""
    x = images(dtype, n=3, h=5, w=7)
    y = Affine(180, 0.5, 3.0)(x, np.random.default_rng(9))
    angle, factor, down, right = np.random.default_rng(9).uniform(-1, 1, (4, 3))
    angle, factor, down, right = np.pi * angle, 1 + 0.5 * factor, 3 * down, 3 * right
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 2), (1, 2)))
    wanted = np.zeros(x.shape)
    for n, i, j in np.ndindex(3, 5, 7):
        row, column = i - 2, j - 3
        a = (np.cos(angle[n]) * row - np.sin(angle[n]) * column) / factor[n] + 3 - down[n]
        b = (np.sin(angle[n]) * row + np.cos(angle[n]) * column) / factor[n] + 4 - right[n]
        a, b = min(max(a, 0), 6), min(max(b, 0), 8)
        for s, t in np.ndindex(2, 2):
            share = (1 - abs(a - int(a) - s)) * (1 - abs(b - int(b) - t))
            wanted[n, :, i, j] += share * padded[n, :, int(a) + s, int(b) + t]
    tolerance = {"f8": 1e-12, "f4": 1e-4, "f2": 0.2}.get(y.dtype.str[1:], 0.51)
    np.testing.assert_allclose(y.astype(np.float64), wanted, rtol=0, atol=tolerance)


# --- masks and targets -----------------------------------------------------------------------------------------------

GEOMETRY = (Shift, Crop, Flip, Affine, RandomResizedCrop)
MOVING = [aug for aug in ALL if isinstance(aug, GEOMETRY)]


@pytest.mark.parametrize("aug", MOVING, ids=repr)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_masks_go_where_images_go(aug, dtype):
    """An image that is its mask: what the mask becomes is what the image becomes, to the nearest pixel."""
    masks = (np.random.default_rng(1).random((30, 8, 9)) < 0.5).astype(dtype)
    x = np.repeat(masks[:, None], 2, axis=1).astype(np.float32)
    before = masks.copy()
    y, moved = aug(x, np.random.default_rng(2), masks=masks)
    np.testing.assert_array_equal(y, aug(x, np.random.default_rng(2)))  # nothing else is drawn
    assert moved.dtype == dtype and moved.shape == (30, *y.shape[2:])
    assert set(np.unique(moved)) <= {0, 1}
    np.testing.assert_array_equal(masks, before)
    sharp = (y[:, 0] < 0.01) | (y[:, 0] > 0.99)  # between no pixels
    np.testing.assert_array_equal(moved[sharp], np.rint(y[:, 0][sharp]))
    planes = np.stack([masks, ~masks if dtype is bool else 1 - masks], axis=1)
    both = aug(x, np.random.default_rng(2), masks=planes)[1]
    np.testing.assert_array_equal(both[:, 0], moved)
    assert aug(x[:0], 0, masks=masks[:0])[1].shape == (0, *y.shape[2:])


def test_masks_to_the_nearest_pixel():
    labels = np.arange(63, dtype=np.int32).reshape(1, 7, 9) + 1
    x = labels[:, None].astype(np.float32)
    moved = Affine(0, 0, 3)(x, 5, masks=labels)[1]
    down, right = (int(np.rint(3 * draw)) for draw in np.random.default_rng(5).uniform(-1, 1, (4, 1, 1))[2:].ravel())
    padded = np.pad(labels[0], 9)
    np.testing.assert_array_equal(moved[0], padded[9 - down : 16 - down, 9 - right : 18 - right])
    assert set(np.unique(Affine(45, 0.3)(x, 5, masks=labels)[1])) <= {0, *range(1, 64)}


@pytest.mark.parametrize("aug", [aug for aug in ALL if isinstance(aug, (Noise, CutOut, ColorJitter, RandomErasing))])
def test_masks_stay_where_images_stay(aug):
    masks = np.arange(12 * 72).reshape(12, 8, 9)
    y, same = aug(images(), 3, masks=masks)
    np.testing.assert_array_equal(same, masks)
    assert not np.shares_memory(same, masks)
    assert (y != images()).any()


def test_masks_through_compose():
    masks = (np.random.default_rng(1).random((12, 8, 9)) < 0.5).astype(np.uint8)
    x = masks[:, None].astype(np.float32)
    for aug in (Compose(Flip(vertical=True), RandomErasing(1.0), Shift(2)), OneOf(Flip(), Crop(padding=2)), Compose()):
        y, moved = aug(x, np.random.default_rng(4), masks=masks)
        np.testing.assert_array_equal(y, aug(x, np.random.default_rng(4)))
        if aug.parts and isinstance(aug, OneOf):
            np.testing.assert_array_equal(y[:, 0], moved)
    y, moved, targets = Compose(Flip(), CutMix())(x, np.random.default_rng(4), masks=masks, targets=np.eye(12))
    np.testing.assert_array_equal(y[:, 0], moved)
    np.testing.assert_allclose(targets.sum(axis=1), 1)


@pytest.mark.parametrize("aug", [MixUp(0.5), CutMix(), MixUp(1.0, 0.5), CutMix(0.7, 0.5)], ids=repr)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_targets_are_mixed_as_images_are(aug, dtype):
    """Image i has the value i + 1 everywhere: the mean of what it becomes says whose shares it holds."""
    x = np.broadcast_to(np.arange(1, 41, dtype=dtype).reshape(-1, 1, 1, 1), (40, 2, 20, 30)) * dtype(5)
    y, shares = aug(x, np.random.default_rng(6), targets=np.eye(40))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, aug(x, np.random.default_rng(6)))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)
    assert ((shares > 0).sum(axis=1) <= 2).all() and (shares.diagonal() > 0).any()
    expected = shares @ (5 * np.arange(1.0, 41))
    np.testing.assert_allclose(y.mean(axis=(1, 2, 3)), expected, atol=0.51 if dtype is np.uint8 else 1e-4)
    alone = shares.diagonal() == 1
    assert (0.3 < alone.mean() < 0.75) if aug.p < 1 else alone.mean() < 0.3
    np.testing.assert_array_equal(y[alone], x[alone])
    if isinstance(aug, CutMix):  # each pixel is of one of the two
        assert set(np.unique(y)) <= set(np.unique(x))
    t = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    mixed = aug(x, np.random.default_rng(6), targets=t)[1]
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, shares @ t, rtol=1e-5, atol=1e-6)
    assert aug.mixes and Compose(Flip(), aug).mixes and OneOf(aug).mixes and not Flip().mixes


def test_random_resized_crop():
    """Of an image whose values are its coordinates the crop is a rectangle that grows evenly."""
    rows, columns = np.mgrid[:40, :60].astype(np.float64)
    x = np.broadcast_to(np.stack([rows, columns]), (300, 2, 40, 60))
    y = RandomResizedCrop(scale=(0.1, 0.6), ratio=(0.5, 2))(x, 7)
    height, width = (y[:, axis].max(axis=(1, 2)) - y[:, axis].min(axis=(1, 2)) + 1 for axis in (0, 1))
    area, ratio = height * width / 2400, width / height
    assert area.min() > 0.08 and area.max() < 0.63 and 0.25 < area.mean() < 0.45
    assert ratio.min() > 0.46 and ratio.max() < 2.2
    assert (np.diff(y[:, 0], axis=1) >= 0).all() and (np.ptp(y[:, 0], axis=2) < 1e-12).all()
    whole = RandomResizedCrop(scale=(1, 1), ratio=(1.5, 1.5))(x[:3], 0)
    np.testing.assert_allclose(whole, x[:3], atol=1e-12)
    middle = RandomResizedCrop(scale=(1, 1), ratio=(1, 1))(x[:1], 0)  # no such part fits
    assert (middle[0, 1].min(), middle[0, 1].max()) == (10, 49) and middle[0, 0, -1, 0] == 39
    assert RandomResizedCrop(7)(x, 0).shape == (300, 2, 7, 7)


def test_colour_jitter():
    import colorsys

    x = np.random.default_rng(0).random((20, 3, 6, 7))
    hue = ColorJitter(0, 0, 0, 0.5)(x, 3)
    turn = 0.5 * (2 * np.random.default_rng(3).random((4, 20))[3] - 1)
    for n, i, j in ((0, 0, 0), (7, 3, 2), (19, 5, 6)):
        h, s, v = colorsys.rgb_to_hsv(*x[n, :, i, j])
        np.testing.assert_allclose(hue[n, :, i, j], colorsys.hsv_to_rgb((h + turn[n]) % 1, s, v), atol=1e-12)
    bright = ColorJitter(0.5, 0, 0)(x, 3)
    factor = 0.5 + np.random.default_rng(3).random((4, 20))[0]
    np.testing.assert_allclose(bright, np.clip(x * factor[:, None, None, None], 0, 1), atol=1e-12)
    gray = np.array([0.299, 0.587, 0.114]) @ x.reshape(20, 3, -1)
    low = ColorJitter(0, 0, 1)(x, 3)
    kept = np.random.default_rng(3).random((4, 20))[2] * 2
    np.testing.assert_allclose(low.reshape(20, 3, -1), np.clip(
        gray[:, None] + (x.reshape(20, 3, -1) - gray[:, None]) * kept[:, None, None], 0, 1), atol=1e-12)  # fmt: skip
    flat = ColorJitter(0, 1, 0)(x, 3)
    kept = np.random.default_rng(3).random((4, 20))[1] * 2
    mean = gray.mean(axis=1)[:, None, None]
    np.testing.assert_allclose(
        flat.reshape(20, 3, -1), np.clip(mean + (x.reshape(20, 3, -1) - mean) * kept[:, None, None], 0, 1), atol=1e-12
    )
    np.testing.assert_allclose(ColorJitter(0, 0, 0)(x, 1), x)
    one = x[:, :1]
    np.testing.assert_allclose(ColorJitter(0, 0, 0.9, 0.4)(one, 1), one)  # gray has no colour
    white = np.full((50, 3, 4, 4), 255, np.uint8)
    assert ColorJitter(0.9, 0.9, 0.9, 0.5)(white, 1).max() == 255


def test_random_erasing():
    x = np.ones((400, 3, 20, 30), np.float32)
    erased = RandomErasing(0.5, (0.1, 0.3), (0.5, 2), value=7)(x, 8) == 7
    assert (erased == erased[:, :1]).all()
    share = erased[:, 0].mean(axis=(1, 2))
    assert 0.35 < (share > 0).mean() < 0.65
    assert share[share > 0].min() > 0.08 and share.max() < 0.33
    for mask in erased[share > 0][:50, 0]:  # a rectangle
        assert mask.sum() == mask.any(axis=1).sum() * mask.any(axis=0).sum()
    np.testing.assert_array_equal(RandomErasing(1.0, (1, 1), (3, 3))(x, 0), x)  # no such rectangle fits
    assert (RandomErasing(1.0)(x, 0)[:, 0].min(axis=(1, 2)) == 0).mean() > 0.95
