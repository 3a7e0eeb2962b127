"""Precision "strict": no pixel changes outputs outside its windows; NaN and inf stand where the reference has them."""

import asyncio
import os
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
from test_engine_fuzz import arrays_of, random_shape

import fastconv
from fastconv import engine, functional, get_precision, precision, reference, set_precision, vjp
from fastconv.engine import trace
from fastconv.engine.borders import boxes
from fastconv.layers import Conv2d, ReLU, Sequential

NOT_FINITE = (np.nan, np.inf, -np.inf)


@pytest.fixture(autouse=True)
def default_precision():
    yield
    set_precision("fast")


def algorithms_of(call) -> set[str]:
    found = set()
    with trace.listening(lambda ran: found.add(ran.algorithm)):
        call()
    return found


# --- one pixel -------------------------------------------------------------------------------------------------------


def layer(rng, n=16):
    x = rng.standard_normal((1, 64, n, n), dtype=np.float32)
    w = rng.standard_normal((64, 64, 3, 3), dtype=np.float32) / 24
    return x, w


def window_of_the_middle(shape) -> np.ndarray:
    """Where in y a 3x3 window sees the pixel (8, 8)."""
    inside = np.zeros(shape, bool)
    inside[..., 7:10, 7:10] = True
    return inside


def test_a_large_pixel_disturbs_its_own_windows_only():
    x, w = layer(np.random.default_rng(0))
    x[0, 5, 8, 8] = 1e6
    exact = functional.conv2d(x.astype(np.float64), w.astype(np.float64), padding=1)
    outside = ~window_of_the_middle(exact.shape)
    with precision("strict"):
        strict = functional.conv2d(x, w, padding=1)
    fast = functional.conv2d(x, w, padding=1)
    assert np.abs(strict - exact)[outside].max() < 1e-5
    assert np.abs(fast - exact)[outside].max() > 1e-3  # what the README says of "fast"; or the README is out of date


def test_nan_reaches_its_own_windows_only():
    x, w = layer(np.random.default_rng(0))
    x[0, 5, 8, 8] = np.nan
    with precision("strict"):
        y = functional.conv2d(x, w, padding=1)
    np.testing.assert_array_equal(np.isnan(y), window_of_the_middle(y.shape))
    assert np.isnan(y).sum() == 576


def test_numbers_near_the_largest_do_not_overflow():
    x, w = layer(np.random.default_rng(0))
    x *= np.float32(1e37)
    with precision("strict"):
        y = functional.conv2d(x, w, padding=1)
    exact = functional.conv2d(x.astype(np.float64), w.astype(np.float64), padding=1)
    np.testing.assert_allclose(y, exact, atol=1e-5 * np.abs(exact).max())


# --- NaN and inf where the reference has them ------------------------------------------------------------------------


def assert_same_places(found, expected, what) -> None:
    for name, a, b in zip(("y", "dx", "dw", "db"), found, expected, strict=False):
        for places in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(places(a), places(b), err_msg=f"{what}: {name}")


def everything(function, arrays, dy, options) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        y, pullback = vjp(function, *arrays, **options)
        return [y, *pullback(dy)]


def spoilt(rng, array) -> np.ndarray:
    """A copy in which one element is not finite."""
    array = array.copy()
    array.reshape(-1)[rng.integers(array.size)] = rng.choice(NOT_FINITE)
    return array


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
def test_strict_has_nan_and_inf_where_the_reference_has_them(algorithm, dtype):
    rng = np.random.default_rng(11)
    trials = 0
    while trials < 25:
        shape = random_shape(rng)
        if shape.flops() > 100_000:
            continue
        trials += 1
        for which in (0, 1, 3):  # x, w, dy
            arrays = [array.astype(dtype) for array in arrays_of(shape, rng, small_integers=False)]
            arrays[which] = spoilt(rng, arrays[which])
            *inputs, dy = arrays
            with precision("strict"):
                found = everything(getattr(functional, shape.op), inputs, dy, {**shape.options, "algorithm": algorithm})
            expected = everything(getattr(reference, shape.op), inputs, dy, shape.options)
            assert_same_places(found, expected, f"{shape} {which}")


