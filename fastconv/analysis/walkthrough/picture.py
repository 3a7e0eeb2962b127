"""A walkthrough as a strip of steps (matplotlib) and as an animation (Pillow): the same scenes, drawn twice."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.analysis.walkthrough.numbers import brief, index
from fastconv.analysis.walkthrough.page import layout, need_drawable
from fastconv.analysis.walkthrough.reading import INSERTED, PADDING, Reading, outer
from fastconv.errors import position
from fastconv.files import replace_whole
from fastconv.plots import need_matplotlib

if TYPE_CHECKING:
    from fastconv.analysis.walkthrough.steps import Walkthrough

__all__ = ["animation", "strip"]

MOST_MAPS = 4  # channels of one array that are drawn
MOST_IN_STRIP = 6
MOST_FRAMES = 300
MOST_PIXELS = 40_000_000  # of a picture
CELL_HEIGHT, CHARACTER, EDGE = 26, 7.6, 10  # in pixels, as everything below
LINE = 20  # of text
GAP = 28  # between panels
MARGIN = 14
SIZE = 12.5  # of a cell's text
SHARP, NARROW = 2, 900  # an animation's scale, for screens with small pixels, and up to which width

FILLS = {"": "#ffffff", "outside": "#e8e8e8", "seen": "#bfe0f5", "outside seen": "#dbe7ee", "now": "#fbd2b0",
         "blank": "#f4f4f4"}  # fmt: skip
EDGES = {"seen": "#0072b2", "outside seen": "#0072b2", "now": "#d55e00", "blank": "#e4e4e4"}
LINE_COLOUR, INK, SOFT = "#c9c9c9", "#1b1b1b", "#6b6b6b"
RANK = {"seen": 1, "outside seen": 1, "now": 2}  # their edges lie on top


@dataclass(frozen=True)
class Map:
    """One grid: rows of (text, kind)."""

    label: str
    cells: list[list[tuple[str, str]]]
    width: float  # of a cell

    @property
    def size(self) -> tuple[float, float]:
        return len(self.cells[0]) * self.width, len(self.cells) * CELL_HEIGHT + (LINE if self.label else 0)


@dataclass(frozen=True)
class Panel:
    title: str
    maps: list[Map]

    @property
    def size(self) -> tuple[float, float]:
        title = CHARACTER * len(self.title)
        width = max(title, *(each.size[0] for each in self.maps)) if self.maps else title
        return width, LINE + sum(each.size[1] + 6 for each in self.maps)


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True)
class Text:
    x: float
    y: float  # of its middle
    text: str
    colour: str = INK
    bold: bool = False
    centred: bool = False


Scene = tuple[str, list[Panel]]


# --- what a step shows -----------------------------------------------------------------------------------------------


def scenes(walk: Walkthrough, numbers: Iterable[int]) -> Iterator[Scene]:
    """Of these steps, in order: the line of text, and the panels."""
    sums, done = np.zeros(walk.result.shape), 0
    touched = np.zeros(walk.result.shape, bool)
    scale = np.zeros(walk.result.shape)
    for number in numbers:
        step = walk[number]
        if walk.manner == "scatter":
            for earlier in range(done, number + 1):
                added = walk[earlier]
                np.add.at(sums, added.target, added.products)
                np.add.at(scale, added.target, np.abs(added.products))
                touched[added.target] = True
            done = number + 1
        yield step.text, _panels(walk, number, sums, scale, touched)


def _panels(
    walk: Walkthrough, number: int, sums: np.ndarray, scale: np.ndarray, touched: np.ndarray
) -> list[Panel]:  # fmt: skip
    at, reading, names = walk._at(number), walk._reading, walk._names
    scatter = walk.manner == "scatter"
    p, q = reading.channels(*at[:2])
    places, _ = reading.block(at)
    indices = reading.indices(places)
    grids = [axis.grid for axis in reading.axes]
    seen = _mask([np.isin(np.arange(len(grid)), chosen) for grid, chosen in zip(grids, places, strict=True)])
    outside = ~_mask([grid >= 0 for grid in grids])
    several = reading.array.shape[0] * reading.array.shape[1] > 1
    factors = walk._factors(at)
    lies = _lies(reading)
    panels = [] if walk._maxima is None else [_under_windows(walk, at, several)]

    def channels(values: Any, kinds: np.ndarray, text: Any = brief) -> list[Map]:
        maps = []
        for j in range(min(len(p), MOST_MAPS)):
            label = f"[{p[j]}, {q[j]}]" if several else ""
            maps += _maps(label, values(j), kinds, text)
        return maps

    if scatter:
        assert walk._spread is not None
        given = walk._spread[at[:2]]
        panels.append(Panel(names.read, _maps("", given, _now(given.shape, at[2:]))))
    elif walk._kind != "max":
        kinds = np.where(seen, np.where(outside, "outside seen", "seen"), np.where(outside, "outside", ""))
        panels.append(Panel(names.read + lies, channels(lambda j: _laid(reading, int(p[j]), int(q[j])), kinds)))

    if factors is not None and factors.size and walk._kind != "mean":
        if reading.filters is not None and reading.filter_of is not None:
            u, v = reading.filter_of(*at[:2])
            filters = reading.filters
            alone = filters.shape[0] * filters.shape[1] == 1
            taps = np.full(filters.shape[2:], "seen")
            leads = list(zip(u, v, strict=True))[:MOST_MAPS]
            maps = [_maps("" if alone else f"[{a}, {b}]", filters[a, b], taps) for a, b in leads]
            panels.append(Panel(names.factor, [each for some in maps for each in some]))
        else:
            panels.append(Panel(names.factor, _maps("", factors[0], np.full(factors.shape[1:], "seen"))))
        read = walk._spread[at] if scatter and walk._spread is not None else reading.values(at)
        products = np.broadcast_to(read * factors, (len(p), *map(len, indices)))
        where = np.where(_mask([each >= 0 for each in indices]), "seen", "outside seen")
        panels.append(Panel("products", channels(lambda j: products[j], where) if several and not walk._by_itself
                            else _maps("", products[0], where)))  # fmt: skip

    if scatter:
        noise = 16 * np.finfo(walk.result.dtype).eps

        def laid(j: int, array: np.ndarray) -> np.ndarray:
            grid = np.ix_(*(np.maximum(each, 0) for each in grids))
            found: np.ndarray = array[int(p[j]), int(q[j])][grid]
            return found

        target = []
        for j in range(min(len(p), MOST_MAPS)):
            there = laid(j, touched) & ~outside
            kinds = np.where(outside, np.where(seen, "outside seen", "outside"),
                             np.where(seen, "now", np.where(there, "", "blank")))  # fmt: skip
            texts = np.where(np.abs(laid(j, sums)) <= noise * laid(j, scale), 0.0, laid(j, sums))
            target += _maps(f"[{p[j]}, {q[j]}]" if several else "", np.where(there, texts, np.nan), kinds, _known)
        panels.append(Panel(f"{names.made} so far{lies}", target))
    else:
        shape = walk.shape[2:]
        flat = np.arange(math.prod(shape)).reshape(shape) + number - int(np.ravel_multi_index(at[2:], shape))
        # what comes later is not there yet; values from the result, as exact as the steps
        values = np.where(flat <= number, np.asarray(walk.result[at[:2]], np.float64), np.nan)
        kinds = np.where(flat < number, "", np.where(flat == number, "now", "blank"))
        width = max(_width(brief(value)) for value in np.asarray(walk.result, np.float64).reshape(-1))
        values[at[2:]] = walk[number].value
        noise = float(walk._noise(walk[number].products))
        title = index(names.made, at[:2])
        panels.append(Panel(title, _maps("", values, kinds, lambda v: _known(v, noise), width)))
    return panels


def _under_windows(walk: Walkthrough, at: tuple[int, ...], several: bool) -> Panel:
    """x, the windows whose maximum a step is about, and that maximum."""
    assert walk._maxima is not None
    windows = walk._maxima.windows
    grids = [axis.grid for axis in windows.axes]
    outputs, element = walk._about(at)
    kinds = np.where(_mask([grid >= 0 for grid in grids]), "", "outside").astype("<U12")
    for output in outputs:
        under = np.ix_(*(axis.places[o] for axis, o in zip(windows.axes, output, strict=True)))
        kinds[under] = np.where(np.char.startswith(kinds[under], "outside"), "outside seen", "seen")
    if element is not None:
        kinds[tuple(int(np.flatnonzero(grid == i)[0]) for grid, i in zip(grids, element, strict=True))] = "now"
    label = index("", at[:2]) if several else ""
    return Panel("x" + _lies(windows), _maps(label, _laid(windows, *at[:2]), kinds, _finite))


def _lies(reading: Reading) -> str:
    return f" ({layout(reading)})" if layout(reading) else ""


def _mask(lists: Sequence[np.ndarray]) -> np.ndarray:
    """True where all of them are, per axis."""
    return np.asarray(math.prod(outer(lists)), bool)


def _now(shape: tuple[int, ...], at: tuple[int, ...]) -> np.ndarray:
    kinds = np.full(shape, "", dtype="<U12")
    kinds[at] = "now"
    return kinds


def _laid(reading: Reading, p: int, q: int) -> np.ndarray:
    """A channel of the array as it lies on its grid."""
    grids = [axis.grid for axis in reading.axes]
    values = reading.array[p, q][np.ix_(*(np.maximum(grid, 0) for grid in grids))].astype(np.float64)
    values = np.where(_mask([grid != INSERTED for grid in grids]), values, 0.0)
    return np.where(_mask([grid != PADDING for grid in grids]), values, reading.fill)


def _finite(value: float) -> str:
    return brief(value) if value != -math.inf else ""


def _known(value: float, noise: float = 0.0) -> str:
    return "" if math.isnan(value) else brief(value, noise)


def _width(text: str) -> float:
    return max(CELL_HEIGHT, CHARACTER * len(text) + EDGE)


def _maps(label: str, values: np.ndarray, kinds: np.ndarray, text: Any = brief, least: float = 0.0) -> list[Map]:
    """(rows, columns), or one map for each of a volume's depths."""
    values, kinds = np.asarray(values, np.float64), np.broadcast_to(kinds, np.shape(values))
    if values.ndim == 1:
        values, kinds = values[np.newaxis], kinds[np.newaxis]
    if values.ndim == 3:
        return [
            each
            for depth in range(len(values))
            for each in _maps(
                ", ".join(filter(None, [label, f"depth {depth}"])), values[depth], kinds[depth], text, least
            )
        ]
    cells = [
        [(text(float(value)), str(kind)) for value, kind in zip(*row, strict=True)]
        for row in zip(values, kinds, strict=True)
    ]
    width = max(least, *(_width(cell) for row in cells for cell, _ in row))
    return [Map(label, cells, width)]


