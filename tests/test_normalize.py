"""The input's normalisation: the numbers of a data set, and the layer that takes them."""

import json

import numpy as np
import pytest

import fastconv as fc
from fastconv.datasets import mean_and_std, pixels
from fastconv.layers import from_config


@pytest.mark.parametrize("chunk", [1, 2000, 8 << 20])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_mean_and_std(chunk, dtype, monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK", chunk)
    x = (np.random.default_rng(0).random((50, 3, 6, 5)) * [[[[10]], [[100]], [[250]]]] + 3).astype(dtype)
    mean, std = mean_and_std(x)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3), dtype=float), rtol=1e-13)
    np.testing.assert_allclose(std, x.std(axis=(0, 2, 3), dtype=float), rtol=1e-13)
    if dtype is np.float64:
        std = mean_and_std(x + 2**20)[1]  # far from 0: no cancellation
        np.testing.assert_allclose(std, x.std(axis=(0, 2, 3)), rtol=1e-9)


def test_constant_channels_and_other_axes():
    assert mean_and_std(np.full((4, 1), 7)) == ((7.0,), (1.0,))
    mean, std = mean_and_std([[1.0, 5.0], [3.0, 5.0]])
    assert (mean, std) == ((2.0, 5.0), (1.0, 1.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer(dtype):
    x = np.random.default_rng(0).uniform(0, 255, (20, 3, 4, 5)).astype(dtype)
    layer = fc.Normalize(*mean_and_std(x))
    y, pullback = fc.vjp(layer, x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), 1, atol=1e-5)
    dx = pullback(np.ones_like(y))[0]
    np.testing.assert_array_equal(dx[0, :, 0, 0], 1 / np.asarray(mean_and_std(x)[1], dtype))
    again = from_config(json.loads(json.dumps(layer.config())))
    np.testing.assert_array_equal(again(x), y)
    one = fc.Normalize(127.5, 127.5)
    np.testing.assert_array_equal(one(x), (x - dtype(127.5)) / dtype(127.5))
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    assert layer(last).strides == last.strides  # channels-last stays so
    np.testing.assert_array_equal(layer(last), y)


def test_pixels_go_through_a_net(tmp_path):
    """uint8 pixels, normalised by the net itself, in training, in a file, in prediction."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8), np.arange(60) % 2
    x[y == 1] //= 2
    net = fc.Sequential(fc.Normalize(*mean_and_std(x)), fc.Flatten(), fc.Linear(16, 2, rng=0))
    trainer = fc.Trainer(net, fc.optim.SGD(0.05))
    trainer.fit(x, y, epochs=20, batch_size=20)
    assert trainer.evaluate(x, y).accuracy > 0.9
    trainer.save(tmp_path / "run")
    np.testing.assert_array_equal(fc.Trainer.resume(tmp_path / "run").net.predict(x), net.predict(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fc.Normalize(0, 0), ValueError, "Normalize: std must be positive, got 0"),
        (
            lambda: fc.Normalize((1, np.nan), 1),
            ValueError,
            "Normalize: mean must be a finite number or one per channel",
        ),
        (lambda: fc.Normalize("0", 1), ValueError, "Normalize: mean must be a finite number"),
        (
            lambda: fc.Normalize((1, 2), 1)(np.zeros((2, 3, 4))),
            fc.ShapeError,
            r"one per channel, got 2 for \(2, 3, 4\)",
        ),
        (lambda: mean_and_std(np.zeros((0, 3, 4))), fc.ShapeError, r"with samples in it, got shape \(0, 3, 4\)"),
        (lambda: mean_and_std(np.zeros(3)), fc.ShapeError, r"must be \(N, C, …\)"),
        (lambda: mean_and_std(np.zeros((3, 3), complex)), TypeError, "must hold floats or integers, got complex128"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
