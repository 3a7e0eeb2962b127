"""The gradient checker is itself checked: it passes what is right and catches every kind of wrong backward."""

import numpy as np
import pytest
from cases import Draw
from gradient_check import check_gradients

from fastconv import functional, vjp


def setting():
    draw = Draw(3, np.float64, "floats")
    x, w, b = draw(2, 3, 5, 6), draw(4, 3, 3, 3), draw(4)
    y, pullback = vjp(functional.conv2d, x, w, b, padding=1, stride=2)
    dy = draw(*y.shape)
    return (x, w, b), dy, pullback(dy), pullback


def check(arrays, dy, gradients):
    check_gradients(lambda x, w, b: functional.conv2d(x, w, b, padding=1, stride=2), arrays, dy, gradients, (0, 1, 2))


def test_right_gradients_pass():
    arrays, dy, gradients, _ = setting()
    check(arrays, dy, gradients)


def one_element(gradient):
    gradient = gradient.copy()
    gradient.flat[7] += 1e-4
    return gradient


WRONG = {
    "negated": lambda g: -g,
    "a thousandth too large": lambda g: g * 1.001,
    "zero": np.zeros_like,
    "one element": one_element,
    "shifted by one": lambda g: np.roll(g, 1, -1),
    "reversed": lambda g: g[..., ::-1],
    "two axes swapped": lambda g: np.ascontiguousarray(np.swapaxes(g.reshape(-1, 3, 3), 1, 2)).reshape(g.shape),
    "border forgotten": lambda g: g * (np.arange(g.shape[-1]) > 0),
    "infinite": lambda g: g * np.inf,
    "not a number": lambda g: g * np.nan,
    "None": lambda g: None,
    "another shape": lambda g: g[..., :1],
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_gradients_are_caught(kind, position):
    arrays, dy, gradients, _ = setting()
    wrong = list(gradients)
    wrong[position] = WRONG[kind](gradients[position])
    with pytest.raises(AssertionError):
        check(arrays, dy, wrong)


def test_a_bias_gradient_that_forgets_the_batch_is_caught():
    arrays, dy, gradients, _ = setting()
    with pytest.raises(AssertionError):
        check(arrays, dy, (gradients[0], gradients[1], gradients[2] / 2))


def test_a_backward_that_ignores_dy_is_caught():
    arrays, dy, _, pullback = setting()
    with pytest.raises(AssertionError):
        check(arrays, dy, pullback(np.ones_like(dy)))


def test_gradients_of_two_arguments_exchanged_are_caught():
    draw = Draw(1, np.float64, "floats")
    x, z = draw(3, 4), draw(3, 4)
    dy = draw(3, 4)
    check_gradients(lambda x, z: x * z, (x, z), dy, (dy * z, dy * x), (0, 1))
    with pytest.raises(AssertionError):
        check_gradients(lambda x, z: x * z, (x, z), dy, (dy * x, dy * z), (0, 1))