# --- where it stands -------------------------------------------------------------------------------------------------


def _heading(walk: Walkthrough) -> tuple[list[Text], float, float]:
    """What stands above the steps, the width that it takes and where it ends."""
    lines = [Text(MARGIN, MARGIN + LINE / 2, walk.head, bold=True), Text(MARGIN, MARGIN + 1.5 * LINE, walk.said, SOFT)]
    return lines, 2 * MARGIN + max(CHARACTER * 1.1 * len(walk.head), CHARACTER * len(walk.said)), MARGIN + 2 * LINE + 8


def _drawing(scene: Scene, top: float) -> tuple[list[Box], list[Text], float, float]:
    """Boxes and texts below `top`, the width that they take and where they end."""
    line, panels = scene
    texts = [Text(MARGIN, top + LINE / 2, line)]
    boxes: list[Box] = []
    x, bottom = float(MARGIN), top + LINE
    for panel in panels:
        y = top + LINE + 4
        texts.append(Text(x, y + LINE / 2, panel.title, bold=True))
        y += LINE
        for each in panel.maps:
            if each.label:
                texts.append(Text(x, y + LINE / 2, each.label, SOFT))
                y += LINE
            for row, cells in enumerate(each.cells):
                for column, (text, kind) in enumerate(cells):
                    left, above = x + column * each.width, y + row * CELL_HEIGHT
                    boxes.append(Box(left, above, each.width, CELL_HEIGHT, kind))
                    colour = SOFT if kind.startswith("outside") else INK
                    middle = left + each.width / 2, above + CELL_HEIGHT / 2
                    texts.append(Text(*middle, text, colour, kind == "now", centred=True))
            y += CELL_HEIGHT * len(each.cells) + 6
        x += panel.size[0] + GAP
        bottom = max(bottom, y)
    boxes.sort(key=lambda box: RANK.get(box.kind, 0))
    width = max(x - GAP, MARGIN + CHARACTER * len(line)) + MARGIN
    return boxes, texts, width, bottom


