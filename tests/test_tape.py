"""Composed losses: the tape's gradients by finite differences and PyTorch's, over nets, in a Trainer, in files."""

import copy
import functools
import itertools
import math

import numpy as np
import pytest
from cases import Draw
from gradient_check import check_gradients
from support import cases_of, fast, float_positions, naive, own_ops, small_integers

import fastconv as fc
from fastconv import functional as F
from fastconv import optim, tape, vjp
from fastconv.ops import OPS
from fastconv.ops.registry import FUNCTIONS

RNG = np.random.default_rng(0)
A, B, P = RNG.uniform(-2, 2, (3, 4)), RNG.uniform(-2, 2, (3, 4)), RNG.uniform(0.3, 0.9, (3, 4))
ROW, CUBE = RNG.uniform(0.5, 2, (4,)), RNG.uniform(-2, 2, (2, 3, 4))

COMPOSED = {  # name: (function, arrays away from kinks)
    "broadcasting": (lambda a, row: (a + row) * (row - a) / (1 + row), (A, ROW)),
    "constants": (lambda a: 2 - 3 * a + B * a / 2 - a + np.float64(0.3) * a, (A,)),
    "numbers on the left": (lambda a: 2**a + 1 / a + np.array([1.0, 2, 3, 4]) * a + [1, 2, 3, 4] - a, (P,)),
    "powers": (lambda a, b: a**2 + a**3 + a**-0.5 + a**b + (-a) ** 3, (P, B)),
    "power 0": (lambda a: a**0 + a, (A,)),
    "x += y": (lambda a: functools.reduce(lambda total, i: total.__iadd__(a * i), range(3), a * 1), (A,)),
    "sum builtin": (lambda a: sum(row.mean() for row in a), (A,)),
    "iteration": (lambda a: next(x * y for x, y, _ in [a]), (A,)),
    "abs": (lambda a: abs(a) + np.abs(a * 2) + np.fabs(a), (A,)),
    "maximum": (lambda a, b: np.maximum(a, b) * np.minimum(a, 0.1) + np.maximum(0, b), (A, B)),
    "inverse functions": (lambda a: np.arcsin(a) + np.arccos(a) + np.arctan(a) + np.arctanh(a), (P,)),
    "two by two": (lambda a, b: np.arctan2(a, b) + np.hypot(a, b) + np.logaddexp(a, b), (A, B)),
    "means": (lambda a: a.mean() + a.mean(axis=1).sum() + np.mean(a, axis=(0, 1), keepdims=True) * a, (A,)),
    "sums": (lambda a: a.sum(0) * a.sum(axis=1, keepdims=True) + np.sum(a, axis=-1)[0], (A,)),
    "spread": (lambda a: a.var() + a.std(axis=1).sum() + np.var(a, axis=0, ddof=1) * np.std(a, axis=0), (A,)),
    "extremes": (lambda a: a.max() + a.min(axis=1).sum() + np.max(a, axis=0, keepdims=True) * a, (A,)),
    "norms": (lambda a: np.linalg.norm(a) + np.linalg.norm(a, axis=1, keepdims=True) * a, (A,)),
    "clip": (lambda a: a.clip(-0.7, 0.8) * np.clip(a, 0.05, None) + a.clip(min=0.1) * a.clip(max=0.9), (A,)),
    "where": (lambda a, b: np.where(a > b, a * b, np.where(a > 0, 1.0, b)), (A, B)),
    "cumsum": (lambda a: np.cumsum(a, axis=1) * a.cumsum(axis=0) + a.cumsum()[-1], (A,)),
    "slices": (lambda a: a[1:, ::-2] * a[0, 1] + a[..., None].sum(axis=2)[:2, :2], (A,)),
    "index arrays": (lambda a: a[[0, 1, 1], [3, 0, 0]] + a[np.arange(3), 2] * a[A[:, 0] > -9, 1], (A,)),
    "shapes": (lambda a: a.reshape(4, 3) @ a.reshape((2, -1)).reshape(3, 4) + a.T.ravel()[5], (A,)),
    "axes": (
        lambda c: np.moveaxis(c, 0, -1).transpose(2, 0, 1) * np.swapaxes(c, 1, 2).transpose((0, 2, 1))
        + np.expand_dims(c, 0)[0] + np.transpose(c, (0, 1, 2)) * c[:, :, :1].squeeze(-1)[..., None]
        + c[:, :1].squeeze(axis=1)[:, None],
        (CUBE,),
    ),
    "places": (
        lambda a: np.flip(a, 1) * np.roll(a, 1, axis=0) + np.tile(a[0], (3, 1)) + np.repeat(a[:, :1], 4, axis=1)
        + np.broadcast_to(a[1], (3, 4)) + np.take(a, [0, 0, 1], axis=0) + np.sort(a, axis=1),
        (A,),
    ),
    "diagonals": (lambda a: np.trace(a) + np.diagonal(a).sum() * np.tril(a) + np.triu(a, 1), (A,)),
    "differences": (lambda a: np.diff(a).sum() + np.square(np.diff(a, axis=0)).mean(), (A,)),
    "concatenate": (lambda a, b: np.concatenate([a, B, b * a], axis=1)[:, ::2] ** 2, (A, B)),
    "stack": (lambda a, b: np.stack([a, b, a]).sum(axis=0) * np.vstack([a, b])[:3] + np.hstack([b, a])[:, 2:6], (A, B)),
    "matrices": (lambda a, b: a @ b.T + np.dot(a, b.T) + np.matmul(a, b.transpose()), (A, B)),
    "vectors": (lambda a, v: a @ v + np.dot(a, v), (A, ROW)),
    "a vector on the left": (lambda v, a: v @ a.T, (ROW, A)),
    "vectors only": (lambda v, w: v @ w * v, (ROW, ROW[::-1].copy())),
    "stacks of matrices": (lambda c, a: c @ a.T + (c @ np.swapaxes(c, 1, 2))[..., :1], (CUBE, A)),
    "a stack and vectors": (lambda c, v, a: (c @ v)[:, :2] + (a[0] @ np.swapaxes(c, 1, 2))[:, :2], (CUBE, ROW, A)),
    "einsum": (
        lambda c, a: np.einsum("nij,ij->n", c, a) * np.einsum("nij,mij->nm", c, c) + np.einsum("ij->", a), (CUBE, A),
    ),
    "einsum, a broadcast letter": (lambda c, a: np.einsum("nij,kj->ni", c, a), (CUBE, A)),
    "detached": (lambda a: a * B * 2 + np.exp(a) * np.round(B), (A,)),
    "functional": (
        lambda a, b: F.softmax(a, dim=1) * F.sigmoid(b) + F.relu(a) + F.mse_loss(a, b) + F.log_softmax(b),
        (A, B),
    ),
    "a convolution": (
        lambda x, w: F.conv2d(x, w=w, padding=1).mean() + np.square(w).sum(), (CUBE[:, None], CUBE[:1, None]),
    ),
    "naive": (lambda a: fc.reference.gelu(a), (A,)),
    "products": (lambda a: a.prod() + np.prod(a, axis=1).sum() * np.prod(a, axis=0, keepdims=True), (A,)),
    "products of several axes": (
        lambda c: c.prod(axis=(0, 2)) * np.prod(c, axis=(-1, 0), keepdims=True) + c.prod(axis=(2, 1, 0)), (CUBE,),
    ),
    "types": (lambda a: a.astype(np.float64, copy=False) * a.astype(int) + A[:, :1].astype(int) * a, (A,)),
    "averages": (
        lambda a, b: np.average(a) + np.average(a, axis=1, weights=b + 9).sum() * np.average(b, axis=0), (A, B),
    ),
    "halves": (lambda a: np.split(a, 2, axis=1)[0] * np.split(a, [1, 2])[1][:, 2:] + a.copy()[:, :2], (A,)),
    "remainder": (lambda a, b: np.remainder(a, b + 3) + a % 2.5, (A, B)),
    "indices beside": (lambda c: F.max_pool1d(c, 2, return_indices=True)[0], (CUBE,)),
}  # fmt: skip
UNARY = {
    "exp": A, "exp2": A, "expm1": A, "log": P, "log2": P, "log10": P, "log1p": P, "sqrt": P, "cbrt": P, "square": A,
    "reciprocal": P, "sin": A, "cos": A, "tan": P, "sinh": A, "cosh": A, "tanh": A, "negative": A, "positive": A,
}  # fmt: skip
for name, array in UNARY.items():
    COMPOSED[name] = getattr(np, name), (array,)


