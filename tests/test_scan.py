"""analysis.scan: which class is where in a larger picture, or none; datasets.place, which puts things there."""

import numpy as np
import pytest

import fastconv as fc
from fastconv import ShapeError, analysis, datasets

CROSS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.float32)
PLUS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.float32)


def knows(*patterns, last=()):
    """A neuron for each 3x3 pattern, that is surer the more of it there is: above ½ for the whole alone."""
    net = fc.Sequential(fc.Flatten(), fc.Linear(9, len(patterns), rng=0), *last)
    for k, pattern in enumerate(patterns):
        net[1].weight[k] = 8 * (2 * pattern - 1).ravel()
        net[1].bias[k] = -8 * pattern.sum() + 4
    return net


def picture(*things, size=(9, 11)):
    x = np.zeros(size, np.float32)
    for pattern, top, left in things:
        x[top : top + 3, left : left + 3] = pattern
    return x


def test_a_class_or_nothing():
    net = knows(CROSS, PLUS, last=(fc.Sigmoid(),))
    seen = analysis.scan(net, picture((CROSS, 1, 2), (PLUS, 5, 7)), image_shape=(1, 3, 3))
    assert seen.scores.shape == seen.windows.shape == (2, 7, 9)
    assert seen.windows.dtype == bool
    np.testing.assert_array_equal(seen.windows, seen.scores > 0.5)
    np.testing.assert_array_equal(np.argwhere(seen.windows), [[0, 1, 2], [1, 5, 7]])
    assert seen.label in (0, 1)
    assert sorted(seen.labels) == [0, 1]
    assert sorted(box[:1] + box[2:] for box in seen.boxes) == [(0, 1, 2, 3, 3), (1, 5, 7, 3, 3)]
    assert all(box.score == seen.scores[box.label, box.top, box.left] for box in seen.boxes)

    nothing = analysis.scan(net, picture(), image_shape=(1, 3, 3))
    assert nothing.label is None
    assert nothing.labels == nothing.boxes == []
    assert not nothing.windows.any()
    assert str(nothing) == repr(nothing) == "∅"
    assert analysis.scan(net, picture((CROSS, 0, 0)), image_shape=(1, 3, 3), threshold=1).label is None
    assert str(analysis.scan(net, picture((CROSS, 6, 8)), image_shape=(1, 3, 3))).splitlines() == [
        "0", "0  0.982  rows 6 to 8, columns 8 to 10",
    ]  # fmt: skip


def random_net(*head, stride=2, channels=1, classes=3):
    return fc.Sequential(
        fc.Conv2d(channels, 4, 3, rng=0), fc.ReLU(), fc.MaxPool2d(stride), fc.Flatten(),
        fc.Linear(36, classes, rng=1), *head,
    )  # fmt: skip


def test_a_net_that_takes_but_some_sizes_is_asked_about_every_crop():
    net, image = fc.Sequential(fc.PixelUnshuffle(2), fc.Flatten(), fc.Linear(16, 3, rng=0)), picture()[:7, :9]
    seen = analysis.scan(net, image, image_shape=(1, 4, 4))
    assert seen.scores.shape == (3, 4, 6)
    crops = np.stack([image[r : r + 4, c : c + 4][None] for r in range(4) for c in range(6)])
    np.testing.assert_allclose(seen.scores.reshape(3, -1), softmax(net.predict(crops)).T, rtol=1e-5)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("head", "options", "make"),
    [
        ((), {}, softmax),
        ((), {"answers": "sigmoid"}, lambda x: 1 / (1 + np.exp(-x))),
        ((), {"answers": "none"}, lambda x: x),
        ((fc.Softmax(),), {}, lambda x: x),
        ((fc.LogSoftmax(),), {}, np.exp),
        ((fc.Sequential(fc.Sigmoid()),), {}, lambda x: x),
    ],
)
def test_scores_are_those_of_the_crops(head, options, make):
    net, x = random_net(*head), np.random.default_rng(0).random((12, 15)).astype(np.float32)
    seen = analysis.scan(net, x, image_shape=(1, 8, 8), **options)
    for row in range(3):
        for column in range(4):
            crop = x[None, None, 2 * row : 2 * row + 8, 2 * column : 2 * column + 8]
            np.testing.assert_allclose(seen.scores[:, row, column], make(net.predict(crop))[0], rtol=1e-5, atol=1e-6)
    scanner = analysis.to_scanner(net, (1, 8, 8))
    same = analysis.scan(scanner, x[None, None], **options)
    np.testing.assert_array_equal(same.scores, seen.scores)
    assert same.boxes == seen.boxes
    assert same.labels == seen.labels


