"""`vjp` and `register`: what they give, and what they say when they are called wrongly."""

import functools

import numpy as np
import pytest

import fastconv
from fastconv import ShapeError, functional, reference, vjp
from fastconv.ops import OPS
from fastconv.ops.registry import FUNCTIONS


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    return tuple(rng.integers(-4, 5, shape).astype(dtype) for shape in ((2, 3, 6, 5), (4, 3, 3, 2), (4,)))


@pytest.fixture
def registry():
    """Operations registered in a test are forgotten after it."""
    before = {*OPS}
    yield
    for name in {*OPS} - before:
        del OPS[name]
        FUNCTIONS.pop(name, None)


# --- vjp -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
def test_gives_the_output_and_its_pullback(module):
    x, w, b = arrays()
    y, pullback = vjp(module.conv2d, x, w, b, padding=1)
    np.testing.assert_array_equal(y, module.conv2d(x, w, b, padding=1))
    dx, dw, db = pullback(np.ones_like(y))
    assert (dx.shape, dw.shape, db.shape) == (x.shape, w.shape, b.shape)
    np.testing.assert_array_equal(db, np.full(4, y[:, 0].size))


@pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
def test_one_entry_per_positional_argument(module):
    x, w, _ = arrays()
    y, pullback = vjp(module.conv2d, x, w)
    assert len(pullback(y)) == 2
    y, pullback = vjp(module.conv2d, x, w, None)
    assert len(pullback(y)) == 3
    assert pullback(y)[2] is None


@pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
def test_arrays_by_keyword_have_no_entry(module):
    x, w, b = arrays()
    expected = vjp(module.conv2d, x, w, b)[1](np.ones((2, 4, 4, 4)))
    for positional, named in (((x, w), {"b": b}), ((x,), {"w": w, "b": b}), ((x,), {"w": w})):
        y, pullback = vjp(module.conv2d, *positional, **named)
        gradients = pullback(np.ones_like(y))
        assert len(gradients) == len(positional)
        for a, e in zip(gradients, expected, strict=False):
            np.testing.assert_array_equal(a, e)


def test_the_pullback_takes_any_real_dy():
    x, w, b = arrays()
    y, pullback = vjp(functional.conv2d, x, w, b)
    expected = pullback(np.ones_like(y))
    for dy in (
        np.ones(y.shape, np.int8),
        np.ones(y.shape, bool),
        np.ones(y.shape, np.float16),
        np.ones(y.shape).tolist(),
    ):
        for a, e in zip(pullback(dy), expected, strict=True):
            np.testing.assert_array_equal(a, e, strict=True)


def test_the_pullback_refuses_what_does_not_fit():
    x, w, b = arrays()
    y, pullback = vjp(functional.conv2d, x, w, b)
    for dy in (y[:1], y[..., 0], 1.0, y[None]):
        with pytest.raises(ShapeError, match=r"^conv2d: dy must have the output's shape \(2, 4, 4, 4\), got \("):
            pullback(dy)
    for dtype in ("c8", "O", "U1", "M8[s]"):
        with pytest.raises(TypeError, match=r"^conv2d: dy must hold real numbers, got"):
            pullback(np.zeros(y.shape, dtype))


STRANGERS = [
    np.sin,
    abs,
    len,
    lambda x: x,
    functools.partial(functional.conv2d, stride=2),
    "conv2d",
    None,
    3,
    np.ones(3),
]


@pytest.mark.parametrize("function", STRANGERS, ids=str)
def test_refuses_functions_it_does_not_know(function):
    with pytest.raises(TypeError, match=r"^vjp: .* is no function of fastconv") as error:
        vjp(function, np.ones(3))
    assert "\n" not in str(error.value)


def test_refuses_a_stranger_of_a_known_name():
    def conv2d(x):
        return x

    with pytest.raises(TypeError, match="is no function of fastconv"):
        vjp(conv2d, np.ones(3))