@pytest.fixture
def registry():
    """Operations registered in a test are forgotten after it."""
    before = {*OPS}
    yield
    for name in {*OPS} - before:
        del OPS[name]
        FUNCTIONS.pop(name, None)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSED)
def test_gradients_by_finite_differences(name):
    function, arrays = COMPOSED[name]
    forward, backward = tape.passes(name, function)
    y, saved = forward(*arrays)
    dy = np.random.default_rng(1).uniform(-1, 1, y.shape)
    gradients = backward(dy, saved, (True,) * len(arrays))
    check_gradients(lambda *moved: forward(*moved)[0], arrays, dy, gradients, range(len(arrays)))
    for one, other in zip(gradients, backward(dy, saved, (True,) * len(arrays)), strict=True):  # as often as one likes
        np.testing.assert_array_equal(one, other)
        assert not np.shares_memory(one, dy) and not any(np.shares_memory(one, array) for array in arrays)
        one[...] = 0
    alone = backward(dy, saved, (False,) * (len(arrays) - 1) + (True,))
    assert all(gradient is None for gradient in alone[:-1])
    np.testing.assert_allclose(alone[-1], other, rtol=1e-12, atol=1e-12)


def test_every_rule_is_tried():
    """By a case above, each ufunc and function that the tape knows."""
    tried: set = set()
    kept = tape.Value.__array_ufunc__, tape.Value.__array_function__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tape.Value,
            "__array_ufunc__",
            lambda self, ufunc, *rest, **k: tried.add(ufunc) or kept[0](self, ufunc, *rest, **k),
        )
        patch.setattr(tape.Value, "__array_function__", lambda self, f, *rest: tried.add(f) or kept[1](self, f, *rest))
        for function, arrays in COMPOSED.values():
            function(*map(tape.Value, arrays))
    plain = {np.rollaxis, np.fliplr, np.flipud, np.rot90, np.take_along_axis, np.atleast_1d, np.atleast_2d,
             np.atleast_3d, np.delete, np.dstack, np.column_stack, np.ravel, np.reshape}  # fmt: skip
    assert {*tape._RULES, *tape._FUNCTIONS, *tape._MOVES, *tape._JOINS} - tried <= plain