def test_one_class_is_a_sigmoid():
    net = random_net(classes=1)
    x = np.ones((8, 8), np.float32)
    seen = analysis.scan(net, x, image_shape=(1, 8, 8))
    np.testing.assert_allclose(seen.scores[0, 0, 0], 1 / (1 + np.exp(-net(x[None, None])[0, 0])), rtol=1e-6)


def test_a_net_that_cannot_slide_sees_every_crop():
    net = fc.Sequential(fc.Conv2d(2, 3, 3, padding=1, rng=0), fc.Flatten(), fc.Linear(3 * 14 * 7, 4, rng=1))
    x = np.random.default_rng(0).random((2, 30, 12)).astype(np.float32)
    for options, (down, right) in (({}, (2, 1)), ({"stride": 5}, (5, 5)), ({"stride": (7, 2)}, (7, 2))):
        seen = analysis.scan(net, x, image_shape=(2, 14, 7), threshold=0.3, **options)
        assert seen.scores.shape == (4, (30 - 14) // down + 1, (12 - 7) // right + 1)
        _, rows, columns = seen.scores.shape
        crops = [x[:, r * down : r * down + 14, c * right : c * right + 7] for r in range(rows) for c in range(columns)]
        expected = softmax(net.predict(np.stack(crops))).T.reshape(seen.scores.shape)
        np.testing.assert_allclose(seen.scores, expected, rtol=1e-5)
        for box in seen.boxes:
            assert box.score == seen.scores[box.label, box.top // down, box.left // right] > 0.3
            assert (box.height, box.width) == (14, 7)


def test_a_class_that_means_nothing_is_never_found():
    net, x = random_net(), np.random.default_rng(0).random((12, 15)).astype(np.float32)
    every = analysis.scan(net, x, image_shape=(1, 8, 8), threshold=0.2)
    for k in every.labels:
        for number in (k, k - 3):
            seen = analysis.scan(net, x, image_shape=(1, 8, 8), threshold=0.2, nothing=number)
            np.testing.assert_array_equal(seen.scores, every.scores)
            assert k not in seen.labels
            assert all(box.label != k for box in seen.boxes)
            assert not seen.windows[k].any()
            assert seen.labels == [label for label in every.labels if label != k]


def test_boxes_by_definition():
    """The best window; the best of those that share no more than `overlap` of their union with it; and so on."""
    net, x = random_net(classes=5), np.random.default_rng(1).random((20, 26)).astype(np.float32)

    def union(a, b):
        shared = max(0, 8 - abs(a[0] - b[0])) * max(0, 8 - abs(a[1] - b[1]))
        return shared / (128 - shared)

    for overlap in (0.0, 0.3, 1.0):
        seen = analysis.scan(net, x, image_shape=(1, 8, 8), threshold=0.21, overlap=overlap)
        found = []
        order = sorted(
            np.argwhere(seen.windows.any(axis=0)).tolist(), key=lambda at: -seen.scores[:, at[0], at[1]].max()
        )
        for row, column in order:
            corner = 2 * row, 2 * column
            if all(union(corner, kept[2:4]) <= overlap for kept in found):
                scores = seen.scores[:, row, column]
                found.append((int(scores.argmax()), float(scores.max()), *corner, 8, 8))
        assert [tuple(box) for box in seen.boxes] == found
        assert len(found) > 2
        assert seen.label == max(range(5), key=lambda k: seen.scores[k].max())


def test_a_scanner_of_one_value_types_and_shapes():
    net = random_net()
    x = np.random.default_rng(0).integers(0, 255, (10, 8))
    by_shape = [
        analysis.scan(net, image, image_shape=(1, 8, 8))
        for image in (x, x[None], x[None, None].astype(np.uint8), x.tolist())
    ]
    assert all(np.array_equal(seen.scores, by_shape[0].scores) for seen in by_shape)
    double = analysis.scan(net.astype(np.float64), x, image_shape=[1, 8, 8])
    assert double.scores.dtype == np.float64
    before = net.state_dict(), net.training
    analysis.scan(net, x, image_shape=(1, 8, 8))
    assert net.training == before[1]
    assert all(np.array_equal(net.state_dict()[name], value) for name, value in before[0].items())


def test_names_of_the_classes_are_printed():
    net = knows(CROSS, PLUS, last=(fc.Sigmoid(),))
    net.classes = ("X", "plus")
    seen = analysis.scan(net, picture((PLUS, 2, 3)), image_shape=(1, 3, 3))
    assert seen.label == 1
    assert str(seen).startswith("plus\nplus  0.982")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda net, x: analysis.scan(net, x), ValueError, r"the net is no scanner.*image_shape=\(C, h, w\)"),
        (lambda net, x: analysis.scan("net", x), TypeError, "net must be a layer, got str"),
        (lambda net, x: analysis.scan(net, x[0]), ShapeError, r"image must be \(H, W\), .* got shape \(12,\)"),
        (lambda net, x: analysis.scan(net, np.zeros((2, 1, 9, 9))), ShapeError, r"got shape \(2, 1, 9, 9\)"),
        (lambda net, x: analysis.scan(net, x, image_shape=(8, 8)), ShapeError, r"image_shape must be \(C, h, w\)"),
        (lambda net, x: analysis.scan(net, x, image_shape=(3, 8, 8)), ShapeError, "the 3 channels of image_shape"),
        (
            lambda net, x: analysis.scan(net, x[:7], image_shape=(1, 8, 8)),
            ShapeError,
            r"a window, \(8, 8\), got \(7, 12\)",
        ),
        (lambda net, x: analysis.scan(net, x, image_shape=(1, 11, 11)), ShapeError, "linear: "),
        (
            lambda net, x: analysis.scan(net, x, image_shape=(1, 8, 8), stride=3),
            ShapeError,
            "stride must be a multiple",
        ),
        (
            lambda net, x: analysis.scan(net, x, image_shape=(1, 8, 8), threshold=2),
            ValueError,
            "between 0 and 1, got 2",
        ),
        (
            lambda net, x: analysis.scan(net, x, image_shape=(1, 8, 8), nothing=3),
            ValueError,
            "one of the 3 classes, got 3",
        ),
        (
            lambda net, x: analysis.scan(net, x, image_shape=(1, 8, 8), answers="soft"),
            ValueError,
            "answers must be one of .*; did you mean 'softmax'",
        ),
        (
            lambda net, x: analysis.scan(analysis.to_scanner(net, (1, 8, 8)), x, stride=2),
            ValueError,
            "stride goes with image_shape",
        ),
    ],
)
def test_what_cannot_be_scanned(call, error, match):
    with pytest.raises(error, match=match) as caught:
        call(random_net(), np.zeros((12, 12), np.float32))
    assert "\n" not in str(caught.value)


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    net = knows(CROSS, PLUS, last=(fc.Sigmoid(),))
    seen = analysis.scan(net, picture((CROSS, 0, 0), (PLUS, 5, 7)), image_shape=(1, 3, 3))
    seen.plot(tmp_path / "scan.png")
    with Image.open(tmp_path / "scan.png") as image:
        assert min(image.size) > 500
    assert len(seen.plot().axes) == 3
    with pytest.raises(ValueError, match="must end in"):
        seen.plot(tmp_path / "scan.jpeg")