def _chosen(walk: Walkthrough, steps: Sequence[int] | None, most: int) -> list[int]:
    """The steps that were asked for, or as many as are drawn, from the first to the last."""
    if steps is not None:
        if not isinstance(steps, Iterable):
            raise TypeError(f"walkthrough: steps must be a list of numbers from 0, got {steps!r}; write [{steps!r}]")
        return [position("walkthrough", "step", step, len(walk)) for step in steps]
    return sorted({round(i) for i in np.linspace(0, len(walk) - 1, most)}) if len(walk) else []


def _scenes_of(walk: Walkthrough, numbers: Sequence[int]) -> list[tuple[int, Scene]]:
    """In any order, each with its number."""
    order = sorted(set(numbers))
    made = dict(zip(order, scenes(walk, order), strict=True))
    return [(number, made[number]) for number in numbers]


def _need_small(width: float, height: float, scale: float) -> None:
    if width * height * scale * scale > MOST_PIXELS:
        raise ValueError(
            f"walkthrough: the picture would have {width * scale:.0f} x {height * scale:.0f} pixels; at most "
            f"{MOST_PIXELS:,} are drawn: crop x, or take fewer steps"
        )


def strip(walk: Walkthrough, steps: Sequence[int] | None) -> Any:
    """A matplotlib Figure: some steps, one below the other."""
    figure_class = need_matplotlib("a picture of a walkthrough")
    from matplotlib.patches import Rectangle

    need_drawable(walk)
    boxes: list[Box] = []
    texts, width, y = _heading(walk)
    for number, (line, panels) in _scenes_of(walk, _chosen(walk, steps, MOST_IN_STRIP)):
        some, more, right, y = _drawing((f"{number + 1} of {len(walk)}:  {line}", panels), y)
        boxes, texts, width, y = boxes + some, texts + more, max(width, right), y + 12
    height = y + MARGIN
    _need_small(width, height, 1.5)
    figure = figure_class(figsize=(width / 100, height / 100))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for box in boxes:
        edge = EDGES.get(box.kind, LINE_COLOUR)
        rank = RANK.get(box.kind, 0)
        axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, facecolor=FILLS[box.kind], edgecolor=edge,
                                 linewidth=1.6 if box.kind == "now" else 0.8, zorder=1 + rank))  # fmt: skip
    for text in texts:
        axes.text(text.x, text.y, text.text, fontsize=SIZE * 0.72, color=text.colour, va="center_baseline", zorder=5,
                  weight="bold" if text.bold else "normal", ha="center" if text.centred else "left",
                  parse_math=False)  # fmt: skip
    return figure


