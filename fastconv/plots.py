"""Pictures: training curve, confusion matrix, mistakes, receptive field, record, scan, dots, changes, timeline.

They need matplotlib. Each returns a `Figure` of its own (no pyplot, no global state), but for `draw_boxes`, which draws
into one; `save` writes it. The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.files import replace_whole

__all__ = [
    "FORMATS", "as_png", "changes", "confusion_matrix", "dots", "draw_boxes", "learning_rates", "mistakes",
    "need_matplotlib", "receptive_field", "record_of_maps", "save", "saved", "scan", "timeline", "training_curve",
]  # fmt: skip

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#6b6b6b"
OTHERS = (ORANGE, GREEN, "#CC79A7", "#56B4E9", "#F0E442")
KNOWN = {"fastconv": BLUE, "numpy": "#E69F00", "naive": "#999999"}
FORMATS = (".png", ".svg", ".pdf")
DPI = 150
SCREEN = 100  # dots an inch in a notebook
MOST_MISTAKES = 40  # images on the sheet
SHEET_COLUMNS = 8
CELL, GAP, HEADING = (1.5, 1.86), 0.1, 0.85  # of the sheet, in inches
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)  # ticks
PHASES = {"forward": BLUE, "loss": GREEN, "backward": ORANGE, "update": "#CC79A7"}
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
MOST_NAMED = 30  # classes that a confusion matrix still labels


def need_matplotlib(what: str) -> Any:
    """matplotlib's Figure class, whose figures show in a notebook; ImportError that names the extra where it is
    missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'{what} needs matplotlib: pip install "fastconv[plot]"') from error
    return _showing(Figure)


@functools.cache
def _showing(figure_class: Any) -> Any:
    """The class with a picture for notebooks."""
    shown = {"__module__": __name__, "_repr_png_": lambda figure: as_png(figure, SCREEN)}
    return type(figure_class.__name__, (figure_class,), shown)


def save(
    figure: Any, path: str | os.PathLike[str], *, numbers: Mapping[str, Any] | None = None, follow_links: bool = True
) -> None:
    """Write the figure, whole or not at all (`files.replace_whole`); the suffix decides the format: .png, .svg or .pdf.

    numbers   what the picture shows, as data: the text "numbers" of a PNG, in JSON

    Raises ValueError for any other suffix, OSError.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: a picture's name must end in {', '.join(FORMATS)}")
    texts = {"numbers": json.dumps(numbers)} if numbers is not None and suffix == ".png" else None
    replace_whole(path, lambda file: _write(figure, file, suffix[1:], DPI, texts), follow_links=follow_links)


def saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    """The figure, which shows in a notebook, written to `path` where it is given; see `save`."""
    if path is not None:
        save(figure, path)
    return figure


def as_png(figure: Any, dpi: int = DPI) -> bytes:
    """The figure as the bytes of a PNG, for a page."""
    file = io.BytesIO()
    _write(figure, file, "png", dpi)
    return file.getvalue()


def _write(figure: Any, file: Any, suffix: str, dpi: int, texts: dict[str, str] | None = None) -> None:
    with _any_glyph():
        figure.savefig(file, format=suffix, dpi=dpi, facecolor="white", metadata=texts)


@contextlib.contextmanager
def _any_glyph() -> Iterator[None]:
    """Without a warning of a name that the font cannot write."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        yield


