"""Walkthroughs: every step of every call, put together, is what the function and its pullback give."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from cases import CASES, RANDOM, Case, Draw
from cases.pool import small_net
from support import assert_close, fast, naive
from test_chapter import CONVOLVED, CONVOLVED_2, CONVOLVED_2_PADDED, MAXIMA, MEANS, PLACES, W, X, Y, plane
from tolerance import tolerance

import fastconv as fc
from fastconv import functional, vjp
from fastconv.analysis import walkthrough
from fastconv.analysis.walkthrough.call import CONVOLUTIONS, MOST_STEPS, TRANSPOSED, WALKED
from fastconv.analysis.walkthrough.numbers import shown

STEPS = 150  # of a case that is walked here: the others are too slow for every run


def put_together(walk):
    """The result, from the steps alone."""
    made = np.zeros(walk.result.shape)
    steps = list(walk)
    assert len(steps) == len(walk)
    for step in steps:
        if walk.manner == "scatter":
            np.add.at(made, step.target, step.products)
        else:
            assert step.target == step.at
            made[step.at] = step.value
    if walk.manner == "scatter" and walk.bias is not None:
        made += walk.bias.reshape(-1, *(1,) * (made.ndim - 2))
    return made


def assert_walks(case, seed, dtype, function):
    """Forward, dx both ways, dw: against vjp. Whether it was walked."""
    arrays = case.arrays(Draw(seed, dtype, "floats"))
    output, pullback = vjp(function, *arrays, **case.options)
    output = output[0] if isinstance(output, tuple) else output
    if max(output.size, arrays[0].size) > STEPS or (case.op.startswith("conv") and arrays[1].size > STEPS):
        return False
    close = tolerance(case.op, np.dtype(dtype)) * 100
    walks = [(walkthrough(function, *arrays, **case.options), output)]
    if case.gradients:
        dy = np.random.default_rng(seed).uniform(-1, 1, output.shape).astype(dtype)
        gradients = pullback(dy)
        for direction, expected in zip(("dx", "dw"), gradients, strict=False):
            if direction == "dx" or case.op in CONVOLUTIONS + TRANSPOSED:
                walk = walkthrough(function, *arrays, direction=direction, dy=dy, **case.options)
                walks.append((walk, expected))
                assert (walk.scattered is None) == (direction == "dw")
    for walk, expected in walks:
        for view in [walk] + [walk.scattered] * (walk.scattered is not None):
            np.testing.assert_array_equal(view.result, expected, strict=True)
            assert_close(put_together(view).astype(dtype), expected, close, f"{case}, {view.direction}, {view.manner}")
        assert str(walk)
    return True


@pytest.mark.parametrize("op", sorted({case.op for case in CASES} & set(WALKED)))
def test_the_steps_of_every_case(op):
    walked = [
        assert_walks(case, 3, dtype, module(case))
        for number, case in enumerate(case for case in CASES if case.op == op)
        for dtype in [(np.float32, np.float64)[number % 2]]
        for module in [(fast, naive)[number % 3 == 0]]
    ]
    assert any(walked)


@pytest.mark.filterwarnings("ignore:function_pool2d:RuntimeWarning")
def test_the_steps_of_random_calls(request):
    """All options mixed; 200 of them that are small enough to be walked."""
    rng = np.random.default_rng(11)
    names = sorted(set(RANDOM) & set(WALKED))
    done = 0
    for trial in range(5000):
        case: Case = RANDOM[names[trial % len(names)]](rng)
        done += assert_walks(case, trial, np.float64, fast(case))
        if done == 200:
            return
    raise AssertionError(f"only {done} random calls were small enough")


# --- the chapter's numbers -------------------------------------------------------------------------------------------


def column(walk):
    """The number at the end of every line."""
    return [step.text.split(" = ")[-1].split(",")[0] for step in walk]


def named(name):
    """A function of another library's, by the name of one of ours."""

    def function(x):
        return x

    function.__name__ = name
    return function


def flat(matrix):
    return [str(value) for row in matrix for value in row]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, CONVOLVED),
        ({"stride": 2}, CONVOLVED_2),
        ({"stride": 2, "padding": ((0, 0), (0, 1))}, CONVOLVED_2_PADDED),
    ],
    ids=["stride_1", "stride_2", "one_zero_column"],
)
def test_the_worked_convolution(options, expected):
    walk = walkthrough("conv2d", plane(X), plane(W), **options)
    assert column(walk) == flat(expected)
    assert all(step.text in str(walk) and step.text in walk.html() for step in walk)
    for line in ["  ".join(f"{v:>3}" for v in row) for row in expected]:
        assert line in str(walk)


