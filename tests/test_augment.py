"""Augmentations: what they do, that they draw from `rng` alone, and that they are data."""

import json
import time

import numpy as np
import pytest

import fastconv
from fastconv import augment
from fastconv.augment import Affine, Compose, Crop, CutOut, Flip, Noise, Normalize, Shift

ALL = [
    Shift(2),
    Crop(padding=3),
    Crop((5, 7), padding=1),
    Flip(vertical=True),
    Affine(20, 0.2, 1.5),
    Noise(0.3),
    CutOut(3),
    Normalize(0.5, (1.0, 2.0)),
    Compose(Shift(1), Flip(), Noise(0.1)),
    Compose(),
]
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
    assert y.shape == (12, 2, 5, 7) if aug == Crop((5, 7), padding=1) else y.shape == x.shape
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
        if not isinstance(aug, Normalize):
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
