"""The shared shapes: every operation has some, they say the truth, and the plain-NumPy versions agree with fastconv."""

import itertools

import numpy as np
import pytest
from support import own_ops

import fastconv
from fastconv import functional
from fastconv.lab.compare import KERNELS, Versions, verify
from fastconv.lab.numpy_baseline import CASES, PLAIN
from fastconv.lab.shapes import CONVOLUTIONS, TRANSPOSED, Case, ConvShape, conv_case

ALL = [case for op in CASES for case in CASES[op]]


def test_every_operation_has_a_case_that_is_timed_and_one_for_the_naive_loops():
    for op in own_ops():
        assert CASES.get(op), f"{op}: time a call of it in fastconv/lab/numpy_baseline.py"
        assert any(case.naive for case in CASES[op]), op
        assert op in PLAIN, f"{op}: add it to fastconv/lab/numpy_baseline.py"


def test_cases_name_operations_and_have_names_of_their_own():
    assert set(CASES) <= set(own_ops())
    assert set(KERNELS) <= set(CASES)
    labels = [case.label for case in ALL]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("shape", [*CONVOLUTIONS.values(), *TRANSPOSED.values()], ids=lambda shape: shape.name)
def test_a_convolutions_shapes_are_those_of_its_arrays(shape: ConvShape):
    case = conv_case(shape).with_batch(1)
    x, w = case.arrays()
    assert (x.shape, w.shape) == (shape.with_batch(1).x_shape, shape.w_shape)
    assert getattr(functional, shape.op)(x, w, **shape.options).shape == shape.with_batch(1).y_shape


def test_flops_count_a_multiplication_and_an_addition_a_tap():
    shape = ConvShape("small", 2, 4, (5, 6), 6, (3, 2), stride=2, padding=1, groups=2)
    count = 0
    for _ in itertools.product(range(2), range(6), range(3), range(4), range(4 // 2), range(3), range(2)):
        count += 2
    assert shape.y_shape == (2, 6, 3, 4)
    assert shape.flops() == count
    transposed = ConvShape("small", 2, 6, (3, 4), 4, (3, 2), stride=2, padding=1, groups=2, transposed=True)
    assert transposed.y_shape == (2, 4, 5, 6)
    assert transposed.flops() == count  # the same multiplications, the other way round


@pytest.mark.parametrize("case", [case for case in ALL if case.naive], ids=lambda case: case.label)
def test_naive_plain_and_fast_agree(case: Case):
    versions = Versions(case)
    assert versions.names == ["naive", "numpy", "fastconv"]
    verify(versions)


@pytest.mark.parametrize("case", [case for case in ALL if not case.naive], ids=lambda case: case.label)
def test_plain_and_fast_agree(case: Case):
    verify(Versions(case.with_batch(2)))


def test_a_case_draws_the_same_arrays_every_time():
    for a, b in zip(ALL[0].with_batch(1).arrays(), ALL[0].with_batch(1).arrays(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_plain_dropout_keeps_the_law():
    case = CASES["dropout"][0].with_batch(4)
    (x,) = case.arrays()
    ones = np.ones_like(x)
    for function in (lambda *a, **k: PLAIN["dropout"](*a, **k)[0], fastconv.functional.dropout):
        y = function(ones, **case.keywords())
        assert set(np.unique(y)) == {0.0, 2.0}
        assert abs(y.mean() - 1) < 0.01
