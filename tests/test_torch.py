"""Random calls, all options mixed, against PyTorch: forward and gradients. `pytest --fuzz 5000` tries more of them."""

import numpy as np
import pytest
from cases import LARGE, RANDOM, TORCH, Draw
from support import AWKWARD, DTYPES, assert_close, fast, float_positions, is_floats, run

import fastconv

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small arrays: a second pool of threads would only be in the way

TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-9}  # of the largest value


def assert_near(actual, expected, dtype, what):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    assert actual.dtype == dtype
    scale = float(np.abs(expected).max(initial=1e-3))
    assert_close(actual / scale, expected / scale, TOLERANCE[dtype])


def assert_agrees(case, arrays, awkward, rng, what):
    """The call of `case` on awkward copies of the arrays, and its pullback on one of dy, give what PyTorch gives."""
    dtype = next(array.dtype for array in arrays if is_floats(array))
    asked = [i for i in float_positions(arrays) if case.gradients and i not in case.written + case.constant]
    tensors = [
        torch.tensor(array, requires_grad=i in asked) if isinstance(array, np.ndarray) else array
        for i, array in enumerate(arrays)
    ]
    expected = TORCH[case.op](torch, *tensors, **case.options)
    expected = expected if isinstance(expected, tuple) else (expected,)
    inputs = tuple(
        awkward(array) if is_floats(array) and i not in case.written else array for i, array in enumerate(arrays)
    )
    dy = rng.uniform(-1, 1, tuple(expected[0].shape)).astype(dtype)
    actual = run(case, fast(case), inputs, awkward(dy))
    for ours, theirs in zip(actual.outputs, expected, strict=True):
        assert_near(ours, theirs, dtype, what)
    if asked:
        gradients = torch.autograd.grad(expected[0], [tensors[i] for i in asked], torch.tensor(dy))
        for i, theirs in zip(asked, gradients, strict=True):
            assert_near(actual.gradients[i], theirs, dtype, f"{what}: gradient {i}")
    for ours, i in zip(actual.written, case.written, strict=True):
        assert_near(ours, tensors[i], dtype, f"{what}: argument {i}")


@pytest.mark.parametrize("op", sorted(TORCH))
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_random_cases(op, dtype, request):
    rng = np.random.default_rng(2024)
    for trial in range(request.config.getoption("--fuzz") // 2):
        case = RANDOM[op](rng)
        arrays = case.arrays(Draw(trial, dtype, "floats"))
        what = f"trial {trial}: {[np.shape(array) for array in arrays]} {dict(case.options)}"
        assert_agrees(case, arrays, AWKWARD[str(rng.choice([*AWKWARD]))], rng, what)


@pytest.mark.parametrize("case", [case for case in LARGE if case.op in TORCH], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_large_cases(case, dtype):
    fastconv.set_num_threads(2)
    assert_agrees(case, case.arrays(Draw(1, dtype, "floats")), np.copy, np.random.default_rng(2), str(case))
