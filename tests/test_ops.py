"""Every operation against its naive reference, on every awkward input: walks OPS and tests/cases."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import replace

import numpy as np
import pytest
from cases import BAD_CASES, CASES, LARGE, RANDOM, TORCH, Draw
from gradient_check import check_gradients
from support import (
    AWKWARD,
    DTYPES,
    assert_same,
    cases_of,
    fast,
    float_positions,
    is_floats,
    naive,
    own_ops,
    run,
    small_integers,
)

import fastconv
from fastconv import _ext, functional, reference, vjp
from fastconv._ext import norm, team
from fastconv.ops import OPS

each_op = pytest.mark.parametrize("op", own_ops())
tried_op = pytest.mark.parametrize("op", [op for op in own_ops() if cases_of(op)])  # the others fail test_has_cases
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
differentiable = pytest.mark.parametrize("case", [case for case in CASES if case.gradients], ids=str)


LINEAR = (  # in every argument
    "conv", "locally_connected", "linear", "flatten", "reshape", "unflatten", "pixel", "downsample", "upsample",
)  # fmt: skip


# --- the lists are complete ------------------------------------------------------------------------------------------


@each_op
def test_has_cases(op):
    assert cases_of(op), f"{op} has no case: add some to tests/cases"
    assert any(case.op == op for case in BAD_CASES), f"{op} has no bad case: add some to tests/cases"


@each_op
def test_has_an_empty_batch_among_its_cases(op):
    shapes = [[np.shape(array) for array in case.arrays(Draw(0))] for case in cases_of(op)]
    assert any(0 in shape for arrays in shapes for shape in arrays), f"{op} has no case with N = 0"


def test_cases_name_operations():
    assert {case.op for case in [*CASES, *BAD_CASES]} <= set(own_ops())
    assert set(RANDOM) | set(TORCH) <= set(own_ops())
    assert set(TORCH) <= set(RANDOM)


@pytest.mark.parametrize("cases", [CASES, BAD_CASES], ids=["good", "bad"])
def test_case_names_are_unique(cases):
    names = [str(case) for case in cases]
    assert sorted(set(names)) == sorted(names)


# --- fast against naive ----------------------------------------------------------------------------------------------


@each_case
@each_dtype
def test_equals_reference(case, dtype):
    arrays = case.arrays(Draw(1, dtype))
    expected = run(case, naive(case), arrays)
    actual = run(case, fast(case), arrays, expected.dy)
    assert actual.outputs[0].dtype == dtype
    assert_same(case, actual, expected)


@pytest.mark.parametrize("case", [case for case in CASES if not case.exact], ids=str)
@each_dtype
def test_equals_reference_on_floats(case, dtype):
    arrays = case.arrays(Draw(2, dtype, "floats"))
    expected = run(case, naive(case), arrays)
    assert_same(case, run(case, fast(case), arrays, expected.dy), expected)


@pytest.mark.parametrize("op", sorted(RANDOM))
@each_dtype
def test_random_cases_equal_reference(op, dtype):
    rng = np.random.default_rng(17)
    for trial in range(12):
        case = RANDOM[op](rng)
        arrays = case.arrays(Draw(trial, dtype))
        expected = run(case, naive(case), arrays)
        assert_same(case, run(case, fast(case), arrays, expected.dy), expected)


@tried_op
def test_reference_uses_no_kernel(op, monkeypatch):
    def failing(*arguments):
        raise RuntimeError("a kernel was called")

    for info in pkgutil.walk_packages(_ext.__path__, "fastconv._ext."):
        if info.name in ("fastconv._ext.memory", "fastconv._ext.memoryviews"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if callable(value) and not name.startswith("_"):
                monkeypatch.setattr(module, name, failing)
    for case in cases_of(op):
        run(case, naive(case), case.arrays(Draw(1, np.float32)))


@differentiable
def test_gradients(case):
    arrays = case.arrays(Draw(5, np.float64, "floats"))
    output = run(case, fast(case), arrays).outputs[0]
    dy = np.random.default_rng(6).uniform(-1, 1, output.shape)
    result = run(case, fast(case), arrays, dy)
    positions = [i for i in float_positions(arrays) if i not in case.written + case.constant]

    def call(*moved):
        values = case.call(fast(case), moved)
        return values[0] if isinstance(values, tuple) else values

    check_gradients(call, arrays, dy, result.gradients, positions)


@differentiable
@each_dtype
def test_one_gradient_per_argument(case, dtype):
    arrays = case.arrays(Draw(1, dtype))
    for function in (fast(case), naive(case)):
        gradients = run(case, function, arrays).gradients
        assert isinstance(gradients, tuple)
        assert len(gradients) == len(arrays)
        for i, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            if is_floats(array) and i not in case.written + case.constant:
                assert gradient.shape == array.shape
                assert gradient.dtype == dtype
                assert gradient.flags.writeable
            else:
                assert gradient is None


@differentiable
def test_gradients_one_at_a_time(case):
    """A backward that is asked for one gradient gives that one; the others, if at all, unchanged."""
    arrays = case.arrays(Draw(1, np.float32))
    full = run(case, fast(case), arrays)
    _, saved = OPS[case.op].forward(*case.copies(arrays), **case.keywords())
    for i in [i for i, gradient in enumerate(full.gradients) if gradient is not None]:
        needs = tuple(j == i for j in range(len(arrays)))
        gradients = OPS[case.op].backward(full.dy, saved, needs)
        np.testing.assert_array_equal(gradients[i], full.gradients[i])
        for gradient, expected in zip(gradients, full.gradients, strict=False):
            if gradient is not None and gradient is not gradients[i]:
                np.testing.assert_array_equal(gradient, expected)
                assert not case.op.startswith(LINEAR), "there it costs a matrix product"


# --- awkward input ---------------------------------------------------------------------------------------------------


@each_case
def test_awkward_memory(case):
    arrays = case.arrays(Draw(7, np.float32))
    expected = run(case, fast(case), arrays)
    for arrange in AWKWARD.values():
        awkward = tuple(
            arrange(array) if is_floats(array) and i not in case.written else array for i, array in enumerate(arrays)
        )
        assert_same(case, run(case, fast(case), awkward, arrange(expected.dy)), expected)


@each_case
def test_awkward_integer_arguments(case):
    """Targets and indices in any memory and any integer type."""
    arrays = case.arrays(Draw(7, np.float32))
    if not any(isinstance(array, np.ndarray) and array.dtype.kind == "i" for array in arrays):
        return
    expected = run(case, fast(case), arrays)
    for change in (*AWKWARD.values(), lambda array: array.astype(np.int32), lambda array: array.astype(">i2")):
        awkward = tuple(
            change(array) if isinstance(array, np.ndarray) and array.dtype.kind == "i" else array for array in arrays
        )
        assert_same(case, run(case, fast(case), awkward, expected.dy), expected)


@each_case
def test_zero_strides(case):
    arrays = case.arrays(Draw(7, np.float32))
    flat = tuple(
        np.broadcast_to(array.dtype.type(2), array.shape) if is_floats(array) and i not in case.written else array
        for i, array in enumerate(arrays)
    )
    plain = tuple(array.copy() if isinstance(array, np.ndarray) else array for array in flat)
    expected = run(case, fast(case), plain)
    dy = np.broadcast_to(expected.dy.dtype.type(3), expected.dy.shape)
    assert_same(case, run(case, fast(case), flat, dy), run(case, fast(case), plain, dy.copy()))


@each_case
def test_other_numbers_become_float32(case):
    arrays = case.arrays(Draw(8, np.float32))
    positions = [i for i in float_positions(arrays) if i not in case.written]
    for dtype in (np.float16, np.int8, np.uint16, np.int64, np.bool_):
        numbers = tuple(np.abs(a).astype(dtype) if i in positions else a for i, a in enumerate(arrays))
        floats = tuple(a.astype(np.float32) if i in positions else a for i, a in enumerate(numbers))
        expected = run(case, fast(case), floats)
        assert expected.outputs[0].dtype == np.float32
        assert_same(case, run(case, fast(case), numbers, expected.dy), expected)


@each_case
def test_other_numbers_take_the_float_type_beside_them(case):
    arrays = case.arrays(Draw(8, np.float64))
    positions = [i for i in float_positions(arrays) if i not in case.written]
    expected = run(case, fast(case), arrays)
    for kept in positions:
        mixed = tuple(
            array.astype(np.int64 if i % 2 else np.float16) if i in positions and i != kept else array
            for i, array in enumerate(arrays)
        )
        assert_same(case, run(case, fast(case), mixed, expected.dy), expected)


@each_case
def test_nested_lists(case):
    """Python's numbers have no float type: float32."""
    arrays = case.arrays(Draw(8, np.float32))
    expected = run(case, fast(case), arrays)
    if any(isinstance(array, np.ndarray) and array.size == 0 for array in arrays):
        return  # a list has no shape (0, 3)
    lists = tuple(
        array.tolist() if isinstance(array, np.ndarray) and i not in case.written else array
        for i, array in enumerate(arrays)
    )
    assert_same(case, run(case, fast(case), lists, expected.dy.tolist()), expected)