@pytest.mark.parametrize("op", own_ops())
def test_every_operation_takes_values(op):
    """What vjp gives, bit for bit."""
    for number, case in enumerate(case for case in cases_of(op) if case.gradients):
        for twin in (fast, naive) if not number else (fast,):
            arrays = case.arrays(Draw(3, kind="floats"))
            places = [i for i in float_positions(arrays) if i not in (*case.written, *case.constant)]
            expected, pullback = vjp(twin(case), *case.copies(arrays), **case.keywords())
            given = [tape.Value(each) if i in places else each for i, each in enumerate(case.copies(arrays))]
            output = twin(case)(*given, **case.keywords())
            if isinstance(output, tuple):
                np.testing.assert_array_equal(output[1], expected[1])
                output, expected = output[0], expected[0]
            np.testing.assert_array_equal(tape.detached(output), expected)
            dy = small_integers(np.asarray(expected))
            wanted = pullback(dy)
            found = tape.gradients(output, dy, [given[i] for i in places])
            for place, gradient in zip(places, found, strict=True):
                np.testing.assert_array_equal(gradient, wanted[place], err_msg=str(case))


def test_kinks():
    """Equal ones share a gradient; a norm's at 0 is 0, and a deviation's; bounds count as inside."""

    def gradient(function, x):
        forward, backward = tape.passes("f", function)
        y, saved = forward(np.array(x))
        return backward(np.ones_like(y), saved, (True,))[0].tolist()

    assert gradient(lambda x: x.max(), [1.0, 3, 3]) == [0, 0.5, 0.5]
    assert gradient(lambda x: np.maximum(x, 0.0).sum(), [1.0, 0, -3]) == [1, 0.5, 0]
    assert gradient(lambda x: np.abs(x).sum(), [1.0, 0, -3]) == [1, 0, -1]
    assert gradient(lambda x: np.linalg.norm(x), [0.0, 0]) == [0, 0]
    assert gradient(lambda x: x.std(), [2.0, 2]) == [0, 0]
    assert gradient(lambda x: x.std(ddof=1) * 2**0.5, [1.0, 3]) == pytest.approx([-1, 1])
    assert gradient(lambda x: (x.astype(int) * x).sum(), [1.5, 3]) == [1, 3]
    assert gradient(lambda x: np.clip(x, 0, 1).sum(), [0.0, 1, 2]) == [1, 1, 0]
    assert gradient(lambda x: (x**0).sum(), [0.0, 2]) == [0, 0]
    assert gradient(lambda x: x[:0].sum(), [0.0, 2]) == [0, 0]
    assert gradient(lambda x: x.prod(), [2.0, 0, 3]) == [0, 6, 0]
    assert gradient(lambda x: x.prod(), [2.0, 0, 0]) == [0, 0, 0]


def test_types_follow():
    """Constants of another float type, and integers, do not widen what is recorded; gradients have the input's type."""
    x = tape.Value(np.ones((2, 3), np.float32))
    for y in (x * np.ones(3), x + np.float64(2), x * np.arange(3), x**2, 2.5 * x, np.where(x > 0, x, np.zeros(3)),
              x @ np.ones(3), np.concatenate([x, np.ones((1, 3))]), F.mse_loss(x, np.zeros((2, 3))),
              F.bce_with_logits(x, np.ones_like(x)), x / x.size, x - x.mean(), x == 1):  # fmt: skip
        assert y.dtype == (bool if isinstance(y, np.ndarray) else np.float32)
    (gradient,) = tape.gradients(x.astype(np.float64).sum(), np.ones(()), [x])
    assert gradient.dtype == np.float32