def test_wrong_calls_are_named():
    x, w, b = arrays()
    for args, options, words in (
        ((), {}, "missing a required argument: 'x'"),
        ((x,), {}, "missing a required argument: 'w'"),
        ((x, w, b, 2), {}, "too many positional arguments"),
        ((x, w), {"colour": 1}, "unexpected keyword argument 'colour'"),
        ((x, w), {"x": x}, "multiple values for argument 'x'"),
    ):
        with pytest.raises(TypeError, match=rf"^conv2d: .*{words}"):
            vjp(functional.conv2d, *args, **options)
    with pytest.raises(ShapeError, match=r"^conv2d: stride must be at least 1"):
        vjp(functional.conv2d, x, w, stride=0)


# --- register --------------------------------------------------------------------------------------------------------


def scaled_forward(x, z=None, *, by=1.0):
    """x * z * by, or x * by."""
    y = np.asarray(x) * by if z is None else np.asarray(x) * z * by
    return y, (x, z, by)


def scaled_backward(dy, saved):
    x, z, by = saved
    return (dy * by, None) if z is None else (dy * z * by, dy * x * by)


def test_an_operation_of_ones_own(registry):
    scaled = fastconv.register("scaled", scaled_forward, scaled_backward)
    x, z = np.arange(6.0).reshape(2, 3), np.ones((2, 3)) * 3
    np.testing.assert_array_equal(scaled(x, z, by=2), x * 6)
    assert functional.scaled is scaled
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == scaled_forward.__doc__
    y, pullback = vjp(scaled, x, z, by=2)
    dx, dz = pullback(np.ones_like(y))
    np.testing.assert_array_equal(dx, np.full((2, 3), 6.0))
    np.testing.assert_array_equal(dz, 2 * x)
    y, pullback = vjp(functional.scaled, x)
    (dx,) = pullback(y)
    np.testing.assert_array_equal(dx, y)


def test_a_single_gradient_needs_no_tuple(registry):
    square = fastconv.register("square", lambda x: (x**2, x), lambda dy, x: 2 * x * dy)
    x = np.arange(3.0)
    assert [gradient.tolist() for gradient in vjp(square, x)[1](np.ones(3))] == [[0, 2, 4]]


def test_a_single_gradient_of_several_arguments_is_the_first_ones(registry):
    weighed = fastconv.register("weighed", lambda x, labels: (x * labels, labels), lambda dy, labels: dy * labels)
    x, labels = np.arange(3.0), np.array([1, 0, 2])
    dx, dlabels = vjp(weighed, x, labels)[1](np.ones(3))
    assert dx.tolist() == [1, 0, 2]
    assert dlabels is None


def test_a_wrong_number_of_gradients_is_named(registry):
    wrong = fastconv.register("wrong", lambda x: (x + 1, None), lambda dy, saved: (dy, dy, dy))
    y, pullback = vjp(wrong, np.arange(3.0))
    with pytest.raises(ValueError, match=r"^wrong: backward must give one gradient per positional argument"):
        pullback(y)


def test_a_forward_that_saves_nothing_is_named(registry):
    wrong = fastconv.register("wrong", lambda x: x + 1, lambda dy, saved: dy)
    for call in (wrong, functools.partial(vjp, wrong)):
        with pytest.raises(TypeError, match=r"^wrong: forward must return \(output, saved\)"):
            call(np.arange(3.0))


def test_a_scalar_output(registry):
    total = fastconv.register("total", lambda x: (float(np.sum(x)), np.shape(x)), lambda dy, shape: np.full(shape, dy))
    value, pullback = vjp(total, np.arange(4.0))
    assert value == 6
    assert pullback(2.0)[0].tolist() == [2] * 4