@each_case
def test_lists_take_the_float_type_beside_them(case):
    arrays = case.arrays(Draw(8, np.float32))
    expected = run(case, fast(case), arrays)
    listed = replace(
        case, options={name: value.tolist() if is_floats(value) else value for name, value in case.options.items()}
    )
    positions = [i for i in float_positions(arrays) if i not in case.written and arrays[i].size]
    for kept in positions:
        mixed = tuple(
            array.tolist() if i in positions and i != kept else array for i, array in enumerate(arrays)
        )  # fmt: skip
        for function in (fast(case), naive(case)):
            result = run(listed, function, mixed, expected.dy)
            assert [a if a is None else a.dtype for a in result.everything()] == [
                b if b is None else b.dtype for b in expected.everything()
            ]
        assert_same(case, run(listed, fast(case), mixed, expected.dy), expected)


X32 = np.arange(8, dtype=np.float32).reshape(4, 2) / 8


@pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
@each_dtype
@pytest.mark.parametrize(
    "call",
    [
        lambda f, x: vjp(f.cross_entropy, x, target=[0, 1, 1, 0], weight=[1.0, 2.0]),
        lambda f, x: vjp(f.cross_entropy, x, [[0.5, 0.5]] * 4, weight=[1, 2]),
        lambda f, x: vjp(f.nll_loss, x, target=(0, 1, 1, 0), weight=(1.0, 2.0)),
        lambda f, x: vjp(f.bce_with_logits, x, x.tolist(), weight=3.0, pos_weight=np.float64(3)),
        lambda f, x: vjp(f.mse_loss, x.tolist(), x),
        lambda f, x: vjp(f.prelu, x, 0.25),
        lambda f, x: vjp(f.prelu, x, np.float64(0.25)),
        lambda f, x: vjp(f.prelu, x, np.array(0.25)),
        lambda f, x: vjp(f.linear, x, [[1.0, 2.0]], [0.5]),
        lambda f, x: vjp(f.linear, [[1.0, 2.0]], x, [0.5] * 4),
        lambda f, x: vjp(f.conv1d, x[None], [[[1.5, 2]] * 4], [0.5]),
        lambda f, x: vjp(f.batch_norm, x, [0.0, 1.0], [1.0, 2.0], [1.0, 2.0], [0.5, 0.5]),
        lambda f, x: vjp(f.batch_norm, x, None, None, [1.0, 2.0], [0.5, 0.5], training=True, eps=np.float64(1e-3)),
        lambda f, x: vjp(f.layer_norm, x, 2, [1.0, 2.0], [0.5, 0.5], np.float64(1e-3)),
        lambda f, x: vjp(f.leaky_relu, x, np.float64(0.1)),
        lambda f, x: vjp(f.softplus, x, np.array(2.0), np.float32(20)),
        lambda f, x: vjp(f.relu, [x, x]),
        lambda f, x: vjp(f.relu, [[*x[0]], [*x[1]]]),
    ],
)
def test_python_numbers_are_weak(module, dtype, call):
    """NEP 50: they, lists of them and NumPy's scalars never change the float type of an array."""
    y, pullback = call(module, X32.astype(dtype))
    assert y.dtype == dtype
    assert {gradient.dtype for gradient in pullback(np.ones(y.shape)) if gradient is not None} == {np.dtype(dtype)}


