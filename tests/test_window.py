"""The geometry of windows by definition: every position is enumerated and looked at."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastconv import ShapeError, functional
from fastconv.ops.naive import windows
from fastconv.window import Window, fitting, integers, pairs

lengths = st.integers(1, 12)
kernels = st.integers(1, 5)
steps = st.integers(1, 4)
amounts = st.integers(0, 5)


def upsampled(n, up):
    """Positions of the upsampled input: the input element there, -1 for an inserted zero."""
    line = [-1] * ((n - 1) * up + 1)
    line[::up] = range(n)
    return line


def padded(n, up, before, after):
    """The same with the padding around it."""
    return [-1] * before + upsampled(n, up) + [-1] * after


def enumerate_axis(n, kernel, stride, before, after, dilation, up):
    """Per output: the input element under each tap (-1: none), sliding until the last tap would leave the padding."""
    line = padded(n, up, before, after)
    found = []
    for start in range(0, len(line), stride):
        taps = [start + tap * dilation for tap in range(kernel)]
        if taps[-1] < len(line):
            found.append([line[at] for at in taps])
    return found


@given(lengths, kernels, steps, amounts, amounts, steps, steps)
def test_one_axis(n, kernel, stride, before, after, dilation, up):
    expected = enumerate_axis(n, kernel, stride, before, after, dilation, up)
    call = ("op", (n,), kernel, Fraction(stride, up), ((before, after),), dilation)
    ratio = Fraction(stride, up)
    if (ratio.numerator, ratio.denominator) != (stride, up):
        return  # a fraction that is not reduced is another window
    if not expected:
        with pytest.raises(ShapeError, match="must not be larger than the padded input"):
            Window.parse(*call)
        return
    window = Window.parse(*call)
    assert window.output((n,)) == (len(expected),)
    assert window.spans == ((kernel - 1) * dilation + 1,)
    found = windows(window, (n,), window.output((n,)))
    assert found == [[(i, tap) for tap, i in enumerate(taps) if i >= 0] for taps in expected]


@given(
    st.integers(1, 3).flatmap(
        lambda ndim: st.lists(
            st.tuples(st.integers(1, 6), kernels, steps, amounts, amounts, st.integers(1, 3)),
            min_size=ndim,
            max_size=ndim,
        )
    )
)
def test_several_axes_are_a_product_of_axes(axes):
    per_axis = [enumerate_axis(*axis, 1) for axis in axes]
    assume(all(per_axis))
    spatial, kernel, stride, before, after, dilation = zip(*axes, strict=True)
    window = Window.parse("op", spatial, kernel, stride, tuple(zip(before, after, strict=True)), dilation)
    output = window.output(spatial)
    assert output == tuple(len(found) for found in per_axis)
    elements = np.arange(np.prod(spatial)).reshape(spatial)
    taps = np.arange(np.prod(kernel)).reshape(kernel)
    expected = []
    for position in itertools.product(*per_axis):
        inside = []
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(position[axis][t] for axis, t in enumerate(tap))
            if min(at) >= 0:
                inside.append((int(elements[at]), int(taps[tap])))
        expected.append(inside)
    assert windows(window, spatial, output) == expected


@given(lengths, kernels, steps, amounts, amounts, st.integers(1, 3))
def test_ceil_mode(n, kernel, stride, before, after, dilation):
    """PyTorch's rule: windows are counted while they start inside the input or the padding before it."""
    span = (kernel - 1) * dilation + 1
    reach = n + before + after
    starts = [0]
    while starts[-1] + span < reach:  # another window while the last one leaves something uncovered
        starts.append(starts[-1] + stride)
    if len(starts) > 1 and starts[-1] >= n + before:
        starts.pop()
    assume(span <= reach)
    window = Window.parse("op", (n,), kernel, stride, ((before, after),), dilation, True)
    assert window.output((n,)) == (len(starts),)
    floor = Window.parse("op", (n,), kernel, stride, ((before, after),), dilation)
    assert window.output((n,))[0] <= floor.output((n,))[0] + 1