def test_like_an_array():
    x = tape.Value(A)
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == (A.shape, 2, 12, A.dtype, 3)
    np.testing.assert_array_equal((x > 0), A > 0)
    assert np.argmax(x) == x.argmax() == A.argmax() and bool((x < 9).all())
    np.testing.assert_array_equal(x.detach(), A)
    assert x.detach() is not A and x.sum().item() == A.sum()
    assert f"{x.mean():.3f}" == f"{A.mean():.3f}" and repr(tape.Value(np.ones(2))) == "Value([1. 1.])"


UNTAPED = {
    "numpy's median": (lambda x: np.median(x), "numpy.median: a loss has no gradient through it; write it with"),
    "scipy's expit": (lambda x: pytest.importorskip("scipy.special").expit(x), "expit: a loss has no gradient through"),
    "accumulate": (lambda x: np.add.accumulate(x), "numpy.add.accumulate: a loss has no gradient"),
    "an item": (lambda x: x.__setitem__(0, 1), "not changed in place; write numpy.where"),
    "into an array": (lambda x: np.zeros(4).__iadd__(x.sum()), "numpy.add in place: .* write x = x [+] y"),
    "out": (lambda x: np.exp(x, out=np.zeros((3, 4))), "numpy.exp in place"),
    "math": (lambda x: math.exp(x.sum()), "no number: .* write numpy's function"),
    "an array": (lambda x: np.asarray(x), "no array: made one, its gradient would be lost"),
    "a list": (lambda x: np.array([x, x]), "no array"),
    "an option": (lambda x: np.exp(x, where=A > 0), "numpy.exp: on the tape it takes no where"),
    "a type": (lambda x: np.sum(x, dtype=int), "numpy.sum: got an unexpected keyword argument 'dtype'; on the tape it"),
    "sort": (lambda x: x.sort(), "ndarray.sort: a loss has no gradient"),
    "an index": (lambda x: A[:, 0][x], "no array|index|number"),
    "its own index": (lambda x: x[x], "cannot be an index"),
    "text": (lambda x: x * np.array(["a"] * 4), "numpy.multiply: beside a value .* real numbers, got <U1"),
    "a norm of another kind": (lambda x: np.linalg.norm(x, 1), "numpy.linalg.norm: .* Euclidean"),
    "the largest singular value": (lambda x: np.linalg.norm(x, 2, axis=(0, 1)), "numpy.linalg.norm: .* Euclidean"),
    "another order": (lambda x: x.reshape((4, 3), order="F"), "ndarray.reshape: .* order is 'C', got 'F'"),
    "round": (lambda x: round(x.sum()), "no number: .* write numpy's function"),
    "a trace in einsum": (lambda x: np.einsum("ii", x), "numpy.einsum: on the tape write letters"),
    "bounds": (lambda x: np.clip(A, x, 9), "numpy.clip: on the tape bounds are constants; write numpy.maximum"),
    "an option of ours": (lambda x: F.cross_entropy(A, np.zeros(3, int), weight=x[0]), "weight is an option"),
    "types": (lambda x: F.linear(x, 2), "|".join(["linear", "must"])),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTAPED)
def test_what_has_no_gradient_is_said(name):
    function, message = UNTAPED[name]
    with pytest.raises((TypeError, ValueError, IndexError), match=message) as caught:
        function(tape.Value(A))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 330


def test_unknown_names_are_attribute_errors():
    x = tape.Value(A)
    assert not hasattr(x, "iloc")
    with pytest.raises(AttributeError, match=r"no 'meen'; did you mean 'mean'\?; functions take it, fastconv.func"):
        x.meen()
    with pytest.raises(AttributeError, match=r"no 'exp'; .*write numpy.exp\(x\)|no 'exp'; write numpy.exp\(x\)"):
        x.exp()
    copy.deepcopy(x)


# --- losses ----------------------------------------------------------------------------------------------------------


def small_net(out=3, seed=0):
    return fc.Sequential(
        fc.Conv2d(1, 3, 3, rng=seed), fc.BatchNorm2d(3), fc.ReLU(), fc.Flatten(), fc.Linear(12, out, rng=seed)
    )


def batch(n=6, dtype=np.float64):
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (n, 1, 4, 4)).astype(dtype), rng.integers(0, 3, n)