def test_numbers_without_an_array_beside_them():
    assert functional.relu([[1.0, -2.0]]).dtype == np.float32
    assert functional.mse_loss(1.5, 2).dtype == np.float32
    assert functional.relu([]).dtype == np.float32
    assert functional.relu(np.float64(1.5)).dtype == np.float64
    assert functional.relu([np.ones(2), np.ones(2)]).dtype == np.float64
    with pytest.raises(TypeError, match="share one float type"):
        functional.mse_loss([np.ones(2), np.ones(2)], np.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match="running_mean is updated in place and must be an array of floats, got list"):
        functional.batch_norm(X32, [0.0, 0.0], None, training=True)


TWOS = [np.int64(2), np.uint8(2), np.array(2), (2,), [2], np.array([2]), (np.int8(2), 2)]
NUMBERS = [np.float32(1), np.float64(1), np.float16(1), np.int64(1), np.array(1.0), np.array(1), np.True_]


@pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
@pytest.mark.parametrize("one", NUMBERS, ids=repr)
def test_numpys_numbers_as_options(module, one):
    x = X32.reshape(2, 2, 2)
    for call in (
        lambda f, p: f.leaky_relu(x, p),
        lambda f, p: f.elu(x, p),
        lambda f, p: f.softplus(x, p, p),
        lambda f, p: f.batch_norm(x, None, None, training=bool(p), momentum=p, eps=p),
        lambda f, p: f.group_norm(x, 2, eps=p),
        lambda f, p: f.local_response_norm(x, 3, p, p, p),
        lambda f, p: f.dropout(x, p, training=True, rng=np.random.default_rng(0)),
        lambda f, p: f.lp_pool1d(x, p, 2),
        lambda f, p: f.resize(x, scale=p),
        lambda f, p: f.cross_entropy(x, [[0, 1], [1, 0]], label_smoothing=p),
    ):
        np.testing.assert_array_equal(call(module, one), call(module, 1), strict=True)


@pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
@pytest.mark.parametrize("two", TWOS, ids=repr)
def test_forms_of_sizes_as_options(module, two):
    x = np.random.default_rng(0).integers(-4, 5, (2, 2, 6, 6)).astype(np.float32)
    w, yes, no = np.ones((2, 1, 2, 2), np.float32), np.True_, np.array(False)
    groups = two[0] if np.ndim(two) else two
    for call in (
        lambda f, n: f.conv2d(x, w, stride=n, padding=n, dilation=n, groups=groups, algorithm=np.str_("im2col")),
        lambda f, n: f.conv_transpose2d(x, w, stride=n, padding=n, output_padding=(1,), groups=groups),
        lambda f, n: f.locally_connected2d(x, np.ones((1, 2, 2, 2, 3, 3), np.float32), stride=n),
        lambda f, n: f.max_pool2d(x, n, stride=n, padding=(1,), dilation=(1,), ceil_mode=yes, return_indices=no),
        lambda f, n: f.max_unpool2d(*f.max_pool2d(x, 2, return_indices=yes), n, stride=n, output_size=(6,)),
        lambda f, n: f.avg_pool2d(x, n, ceil_mode=no, count_include_pad=yes),
        lambda f, n: f.lp_pool2d(x, 2, n),
        lambda f, n: f.adaptive_avg_pool2d(x, n),
        lambda f, n: f.adaptive_max_pool2d(x, (None,), return_indices=no),
        lambda f, n: f.function_pool2d(x, lambda windows: windows.max(axis=-1), n),
        lambda f, n: f.downsample(x, n, phase=(1,)),
        lambda f, n: f.upsample(x, n, output_size=(12,)),
        lambda f, n: f.resize(x, size=n, mode=np.str_("linear"), align_corners=yes),
        lambda f, n: f.resize(x, scale=n),
    ):
        np.testing.assert_array_equal(call(module, two), call(module, 2), strict=True)


@each_case
def test_inputs_are_not_modified(case):
    arrays = case.arrays(Draw(9, np.float32, "floats"))
    before = [array.copy() if isinstance(array, np.ndarray) else array for array in arrays]
    result = run(case, fast(case), arrays)
    dy = result.dy.copy()
    for i, (array, copied) in enumerate(zip(arrays, before, strict=True)):
        if i not in case.written:
            np.testing.assert_array_equal(array, copied)
    np.testing.assert_array_equal(result.dy, dy)


NOT_FINITE = [[np.nan], [-np.inf], [np.inf], [np.nan, np.inf, -np.inf]]