@given(lengths, kernels, steps, steps, steps, st.sampled_from(["same", "same_lower"]))
def test_same(n, kernel, stride, dilation, up, name):
    ratio = Fraction(stride, up)
    window = Window.parse("op", (n,), kernel, ratio, name, dilation)
    length = (n - 1) * ratio.denominator + 1
    outputs = -(-length // ratio.numerator)
    assert window.output((n,)) == (outputs,)
    ((before, after),) = window.padding
    assert after - before in ((0, 1) if name == "same" else (0, -1))
    span, total = (kernel - 1) * dilation + 1, before + after
    if total:  # no smaller padding gives as many outputs
        assert (length + total - 1 - span) // ratio.numerator + 1 < outputs


@given(lengths, kernels, steps)
def test_valid_is_no_padding(n, kernel, stride):
    assume(kernel <= n)
    assert Window.parse("op", (n,), kernel, stride, "valid") == Window.parse("op", (n,), kernel, stride, 0)


@given(st.integers(1, 3), kernels, steps, amounts, st.integers(1, 3), st.booleans())
def test_lift_changes_nothing_but_the_number_of_axes(ndim, kernel, stride, padding, dilation, ceil_mode):
    spatial = (7, 6, 9)[:ndim]
    try:
        window = Window.parse("op", spatial, kernel, stride, padding, dilation, ceil_mode)
    except ShapeError:
        assume(False)
    lifted = window.lift()
    front = 3 - ndim
    assert lifted.ndim == 3
    assert lifted.output((1,) * front + spatial) == (1,) * front + window.output(spatial)
    assert lifted.lift() == lifted


FORMS = [
    (3, ((3, 3), (3, 3))),
    ((1, 2), ((1, 1), (2, 2))),
    ([1, 2], ((1, 1), (2, 2))),
    (((1, 2), (3, 4)), ((1, 2), (3, 4))),
    ([(1, 2), 3], ((1, 2), (3, 3))),
    (np.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
    (np.int64(2), ((2, 2), (2, 2))),
    (np.array(2), ((2, 2), (2, 2))),
    (True, ((1, 1), (1, 1))),
    (np.True_, ((1, 1), (1, 1))),
    ((3,), ((3, 3), (3, 3))),
    (((1, 2),), ((1, 2), (1, 2))),
    (((1,), (2,)), ((1, 1), (2, 2))),
    ([[1, 2]], ((1, 2), (1, 2))),
]


@pytest.mark.parametrize(("form", "expected"), FORMS, ids=[str(form) for form, _ in FORMS])
def test_forms_of_padding(form, expected):
    found = pairs("op", "padding", form, 2)
    assert found == expected
    assert all(type(number) is int for pair in found for number in pair)


@pytest.mark.parametrize(
    "form",
    [4, (4, 4), [4, 4], (4,), [4], np.array([4]), np.array(4), np.array([4, 4]), np.uint8(4), (np.int32(4), 4)],
    ids=repr,
)
def test_forms_of_sizes(form):
    found = integers("op", "dilation", form, 2, 1)
    assert found == (4, 4)
    assert all(type(number) is int for number in found)


@pytest.mark.parametrize(
    ("ndim", "flat", "pairs_written"),
    [
        (1, (1, 2), "((1, 2),)"),
        (2, (0, 0, 0, 1), "((0, 1), (0, 0))"),
        (2, [3, 4, 1, 2], "((1, 2), (3, 4))"),
        (3, (5, 6, 3, 4, 1, 2), "((1, 2), (3, 4), (5, 6))"),
    ],
)
def test_padding_in_torchs_order_is_answered_with_pairs(ndim, flat, pairs_written):
    """As torch.nn.functional.pad takes it: the last axis first."""
    with pytest.raises(ShapeError, match=r"padding must be .*\(\(before, after\), …\), got") as error:
        pairs("op", "padding", flat, ndim)
    assert str(error.value).endswith(f"write {pairs_written}")
    padded = np.pad(np.zeros((2,) * ndim), pairs("op", "padding", eval(pairs_written), ndim))
    torch = pytest.importorskip("torch")
    assert padded.shape == torch.nn.functional.pad(torch.zeros((2,) * ndim), tuple(flat)).shape


@pytest.mark.parametrize(
    ("stride", "instead"),
    [
        (0.5, "Fraction(1, 2)"),
        (1.5, "Fraction(3, 2)"),
        (np.float32(1 / 3), "Fraction(1, 3)"),
        ((1, 0.25), "Fraction(1, 4)"),
        (2.0, "2"),
    ],
)
def test_strides_that_are_floats_are_answered_with_fractions(stride, instead):
    with pytest.raises(TypeError, match=r"^conv2d: stride must be an integer, got") as error:
        Window.parse("conv2d", (5, 5), 3, stride)
    assert str(error.value).endswith(f"; write {instead}")


@pytest.mark.parametrize("stride", [0.5, Fraction(1, 2), (1, Fraction(3, 2))], ids=repr)
def test_strides_that_must_be_integers(stride):
    with pytest.raises(TypeError, match=r"^max_pool2d: stride must be an integer, got .*") as error:
        Window.parse("max_pool2d", (5, 5), 3, stride, rational=False)
    assert "write" not in str(error.value)
    assert Window.parse("max_pool2d", (5, 5), 3, Fraction(2), rational=False).stride == (2, 2)


@given(kernels, steps, steps, st.sampled_from([0, 3, "valid", "same", "same_lower"]), st.integers(1, 3))
def test_a_fitting_input_fits(kernel, stride, dilation, padding, up):
    ratio = Fraction(stride, up)
    spatial = fitting("op", 2, kernel, ratio, dilation)
    assert min(Window.parse("op", spatial, kernel, ratio, padding, dilation).output(spatial)) >= 1


@pytest.mark.parametrize("stride", [Fraction(3, 2), (Fraction(3, 2), Fraction(6, 4))], ids=str)
def test_forms_of_rational_strides(stride):
    window = Window.parse("op", (5, 5), 3, stride)
    assert (window.stride, window.up) == ((3, 3), (2, 2))


@pytest.mark.parametrize("bad", [1.0, "3", None, (1, 2.5), Fraction(1, 2), 1j, object()], ids=repr)
def test_what_is_no_integer(bad):
    with pytest.raises(TypeError, match=r"^op: kernel_size must be an integer, got"):
        Window.parse("op", (5, 5), bad)


@pytest.mark.parametrize("bad", [(), (1, 2, 3), [[1, 2], [1, 2], [1, 2]], np.ones(4, int)], ids=repr)
def test_wrong_counts(bad):
    with pytest.raises(ShapeError, match=r"^op: kernel_size must be one number or 2 of them, got"):
        Window.parse("op", (5, 5), bad)


def test_a_window_cannot_be_changed():
    window = Window.parse("op", (5, 5), 3)
    with pytest.raises(AttributeError):
        window.kernel = (1, 1)
    assert hash(window) == hash(Window.parse("op", (5, 5), (3, 3)))


def test_huge_numbers_do_not_overflow():
    window = Window.parse("op", (2**40,), 3, 1, 2**62)
    assert window.output((2**40,)) == (2**40 + 2**63 - 2,)


def test_steps_that_nobody_takes_may_have_any_size():
    window = Window.parse("op", (5, 5), (1, 2), 2**70, 0, (2**70, 1))
    assert window.tight("op", window.output((5, 5))) == Window.parse("op", (5, 5), (1, 2))


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        ({"stride": 2**69, "padding": 2**70}, 2**70),
        ({"kernel": 2, "dilation": 2**41, "padding": 2**40}, 2**41),
        ({"stride": Fraction(2**70 + 1, 2**70)}, 2**70 + 1),
    ],
)
def test_steps_beyond_64_bits_are_refused(options, largest):
    window = Window.parse("op", (5,), **{"kernel": 1, **options})
    rule = f"^op: stride, padding and dilation must be at most 1099511627776, got {largest}$"
    with pytest.raises(ShapeError, match=rule):
        window.tight("op", window.output((5,)))


def test_a_call_seen_before_answers_as_a_first_one():
    """What was refused stays refused after its equal was taken: 1.0 == 1 == Fraction(1) == True."""
    x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2))
    for stride in (1, True, (1, 1), [1, 1], Fraction(1), np.int64(1), Fraction(1, 1)):
        assert functional.conv2d(x, w, stride=stride, padding=1).shape == (1, 1, 5, 5)
    for padding in (1.0, (1.0, 1.0), Fraction(1), ((1, 1), (1, 1.0))):
        with pytest.raises(TypeError, match="conv2d: padding must be an integer"):
            functional.conv2d(x, w, padding=padding)
    assert functional.conv2d(x, w, stride=Fraction(1, 2)).shape == (1, 1, 6, 6)
    assert functional.conv2d(x, w, stride=Fraction(3, 2)).shape == (1, 1, 2, 2)