def check_parameters(net, loss_of):
    """loss_of() -> (value, gradients of net), by finite differences along a direction through all parameters."""
    value, gradients = loss_of()
    parameters = net.parameters()
    assert list(gradients) == list(parameters)
    kept = net.state_dict()
    names = list(parameters)

    def moved(*arrays):
        net.load_state_dict({**kept, **dict(zip(names, arrays, strict=True))})
        found = loss_of()[0]
        net.load_state_dict(kept)
        return np.asarray(found)

    check_gradients(moved, [kept[n] for n in names], np.ones(()), [gradients[n] for n in names], range(len(names)))
    return value, gradients


def focal(output, y):
    p = F.softmax(output, dim=1)[np.arange(len(y)), y]
    return (-((1 - p) ** 2) * np.log(p)).mean()


def test_a_composed_loss_by_finite_differences():
    net = small_net().astype(np.float64)
    x, y = batch()
    check_parameters(net, lambda: fc.value_and_grad(net, focal, x, y))


def test_a_composed_loss_equals_the_operation():
    """Bits, where both make the same steps; y's floats follow, the call without y."""
    x, y = batch(dtype=np.float32)
    for written, named in (
        (lambda out, y: F.cross_entropy(out, y), "cross_entropy"),
        (functools.partial(lambda out, y, weight: F.cross_entropy(out, y, weight=weight), weight=[1.0, 2, 3]),
         functools.partial(F.cross_entropy, weight=[1.0, 2, 3])),
    ):  # fmt: skip
        ours, theirs = (fc.value_and_grad(small_net(), loss, x, y) for loss in (written, named))
        assert ours[0] == theirs[0]
        for name, gradient in theirs[1].items():
            np.testing.assert_array_equal(ours[1][name], gradient)
            assert ours[1][name].dtype == np.float32
    target = np.ones((6, 3))
    ours = fc.value_and_grad(small_net(), lambda out, y: ((out - y) ** 2).mean(), x, target)
    theirs = fc.value_and_grad(small_net(), "mse_loss", x, target)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    for name, gradient in theirs[1].items():
        np.testing.assert_allclose(ours[1][name], gradient, rtol=1e-4, atol=1e-6)
    assert fc.value_and_grad(small_net(), lambda out: np.square(out).sum(), x)[0] > 0
    with pytest.raises(TypeError, match="y is missing"):
        fc.value_and_grad(small_net(), "mse_loss", x)


def contrast(a, b, same):
    d = np.sqrt(((a - b) ** 2).sum(axis=1) + 1e-6)
    return np.where(same, d**2, np.maximum(1 - d, 0) ** 2).mean()


def test_a_net_called_twice():
    """Siamese: the sum of both calls' gradients; parameters that are not reached have zeros."""
    net = small_net().astype(np.float64)
    (a, _), same = batch(), np.arange(6) % 2 == 0
    b = a[::-1].copy()
    _, gradients = check_parameters(net, lambda: fc.value_and_grad(net, lambda: contrast(net(a), net(b), same)))
    again = fc.value_and_grad(net, lambda out, same: contrast(out, net(b), same), a, same)[1]
    for name, gradient in gradients.items():
        np.testing.assert_allclose(again[name], gradient, rtol=1e-12, atol=1e-14)
    part = fc.value_and_grad(net, lambda: net[:3](a).mean())[1]
    assert set(part) == set(gradients) and not part["4.weight"].any() and part["0.weight"].any()


def test_several_nets():
    """One made of others' outputs: the gradients of a Sequential of both; a list and a dict, nets that share layers."""
    encoder = fc.Sequential(fc.Flatten(), fc.Linear(16, 4, rng=0)).astype(np.float64)
    decoder = fc.Sequential(fc.Tanh(), fc.Linear(4, 16, rng=1)).astype(np.float64)
    x, _ = batch()

    def loss():
        return F.mse_loss(decoder(encoder(x)), x.reshape(6, -1))

    value, (first, second) = fc.value_and_grad([encoder, decoder], loss)
    whole, expected = fc.value_and_grad(fc.Sequential(encoder, decoder), "mse_loss", x, x.reshape(6, -1))
    assert value == pytest.approx(whole, rel=1e-12)
    for name, gradient in expected.items():
        part = first if name.startswith("0.") else second
        np.testing.assert_allclose(part[name[2:]], gradient, rtol=1e-12, atol=1e-15)
    named = fc.value_and_grad({"e": encoder, "d": decoder}, loss)[1]
    assert named.keys() == {"e", "d"}
    np.testing.assert_array_equal(named["d"]["1.weight"], second["1.weight"])
    alone = fc.value_and_grad(decoder, loss)[1]  # the encoder in its own mode, a constant
    np.testing.assert_array_equal(alone["1.weight"], second["1.weight"])
    through = fc.value_and_grad(encoder, loss)[1]  # the decoder is gone through
    np.testing.assert_allclose(through["1.weight"], first["1.weight"], rtol=1e-12)
    shared = fc.Sequential(encoder[1], fc.Tanh())
    _, (one, other) = fc.value_and_grad([encoder, shared], lambda: encoder(x).sum() + shared(x.reshape(6, 16)).sum())
    np.testing.assert_array_equal(one["1.weight"], other["0.weight"])