@each_case
@pytest.mark.parametrize("share", [0.15, 1], ids=["some", "all"])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_what_is_not_finite_agrees_with_the_reference(case, share):
    """In x alone: what meets the padding's zeros may be nan instead of absent (0 * inf), here as in PyTorch.

    That is w in a convolution, and in a transposed one x itself, on the way to the weights' gradient.
    """
    for values in NOT_FINITE if share < 1 else NOT_FINITE[:2]:
        arrays = case.arrays(Draw(10, np.float32))
        rng = np.random.default_rng(11)
        hit = rng.random(arrays[0].shape) < share
        arrays[0][hit] = rng.choice(values, int(hit.sum()))
        expected = run(case, naive(case), arrays)
        actual = run(case, fast(case), arrays, expected.dy)
        if case.op.startswith("conv_transpose"):
            actual, expected = (result._replace(gradients=result.gradients[:1]) for result in (actual, expected))
        assert_same(case, actual, expected)


# --- ownership -------------------------------------------------------------------------------------------------------


def assert_apart(*arrays):
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                assert not np.shares_memory(a, b)


@each_case
@pytest.mark.parametrize("memory", ["fortran", "channels_last", "contiguous"])
def test_results_belong_to_the_caller(case, memory):
    """Writing into what a call returned changes neither its arguments nor what its pullback gives."""
    arrange = AWKWARD.get(memory, np.copy)
    arrays = tuple(arrange(a) if is_floats(a) else a for a in case.copies(case.arrays(Draw(12, np.float32))))
    output, pullback = vjp(fast(case), *arrays, **case.keywords())
    outputs = output if isinstance(output, tuple) else (output,)
    assert_apart(*outputs, *arrays)
    if not case.gradients:
        return
    dy = arrange(small_integers(np.asarray(outputs[0])))
    gradients = pullback(dy)
    assert_apart(*gradients, *outputs, *arrays, dy)
    kept = [None if gradient is None else gradient.copy() for gradient in gradients]
    for array in (*outputs, *gradients):
        if isinstance(array, np.ndarray):
            assert array.flags.writeable
            array[...] = 113
    again = pullback(dy)
    assert_apart(*again, *gradients, *outputs, *arrays, dy)
    for a, b in zip(again, kept, strict=True):
        np.testing.assert_array_equal(a, b)


@differentiable
def test_a_pullback_is_linear_and_keeps_nothing(case):
    result = run(case, fast(case), case.arrays(Draw(13, np.float64)))
    result.pullback(small_integers(result.dy, 1))
    for a, b in zip(result.pullback(result.dy), result.gradients, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(result.pullback(2 * result.dy), result.gradients, strict=True):
        np.testing.assert_array_equal(a, None if b is None else 2 * b)


@each_case
def test_later_calls_leave_earlier_results_alone(case):
    first = case.arrays(Draw(14, np.float32))
    results = run(case, fast(case), first)
    kept = [None if array is None else array.copy() for array in results.everything()]
    for seed in range(3):
        run(case, fast(case), case.arrays(Draw(15 + seed, np.float32)))
    for a, b in zip(results.everything(), kept, strict=True):
        np.testing.assert_array_equal(a, b)


# --- refusals --------------------------------------------------------------------------------------------------------


def assert_one_line(op, error):
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"{op}:"), text


@pytest.mark.parametrize("case", BAD_CASES, ids=str)
@pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
def test_bad_cases(case, module):
    if module is reference and not case.reference:
        return
    with pytest.raises(case.error) as error:
        getattr(module, case.op)(*case.arguments, **case.options)
    assert error.type is case.error
    assert_one_line(case.op, error)
    assert re.search(case.match, str(error.value)), str(error.value)


def first_with_floats(op):
    """The first case of the op that takes arrays of floats, and its arrays."""
    return next((case, case.arrays(Draw(0, np.float32))) for case in cases_of(op) if case.arrays(Draw(0))[0].size)


