"""Pictures: the training curve, the confusion matrix, the sheet of mistakes, bars. They need matplotlib (`[plot]`).

Each function returns a matplotlib `Figure` of its own (no pyplot, no global state); `save` writes it. The colours are
Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMATS", "bars", "confusion_matrix", "mistakes", "need_matplotlib", "save", "training_curve"]

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#6b6b6b"
OTHERS = (ORANGE, GREEN, "#CC79A7", "#56B4E9", "#F0E442")
KNOWN = {"fastconv": BLUE, "numpy": "#E69F00", "naive": "#999999"}
FORMATS = (".png", ".svg", ".pdf")
DPI = 150
MOST_MISTAKES = 40  # images on the sheet
MOST_NAMED = 30  # classes that a confusion matrix still labels


def need_matplotlib(what: str) -> Any:
    """matplotlib's Figure class; ImportError that names the extra where it is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'{what} needs matplotlib: pip install "fastconv[plot]"') from error
    return Figure


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write the figure; the suffix decides the format: .png, .svg or .pdf (ValueError for any other)."""
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a picture's name must end in {', '.join(FORMATS)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a class name that the font cannot write
        figure.savefig(path, dpi=DPI, facecolor="white")


def training_curve(
    history: Sequence[Mapping[str, float]], *, title: str = "Training", test_accuracy: float | None = None
) -> Any:
    """Loss and accuracy by epoch: training, validation where there is one, and the test as a line."""
    figure = need_matplotlib("a training curve")(figsize=(9.6, 3.9), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    losses, accuracies = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) <= 30 else None
    for axes, name, scale in ((losses, "loss", 1.0), (accuracies, "accuracy", 100.0)):
        for prefix, label, colour in (("", "training, as it went", BLUE), ("val_", "validation", ORANGE)):
            values = [scale * record.get(prefix + name, math.nan) for record in history]
            if not all(map(math.isnan, values)):
                axes.plot(epochs, values, color=colour, marker=marker, markersize=3.5, linewidth=1.8, label=label)
        axes.set_xlabel("epoch")
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.set_title("Loss", fontsize=11)
    accuracies.set_title("Accuracy, %", fontsize=11)
    if test_accuracy is not None:
        percent = 100 * test_accuracy
        label = f"test, at the end: {percent:.2f} %"
        accuracies.axhline(percent, color=GREEN, linewidth=1.5, linestyle=(0, (5, 3)), label=label)
    lines = [line.get_ydata() for line in accuracies.get_lines()]
    if lines:
        _limit_percent(accuracies, np.concatenate([np.asarray(values, float) for values in lines]))
        accuracies.legend(loc="lower right", fontsize=9, frameon=False)
    if losses.get_lines():
        losses.set_ylim(bottom=0)
        losses.legend(loc="upper right", fontsize=9, frameon=False)
    return figure


def _limit_percent(axes: Any, values: np.ndarray) -> None:
    """A percentage's axis, that the first epoch does not squeeze: it may fall out at the bottom of a long run."""
    values = values[np.isfinite(values)]
    low = float(np.quantile(values, 0.04) if values.size > 20 else values.min())
    axes.set_ylim(max(0.0, low - 0.12 * (100.5 - low)), 100 + 0.03 * (100.5 - low))


def confusion_matrix(
    labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray, classes: Sequence[str], *, title: str
) -> Any:
    """Counts of (true class, predicted class): right answers in blue, mistakes in orange, each on its own scale."""
    count = len(classes)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (np.asarray(labels), np.asarray(predictions)), 1)
    named = count <= MOST_NAMED
    side = min(3.2 + 0.42 * count, 11.0) if named else 8.0
    figure = need_matplotlib("a confusion matrix")(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    right, wrong = np.diag(matrix), matrix - np.diag(np.diag(matrix))
    axes.imshow(_shades(matrix, right, wrong))
    totals = matrix.sum(axis=1)
    if named:
        size = 9 if count <= 15 else 7
        for (row, column), value in np.ndenumerate(matrix):
            if value:
                dark = value > 0.6 * (right.max() if row == column else max(wrong.max(), right.mean() / 8))
                axes.text(column, row, f"{value}", ha="center", va="center", fontsize=size,
                          color="white" if dark else "black")  # fmt: skip
        long = max(map(len, classes)) > 3
        axes.set_xticks(range(count), classes, fontsize=size, rotation=45 if long else 0, ha="right" if long else "center",
                        rotation_mode="anchor" if long else None)  # fmt: skip
        axes.set_yticks(range(count), classes, fontsize=size)
        recall = axes.secondary_yaxis("right")
        shares = [f"{100 * a / b:.1f} %" if b else "–" for a, b in zip(right, totals, strict=True)]
        recall.set_yticks(range(count), shares, fontsize=size, color=GRAY)
        recall.tick_params(length=0)
        recall.set_ylabel("recognised", fontsize=10, color=GRAY)
        recall.spines["right"].set_visible(False)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xticks(np.arange(1, count) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, count) - 0.5, minor=True)
    axes.grid(which="minor", color="#e3e3e3", linewidth=0.6 if named else 0)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("read as", fontsize=10)
    axes.set_ylabel("is", fontsize=10)
    total = int(matrix.sum())
    line = f"{int(right.sum()):,} of {total:,} right ({100 * right.sum() / max(total, 1):.2f} %)"
    axes.set_title(f"{title}\n{line}", fontsize=12, fontweight="bold")
    return figure