def _fit(text: Any, room: float, name: str = "") -> None:
    """Make a text no wider than `room` inches: smaller, to three quarters at least, then its longest lines are cut, or
    `name` in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(text.figure)
    renderer = canvas.get_renderer()

    def excess() -> float:
        with _any_glyph():
            width: float = text.get_window_extent(renderer).width / (text.figure.dpi * room)
        return width

    if (wide := excess()) > 1:
        text.set_fontsize(text.get_fontsize() * max(0.75, 1 / wide))
    while (wide := excess()) > 1:
        longest = name or max(text.get_text().split("\n"), key=len)
        if len(longest) < 2:
            break
        cut = longest[: min(len(longest) - 2, int(len(longest) / wide) - 1)].rstrip() + "…"
        text.set_text(text.get_text().replace(longest, cut, 1))
        name = name and cut


def _titled(figure: Any, title: str, size: float = 12, weight: str = "bold") -> None:
    _fit(figure.suptitle(title, fontsize=size, fontweight=weight), figure.get_figwidth() - 2 * GAP)


def training_curve(
    history: Sequence[Mapping[str, float]], *, title: str = "Training", test_accuracy: float | None = None
) -> Any:
    """Loss and, where there is one, accuracy by epoch: training, validation where there is one, the test as a line."""
    accurate = test_accuracy is not None or any(name in r for r in history for name in ("accuracy", "val_accuracy"))
    width = 9.6 if accurate else 5.6
    figure = need_matplotlib("a training curve")(figsize=(width, 3.9), layout="constrained")
    _titled(figure, title, 13)
    losses, *others = figure.subplots(1, 1 + accurate, squeeze=False)[0]
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) <= 30 else None
    for axes, name, scale in ((losses, "loss", 1.0), *((each, "accuracy", 100.0) for each in others)):
        for prefix, label, colour in (("", "training, as it went", BLUE), ("val_", "validation", ORANGE)):
            values = [scale * record.get(prefix + name, math.nan) for record in history]
            if not all(map(math.isnan, values)):
                axes.plot(epochs, values, color=colour, marker=marker, markersize=3.5, linewidth=1.8, label=label)
        axes.set_xlabel("epoch")
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(0.5, max(epochs, default=1) + 0.5)
    losses.set_title("Loss", fontsize=11)
    if losses.get_lines():
        drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in losses.get_lines()])
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size and drawn.min() >= 0 < drawn.max():
            losses.set_ylim(0, 1.05 * drawn.max())
        losses.legend(loc="upper right", fontsize=9, frameon=False)
    for accuracies in others:
        accuracies.set_title("Accuracy, %", fontsize=11)
        if test_accuracy is not None:
            percent = 100 * test_accuracy
            label = f"test, at the end: {percent:.2f} %"
            accuracies.axhline(percent, color=GREEN, linewidth=1.5, linestyle=(0, (5, 3)), label=label)
        lines = [line.get_ydata() for line in accuracies.get_lines()]
        if lines:
            _limit_percent(accuracies, np.concatenate([np.asarray(values, float) for values in lines]))
            accuracies.legend(loc="lower right", fontsize=9, frameon=False)
    return figure


def learning_rates(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None
) -> Any:
    """The loss over the learning rate, on a logarithmic axis, and the rate that is suggested."""
    figure = need_matplotlib("a picture of learning rates")(figsize=(7.2, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=GRAY, linewidth=0.9, alpha=0.6, label="each step's")
    axes.plot(rates, smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=ORANGE, linewidth=1.5, label=f"suggested: {suggestion:.3g}")
    axes.set_xscale("log")
    if smoothed:
        low, high = min(smoothed), max(smoothed[: max(1, len(smoothed) // 2)])
        axes.set_ylim(low - 0.1 * abs(high - low), high + 0.6 * abs(high - low) + 1e-12)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _titled(figure, "The loss while the learning rate rises")
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def _limit_percent(axes: Any, values: np.ndarray) -> None:
    """A percentage's axis, that the first epoch does not squeeze: it may fall out at the bottom of a long run."""
    values = values[np.isfinite(values)]
    low = min(99.0, float(np.quantile(values, 0.04) if values.size > 20 else values.min()))
    axes.set_ylim(max(0.0, low - 0.12 * (100.5 - low)), 100 + 0.03 * (100.5 - low))