@tried_op
@pytest.mark.parametrize("dtype", ["c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "V4"])
def test_what_holds_no_real_numbers_is_refused(op, dtype):
    case, arrays = first_with_floats(op)
    for i in float_positions(arrays):
        bad = [*arrays]
        bad[i] = np.zeros(arrays[i].shape, dtype)
        for function in (fast(case), naive(case)):
            with pytest.raises(TypeError) as error:
                case.call(function, tuple(bad))
            assert_one_line(op, error)


@tried_op
def test_none_in_place_of_x_is_refused(op):
    case, arrays = first_with_floats(op)
    for function in (fast(case), naive(case)):
        with pytest.raises(TypeError) as error:
            case.call(function, (None, *arrays[1:]))
        assert_one_line(op, error)


@tried_op
def test_ragged_lists_are_refused(op):
    case, arrays = first_with_floats(op)
    for function in (fast(case), naive(case)):
        with pytest.raises(fastconv.ShapeError, match="rectangular") as error:
            case.call(function, ([[1, 2], [3]], *arrays[1:]))
        assert_one_line(op, error)


@tried_op
def test_mixed_float_types_are_refused(op):
    for case in cases_of(op):
        arrays = case.arrays(Draw(0, np.float32))
        positions = float_positions(arrays)
        if any(arrays[i].ndim for i in positions):  # beside them a 0-d array has no say
            positions = [i for i in positions if arrays[i].ndim]
        for i in positions if len(positions) > 1 else []:
            bad = [*arrays]
            bad[i] = arrays[i].astype(np.float64)
            for function in (fast(case), naive(case)):
                with pytest.raises(TypeError, match="share one float type") as error:
                    case.call(function, case.copies(tuple(bad)))
                assert_one_line(op, error)


@tried_op
def test_unknown_options_are_a_type_error(op):
    case, arrays = first_with_floats(op)
    for function in (fast(case), naive(case)):
        with pytest.raises(TypeError, match=rf"^{op}\(\) .*colour"):
            function(*arrays, **case.keywords(), colour=1)


@tried_op
@pytest.mark.parametrize("dtype", [np.float32, np.int8], ids=str)
def test_more_elements_than_memory_holds(op, dtype):
    case, arrays = first_with_floats(op)
    x = np.broadcast_to(dtype(0), (2**40, *arrays[0].shape[1:]))
    for function in (fast(case), naive(case)):
        with pytest.raises(MemoryError) as error:
            case.call(function, (x, *arrays[1:]))
        assert_one_line(op, error)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighed", [False, True])
def test_batch_norm_of_nothing_has_gradients_of_zero(dtype, weighed):
    """Whatever was in the memory of its coefficients, of which there are none."""
    statistics, totals = np.zeros((3, 1, 5)), np.full((2, 1, 5), np.nan)
    coefficients = np.full((3, 1, 10), np.nan, dtype)
    dweight, dbias = np.full((2, 5), np.nan, dtype)
    weight = np.ones(5, dtype) if weighed else None
    norm.settle_products(np.empty((1, 0, 2, 10)), statistics, coefficients, weight, totals, dweight, dbias)
    for array in (totals, dweight, dbias):
        np.testing.assert_array_equal(array, 0)


@tried_op
def test_an_empty_batch_of_more_than_memory_holds(op):
    """The naive loops walk an image's positions even where there are no images."""
    case, arrays = first_with_floats(op)
    x = np.zeros((0, *arrays[0].shape[1:-1], 2**40), np.float32)
    for function in (fast(case), naive(case)):
        with pytest.raises(MemoryError) as error:
            case.call(function, (x, *arrays[1:]))
        assert_one_line(op, error)


@pytest.mark.parametrize("op", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("module", [functional, reference])
def test_a_mean_over_no_rows_is_nan_and_its_gradient_is_empty(op, module):
    y, pullback = vjp(getattr(module, op), np.zeros((0, 5)), np.zeros(0, np.int64))
    assert np.isnan(y)
    assert pullback(np.ones_like(y))[0].shape == (0, 5)


@pytest.mark.parametrize("module", [functional, reference])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_the_weight_of_a_class_that_no_row_has_is_not_asked(module, odd):
    """Ignored rows have the index 0 inside, and kept its weight."""
    x, weight = np.log([[0.2, 0.8], [0.5, 0.5]]), np.array([odd, 1.0])
    for target in ([1, -100], [1, 1]):
        counts = np.array([[1.0], [target[1] == 1]])
        y, pullback = vjp(module.nll_loss, x, np.array(target), weight=weight, reduction="sum")
        np.testing.assert_array_equal(pullback(np.ones_like(y))[0], [[0, -1], [0, -counts[1, 0]]])
        y, pullback = vjp(module.cross_entropy, x, np.array(target), weight=weight, reduction="sum")
        np.testing.assert_allclose(pullback(np.ones_like(y))[0], counts * (np.exp(x) - [0, 1]), atol=1e-12)


@pytest.mark.parametrize("module", [functional, reference])
def test_classes_of_no_weight_have_no_gradient(module):
    """Also where no target's class has any, and the mean is of nothing."""
    x, target = np.log([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]), np.array([0, 1, 0])
    y, pullback = vjp(module.nll_loss, x, target, weight=np.array([0.0, 2.0]))
    np.testing.assert_array_equal(pullback(np.ones_like(y))[0], [[0, 0], [0, -1], [0, 0]])
    y, pullback = vjp(module.nll_loss, x, target, weight=np.zeros(2))
    assert np.isnan(y)
    np.testing.assert_array_equal(pullback(np.ones_like(y))[0], np.zeros((3, 2)))


# --- names and signatures --------------------------------------------------------------------------------------------


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@each_op
def test_fast_and_naive_have_one_signature(op):
    assert parameters(getattr(functional, op)) == parameters(getattr(reference, op))
    assert parameters(getattr(functional, op)) == parameters(OPS[op].forward)
    assert parameters(getattr(functional, op)) == parameters(OPS[op].reference)


@each_op
def test_is_documented(op):
    for module in (functional, reference):
        function = getattr(module, op)
        assert function.__name__ == op
        assert function.__module__ == module.__name__
        assert len(function.__doc__) > 40


def test_functional_reference_and_ops_have_the_same_names():
    public = {
        name
        for name, value in vars(functional).items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == functional.__name__
    }
    assert public == set(own_ops())
    assert set(reference.__all__) == set(own_ops())


# --- threads and memory ----------------------------------------------------------------------------------------------


@tried_op
@each_dtype
def test_threads_change_no_bit(op, dtype):
    """Every kernel runs in parallel, however small: 1, 2, 3 and 7 threads, and once more."""
    team.set_bytes_per_thread(1)
    for case in cases_of(op):
        draw = Draw(20, dtype, "floats")
        arrays = case.arrays(draw)
        fastconv.set_num_threads(1)
        expected = run(case, fast(case), arrays)
        dy = draw(*expected.dy.shape)
        expected = run(case, fast(case), arrays, dy)
        for threads in (2, 3, 7, 7, 1):
            fastconv.set_num_threads(threads)
            result = run(case, fast(case), arrays, dy)
            for a, b in zip(result.everything(), expected.everything(), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", LARGE, ids=str)
@each_dtype
def test_threads_change_no_bit_of_large_cases(case, dtype):
    draw = Draw(22, dtype, "floats")
    arrays = case.arrays(draw)
    fastconv.set_num_threads(1)
    expected = run(case, fast(case), arrays)
    dy = draw(*expected.dy.shape)
    expected = run(case, fast(case), arrays, dy)
    for threads in (2, 3, 7, 7):
        fastconv.set_num_threads(threads)
        result = run(case, fast(case), arrays, dy)
        for a, b in zip(result.everything(), expected.everything(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", [case for case in LARGE if case.op.startswith(LINEAR)], ids=str)
def test_gradients_of_large_cases(case):
    """Along one direction of integers: of what is linear in every argument, differences of any step are exact."""
    draw = Draw(23, np.float64)
    arrays = case.arrays(draw)
    result = run(case, fast(case), arrays)
    for i in float_positions(arrays):
        moved = [*arrays]
        moved[i] = draw(*arrays[i].shape)
        there, here = (case.call(fast(case), tuple(these)) for these in (moved, arrays))
        expected = np.vdot(there - here, result.dy)
        assert np.vdot(moved[i] - arrays[i], result.gradients[i]) == expected


@each_case
def test_another_workspace_limit_gives_the_same(case):
    team.set_bytes_per_thread(1)
    arrays = case.arrays(Draw(21, np.float32))
    expected = run(case, naive(case), arrays)
    fastconv.set_num_threads(2)
    for limit in (1, 300, 4000, 1 << 20):
        fastconv.set_workspace_limit(limit)
        assert_same(case, run(case, fast(case), arrays, expected.dy), expected)


@pytest.mark.parametrize("values", [(np.inf, -np.inf), (1.7e308, 1.7e308), (np.nan, 1.0)])
def test_the_naive_bias_gradient_of_a_transposed_convolution_takes_any_number(values):
    dy = np.array([[values]])
    arrays = np.zeros_like(dy), np.ones((1, 1, 1)), np.ones(1)
    for function in (reference.conv_transpose1d, functional.conv_transpose1d):
        with np.errstate(all="ignore"):
            db = vjp(function, *arrays)[1](dy)[2]
            np.testing.assert_array_equal(db, [np.add(*values)])