def test_penalties_on_weights():
    net = small_net().astype(np.float64)
    x, y = batch()

    def penalised(out, y):
        return F.cross_entropy(out, y) + 0.1 * sum(np.square(w).sum() for w in net.parameters().values())

    _, gradients = check_parameters(net, lambda: fc.value_and_grad(net, penalised, x, y))
    plain = fc.value_and_grad(net, "cross_entropy", x, y)[1]
    for name, parameter in net.parameters().items():
        assert type(parameter) is np.ndarray
        np.testing.assert_allclose(gradients[name], plain[name] + 0.2 * parameter, rtol=1e-9)
    net.freeze("0")
    assert "0.weight" not in fc.value_and_grad(net, penalised, x, y)[1]


def test_modes():
    """Nets that are asked for train as by value_and_grad, others as they are; dropout draws from rng."""
    x, _ = batch(dtype=np.float32)
    net, other = small_net().eval(), small_net(seed=5).eval()
    kept = other.state_dict()
    fc.value_and_grad(net, lambda: (net(x) * other(x)).mean() + net(x).mean())
    assert net.state_dict()["1.num_batches_tracked"] == 2
    np.testing.assert_array_equal(other.state_dict()["1.running_mean"], kept["1.running_mean"])
    dropping = fc.Sequential(fc.Flatten(), fc.Dropout(0.5), fc.Linear(16, 2, rng=0))
    values = [
        fc.value_and_grad(dropping, lambda: dropping(x).sum(), rng=np.random.default_rng(n))[0] for n in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]
    assert isinstance(net(x), np.ndarray)  # outside, nothing is recorded


def two_by_two():
    return fc.Graph(
        {"a": (fc.Linear(3, 4, rng=0), "left"), "b": (fc.Linear(2, 4, rng=1), "right"), "sum": ("add", "a", "b"),
         "y": (fc.Linear(4, 2, rng=2), "sum")},
        inputs=("left", "right"), outputs=("sum", "y"),
    )  # fmt: skip


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(0)
    left, right, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2)), np.array([0, 1, 1, 0, 1])
    net = two_by_two().astype(np.float64)

    def loss(outputs, y):
        return np.abs(outputs[0]).mean() + F.cross_entropy(outputs[1], y)

    value, gradients = check_parameters(net, lambda: fc.value_and_grad(net, loss, (left, right), y))
    again = fc.value_and_grad(net, lambda: loss(net(left, right), y))
    assert again[0] == value
    by_name = fc.value_and_grad(
        net,
        {"sum": lambda out, y: np.abs(out - y).mean(), "y": "cross_entropy"},
        (left, right),
        {"sum": 0.0 * left[:, :1], "y": y},
    )
    assert by_name[0] == pytest.approx(value)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(by_name[1][name], gradient, rtol=1e-10, atol=1e-14)

    def of_inputs(a, b):
        return np.square(net(a, b)[1]).sum() + net({"left": a, "right": right})[0].sum()

    forward, backward = tape.passes("of inputs", of_inputs)
    _, saved = forward(left, right)
    check_gradients(
        lambda *moved: forward(*moved)[0],
        (left, right),
        np.ones(()),
        backward(np.ones(()), saved, (True, True)),
        (0, 1),
    )