def confusion_matrix(
    labels: Sequence[int] | np.ndarray,
    predictions: Sequence[int] | np.ndarray,
    classes: Sequence[str],
    *,
    title: str = "Confusion matrix",
) -> Any:
    """Counts of (true class, predicted class): right answers in blue, mistakes in orange, each on its own scale."""
    count = len(classes)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (np.asarray(labels), np.asarray(predictions)), 1)
    named = count <= MOST_NAMED
    side = min(max(3.2 + 0.42 * count, 4.6), 11.0) if named else 8.0
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
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
        labels_ = [_short(name, 20) for name in classes]
        axes.set_xticks(range(count), labels_, fontsize=size, **turned)
        axes.set_yticks(range(count), labels_, fontsize=size)
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
    _titled(figure, f"{title}\n{line}")
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
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    title: str = "Mistakes",
) -> Any:
    """The images that were read wrongly, the surest mistakes first: what was read, what it is, how sure the net was.

    images (N, C, H, W) in [0, 1], labels (N,), probabilities (N, classes). The right answers of which the net was the
    least sure fill up a sheet that has few mistakes.
    """
    labels = np.asarray(labels)
    predictions = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    line = f"{len(wrong):,} of {len(labels):,} read wrongly"
    shown = wrong[np.argsort(-sure[wrong], kind="stable")][:MOST_MISTAKES]
    if len(shown) < len(wrong):
        line += f"; the {len(shown)} surest"
    room = max(2 * SHEET_COLUMNS, SHEET_COLUMNS * math.ceil(len(shown) / SHEET_COLUMNS)) - len(shown)
    right = np.flatnonzero(predictions == labels)
    unsure = right[np.argsort(sure[right], kind="stable")][:room]
    if len(unsure):
        line += "; the least sure right answers in blue"
    shown = np.concatenate([shown, unsure])
    rows = max(1, math.ceil(len(shown) / SHEET_COLUMNS))
    width, height = CELL[0] * SHEET_COLUMNS + GAP, CELL[1] * rows + HEADING - 0.3
    figure = need_matplotlib("a sheet of mistakes")(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # in inches, from the top
    axes.set_axis_off()
    heading = axes.text(width / 2, 0.24, f"{title}: {line}", fontsize=12, fontweight="bold", ha="center", va="center")
    _fit(heading, width - 2 * GAP)
    for place, index in enumerate(shown):
        left, top = GAP + CELL[0] * (place % SHEET_COLUMNS), HEADING + CELL[1] * (place // SHEET_COLUMNS)
        picture = _picture(images[index])
        factor = (CELL[0] - GAP) / max(picture.shape[:2])
        bottom, right = top + factor * picture.shape[0], left + factor * picture.shape[1]
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto",
                    extent=(left, right, bottom, top))  # fmt: skip
        read, true = int(predictions[index]), int(labels[index])
        captions = [(read, "read", BLUE if read == true else ORANGE)] + [(true, "is", "black")] * (read != true)
        for height_above, (k, word, colour) in zip((0.08, 0.24), reversed(captions), strict=False):
            caption = f"{word} {classes[k]}  {100 * probabilities[index, k]:.0f} %"
            _fit(axes.text(left, top - height_above, caption, fontsize=9, color=colour), CELL[0] - GAP, classes[k])
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _picture(image: np.ndarray) -> np.ndarray:
    """(C, H, W) as matplotlib takes it: gray (H, W) or (H, W, 3)."""
    image = np.clip(image, 0, 1)
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def receptive_field(image: np.ndarray, region: Sequence[slice], strength: np.ndarray, *, title: str) -> Any:
    """An image (C, H, W) or a signal (C, L), the region that a neuron sees, and how strongly it answers to each place.

    region: a slice per spatial axis, which may reach beyond the image into its padding; strength (*spatial), any scale.
    """
    share = strength / (float(strength.max()) or 1.0)
    if image.ndim == 2:
        return _seen_of_signal(image, region[0], share, title)
    figure = need_matplotlib("a receptive field")(figsize=(6.4, 6.4), layout="constrained")
    axes = figure.subplots()
    height, width = image.shape[1:]
    axes.imshow(_picture(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ink = np.empty((height, width, 4))
    ink[..., :3], ink[..., 3] = _rgb(ORANGE), 0.85 * np.sqrt(share)  # the rim of a field is weak
    axes.imshow(ink, interpolation="nearest")
    rows, columns = region
    top, left = rows.start - 0.5, columns.start - 0.5
    bottom, right = rows.stop - 0.5, columns.stop - 0.5
    for edges, colour, style in (
        ((-0.5, -0.5, height - 0.5, width - 0.5), GRAY, (0, (4, 3))),
        ((top, left, bottom, right), BLUE, "-"),
    ):
        a, b, c, d = edges
        axes.plot((b, d, d, b, b), (a, a, c, c, a), color=colour, linewidth=2, linestyle=style, clip_on=False)
    margin = 0.02 * max(height, width) + 0.5
    axes.set_xlim(min(left, -0.5) - margin, max(right, width - 0.5) + margin)
    axes.set_ylim(max(bottom, height - 0.5) + margin, min(top, -0.5) - margin)
    axes.set_axis_off()
    _titled(figure, f"{title}\nblue: all that it can see; orange: what its gradients answer to", 11, "normal")
    return figure


def _seen_of_signal(signal: np.ndarray, seen: slice, share: np.ndarray, title: str) -> Any:
    figure = need_matplotlib("a receptive field")(figsize=(9.6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(seen.start - 0.5, seen.stop - 0.5, color=BLUE, alpha=0.15, linewidth=0)
    for channel in signal:
        axes.plot(channel, color=GRAY, linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    answers = axes.twinx()
    answers.fill_between(np.arange(len(share)), share, step="mid", color=ORANGE, alpha=0.6, linewidth=0)
    answers.set_ylim(0, 3)
    answers.set_axis_off()
    _titled(figure, f"{title}\nblue: all that it can see; orange: what its gradients answer to", 11, "normal")
    return figure


def record_of_maps(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray | None]], *, maps: int, title: str, left_out: int = 0
) -> Any:
    """A row for each (name, y, dy): the first `maps` maps of y in gray, the gradients to them beside, blue below 0 and
    orange above.

    y and dy of one image: (C, H, W), (C, D, H, W), of which the slice in the middle is drawn, (C, L) or (F,), which are
    one map. Each row has scales of its own, written beside it.
    """
    widths = [min(maps, len(_tiles(y, maps))) for _, y, _ in rows]
    side = 0.85  # of a map, in inches
    half = max(3, *widths) * (side + GAP) + 0.75
    halves = 1 if all(dy is None for _, _, dy in rows) else 2
    label = 2.0
    flat = [np.ndim(y) == 1 or (np.ndim(y) == 2 and y.shape[1] > 4 * len(y)) for _, y, _ in rows]
    labels = [_folded(name) for name, _, _ in rows]
    lines = [label_.count("\n") + 1 for label_ in labels]
    heights = [max(0.36 if thin else side, 0.15 * n) for thin, n in zip(flat, lines, strict=True)]
    width, height = label + halves * half + GAP, 0.95 + sum(heights) + 0.34 * len(rows) + (0.3 if left_out else 0)
    figure = need_matplotlib("a picture of a record")(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # in inches, from the top
    axes.set_axis_off()
    _fit(axes.text(GAP, 0.26, title, fontsize=12, fontweight="bold", va="center"), width - 2 * GAP)
    for left, text in ((label, "y"), (label + half, "the loss's gradient to it"))[:halves]:
        axes.text(left, 0.62, text, fontsize=10, color=GRAY, va="center")
    top = 0.85
    for (_, y, dy), folded, thin, tallest in zip(rows, labels, flat, heights, strict=True):
        _fit(axes.text(GAP, top, folded, fontsize=9, va="top"), label - 2 * GAP)
        axes.text(GAP, top + tallest + 0.1, "x".join(map(str, y.shape)), fontsize=8, color=GRAY, va="center")
        for left, array, signed in ((label, y, False), (label + half, dy, True)):
            if array is None:
                continue
            tiles = _tiles(np.asarray(array, np.float64), maps)
            finite = np.concatenate([tile[np.isfinite(tile)] for tile in tiles])
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
            most = max(abs(low), abs(high)) or 1.0
            for place, tile in enumerate(tiles):
                rows_, columns = tile.shape
                scale = side / max(rows_, columns)
                tall, wide = max(rows_ * scale, 0.16), max(columns * scale, 0.16)
                if thin:  # a vector or a signal is a strip as wide as all maps
                    tall, wide = tallest, half - 0.85
                at = left + place * (side + GAP)
                colours = _diverging(tile / most) if signed else _grays((tile - low) / ((high - low) or 1.0))
                axes.imshow(colours, interpolation="nearest", aspect="auto", extent=(at, at + wide, top + tall, top))
                axes.plot([at, at + wide, at + wide, at, at], [top, top, top + tall, top + tall, top], color="#c9c9c9",
                          linewidth=0.6)  # fmt: skip
            scale_text = f"±{most:.3g}" if signed else f"{low:.3g} … {high:.3g}"
            scale_text = scale_text if finite.size else ""
            axes.text(left, top + tallest + 0.1, scale_text, fontsize=8, color=GRAY, va="center")
            more = (len(array) if np.ndim(array) > 2 else 1) - len(tiles)
            if more > 0:
                at = left + len(tiles) * (side + GAP)
                axes.text(at, top + side / 2, f"+ {more}", fontsize=8, color=GRAY, va="center")
        top += tallest + 0.34
    if left_out:
        axes.text(GAP, height - 0.2, f"and {left_out} layers more", fontsize=9, color=GRAY, va="center")
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _tiles(array: np.ndarray, most: int) -> list[np.ndarray]:
    """One image's maps, each a matrix."""
    if array.ndim == 4:
        array = array[:, array.shape[1] // 2]
    if array.ndim == 3:
        return [*array[:most]]
    return [array.reshape(1, -1) if array.ndim < 2 else array]


def _folded(name: str) -> str:
    """In lines that fit in front of a row."""
    return "\n".join(textwrap.wrap(name, 24, break_on_hyphens=False)[:3])


def _grays(share: np.ndarray) -> np.ndarray:
    return np.repeat(np.nan_to_num(np.clip(share, 0, 1))[..., None], 3, axis=-1)


def _diverging(share: np.ndarray) -> np.ndarray:
    """-1 … 1 as blue, white, orange."""
    share = np.nan_to_num(np.clip(share, -1, 1))[..., None]
    ink = np.where(share < 0, _rgb(BLUE), _rgb(ORANGE))
    shades: np.ndarray = 1 + (ink - 1) * np.abs(share)
    return shades


def scan(
    image: np.ndarray,
    boxes: Sequence[tuple[str, int, int, int, int]],
    best: np.ndarray,
    threshold: float,
    *,
    title: str,
) -> Any:
    """A picture (C, H, W) with boxes (text, top, left, height, width), beside it every window's score `best`."""
    figure = need_matplotlib("a scan")(figsize=(9.6, 5.0), layout="constrained")
    seen, scores = figure.subplots(1, 2)
    draw_boxes(seen, image, boxes)
    drawn = scores.imshow(best, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    rows, columns = np.nonzero(best > threshold)
    size = max(2.0, 150.0 / max(best.shape))
    scores.scatter(columns, rows, s=size * size / 8, facecolors="none", edgecolors=ORANGE, linewidths=1)
    figure.colorbar(drawn, ax=scores, shrink=0.75, label="the largest score of a window")
    for axes in (seen, scores):
        axes.set_xticks([])
        axes.set_yticks([])
    scores.set_title(f"the windows; circles: above {threshold:g}", fontsize=11)
    _titled(figure, f"found: {title}", 13)
    return figure


def draw_boxes(axes: Any, image: np.ndarray, boxes: Sequence[tuple[str, int, int, int, int]]) -> None:
    """A picture (C, H, W) and boxes (text, top, left, height, width) over it; a box's text stands above it, or inside
    at the top of the picture."""
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    axes.imshow(_picture((image - low) / (high - low)), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for text, top, left, height, width in boxes:
        ends = left - 0.5, left + width - 0.5, top - 0.5, top + height - 0.5
        axes.plot([ends[0], ends[1], ends[1], ends[0], ends[0]], [ends[2], ends[2], ends[3], ends[3], ends[2]],
                  color=ORANGE, linewidth=2, clip_on=False)  # fmt: skip
        if text:
            inside = top < 0.07 * image.shape[1]
            axes.annotate(text, (ends[0], ends[2]), (3, -3 if inside else 3), textcoords="offset points", fontsize=9,
                          color="white", va="top" if inside else "bottom", fontweight="bold",
                          bbox={"facecolor": ORANGE, "edgecolor": "none", "pad": 1.5})  # fmt: skip


def dots(groups: Mapping[str, Mapping[str, float]], *, title: str, label: str, reference: float | None = None) -> Any:
    """A line for each group on a logarithmic axis, a dot for each of its names: {group: {name: value}}.

    A name has one colour in all groups; `reference` is a value to hold the dots against.
    """
    names = list(dict.fromkeys(name for entries in groups.values() for name in entries))
    others = [name for name in names if name not in KNOWN]
    colours = KNOWN | {name: OTHERS[at % len(OTHERS)] for at, name in enumerate(others)}
    figure = need_matplotlib("a picture")(figsize=(9.6, 1.4 + 0.235 * len(groups)), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(groups))
    lows = [min(entries.values()) for entries in groups.values()]
    highs = [max(entries.values()) for entries in groups.values()]
    axes.hlines(at, lows, highs, color="#cfcfcf", linewidth=1.2, zorder=1)
    for name in names:
        values = [entries.get(name, math.nan) for entries in groups.values()]
        axes.scatter(values, at, s=34, color=colours[name], label=name, zorder=3)
    if reference is not None:
        axes.axvline(reference, color=GRAY, linewidth=0.9, zorder=0)
    axes.set_xscale("log")
    axes.set_yticks(at, list(groups), fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _titled(figure, title, 11)
    if len(names) > 1 or others:
        figure.legend(loc="outside lower center", ncols=min(4, len(names)), fontsize=9, frameon=False)
    return figure


def changes(rows: Sequence[tuple[str, float, float, float, str]], *, title: str) -> Any:
    """A line for each (name, ratio, low, high, verdict) on a logarithmic axis: a dot and its spread, 1 in the middle.

    Orange: "slower"; green: "faster"; gray: any other verdict.
    """
    figure = need_matplotlib("a picture")(figsize=(9.6, 1.4 + 0.235 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = [{"slower": ORANGE, "faster": GREEN}.get(verdict, GRAY) for *_, verdict in rows]
    at = np.arange(len(rows))
    axes.hlines(at, [row[2] for row in rows], [row[3] for row in rows], color=colours, linewidth=1.6, alpha=0.45)
    axes.scatter([row[1] for row in rows], at, s=34, color=colours, zorder=3)
    axes.axvline(1, color=GRAY, linewidth=0.9, zorder=0)
    axes.set_xscale("log")
    low, high = min(0.88, *(row[2] / 1.03 for row in rows)), max(1.14, *(row[3] * 1.03 for row in rows))
    marks = [mark for mark in RATIOS if low <= mark <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(at, [row[0] for row in rows], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("times as long as before (median; the line: quartiles of both runs)")
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _titled(figure, title, 11)
    return figure


def timeline(spans: Sequence[tuple[str, str, float, float, float, int]], *, title: str) -> Any:
    """A line for each name, and a bar for each (name, phase, start, milliseconds, floor, bytes held when it ends); the
    dark part of a bar is its floor. Above, the bytes over the same time.

    Phases: "forward", "loss", "backward", "update".
    """
    names = list(dict.fromkeys(name for name, *_ in spans))
    place = {name: at for at, name in enumerate(names)}
    total = sum(span[3] for span in spans)
    figure = need_matplotlib("a timeline")(figsize=(12.8, 2.9 + 0.19 * len(names)), layout="constrained")
    figure.suptitle(f"{title}: {total:.3g} ms", fontsize=12, fontweight="bold")
    held = [0, *(span[5] for span in spans)]
    if max(held):
        heights = 1.1, 0.19 * len(names) + 0.2  # inches
        memory, axes = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        unit, scale = next((each for each in UNITS if max(held) >= each[1]), UNITS[-1])
        times, levels = [0.0, *(span[2] + span[3] for span in spans)], [nbytes / scale for nbytes in held]
        memory.step(times, levels, where="post", color=GRAY, linewidth=1.4)
        memory.fill_between(times, levels, step="post", color=GRAY, alpha=0.15, linewidth=0)
        memory.set_ylim(0, 1.12 * max(levels))
        memory.set_ylabel(f"kept, {unit}", fontsize=9)
    else:
        axes = figure.subplots()
    for phase, colour in PHASES.items():
        chosen = [span for span in spans if span[1] == phase]
        if not chosen:
            continue
        rows, starts, widths = (
            [place[span[0]] for span in chosen],
            [span[2] for span in chosen],
            [span[3] for span in chosen],
        )
        axes.barh(rows, widths, left=starts, height=0.78, color=colour, alpha=0.35, linewidth=0)
        floors = [min(span[4], span[3]) for span in chosen]
        axes.barh(rows, floors, left=starts, height=0.78, color=colour, linewidth=0, label=phase)
        for row, start, width in zip(rows, starts, widths, strict=True):
            before = phase == "forward" and start > 0.06 * total  # behind it stands the way back
            axes.text(start if before else start + width, row, f" {width:.3f} ", fontsize=6.5, color=GRAY, va="center",
                      ha="right" if before else "left")  # fmt: skip
    axes.set_yticks(range(len(names)), map(_middle_out, names), fontsize=7.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.06 * total or 1)
    axes.set_xlabel("milliseconds; dark: the least that it takes", fontsize=9)
    for each in figure.axes:
        each.grid(axis="x", color="#e3e3e3", linewidth=0.8)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
    axes.tick_params(axis="y", length=0, labelsize=7.5)
    if spans:
        figure.legend(loc="outside lower right", ncols=len(PHASES), fontsize=9, frameon=False)
    return figure


def _middle_out(name: str) -> str:
    return name if len(name) <= 64 else f"{name[:31]}…{name[-32:]}"