def _shades(matrix: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Colours (rows, columns, RGB): white to blue on the diagonal, white to orange beside it."""
    white = np.ones(3)
    diagonal = np.eye(len(matrix), dtype=bool)
    most = max(wrong.max(), right.mean() / 8, 1)  # a lone mistake is no alarm
    strength = np.where(diagonal, matrix / max(right.max(), 1), matrix / most)
    ink = np.where(diagonal[..., None], _rgb(BLUE), _rgb(ORANGE))
    return white + (ink - white) * np.where(matrix > 0, 0.12 + 0.88 * strength, 0.0)[..., None]


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255


def mistakes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], *, title: str
) -> Any:
    """The images that were read wrongly, the surest mistakes first: each with what was read and what it is.

    images (N, C, H, W) in [0, 1], labels (N,), probabilities (N, classes). Without mistakes: the least sure answers.
    """
    predictions = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    if len(wrong):
        shown = wrong[np.argsort(-sure[wrong], kind="stable")][:MOST_MISTAKES]
        more = f", the {len(shown)} surest" if len(shown) < len(wrong) else ""
        line = f"{len(wrong):,} of {len(labels):,} read wrongly{more}"
    else:
        shown = np.argsort(sure, kind="stable")[:20]
        line = f"none of {len(labels):,} read wrongly; the least sure"
    columns = max(4, len(shown)) if len(shown) <= 8 else min(8, math.ceil(math.sqrt(2 * len(shown))))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = need_matplotlib("a sheet of mistakes")(figsize=(1.5 * columns, 1.85 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{title}: {line}", fontsize=12, fontweight="bold")
    for at, axes in enumerate(np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()):
        axes.set_axis_off()
        if at >= len(shown):
            continue
        index = shown[at]
        axes.imshow(_picture(images[index]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        read, true = int(predictions[index]), int(labels[index])
        percents = [f"{100 * probabilities[index, k]:.0f} %" for k in (read, true)]
        size = 9 if max(len(classes[read]), len(classes[true])) <= 8 else 7.5
        axes.set_title(f"read {classes[read]}  {percents[0]}", fontsize=size, pad=15, loc="left",
                       color=ORANGE if read != true else BLUE)  # fmt: skip
        axes.text(0, 1.03, f"is {classes[true]}  {percents[1]}", fontsize=size, transform=axes.transAxes)
    return figure


def _picture(image: np.ndarray) -> np.ndarray:
    """(C, H, W) as matplotlib takes it: gray (H, W) or (H, W, 3)."""
    image = np.clip(image, 0, 1)
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def bars(
    groups: Mapping[str, Mapping[str, float]], *, title: str, label: str, notes: Mapping[tuple[str, str], str] | None = None
) -> Any:
    """Horizontal bars on a logarithmic axis, a cluster for each group: {group: {name: value}}.

    A name has one colour in all groups. `notes` gives what stands beside a bar, by (group, name); default: the value.
    """
    names = list(dict.fromkeys(name for entries in groups.values() for name in entries))
    others = [name for name in names if name not in KNOWN]
    colours = KNOWN | {name: OTHERS[at % len(OTHERS)] for at, name in enumerate(others)}
    count = sum(len(entries) for entries in groups.values())
    height = 1.3 + 0.24 * count + 0.16 * len(groups)
    figure = need_matplotlib("a bar chart")(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots()
    at, centres = 0.0, []
    for group, entries in groups.items():
        first = at
        for name, value in entries.items():
            bar = axes.barh(at, value, height=0.86, color=colours[name])
            text = (notes or {}).get((group, name), f"{value:.3g}")
            axes.bar_label(bar, [text], padding=4, fontsize=8)
            at += 1
        centres.append((first + at - 1) / 2)
        at += 0.7
    axes.set_xscale("log")
    values = [value for entries in groups.values() for value in entries.values()]
    if values:
        axes.set_xlim(min(values) / 2, max(values) * 6)
    axes.set_yticks(centres, list(groups), fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_ylim(at - 0.5, -0.8)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title, fontsize=12, fontweight="bold")
    if len(names) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(color=colours[name], label=name) for name in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(names)), fontsize=9, frameon=False)
    return figure