BAD = {
    "no number": (
        lambda net, x: fc.value_and_grad(net, lambda out: out.mean(axis=1), x),
        ValueError, r"a loss must be one number, got shape \(6,\)",
    ),
    "a float": (
        lambda net, x: fc.value_and_grad(net, lambda out: out.mean().item(), x),
        TypeError, "must be made of its arguments .*cut gradients off",
    ),
    "none": (lambda net, x: fc.value_and_grad(net, lambda: None), TypeError, "it returned None"),
    "an array": (
        lambda net, x: fc.value_and_grad(net, lambda out: out.detach(), x), TypeError, r"an array of shape \(6, 3\)",
    ),
    "names for several": (
        lambda net, x: fc.value_and_grad([net], "mse_loss", x, x), TypeError, "of several nets loss must be a function",
    ),
    "no net": (
        lambda net, x: fc.value_and_grad([net, 3], lambda: 0), TypeError, "net must be a layer, or a list or dict",
    ),
    "no function": (
        lambda net, x: fc.value_and_grad(net, "mse_loss"), TypeError, "without x loss must be a function",
    ),
    "predict": (
        lambda net, x: fc.value_and_grad(net, lambda out: net.predict(out).sum(), x), TypeError, "no array",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_losses(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(small_net(), batch(dtype=np.float32)[0])
    assert tape.recording() is None


# --- against PyTorch -------------------------------------------------------------------------------------------------


def dice(m, output, y):
    p = m.sigmoid(output)
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def kl(m, output, y):
    mean, log_variance = output[:, :2], output[:, 2:4]
    return (
        -0.5 * (1 + log_variance - mean**2 - m.exp(log_variance)).sum(1).mean() + m.abs(output[:, 4:] - y[:, 4:]).mean()
    )


def info_nce(m, output, y):
    unit = output / m.sqrt((output**2).sum(1)[:, None])
    scores = unit @ unit.T / 0.5
    at = np.arange(len(output) // 2)
    return -(scores[at, at + len(at)] - m.log(m.exp(scores).sum(1)[at])).mean()


def huber(m, output, y):
    away = m.abs(output - y)
    return m.where(away < 0.5, 0.5 * away**2, 0.5 * (away - 0.25)).mean()


def smooth(m, output, y):
    return m.sqrt((output[:, 1:] - output[:, :-1]) ** 2 + 1e-3).sum() + m.maximum(output, y).max()


@pytest.mark.parametrize("loss", [dice, kl, info_nce, huber, smooth])
def test_as_pytorch(loss):
    torch = pytest.importorskip("torch")

    class Ours:
        sigmoid = staticmethod(F.sigmoid)

        def __getattr__(self, name):
            return getattr(np, name)

    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(6, 7)), rng.uniform(0, 1, (6, 6))
    net = fc.Sequential(fc.Linear(7, 6, rng=0)).astype(np.float64)
    value, gradients = fc.value_and_grad(net, functools.partial(loss, Ours()), x, y)
    weight = torch.tensor(net[0].weight.copy(), requires_grad=True)
    bias = torch.tensor(net[0].bias.copy(), requires_grad=True)
    expected = loss(torch, torch.tensor(x) @ weight.T + bias, torch.tensor(y))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradients["0.weight"], weight.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradients["0.bias"], bias.grad.numpy(), rtol=1e-9, atol=1e-12)


# --- registered, and in a Trainer ------------------------------------------------------------------------------------


def test_registered(registry):
    """An operation like others: for vjp, on plain arrays, in a graph, in another composed function."""
    swish2 = fc.register("swish2", lambda x, *, beta=1.0: x * F.sigmoid(beta * x))
    y, pullback = vjp(swish2, A, beta=2.0)
    np.testing.assert_allclose(y, A / (1 + np.exp(-2 * A)))
    assert type(swish2(A)) is np.ndarray
    assert swish2(np.arange(3)).dtype == np.float32 and swish2([1.0, 2.0]).shape == (2,)
    dy = np.ones_like(A)
    check_gradients(lambda x: F.swish2(x, beta=2.0), (A,), dy, pullback(dy), (0,))
    net = fc.Sequential(fc.Linear(4, 4, rng=0), fc.Function("swish2", beta=2.0)).astype(np.float64)
    check_parameters(net, lambda: fc.value_and_grad(net, lambda out: swish2(out, beta=0.5).mean(), A))
    written = fc.register("cubed", lambda x: (x**3, x), lambda dy, x: 3 * x**2 * dy)
    check_parameters(net, lambda: fc.value_and_grad(net, lambda out: written(out).mean(), A))
    np.testing.assert_array_equal(fc.register("swish2", lambda x: x * 2, replace=True)(A), 2 * A)


def data(n=40):
    rng = np.random.default_rng(7)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(n, 1, 4, 4)) + y[:, None, None, None]).astype(np.float32), y


def test_trains_with_a_composed_loss():
    """A loop of one's own, bit for bit; validation has the loss of all samples, whatever the batches."""
    X, y = data()
    trainer = fc.Trainer(small_net(), optim.SGD(0.05), loss=focal)
    trainer.fit([(X[:20], y[:20]), (X[20:], y[20:])], epochs=3)
    by_hand, optimizer = small_net(), optim.SGD(0.05)
    for _, part in itertools.product(range(3), (slice(0, 20), slice(20, 40))):
        optimizer.step(by_hand.parameters(), fc.value_and_grad(by_hand, focal, X[part], y[part])[1])
    for name, array in by_hand.state_dict().items():
        np.testing.assert_array_equal(trainer.net.state_dict()[name], array)
    whole = trainer.evaluate(X, y, batch_size=40)
    assert trainer.evaluate(X, y, batch_size=7).loss == pytest.approx(whole.loss, rel=1e-5)
    assert whole.accuracy is not None