@pytest.mark.parametrize(
    ("op", "x", "w", "options"),
    [
        ("conv_transpose2d", (2, 4, 5, 6), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
        ("conv_transpose2d", (2, 16, 5, 6), (16, 16, 3, 3), {"padding": 1}),
        ("conv_transpose1d", (2, 4, 9), (4, 2, 4), {"stride": 3, "groups": 2}),
        ("conv2d", (2, 4, 5, 6), (3, 4, 3, 3), {"stride": Fraction(1, 2), "padding": 2}),
        ("conv2d", (2, 4, 5, 6), (3, 4, 4, 4), {"stride": Fraction(3, 2), "padding": 3}),
        ("locally_connected2d", (2, 4, 5, 6), (3, 4, 3, 3, 5, 6), {"padding": 1}),
        ("locally_connected2d", (2, 4, 5, 6), (3, 4, 3, 3, 5, 3), {"padding": ((2, 0), (1, 2)), "stride": (1, 3)}),
    ],
)
def test_strict_convolutions_of_other_kinds(op, x, w, options):
    rng = np.random.default_rng(12)
    for trial in range(30):
        arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in (x, w)]
        dy = np.ones_like(getattr(functional, op)(*arrays, **options))
        operands = [*arrays, dy]
        operands[trial % 3] = spoilt(rng, operands[trial % 3])
        *inputs, dy = operands
        with precision("strict"):
            found = everything(getattr(functional, op), inputs, dy, options)
        assert_same_places(found, everything(getattr(reference, op), inputs, dy, options), options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_finite_beside_an_infinite_weight_is_right(dtype):
    rng = np.random.default_rng(13)
    x, w, b = (rng.integers(-3, 4, shape).astype(dtype) for shape in ((2, 16, 6, 7), (8, 16, 3, 3), (8,)))
    w[3, 2, 0, 0] = np.inf
    dy = rng.integers(-3, 4, (2, 8, 6, 7)).astype(dtype)
    dy[1, 4, 0, 3] = np.nan
    with precision("strict"):
        found = everything(functional.conv2d, (x, w, b), dy, {"padding": 1})
    expected = everything(reference.conv2d, (x, w, b), dy, {"padding": 1})
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_boxes_cover_every_output_that_sees_an_input_once():
    from fastconv.window import Window

    window = Window.parse("conv2d", (6, 9), (3, 4), (2, 1), ((4, 1), (1, 5)), (1, 2)).lift()
    inputs, outputs = (1, 6, 9), (1, *window.output((1, 6, 9))[1:])
    seen = np.zeros((1, *outputs, 1), int)
    for box in boxes(window, inputs, outputs):
        seen[box.outputs] += 1
    reached = functional.conv2d(
        np.ones((1, 1, 6, 9)), np.ones((1, 1, 3, 4)), stride=(2, 1), padding=((4, 1), (1, 5)), dilation=(1, 2)
    )
    np.testing.assert_array_equal(seen[0, 0, :, :, 0], reached[0, 0] > 0)


# --- what holds where ------------------------------------------------------------------------------------------------


def test_strict_passes_over_winograd_and_a_name_is_used_as_named():
    x, w = layer(np.random.default_rng(0))
    assert algorithms_of(lambda: functional.conv2d(x, w, padding=1)) == {"winograd"}
    with precision("strict"):
        assert "winograd" not in algorithms_of(lambda: functional.conv2d(x, w, padding=1))
        for name in engine.ALGORITHMS[1:]:
            if name not in ("planar", "grouped", "depthwise"):  # which do not serve this one
                assert algorithms_of(lambda name=name: functional.conv2d(x, w, padding=1, algorithm=name)) == {name}
        w[0, 0, 0, 0] = np.inf
        assert algorithms_of(lambda: functional.conv2d(x, w, padding=1, algorithm="winograd")) == {"winograd"}
        assert "im2col" in algorithms_of(lambda: functional.conv2d(x, w, padding=1))


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_a_pullback_uses_what_held_at_its_forward(op):
    x, w = layer(np.random.default_rng(0))
    with precision("strict"):
        y, strict = vjp(getattr(functional, op), x, w, padding=1)
    _, fast = vjp(getattr(functional, op), x, w, padding=1)
    assert "winograd" not in algorithms_of(lambda: strict(y))
    with precision("strict"):
        assert algorithms_of(lambda: fast(y)) == {"winograd"}


def test_the_process_has_a_default_and_a_with_holds_inside():
    assert get_precision() == "fast"
    set_precision("strict")
    assert get_precision() == "strict"
    with precision("fast"):
        assert get_precision() == "fast"
        with precision("strict"):
            assert get_precision() == "strict"
        set_precision("strict")
        assert get_precision() == "fast"
    assert get_precision() == "strict"
    with pytest.raises(RuntimeError, match="on purpose"), precision("fast"):
        raise RuntimeError("on purpose")
    assert get_precision() == "strict"


def test_what_holds_a_precision_can_be_entered_again():
    strict = precision("strict")
    for _ in range(2):
        with strict, precision("fast"), strict:
            assert get_precision() == "strict"
        assert get_precision() == "fast"
    assert strict(get_precision)() == "strict"


def test_a_with_holds_in_its_own_thread_and_task_only():
    seen = {}

    async def task(name, value):
        with precision(value):
            await asyncio.sleep(0.001)
            seen[name] = get_precision()

    async def both():
        await asyncio.gather(task("one", "strict"), task("two", "fast"))

    asyncio.run(both())
    with precision("strict"):
        thread = threading.Thread(target=lambda: seen.update(thread=get_precision()))
        thread.start()
        thread.join()
    assert seen == {"one": "strict", "two": "fast", "thread": "fast"}


@pytest.mark.parametrize("value", ["exact", "", None, 1, "Strict"])
def test_other_words_are_refused(value):
    for call in (set_precision, precision):
        with pytest.raises(ValueError, match=f'must be "fast" or "strict", got {value!r}'):
            call(value)
    assert get_precision() == "fast"


@pytest.mark.parametrize(("text", "expected"), [("strict", "strict"), (" fast ", "fast"), ("", "fast")])
def test_the_environment_sets_it(text, expected):
    code = "import fastconv; print(fastconv.get_precision(), fastconv.show_config()['precision'])"
    environment = {**os.environ, "FASTCONV_PRECISION": text}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-2:] == [expected, expected]