# --- datasets.place --------------------------------------------------------------------------------------------------


def test_place_puts_each_image_whole_somewhere():
    x = np.random.default_rng(0).integers(1, 255, (200, 3, 4, 5), np.uint8)
    pictures, places = datasets.place(x, (7, 9), rng=1, background=7, return_places=True)
    assert pictures.shape == (200, 3, 7, 9)
    assert pictures.dtype == np.uint8
    assert places.shape == (200, 2)
    for picture, image, (top, left) in zip(pictures, x, places, strict=True):
        expected = np.full((3, 7, 9), 7, np.uint8)
        expected[:, top : top + 4, left : left + 5] = image
        np.testing.assert_array_equal(picture, expected)
    assert {tuple(place) for place in places} == {(top, left) for top in range(4) for left in range(5)}
    np.testing.assert_array_equal(datasets.place(x, (7, 9), rng=1, background=7), pictures)
    fixed = datasets.place(x, 9, top=2, left=np.arange(200) % 5, return_places=True)
    np.testing.assert_array_equal(fixed[1], np.stack([np.full(200, 2), np.arange(200) % 5], axis=1))
    same = datasets.place(x, (4, 5))
    np.testing.assert_array_equal(same, x)
    assert not np.shares_memory(same, x)
    assert datasets.place(x[:0], 9).shape == (0, 3, 9, 9)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"size": 4}, ShapeError, r"size must be at least the image's, got \(4, 4\) for \(4, 5\)"),
        ({"size": (9, 9, 9)}, ShapeError, "size must be one number or 2 of them"),
        ({"size": 9, "top": 6}, ShapeError, "top must lie between 0 and 5, got 6 to 6"),
        ({"size": 9, "left": [-1, 0]}, ShapeError, "left must lie between 0 and 4, got -1 to 0"),
        ({"size": 9, "top": [1, 2, 3]}, ShapeError, "top must be one integer or 2 of them"),
        ({"size": 9, "left": 0.5}, TypeError, "left must be an integer or one for each image, got 0.5"),
        ({"size": 2**40}, MemoryError, "needs .* bytes of memory"),
    ],
)
def test_what_cannot_be_placed(options, error, match):
    with pytest.raises(error, match=match) as caught:
        datasets.place(np.zeros((2, 1, 4, 5)), **options)
    assert "\n" not in str(caught.value)
