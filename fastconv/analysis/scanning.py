"""Is it anywhere, what is it, and where? A classifier asked of every window of a larger picture.

The chapter's scanner: a neuron per class slides over the picture and says True or False of every window; the OR of its
answers says whether the class is there at all; the class that is there is kept, or none: ∅.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastconv import functional, notebook
from fastconv.analysis.receptive import receptive_field
from fastconv.analysis.scanner import to_scanner
from fastconv.analysis.steps import output_shape
from fastconv.errors import ShapeError, integer, nearest
from fastconv.layers.base import Layer, OpLayer
from fastconv.layers.containers import Sequential
from fastconv.machine.memory import require_array
from fastconv.ops.common import number
from fastconv.window import integers

__all__ = ["Box", "Scan", "scan"]

OP = "scan"
ANSWERS = ("softmax", "sigmoid", "none")
EMPTY = "∅"
BATCH = 256  # crops at a time, of a net that cannot slide

Ints = tuple[int, ...]


class Box(NamedTuple):
    """A window that holds a class: rows top … top + height - 1 of the picture, columns left … left + width - 1."""

    label: int
    score: float
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Scan:
    """What `scan` found; prints as one line a box.

    label    the class with the largest score anywhere above the threshold; None, printed "∅", where there is none
    labels   every class whose OR is True: some window's score is above the threshold; the largest score first
    scores   (classes, rows, columns), in [0, 1]: of every class in every window
    windows  bool, the same shape: scores > threshold, False for the class that means ∅
    best     (rows, columns): of every window, its largest score of a class that is not ∅
    boxes    the windows that are left when each keeps its best class and those that lie over a better one are dropped,
             the best first: (label, score, top, left, height, width)
    """

    image: np.ndarray  # (C, H, W)
    scores: np.ndarray
    windows: np.ndarray
    boxes: list[Box]
    labels: list[int]
    best: np.ndarray
    threshold: float
    classes: tuple[str, ...] | None = None

    @property
    def label(self) -> int | None:
        return self.labels[0] if self.labels else None

    def name(self, label: int | None) -> str:
        """What a class is called: the net's name for it, or its number; "∅" for None."""
        if label is None:
            return EMPTY
        return self.classes[label] if self.classes is not None else str(label)

    def __str__(self) -> str:
        lines = [self.name(self.label)]
        for box in self.boxes:
            where = f"rows {box.top} to {box.top + box.height - 1}, columns {box.left} to {box.left + box.width - 1}"
            lines.append(f"{self.name(box.label)}  {box.score:.3f}  {where}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        heading = ("class", "score", "top", "left", "height", "width")
        boxes = [(self.name(box.label), f"{box.score:.3f}", *map(str, box[2:])) for box in self.boxes]
        shown = notebook.table([heading, *boxes], above=self.name(self.label))
        try:
            figure = self.plot()
        except ImportError:
            return shown
        from fastconv import plots

        return shown + notebook.image(plots.as_png(figure, plots.SCREEN), "the picture, its boxes and scores")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A matplotlib figure: the picture with its boxes, and every window's largest score; written to `path` if it is
        given (.png, .svg or .pdf). Needs matplotlib: the extra [plot]."""
        from fastconv import plots

        boxes = [(f"{self.name(box.label)}  {box.score:.2f}", *box[2:]) for box in self.boxes]
        return plots.saved(plots.scan(self.image, boxes, self.best, self.threshold, title=self.name(self.label)), path)


def scan(
    net: Layer,
    image: Any,
    *,
    image_shape: Sequence[int] | None = None,
    threshold: float = 0.5,
    stride: Any = None,
    answers: str | None = None,
    nothing: int | None = None,
    overlap: float = 0.3,
) -> Scan:
    """Look for the classes that `net` knows in every window of a picture.

    net          a classifier of pictures (C, h, w), or a scanner, one that gives (N, classes, rows, columns)
    image        (H, W), (C, H, W) or (1, C, H, W), at least as large as a window; its values on the scale that the net
                 was trained on
    image_shape  (C, h, w) that the classifier was trained on; not needed for a scanner, whose windows are its receptive
                 fields
    threshold    a class is in a window where its score is larger (default 0.5)
    stride       pixels between windows, int or (down, right). Default: the smallest at which the net slides exactly
                 (`to_scanner`); a net that cannot slide, as with padding, is given every crop, h // 7 and w // 7 apart
    answers      what makes scores of the net's outputs: "softmax" over the classes, "sigmoid" of each, "none". Default:
                 none behind a last layer Softmax or Sigmoid (LogSoftmax: the exponential), sigmoid for one class, else
                 softmax
    nothing      the number of a class that means ∅ (-1: the last): it is never found
    overlap      a box lies over a better one where they share more than this of their union (default 0.3)

    Of several classes in one window the one with the largest score has the box; of several boxes that lie over each
    other the one with the largest score stays. A softmax without a class for ∅ always answers something: train with
    windows that hold nothing, as `examples/scanning.py` does. The net's mode is inference.

    Raises ShapeError for pictures that do not fit, ValueError for a classifier without image_shape and for options out
    of range, and what `to_scanner` raises.
    """
    x = _picture(net, image)
    threshold, overlap = number(OP, "threshold", threshold, 0, 1), number(OP, "overlap", overlap, 0, 1)
    if answers is not None and answers not in ANSWERS:
        raise ValueError(
            f"{OP}: answers must be one of {', '.join(ANSWERS)}, got {answers!r}{nearest(answers, ANSWERS)}"
        )
    outputs, size, steps, offset = _slide(net, x, image_shape, stride)
    scores = _scores(net, outputs, answers)
    ranked = scores  # those that may win
    if nothing is not None:
        at = integer(OP, "nothing", nothing)
        if not -len(scores) <= at < len(scores):
            raise ValueError(f"{OP}: nothing must be one of the {len(scores)} classes, got {at}")
        ranked = scores.copy()
        ranked[at] = 0
    windows = ranked > threshold
    best = ranked.max(axis=(1, 2))
    labels = [int(k) for k in np.argsort(-best, kind="stable") if windows[k].any()]
    boxes = _boxes(ranked, windows, size, steps, offset, overlap)
    names = getattr(net, "classes", None)
    classes = tuple(map(str, names)) if names is not None and len(names) == len(scores) else None
    return Scan(x[0], scores, windows, boxes, labels, ranked.max(axis=0), threshold, classes)


def _picture(net: Layer, image: Any) -> np.ndarray:
    """(1, C, H, W), of the net's type."""
    if not isinstance(net, Layer):
        raise TypeError(f"{OP}: net must be a layer, got {type(net).__name__}")
    x = net.cast(image)
    if x.ndim not in (2, 3, 4) or (x.ndim == 4 and len(x) != 1):
        raise ShapeError(f"{OP}: image must be (H, W), (C, H, W) or (1, C, H, W), got shape {x.shape}")
    if not x.size:
        raise ShapeError(f"{OP}: image must not be empty, got shape {x.shape}")
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _slide(net: Layer, x: np.ndarray, image_shape: Any, stride: Any) -> tuple[np.ndarray, Ints, Ints, Ints]:
    """The net's outputs (classes, rows, columns); a window's size, the steps between windows, and the first's place."""
    if image_shape is None:
        connected = any(isinstance(layer, OpLayer) and layer.op in ("flatten", "linear") for _, layer in net.walk())
        if connected or len(output_shape(net, x.shape)) != 4:
            raise ValueError(
                f"{OP}: the net is no scanner, whose outputs are (N, classes, rows, columns): give the shape that it "
                "was trained on, image_shape=(C, h, w)"
            )
        if stride is not None:
            raise ValueError(f"{OP}: stride goes with image_shape; a scanner has its own")
        return _of_scanner(net, x)
    if not isinstance(image_shape, Sequence | np.ndarray) or len(image_shape) != 3:
        raise ShapeError(f"{OP}: image_shape must be (C, h, w), got {image_shape!r}")
    channels, *size = integers(OP, "image_shape", image_shape, 3, 1)
    if channels != x.shape[1]:
        raise ShapeError(f"{OP}: image must have the {channels} channels of image_shape, got shape {x.shape[1:]}")
    if x.shape[2] < size[0] or x.shape[3] < size[1]:
        raise ShapeError(f"{OP}: image must be at least as large as a window, {tuple(size)}, got {x.shape[2:]}")
    if len(output_shape(net, (1, channels, *size))) == 4:
        return _of_scanner(net, x)
    try:
        scanner = to_scanner(net, (channels, *size), stride=stride)
    except (TypeError, ValueError) as error:
        if isinstance(error, ShapeError):
            raise
        return _of_crops(net, x, (size[0], size[1]), stride)  # it cannot slide
    _, steps, _ = receptive_field(scanner, x.shape)
    outputs = scanner(x)[0]
    return _inside(outputs, x, (size[0], size[1]), _whole(steps), (0, 0))


def _of_scanner(net: Layer, x: np.ndarray) -> tuple[np.ndarray, Ints, Ints, Ints]:
    size, steps, offset = receptive_field(net, x.shape)
    return net.predict(x)[0], size, _whole(steps), offset


def _inside(
    outputs: np.ndarray, x: np.ndarray, size: Ints, steps: Ints, offset: Ints
) -> tuple[np.ndarray, Ints, Ints, Ints]:
    """Without windows that reach beyond the picture: of a net that never reads an image's last lines."""
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(x.shape[2:], size, steps, strict=True))
    return outputs[:, :rows, :columns], size, steps, offset