def test_the_worked_sum_is_written_out():
    walk = walkthrough(functional.conv2d, plane(X), plane(W))
    assert str(walk[3]) == "y[0, 0, 0, 3] = 0.3·1 + 0.4·0 + 0.5·1 + 3·1 = 3.8"
    np.testing.assert_array_equal(walk[3].window, [[[0.3, 0.4], [0.5, 3]]])
    np.testing.assert_array_equal(walk[3].products, [[[0.3, 0], [0.5, 3]]])
    assert (walk[3].at, walk[-1].at, len(walk), walk[1:3][1].text) == ((0, 0, 0, 3), (0, 0, 2, 3), 12, walk[2].text)


@pytest.mark.parametrize("number", [12, -13, 100])
def test_a_step_that_is_not_there(number):
    walk = walkthrough("conv2d", plane(X), plane(W))
    with pytest.raises(IndexError, match=f"^walkthrough: step {number} is out of range, there are 12, counted from 0$"):
        walk[number]
    assert walk[-12].at == walk[0].at
    with pytest.raises(TypeError, match="step must be an integer"):
        walk["0"]


def test_the_worked_maxima_and_their_places():
    walk = walkthrough("max_pool2d", plane(Y), kernel_size=2, stride=1)
    assert column(walk) == [*map(str, np.ravel(MAXIMA))] or [step.value for step in walk] == [*np.ravel(MAXIMA)]
    assert [step.place for step in walk] == [*np.ravel(PLACES)]
    assert str(walk[0]) == "y[0, 0, 0, 0] = max(0.4, 2.3, 1.9, 3.2) = 3.2, place 4"
    back = walkthrough("max_pool2d", plane(Y), kernel_size=2, stride=1, direction="dx")
    assert [step.place for step in back.scattered] == [*np.ravel(PLACES)]
    assert str(back.scattered[5]) == (
        "dy[0, 0, 1, 1] = 1 goes to dx[0, 0, 2, 2], where the maximum stood: max(3.2, 2.1, 0, 3.8) = 3.8, place 4"
    )
    assert str(back[12]) == (
        "dx[0, 0, 2, 2] = 1 + 1 + 1 + 1 = 4, where x is 3.8, the maximum of windows [1, 1], [1, 2], [2, 1], [2, 2]"
    )
    assert str(back[10]) == "dx[0, 0, 2, 0] = 1, where x is 2.3, the maximum of window [2, 0]"
    assert str(back[0]) == "dx[0, 0, 0, 0] = 0, where x is 0.4, the maximum of no window"


def test_the_worked_means():
    walk = walkthrough("avg_pool2d", plane(Y), 2, stride=1)
    assert column(walk) == [shown(v) for v in np.ravel(MEANS)]
    assert str(walk[5]) == "y[0, 0, 1, 1] = (3.2 + 2.1 + 0 + 3.8) / 4 = 2.275"
    back = walkthrough("avg_pool2d", plane(Y), 2, stride=1, direction="dx")
    assert str(back.scattered[5]) == "dy[0, 0, 1, 1] = 1 goes to dx[0, 0, 1:3, 1:3], shared: 0.25 to each"


# --- what is taken and what is refused -------------------------------------------------------------------------------


def test_a_name_a_function_its_twin_and_a_layer_are_one():
    x, layer = Draw(1)(1, 2, 5, 6), fc.Conv2d(2, 3, 2, stride=2, rng=1).astype(np.float64)
    walks = [walkthrough(layer, x)] + [
        walkthrough(function, x, layer.weight, layer.bias, stride=2)
        for function in ("conv2d", functional.conv2d, fc.reference.conv2d)
    ]
    assert len({"\n".join(step.text for step in walk) for walk in walks}) == 1
    np.testing.assert_array_equal(walks[0].result, layer(x))
    assert "(bias)" in str(walks[0])


@pytest.mark.parametrize("options", [{}, {"stride": 1, "padding": 1}, {"stride": (1, 2), "padding": (0, 1)}])
def test_a_network_that_pools(options):
    layer, x = fc.NetworkPool2d(small_net(6), (2, 3), **options).astype(np.float64), Draw(2, kind="floats")(2, 2, 5, 6)
    output, pullback = vjp(layer, x)
    dy = Draw(3, kind="floats")(*output.shape)
    for walk, expected in (
        (walkthrough(layer, x), output),
        (walkthrough(layer, x, direction="dx", dy=dy), pullback(dy)[0]),
        (walkthrough(layer, x, direction="dx", dy=dy).scattered, pullback(dy)[0]),
    ):
        np.testing.assert_array_equal(walk.result, expected)
        assert_close(put_together(walk), expected, 1e-12)