def test_batches_that_make_one_step_are_one_batch():
    """Of a composed loss as of an operation; weights of samples it has to know itself."""
    X, y = data()

    def entropy(out, y):
        return F.cross_entropy(out, y)

    found = []
    for loss, batch_size, accumulate in ((entropy, 40, 1), (entropy, 16, 3), ("cross_entropy", 16, 3)):
        net = fc.Sequential(fc.Flatten(), fc.Linear(16, 3, rng=0)).astype(np.float64)
        fc.Trainer(net, optim.SGD(0.1), loss).fit(X, y, epochs=3, batch_size=batch_size, accumulate=accumulate)
        found.append(net.state_dict()["1.weight"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-9)
    with pytest.raises(ValueError, match="entropy: weights of samples need a loss of each sample"):
        fc.Trainer(small_net(), optim.SGD(0.1), entropy).fit(X, y, epochs=1, sample_weight=np.ones(40))


def test_validation_leaves_nets_that_a_loss_calls(registry):
    X, y = data()
    net = small_net()

    def consistent(out, y):
        return F.cross_entropy(out, y) + np.square(out - net(X[: len(y)])).mean()

    trainer = fc.Trainer(net, optim.SGD(0.05), loss=consistent)
    trainer.fit(X, y, epochs=1, batch_size=20)
    assert net.state_dict()["1.num_batches_tracked"] == 4
    kept = net.state_dict()
    loss = trainer.evaluate(X, y, batch_size=40).loss
    np.testing.assert_array_equal(net.state_dict()["1.running_mean"], kept["1.running_mean"])
    assert loss == pytest.approx(float(F.cross_entropy(net.predict(X), y)), rel=1e-5)


def test_saved_where_it_has_a_name(tmp_path, registry):
    X, y = data()
    anonymous = fc.Trainer(small_net(), optim.SGD(0.05), loss=lambda out, y: focal(out, y))
    anonymous.fit(X, y, epochs=1)
    with pytest.raises(ValueError, match="save: the loss <lambda> has no name for a file; register it") as caught:
        anonymous.save(tmp_path / "a.ckpt")
    assert "\n" not in str(caught.value)
    fc.register("focal_tried", focal)
    whole = fc.Trainer(small_net(), optim.SGD(0.05, momentum=0.9), loss=focal)  # itself, or what register returned
    whole.fit(X, y, epochs=4)
    trainer = fc.Trainer(small_net(), optim.SGD(0.05, momentum=0.9), loss=F.focal_tried, checkpoint=tmp_path / "b.ckpt")
    trainer.fit(X, y, epochs=2)
    del OPS["focal_tried"], FUNCTIONS["focal_tried"]
    with pytest.raises(fc.FormatError, match="its loss 'focal_tried' is not registered"):
        fc.Trainer.resume(tmp_path / "b.ckpt")
    again = fc.Trainer.resume(tmp_path / "b.ckpt", functions={"focal_tried": focal})
    again.fit(X, y, epochs=4)
    for name, array in whole.net.state_dict().items():
        np.testing.assert_array_equal(again.net.state_dict()[name], array)


def test_a_trainer_with_several_targets_and_outputs():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    target, labels = rng.normal(size=(20, 4)), rng.integers(0, 2, 20)

    def both(outputs, y):
        return F.mse_loss(outputs[0], y[0]) + F.cross_entropy(outputs[1], y[1])

    losses = []
    for loss in (
        both,
        {"sum": "mse_loss", "y": "cross_entropy"},
        {"sum": lambda o, y: np.square(o - y).mean(), "y": "cross_entropy"},
    ):
        trainer = fc.Trainer(two_by_two(), optim.SGD(0.1), loss)
        history = trainer.fit((left, right), (target, labels), epochs=4, batch_size=8)
        losses.append([*history["loss"], trainer.evaluate((left, right), (target, labels)).loss])
        assert losses[-1][-1] < losses[-1][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)


def test_same_bits_at_any_number_of_threads():
    x, y = data()
    found = []
    kept = fc.get_num_threads()
    try:
        for threads in (1, 2):
            fc.set_num_threads(threads)
            found.append(fc.value_and_grad(small_net(), focal, x, y))
    finally:
        fc.set_num_threads(kept)
    assert found[0][0] == found[1][0]
    for name, gradient in found[0][1].items():
        np.testing.assert_array_equal(found[1][1][name], gradient)
