"""Layers that change shapes alone, or nothing, beside their cases: memory order, files, tables, receptive fields."""

import json
from fractions import Fraction

import numpy as np
import pytest

import fastconv as fc
from fastconv import analysis, functional, reference, vjp
from fastconv.layers import from_config

HALF = Fraction(1, 2)


def last(x):
    """x, channels-last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def is_last(x):
    return np.moveaxis(x, 1, -1).flags.c_contiguous and not x.flags.c_contiguous


KEEPING = {  # calls whose result has as many axes as their input
    "pixel_shuffle": {"upscale_factor": 2},
    "pixel_unshuffle": {"downscale_factor": 2},
    "reshape": {"shape": (4, 4, -1)},
    "unflatten": {"dim": 2, "sizes": (6,)},
}


@pytest.mark.parametrize("op", KEEPING)
def test_results_lie_in_memory_as_what_was_given(op):
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 4))
    expected, _ = vjp(getattr(reference, op), x, **KEEPING[op])
    for array, lies in ((x, False), (last(x), True), (x[:, :, ::-1], False), (x[:, ::2].repeat(2, 1), False)):
        y, pullback = vjp(getattr(functional, op), array, **KEEPING[op])
        dy = np.random.default_rng(1).standard_normal(y.shape)
        (dx,) = pullback(dy)
        assert (is_last(y), is_last(dx)) == (lies, lies)
        assert y.flags.c_contiguous != lies and not np.shares_memory(y, array) and not np.shares_memory(dx, dy)
        naive, naive_pullback = vjp(getattr(reference, op), array, **KEEPING[op])
        np.testing.assert_array_equal(y, naive)
        np.testing.assert_array_equal(dx, naive_pullback(dy)[0])
        np.testing.assert_array_equal(pullback(last(dy))[0], dx)
    np.testing.assert_array_equal(getattr(functional, op)(x, **KEEPING[op]), expected)


def test_pixels_by_hand():
    x = np.arange(8.0).reshape(1, 8, 1, 1)
    y = fc.PixelShuffle(2)(x)
    np.testing.assert_array_equal(y, [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]])
    np.testing.assert_array_equal(fc.PixelUnshuffle(2)(y), x)
    np.testing.assert_array_equal(fc.Unflatten(1, (4, 2))(x)[0, :, :, 0, 0], [[0, 1], [2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(fc.Reshape(2, -1)(last(x.reshape(1, 2, 2, 2))), [[[0, 1, 2, 3], [4, 5, 6, 7]]])


def test_reshape_takes_numbers_or_a_sequence():
    layers = [fc.Reshape(2, 3, -1), fc.Reshape((2, 3, -1)), fc.Reshape([2, 3, -1]), fc.Reshape(np.array([2, 3, -1])),
              fc.Reshape(shape=(2, 3, -1)), fc.Reshape(np.int64(2), 3, -1)]  # fmt: skip
    assert {repr(layer) for layer in layers} == {"Reshape(shape=(2, 3, -1))"}
    assert {json.dumps(layer.config()) for layer in layers} == {'{"layer": "Reshape", "shape": [2, 3, -1]}'}
    assert fc.Reshape(6)(np.zeros((2, 3, 2))).shape == fc.Reshape(-1)(np.zeros((2, 3, 2))).shape == (2, 6)
    assert fc.Reshape(())(np.zeros((2, 1))).shape == (2,)


def test_identity_is_x_itself():
    layer = fc.Identity(54, unused=[object()], rng=np.random.default_rng(0))
    assert repr(layer) == "Identity()" and layer.config() == {"layer": "Identity"} and not layer.parameters()
    x = np.ones((2, 3), np.float32)
    assert layer(x) is x
    y, pullback = vjp(layer, x)
    np.testing.assert_array_equal(pullback(2 * y)[0], 2 * x)
    assert layer(np.ones((2, 3), np.uint8)).dtype == np.float32
    with pytest.raises(TypeError, match="x must hold real numbers"):
        layer(np.ones(3, complex))


def net():
    return fc.Sequential({
        "conv": fc.Conv2d(1, 8, 3, padding=1, rng=0), "norm": fc.Identity(8), "act": fc.ReLU(),
        "up": fc.PixelShuffle(2), "down": fc.PixelUnshuffle(4), "rows": fc.Reshape(4, -1), "flat": fc.Flatten(),
        "dense": fc.Linear(128, 12, rng=1), "image": fc.Unflatten(1, (3, 2, 2)), "last": fc.Conv2d(3, 2, 2, rng=2),
    })  # fmt: skip


def test_nets_of_them_are_kept_in_files(tmp_path):
    ours, x = net(), np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)
    fc.save(ours, tmp_path / "net.safetensors")
    twin = fc.load(tmp_path / "net.safetensors")
    assert repr(twin) == repr(ours) == repr(from_config(json.loads(json.dumps(ours.config()))))
    np.testing.assert_array_equal(twin(x), ours.eval()(x))
    assert analysis.output_shape(ours, (5, 1, 4, 4)) == twin(np.zeros((5, 1, 4, 4))).shape


def test_tables_have_their_rows():
    ours = fc.Sequential(*list(net())[:4], fc.PixelUnshuffle(4))
    table = ours.summary((2, 1, 4, 4))
    assert [(row.kind, row.output_shape, row.flops, row.parameters) for row in table][1:] == [
        ("Identity", (2, 8, 4, 4), 0, 0), ("ReLU", (2, 8, 4, 4), 0, 0), ("PixelShuffle", (2, 2, 8, 8), 0, 0),
        ("PixelUnshuffle", (2, 32, 2, 2), 0, 0),
    ]  # fmt: skip
    assert [line.split()[-2:] for line in str(table).splitlines()[5:7]] == [["3x3", "/(1/2)"], ["4x4", "/2"]]
    kinds = {row.kind for row in fc.explain(net(), (2, 1, 4, 4)).rows}
    assert {"PixelShuffle", "PixelUnshuffle", "Reshape", "Unflatten"} <= kinds
    x = np.random.default_rng(0).random((2, 1, 4, 4), dtype=np.float32)
    rec = analysis.record(net(), x, np.zeros((2, 2, 1, 1), np.float32), "mse_loss")
    np.testing.assert_array_equal(rec["norm"].x, rec["norm"].y)
    np.testing.assert_array_equal(rec["up"].dx, functional.pixel_unshuffle(rec["up"].dy, 2))
    assert rec["image"].dy.shape == (2, 3, 2, 2) and str(rec)


def test_training_through_them_moves_weights():
    ours, x = net(), np.random.default_rng(0).random((6, 1, 4, 4), dtype=np.float32)
    trainer = fc.Trainer(ours, fc.optim.SGD(0.1), "mse_loss")
    history = trainer.fit(x, np.ones((6, 2, 1, 1), np.float32), epochs=5, batch_size=6, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]


# --- receptive fields ------------------------------------------------------------------------------------------------


def test_a_layer_behind_a_vector_sees_the_whole_input():
    layers = net().children()
    ours = fc.Sequential({name: layer for name, layer in layers.items() if name != "rows"})
    assert analysis.receptive_field(ours, (1, 1, 4, 4), "image") == ((4, 4), (0, 0), (0, 0))
    assert analysis.receptive_field(ours, (1, 1, 4, 4)) == ((4, 4), (0, 0), (0, 0))
    seen = analysis.empirical_receptive_field(ours, (1, 1, 4, 4), positive=True)
    assert (seen > 0).all()
    for index in ((0, 0), (1, 1)):
        assert analysis.input_region(ours, (1, 1, 4, 4), "image", index) == (slice(0, 4), slice(0, 4))


def test_pixels_scale_the_geometry():
    ours = fc.Sequential(fc.PixelShuffle(2), fc.Conv2d(1, 1, 3, padding=1, rng=0), fc.PixelUnshuffle(2))
    assert analysis.receptive_field(ours, (1, 4, 6, 6), 0) == ((1, 1), (HALF, HALF), (0, 0))
    assert analysis.receptive_field(ours, (1, 4, 6, 6), 1) == ((2, 2), (HALF, HALF), (-1, -1))
    assert analysis.receptive_field(ours, (1, 4, 6, 6)) == ((3, 3), (1, 1), (-1, -1))
    seen = analysis.empirical_receptive_field(ours, (1, 4, 6, 6), index=(3, 2), positive=True) > 0
    assert np.argwhere(seen).min(axis=0).tolist() == [2, 1] and seen.sum() == 9
    rows = analysis.receptive_field(fc.Sequential(fc.Conv1d(2, 4, 3), fc.Unflatten(1, (2, 2))), (1, 2, 9))
    assert rows == ((3,), (1,), (0,))


def test_a_reshape_that_mixes_places_is_not_known():
    ours = fc.Sequential(fc.Reshape(2, 4, 2))
    with pytest.raises(ValueError, match=r"layer '0' \(reshape\) must say what it reads, .* are \(1, 1, 4, 4\) and"):
        analysis.receptive_field(ours, (1, 1, 4, 4))
    assert ours.summary((1, 1, 4, 4))[0].receptive_field is None