def test_the_bias_of_a_transposed_convolution_comes_last_when_it_scatters():
    walk = walkthrough("conv_transpose1d", [[[1.0, 2]]], [[[3.0, 4]]], [5.0])
    assert [step.value for step in walk] == [8, 15, 13]
    assert "bias" in walk.scattered.said
    np.testing.assert_array_equal(put_together(walk.scattered), walk.result)


def test_too_many_steps_are_refused_before_anything_is_computed():
    x = np.broadcast_to(np.float32(1), (1, 8, 4096, 4096))  # half a GB, were it there
    for options in ({}, {"direction": "dx"}):
        with pytest.raises(ValueError, match=r"^walkthrough: max_pool2d would take .* steps.*crop x"):
            walkthrough("max_pool2d", x, 2, **options)
    with pytest.raises(ValueError, match=r"2,304 steps, one for each element of dw \(16, 16, 3, 3\); more than 2,000"):
        walkthrough("conv2d", np.ones((1, 16, 3, 3)), np.ones((16, 16, 3, 3)), direction="dw")
    assert len(walkthrough("conv1d", np.ones((1, 1, MOST_STEPS)), np.ones((1, 1, 1)))) == MOST_STEPS
    with pytest.raises(ValueError, match="2,001 steps"):
        walkthrough("conv1d", np.ones((1, 1, MOST_STEPS + 1)), np.ones((1, 1, 1)))


@pytest.mark.parametrize(
    ("error", "match", "function", "arrays", "options"),
    [
        (TypeError, "relu cannot be shown", "relu", (np.ones((1, 2)),), {}),
        (TypeError, "softmax cannot be shown", functional.softmax, (np.ones((1, 2)),), {}),
        (TypeError, "linear cannot be shown", fc.Linear(3, 2), (np.ones((1, 3)),), {}),
        (TypeError, "Sequential cannot be shown", fc.Sequential(fc.ReLU()), (np.ones((1, 3)),), {}),
        (TypeError, "is no function of fastconv", np.convolve, (np.ones(3),), {}),
        (TypeError, "is no function of fastconv", named("conv2d"), (np.ones(3),), {}),
        (ValueError, "no operation is called 'conv2'.*conv2d", "conv2", (np.ones((1, 2)),), {}),
        (ValueError, "direction must be one of forward, dx, dw, got 'dX'", "max_pool1d", (np.ones((1, 1, 2)), 2),
         {"direction": "dX"}),
        (ValueError, "max_pool1d has no filters", "max_pool1d", (np.ones((1, 1, 2)), 2), {"direction": "dw"}),
        (ValueError, "forward takes none", "max_pool1d", (np.ones((1, 1, 2)), 2), {"dy": 1}),
        (ValueError, "dy must have the output's shape", "max_pool1d", (np.ones((1, 1, 2)), 2),
         {"direction": "dx", "dy": np.ones((1, 1, 2))}),
        (fc.ShapeError, "^max_pool1d: x must have", "max_pool1d", (np.ones((1, 2)), 2), {}),
        (TypeError, "^max_pool1d: .*stridee", "max_pool1d", (np.ones((1, 1, 2)), 2), {"stridee": 1}),
    ],
)  # fmt: skip
def test_what_is_refused(error, match, function, arrays, options):
    with pytest.raises(error, match=match) as raised:
        walkthrough(function, *arrays, **options)
    assert "\n" not in str(raised.value)


def test_inputs_are_not_modified_and_later_changes_are_not_seen():
    x, w = plane(X), plane(W)
    walk = walkthrough("conv2d", x, w)
    before = str(walk)
    x[...] = 7
    w[...] = 7
    assert str(walk) == before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"), (2.275, "2.275"), (1.0625, "1.063"), (-1.0625, "-1.063"), (12345, "12345"), (-0.0, "0"),
        (12345.6, "12350"), (1e6, "1e6"), (1.5e-5, "1.5e-5"), (99999.96, "100000"), (0.000123456, "0.0001235"),
        (999999.9, "1e6"), (np.inf, "∞"), (-np.inf, "-∞"), (np.nan, "nan"), (1 / 3, "0.3333"), (3.0, "3"),
    ],
)  # fmt: skip
def test_how_numbers_are_written(value, text):
    assert shown(value) == text


def test_a_layer_that_is_two_operations_is_refused():
    with pytest.raises(TypeError, match=r"Conv2d with padding_mode='reflect' cannot be shown.*walk through pad"):
        walkthrough(fc.Conv2d(1, 1, 3, padding=1, padding_mode="reflect", rng=1), plane(X))