def _of_crops(net: Layer, x: np.ndarray, size: Ints, stride: Any) -> tuple[np.ndarray, Ints, Ints, Ints]:
    """Every window by itself."""
    steps = tuple(max(1, n // 7) for n in size) if stride is None else integers(OP, "stride", stride, 2, 1)
    every = np.lib.stride_tricks.sliding_window_view(x[0], size, axis=(1, 2))[:, :: steps[0], :: steps[1]]
    channels, rows, columns = every.shape[:3]
    found = []
    for first in range(0, rows * columns, BATCH):
        row, column = np.divmod(np.arange(first, min(first + BATCH, rows * columns)), columns)
        crops = np.ascontiguousarray(every[:, row, column].swapaxes(0, 1))  # (windows, C, h, w)
        answers = net.predict(crops, batch_size=BATCH)
        if answers.ndim != 2:
            raise ShapeError(f"{OP}: the net must give (N, classes) for (N, {channels}, h, w), got {answers.shape}")
        found.append(answers)
    table = np.concatenate(found)
    require_array(OP, table.shape, table.itemsize)
    return table.T.reshape(-1, rows, columns), size, steps, (0, 0)


def _whole(steps: Sequence[Any]) -> Ints:
    if any(step != int(step) for step in steps):
        raise ValueError(f"{OP}: windows must lie whole pixels apart, the net's are {', '.join(map(str, steps))}")
    return tuple(int(step) for step in steps)


def _scores(net: Layer, outputs: np.ndarray, answers: str | None) -> np.ndarray:
    """Outputs (classes, rows, columns) as scores in [0, 1]."""
    last = net
    while isinstance(last, Sequential) and len(last.children()):
        last = list(last.children().values())[-1]
    op = last.op if isinstance(last, OpLayer) else ""
    if answers is None:
        if op == "log_softmax":
            outputs = np.exp(outputs)
        are_scores = op in ("softmax", "log_softmax", "sigmoid")
        answers = "none" if are_scores else "sigmoid" if len(outputs) == 1 else "softmax"
    if answers == "none":
        return np.array(outputs)
    function = functional.softmax if answers == "softmax" else functional.sigmoid
    scores: np.ndarray = np.ascontiguousarray(function(outputs[None])[0])
    return scores


def _boxes(scores: np.ndarray, windows: np.ndarray, size: Ints, steps: Ints, offset: Ints, overlap: float) -> list[Box]:
    """Non-maximum suppression: the best window, then the best of those that do not lie over it, and so on."""
    label = scores.argmax(axis=0)
    best = scores.max(axis=0)
    rows, columns = np.nonzero(windows.any(axis=0))
    order = np.argsort(-best[rows, columns], kind="stable")
    corners = np.stack([rows * steps[0] + offset[0], columns * steps[1] + offset[1]], axis=1)[order]
    labels, values = label[rows, columns][order], best[rows, columns][order]
    boxes = []
    left = np.ones(len(order), bool)
    for at, (top, first) in enumerate(corners):
        if not left[at]:
            continue
        boxes.append(Box(int(labels[at]), float(values[at]), int(top), int(first), int(size[0]), int(size[1])))
        shared = np.maximum(0, np.array(size) - np.abs(corners - corners[at])).prod(axis=1)
        left &= shared <= overlap * (2 * math.prod(size) - shared)
    return boxes