def test_names_in_files_and_messages_stay_distinct(registry):
    fastconv.register("mine", scaled_forward, scaled_backward)
    with pytest.raises(ValueError, match=r"^register: an operation is already named 'mine'; .* replace=True\)$"):
        fastconv.register("mine", scaled_forward, scaled_backward)
    own = OPS["conv2d"]
    for replace in (False, True):
        with pytest.raises(ValueError, match=r"^register: an operation .*is already named 'conv2d' and cannot be rep"):
            fastconv.register("conv2d", scaled_forward, scaled_backward, replace=replace)
    assert OPS["conv2d"] is own


def test_a_notebook_cell_run_again(registry):
    """replace=True: who has the function or a layer of the old operation goes on with the new one."""

    def cell(factor):
        return fastconv.register(
            "times", lambda x: (x * factor, None), lambda dy, saved: dy * factor, replace=True
        )  # fmt: skip

    x = np.ones((2, 3), np.float32)
    first = cell(2)
    layer, kept = fastconv.Function("times"), [first]
    second = cell(5)
    assert functional.times is second
    for function in (*kept, second, layer, functional.times):
        y, pullback = vjp(function, x)
        assert y.tolist() == (5 * x).tolist()
        assert pullback(x)[0].tolist() == (5 * x).tolist()


def test_a_replaced_loss_is_the_trainers(registry, tmp_path):
    def cell(factor):
        def forward(x, y):
            return np.float64(factor * (x - y).sum()), x.shape

        return fastconv.register(
            "gap", forward, lambda dy, shape: (np.full(shape, factor, np.float32) * dy, None), replace=True
        )  # fmt: skip

    x, y = np.ones((4, 2), np.float32), np.zeros((4, 1), np.float32)
    net = fastconv.Sequential(fastconv.Linear(2, 1, rng=0))
    loss = cell(1)
    trainer = fastconv.Trainer(net, fastconv.optim.SGD(0.0), loss=loss)
    before = trainer.evaluate(x, y).loss
    cell(3)
    assert trainer.evaluate(x, y).loss == pytest.approx(3 * before)
    assert fastconv.value_and_grad(net, loss, x, y)[1]["0.bias"].tolist() == [12]
    trainer.fit(x, y, epochs=1, batch_size=4)
    trainer.save(tmp_path / "run")
    pair = (lambda x, y: (np.float64(0), x.shape), lambda dy, shape: (np.zeros(shape), None))
    resumed = fastconv.Trainer.resume(tmp_path / "run", functions={"gap": pair})
    assert resumed.evaluate(x, y).loss == 0


@pytest.mark.parametrize(
    "name", ["", "two words", "1st", "_hidden", "a.b", "a-b", "class", "lambda", None, 3, b"bytes"]
)
def test_names_that_are_none(registry, name):
    with pytest.raises(ValueError, match=r"^register: name must be a public Python identifier, got"):
        fastconv.register(name, scaled_forward, scaled_backward)


@pytest.mark.parametrize("name", ["np", "OPS", "Array", "Any"])
def test_names_that_the_module_has_already(registry, name):
    with pytest.raises(ValueError, match=r"^register: .* already"):
        fastconv.register(name, scaled_forward, scaled_backward)
    assert name not in OPS


@pytest.mark.parametrize(
    ("forward", "backward", "role"), [(None, scaled_backward, "forward"), (scaled_forward, 3, "backward")]
)
def test_what_cannot_be_called(registry, forward, backward, role):
    with pytest.raises(TypeError, match=rf"^register: {role} must be callable, got"):
        fastconv.register("mine", forward, backward)
    assert "mine" not in OPS


def test_what_is_not_there():
    with pytest.raises(AttributeError, match=r"'fastconv.functional' has no attribute 'nothing'"):
        _ = functional.nothing
    assert not hasattr(reference, "nothing")
    for module, name, meant in (
        (functional, "conv_2d", "conv2d"),
        (functional, "interpolate", "resize"),
        (fastconv, "Conv2D", "Conv2d"),
        (fastconv, "trainer", "Trainer"),
    ):
        with pytest.raises(AttributeError, match=rf"has no attribute '{name}'; .*'{meant}'"):
            getattr(module, name)