def test_padding_says_what_it_is():
    walk = walkthrough("pad", [[[1.0, 2]]], ((1, 2),), value=5)
    assert [step.text for step in walk] == [
        "y[0, 0, 0] = 5, padding", "y[0, 0, 1] = 1", "y[0, 0, 2] = 2", "y[0, 0, 3] = 5, padding",
        "y[0, 0, 4] = 5, padding",
    ]  # fmt: skip


def test_a_window_that_reaches_beyond_the_input_counts_its_places():
    """In padding and in what ceil_mode adds, even where no window lies inside along an axis."""
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    walk = walkthrough("max_pool2d", x, 3, stride=2, padding=1)
    assert str(walk[0]) == "y[0, 0, 0, 0] = max(pad, pad, pad, pad, 0, 1, pad, 3, 4) = 4, place 9"
    assert walk.said.endswith("What lies outside of x (pad) never is.")
    wide = {"kernel_size": (2, 5), "stride": 2, "padding": (0, 1), "ceil_mode": True}
    first = walkthrough("max_pool2d", x, **wide)[0]
    assert str(first) == "y[0, 0, 0, 0] = max(pad, 0, 1, 2, pad, pad, 3, 4, 5, pad) = 5, place 9"
    for options in (wide, {"kernel_size": 4, "stride": 4, "ceil_mode": True}, {"kernel_size": 2, "ceil_mode": True}):
        places = [*fc.analysis.window_indices(x, **options).ravel()]
        back = walkthrough("max_pool2d", x, direction="dx", **options).scattered
        assert [step.place for step in walkthrough("max_pool2d", x, **options)] == places
        assert [step.place for step in back] == places


def test_how_far_a_filter_moves_is_said():
    for options, forward, back in (
        ({}, "over x: at", "padded: at"),
        ({"stride": 2}, "over x, 2 places at a time: at", "padded: at"),
        ({"stride": Fraction(3, 2)}, "over x, 3 places at a time: at", "padded, 2 places at a time: at"),
        ({"stride": (1, 2)}, "over x, 1 x 2 places at a time: at", "padded: at"),
    ):
        assert forward in walkthrough("conv2d", plane(X), plane(W), **options).said
        assert back in walkthrough("conv2d", plane(X), plane(W), direction="dx", **options).said


def test_scattering_reads_in_one_way():
    x, w = np.ones((1, 1, 2)), [[[2.0, -1]]]
    for walk, lines in (
        (walkthrough("conv1d", x, w, direction="dx"), ["dx[0, 0, 0:2], times the filter: 2, -1"]),
        (walkthrough("conv1d", x, w, direction="dx", padding=2),
         ["nowhere: padding", "dx[0, 0, 0], times the filter: -1", "dx[0, 0, 0:2], times the filter: 2, -1",
          "dx[0, 0, 1], times the filter: 2", "nowhere: padding"]),
        (walkthrough("avg_pool1d", x, 2, direction="dx"), ["dx[0, 0, 0:2], shared: 0.5 to each"]),
        (walkthrough("lp_pool1d", x, 1, 2, direction="dx"), ["dx[0, 0, 0:2], times the derivative: 1, 1"]),
        (walkthrough("upsample", x, 2, direction="dx"), ["dx[0, 0, 0]", "nowhere: inserted", "dx[0, 0, 1]"]),
    ):  # fmt: skip
        assert [step.text.split(" = 1 goes ")[1] for step in walk.scattered] == [
            line if line.startswith("nowhere") else f"to {line}" for line in lines
        ]


def test_inserted_zeros_say_what_they_are():
    walk = walkthrough("upsample", [[[1.0, 2]]], 2)
    assert [step.text for step in walk] == ["y[0, 0, 0] = 1", "y[0, 0, 1] = 0, inserted", "y[0, 0, 2] = 2"]


# --- pictures --------------------------------------------------------------------------------------------------------


def inked(path):
    pillow = pytest.importorskip("PIL.Image")
    image = np.asarray(pillow.open(path).convert("RGB")).astype(int)
    return image, (image < 200).any(axis=2).mean()


