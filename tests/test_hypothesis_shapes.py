"""Any shapes and options: a call either equals the reference or refuses in one clear line, the same one."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close
from tolerance import tolerance

import fastconv
from fastconv import ShapeError, functional, reference, vjp
from fastconv.arrays import as_floats

REFUSALS = (ShapeError, TypeError)


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def outcome(function, arrays, options):
    """What a call gives, with its gradients, or the words with which it refuses."""
    try:
        output, pullback = vjp(function, *arrays, **options)
    except REFUSALS as error:
        text = str(error)
        assert "\n" not in text
        assert text.startswith(function.__name__ + ":")
        return text
    values = output[0] if isinstance(output, tuple) else output
    parts = output if isinstance(output, tuple) else (output,)
    return [*parts, *pullback(integers(*values.shape, seed=1))]


def assert_agree(name, arrays, options, relative=0.0):
    expected = outcome(getattr(reference, name), arrays, options)
    actual = outcome(getattr(functional, name), arrays, options)
    if isinstance(expected, str) or isinstance(actual, str):
        assert actual == expected
        return
    for a, b in zip(actual, expected, strict=True):
        if relative and a is not None and a.dtype.kind == "f":
            assert_close(a, b, relative)
        else:
            np.testing.assert_array_equal(a, b, strict=b is not None)


def per_axis(numbers, ndim):
    """One value, or one an axis; now and then one too many."""
    several = st.lists(numbers, min_size=ndim, max_size=ndim).map(tuple)
    return st.one_of(numbers, several, several, st.tuples(*[numbers] * (ndim + 1)).filter(lambda _: ndim < 3))


@st.composite
def convolutions(draw):
    ndim = draw(st.integers(1, 3))
    largest = (14, 7, 4)[ndim - 1]
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 3)) + draw(st.sampled_from([0, 0, 0, 0, 1]))
    filters = groups * draw(st.integers(1, 3))
    spatial = draw(st.lists(st.integers(1, largest), min_size=ndim, max_size=ndim))
    kernel = draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim))
    strides = st.one_of(st.integers(1, 3), st.integers(0, 3), st.fractions(Fraction(1, 3), 3, max_denominator=3))
    amount = st.integers(0, 3)
    padding = st.one_of(
        st.sampled_from(["same", "same_lower", "valid"]),
        per_axis(amount, ndim),
        st.lists(st.tuples(amount, amount), min_size=ndim, max_size=ndim),
    )
    arrays = (
        integers(draw(st.integers(0, 2)), channels, *spatial),
        integers(filters, max(1, channels // groups), *kernel, seed=2),
        draw(st.sampled_from([None, integers(filters, seed=3)])),
    )
    options = {
        "stride": draw(per_axis(strides, ndim)),
        "padding": draw(padding),
        "dilation": draw(per_axis(st.integers(1, 3), ndim)),
        "groups": groups,
    }
    return f"conv{ndim}d", arrays, options


@settings(max_examples=300)
@given(convolutions())
def test_convolution(call):
    assert_agree(*call)


@st.composite
def pools(draw, kind):
    ndim = draw(st.integers(1, 3))
    largest = (14, 7, 4)[ndim - 1]
    spatial = draw(st.lists(st.integers(1, largest), min_size=ndim, max_size=ndim))
    arrays = (
        integers(draw(st.integers(0, 2)), draw(st.integers(1, 3)), *spatial),
        draw(per_axis(st.integers(1, 4), ndim)),
    )
    options = {
        "stride": draw(st.one_of(st.none(), per_axis(st.integers(1, 4), ndim))),
        "padding": draw(per_axis(st.integers(0, 2), ndim)),
        "ceil_mode": draw(st.booleans()),
    }
    if kind == "max":
        options |= {"dilation": draw(per_axis(st.integers(1, 3), ndim)), "return_indices": draw(st.booleans())}
    else:
        options["count_include_pad"] = draw(st.booleans())
    return f"{kind}_pool{ndim}d", arrays, options


@pytest.mark.skipif(not hasattr(functional, "max_pool2d"), reason="there is no pooling yet")
@settings(max_examples=200)
@given(pools("max"))
def test_max_pooling(call):
    assert_agree(*call)


@pytest.mark.skipif(not hasattr(functional, "avg_pool2d"), reason="there is no pooling yet")
@settings(max_examples=200)
@given(pools("avg"))
def test_average_pooling(call):
    assert_agree(*call, tolerance("avg_pool", np.float32))  # quotients: their sums are rounded


@st.composite
def resamplings(draw):
    ndim = draw(st.integers(1, 3))
    spatial = draw(st.lists(st.integers(1, (14, 7, 4)[ndim - 1]), min_size=ndim, max_size=ndim))
    arrays = (
        integers(draw(st.integers(0, 2)), draw(st.integers(1, 3)), *spatial),
        draw(per_axis(st.integers(1, 4), ndim)),
    )
    if draw(st.booleans()):
        return "downsample", arrays, {"phase": draw(per_axis(st.integers(0, 3), ndim))}
    return "upsample", arrays, {"output_size": draw(st.one_of(st.none(), per_axis(st.integers(1, 20), ndim)))}


@pytest.mark.skipif(not hasattr(functional, "upsample"), reason="there is no resampling yet")
@settings(max_examples=200)
@given(resamplings())
def test_resampling(call):
    assert_agree(*call)


FLOATS = ("f4", "f8", ">f4", ">f8")
OTHERS = ("f2", "?", "i1", "u2", "i8", ">i4")


@given(st.lists(st.sampled_from([*FLOATS, *OTHERS, None]), min_size=1, max_size=4))
def test_one_float_type_for_all(types):
    arrays = {f"a{i}": None if name is None else np.ones(3, name) for i, name in enumerate(types)}
    floats = {np.dtype(name).newbyteorder("=") for name in types if name in FLOATS}
    if types[0] is None or len(floats) > 1:
        with pytest.raises(TypeError):
            as_floats("op", **arrays)
        return
    expected = floats.pop() if floats else np.dtype(np.float32)
    found = as_floats("op", **arrays)
    assert [array is None for array in found] == [name is None for name in types]
    for array in found:
        assert array is None or (array.dtype == expected and array.dtype.isnative and array.tolist() == [1, 1, 1])


@given(st.sampled_from(["c8", "O", "U2", "S2", "M8[D]", "m8[D]", "V3", "g"]), st.sampled_from(FLOATS + OTHERS))
def test_no_real_numbers(bad, good):
    with pytest.raises(TypeError, match=r"^op: b must hold real numbers"):
        as_floats("op", a=np.ones(3, good), b=np.zeros(3, bad))


def test_shape_errors_are_value_errors():
    assert issubclass(fastconv.ShapeError, ValueError)
    assert issubclass(fastconv.FormatError, ValueError)