def animation(
    walk: Walkthrough, path: str | os.PathLike[str], steps: Sequence[int] | None, seconds: float
) -> None:  # fmt: skip
    """Write the GIF."""
    if Path(path).suffix.lower() != ".gif":
        raise ValueError(f"{path}: an animation's name must end in .gif")
    if not 0.01 <= seconds <= 600:
        raise ValueError(f"walkthrough: seconds must be between 0.01 and 600, got {seconds}")
    numbers = _chosen(walk, steps, MOST_FRAMES)
    if not numbers:
        raise ValueError("walkthrough: an animation must have a step at least, there is none")
    need_matplotlib("an animation of a walkthrough")
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError('an animation of a walkthrough needs Pillow: pip install "fastconv[plot]"') from error
    import matplotlib

    need_drawable(walk)
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    heading, width, top = _heading(walk)
    height = top
    digits = len(str(len(walk)))
    drawings = []
    for number, (line, panels) in _scenes_of(walk, numbers):
        boxes, texts, right, bottom = _drawing((f"{number + 1:>{digits}} of {len(walk)}:  {line}", panels), top)
        drawings.append((boxes, heading + texts))
        width, height = max(width, right), max(height, bottom + MARGIN)
    scale = SHARP if width <= NARROW else 1
    _need_small(width, height, scale)
    normal = ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), SIZE * scale)
    bold = ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), SIZE * scale)
    palette = Image.new("P", (1, 1))
    colours = [*FILLS.values(), *EDGES.values(), LINE_COLOUR, INK, SOFT]
    grays = [f"#{level:02x}{level:02x}{level:02x}" for level in range(0, 240, 5)]
    palette.putpalette([int(c[k : k + 2], 16) for c in [*dict.fromkeys(colours), *grays] for k in (1, 3, 5)])

    def frame(boxes: list[Box], texts: list[Text]) -> Any:
        image = Image.new("RGB", (math.ceil(width) * scale, math.ceil(height) * scale), "white")
        draw = ImageDraw.Draw(image)
        for box in boxes:
            corners = [round(v * scale) for v in (box.x, box.y, box.x + box.width, box.y + box.height)]
            draw.rectangle(corners, fill=FILLS[box.kind], outline=EDGES.get(box.kind, LINE_COLOUR),
                           width=2 * scale if box.kind == "now" else scale)  # fmt: skip
        for text in texts:
            if text.text:
                draw.text((text.x * scale, text.y * scale), text.text, fill=text.colour,
                          font=bold if text.bold else normal, anchor="mm" if text.centred else "lm")  # fmt: skip
        return image.quantize(palette=palette, dither=Image.Dither.NONE)

    first, *others = (frame(*drawing) for drawing in drawings)
    replace_whole(path, lambda file: first.save(
        file, format="GIF", save_all=True, append_images=others, duration=round(1000 * seconds), loop=0, optimize=False,
    ))  # fmt: skip