@pytest.mark.parametrize("direction", ["forward", "dx", "dw"])
def test_a_strip_and_an_animation(direction, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    walk = walkthrough("conv2d", plane(X), plane(W), stride=2, direction=direction)
    for view in [walk] + [walk.scattered] * (walk.scattered is not None):
        view.plot(tmp_path / "all.png")
        view.plot(tmp_path / "two.png", [0, -1])
        all_of_it, ink = inked(tmp_path / "all.png")
        two, _ = inked(tmp_path / "two.png")
        assert 0.01 < ink < 0.5 and len(two) < len(all_of_it) and two.shape[1] == all_of_it.shape[1]
        orange = (np.abs(two - [213, 94, 0]).max(axis=2) < 20).any(axis=1)
        assert orange[: len(two) // 2].any() and orange[len(two) // 2 :].any()  # what is computed, in both steps
        view.animate(tmp_path / "walk.gif", seconds=0.5)
        with pillow.open(tmp_path / "walk.gif") as moving:
            assert (moving.n_frames, moving.info["duration"], moving.info["loop"]) == (len(view), 500, 0)
            frames = []
            for number in range(moving.n_frames):
                moving.seek(number)
                frames.append(np.asarray(moving.convert("RGB")))
        assert all((one != other).any() for one, other in itertools.pairwise(frames))
        assert tuple(frames[0][0, 0]) == (255, 255, 255)


@pytest.mark.parametrize(
    "call",
    [
        ("max_pool1d", ([[[3.0, 1, 2]]], 2), {"padding": 1}),
        ("conv3d", (np.ones((1, 1, 2, 3, 2)), np.ones((2, 1, 2, 2, 1))), {}),
        ("resize", (plane(X)[..., :2, :2],), {"scale": 2, "mode": "linear", "direction": "dx"}),
        ("lp_pool2d", (plane(Y), 2, 2), {"direction": "dx"}), ("adaptive_max_pool2d", (plane(Y), 2), {}),
    ],
    ids=lambda call: call[0],
)  # fmt: skip
def test_everything_has_a_picture(call, tmp_path):
    pytest.importorskip("matplotlib")
    name, arrays, options = call
    walkthrough(name, *arrays, **options).plot(tmp_path / "walk.png", [0])
    assert inked(tmp_path / "walk.png")[1] > 0.01


def test_pictures_that_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    walk = walkthrough("conv2d", plane(X), plane(W))
    for call, error, match in (
        (lambda: walk.plot(tmp_path / "walk.jpg"), ValueError, "must end in .png, .svg, .pdf"),
        (lambda: walk.animate(tmp_path / "walk.png"), ValueError, "must end in .gif"),
        (lambda: walk.animate(tmp_path / "walk.gif", seconds=0), ValueError, "seconds must be between"),
        (lambda: walk.animate(tmp_path / "walk.gif", []), ValueError, "a step at least"),
        (lambda: walk.plot(tmp_path / "walk.png", [12]), IndexError, "step 12 is out of range, there are 12"),
        (lambda: walk.plot(tmp_path / "walk.png", 3), TypeError, r"a list of numbers from 0, got 3; write \[3\]"),
        (lambda: walk.animate(tmp_path / "walk.gif", 3), TypeError, "a list of numbers"),
        (lambda: walk.plot(tmp_path / "walk.png", [1.5]), TypeError, "step must be an integer, got 1.5"),
        (lambda: walk.plot(tmp_path / "walk.png", [0] * 2000), ValueError, "take fewer steps"),
    ):
        with pytest.raises(error, match=match):
            call()
    assert not [*tmp_path.iterdir()]


# --- pages -----------------------------------------------------------------------------------------------------------


def test_a_page_is_one_small_file(tmp_path):
    """That asks for nothing from elsewhere; test_browser.py opens it."""
    draw = Draw(5, kind="floats")
    x, w, b = draw(1, 3, 10, 10), draw(4, 3, 3, 3), draw(4)
    for direction in ("forward", "dx", "dw"):
        walk = walkthrough("conv2d", x, w, b, padding=1, direction=direction)
        text = walk.html(tmp_path / "walk.html")
        assert (tmp_path / "walk.html").read_text(encoding="utf-8") == text
        assert len(text.encode()) < 300_000
        assert not re.search(r"https?:|src=|@import|url\(|<link rel=\"stylesheet", text)
        assert "<svg" in text and "<script" in text and "<img" not in text
    assert walk._repr_html_().startswith("<iframe srcdoc=")


def test_what_is_shown_cannot_end_the_page():
    def function(windows):
        return windows.sum(-1)

    function.__name__ = "</script><b>"
    text = walkthrough("function_pool2d", np.ones((1, 1, 2, 2)), function, 2).html()
    assert "</script><b>" not in text


def test_a_page_with_too_much_on_it_is_refused():
    walk = walkthrough("conv2d", np.ones((1, 1, 200, 200)), np.ones((1, 1, 3, 3)), direction="dw")
    assert len(walk) == 9
    with pytest.raises(ValueError, match=r"40,000 cells in one grid.*crop x"):
        walk.html()