def test_a_wrong_word_in_the_environment_is_named():
    environment = {**os.environ, "FASTCONV_PRECISION": "exact"}
    ran = subprocess.run(
        [sys.executable, "-c", "import fastconv"], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stderr.splitlines()[-1].endswith('FASTCONV_PRECISION must be "fast" or "strict", got \'exact\'')


def test_summary_names_what_strict_runs():
    net = Sequential(Conv2d(64, 64, 3, padding=1), ReLU())
    assert "winograd" in str(net.summary((8, 64, 16, 16)))
    with precision("strict"):
        assert "winograd" not in str(net.summary((8, 64, 16, 16)))


# --- training --------------------------------------------------------------------------------------------------------


def trainer_on(net, **options):
    return fastconv.Trainer(net, fastconv.optim.SGD(0.01), **options)


def data():
    rng = np.random.default_rng(1)
    return rng.standard_normal((8, 16, 8, 8), dtype=np.float32), rng.integers(0, 3, 8)


def small_net():
    fastconv.manual_seed(0)
    return Sequential(fastconv.Conv2d(16, 64, 3, padding=1), fastconv.Conv2d(64, 64, 3, padding=1), fastconv.Flatten(),
                      fastconv.Linear(64 * 64, 3))  # fmt: skip


def test_a_trainer_keeps_its_precision_through_a_file(tmp_path):
    X, y = data()
    trainer = trainer_on(small_net(), precision="strict")
    assert "winograd" not in algorithms_of(lambda: trainer.fit(X, y, epochs=1, batch_size=8))
    trainer.save(tmp_path / "run")
    resumed = fastconv.Trainer.resume(tmp_path / "run")
    assert resumed.precision == "strict"
    assert "winograd" not in algorithms_of(lambda: resumed.fit(X, y, epochs=2))
    assert "winograd" not in algorithms_of(lambda: resumed.evaluate(X, y))
    assert get_precision() == "fast"


def test_a_trainer_takes_what_holds_at_its_first_fit(tmp_path):
    X, y = data()
    trainer = trainer_on(small_net())
    with precision("strict"):
        trainer.fit(X, y, epochs=1, batch_size=8)
    assert trainer.precision == "strict"
    assert "winograd" not in algorithms_of(lambda: trainer.fit(X, y, epochs=2))
    with pytest.raises(ValueError, match='Trainer: precision must be "fast" or "strict", got \'exact\''):
        trainer_on(small_net(), precision="exact")
