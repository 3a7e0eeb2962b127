"""A walkthrough as one HTML file: its numbers and tables as data, drawn by the page's own script (page.html)."""

from __future__ import annotations

import html
import json
import math
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.analysis.walkthrough.numbers import shown
from fastconv.analysis.walkthrough.reading import INSERTED, PADDING, Reading

if TYPE_CHECKING:
    from fastconv.analysis.walkthrough.steps import Walkthrough

__all__ = ["MOST_MAPS", "frame", "layout", "need_drawable", "page"]

MOST_MAPS = 8  # channels of one array that are drawn
MOST_CELLS = 10_000  # of them, in cells
MOST_NUMBERS = 400_000  # in one page
HEIGHT = 720  # of a notebook's frame, in CSS pixels


def page(walk: Walkthrough) -> str:
    """The document."""
    views = [walk] if walk.scattered is None else [walk, walk.scattered]
    for view in views:
        need_drawable(view)
    data = json.dumps([_view(view) for view in views], separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    for mark, text in (
        ("@TITLE@", html.escape(f"{walk.function}, {walk.direction}")), ("@MAPS@", str(MOST_MAPS)),
        ("@DATA@", data.replace("<", "\\u003c")),
    ):  # fmt: skip
        template = template.replace(mark, text)
    return template


def frame(walk: Walkthrough) -> str:
    """The document in a frame of its own, for a notebook."""
    inside = html.escape(page(walk), quote=True)
    return (
        f'<iframe srcdoc="{inside}" title="{html.escape(walk.head, quote=True)}" '
        f'style="width: 100%; height: {HEIGHT}px; border: 1px solid #c9c9c9;"></iframe>'
    )


def need_drawable(walk: Walkthrough) -> None:
    """ValueError where there is more to draw than anyone can look at."""
    reading = walk._reading
    cells = math.prod(len(axis.grid) for axis in reading.axes)
    filters = np.empty(0) if reading.filters is None else reading.filters
    drawn = max(cells, math.prod(walk.shape[2:]), math.prod(filters.shape[2:]))
    if drawn > MOST_CELLS:
        raise ValueError(
            f"walkthrough: {walk.function} would draw {drawn:,} cells in one grid; at most {MOST_CELLS:,} are drawn: "
            "crop x (its text, print(walk), has no such limit)"
        )
    numbers = reading.array.size + filters.size
    if walk._maxima is not None:
        numbers += walk._maxima.windows.array.size + walk._maxima.winners.size
    numbers += sum(len(each) for axis in reading.axes for each in axis.places)
    if walk._factors_vary:
        numbers += sum(math.prod(map(len, reading.block(walk._at(i))[0])) for i in range(len(walk)))
    if numbers > MOST_NUMBERS:
        raise ValueError(
            f"walkthrough: {walk.function} would put {numbers:,} numbers on a page; at most {MOST_NUMBERS:,} are: crop "
            "x (its images, its channels, its size)"
        )


def layout(reading: Reading) -> str:
    """How the array lies on its grid, in words."""
    grids = [axis.grid for axis in reading.axes]
    inserted = any((grid == INSERTED).any() for grid in grids)
    padded = any((grid == PADDING).any() for grid in grids)
    return {(0, 0): "", (1, 0): "zeros between", (0, 1): "padded", (1, 1): "zeros between, padded"}[inserted, padded]


def _view(walk: Walkthrough) -> dict[str, Any]:
    """What page.html reads."""
    reading = walk._reading
    steps = list(walk)
    pairs = [(a, b) for a in range(walk.shape[0]) for b in range(walk.shape[1])]
    factors: list[Any] | None = None
    if walk._factors_vary:
        factors = [_factors(walk, walk._at(i)) for i in range(len(walk))]
    spread = walk._spread
    return {
        "manner": walk.manner,
        "kind": walk._kind,
        "button": "collecting" if walk.manner == "collect" else "scattering",
        "head": walk.head,
        "said": walk.said,
        "made": walk._names.made,
        "read": walk._names.read,
        "factor": walk._names.factor or "factors",
        "shape": list(walk.shape),
        "lines": [step.text for step in steps],
        "texts": [shown(step.value, 0.0 if walk.manner == "scatter" else walk._noise(step.products)) for step in steps],
        "values": [_number(step.value) for step in steps],
        **_laid_out(reading),
        "taps": [[each.tolist() for each in axis.taps] for axis in reading.axes],
        "leads": [[each.tolist() for each in reading.channels(a, b)] for a, b in pairs],
        "filters": None if reading.filters is None else _array(reading.filters),
        "filterLeads": None if reading.filter_of is None else [
            [each.tolist() for each in reading.filter_of(a, b)] for a, b in pairs
        ],
        "factors": factors,
        "maxima": None if walk._maxima is None else _maxima(walk, walk._maxima.windows),
        "spread": None if spread is None else _array(spread)["values"],
        "bias": walk.bias is not None,
        "noise": 16 * float(np.finfo(walk.result.dtype).eps),
    }  # fmt: skip


def _laid_out(reading: Reading) -> dict[str, Any]:
    """An array on its grid, and the places of every step."""
    return {
        "array": _array(reading.array),
        "layout": layout(reading),
        "grid": [axis.grid.tolist() for axis in reading.axes],
        "fill": _number(reading.fill),
        "places": [[each.tolist() for each in axis.places] for axis in reading.axes],
    }


def _maxima(walk: Walkthrough, windows: Reading) -> dict[str, Any]:
    """Of every step: the outputs whose windows it is about, and the flat index of their maximum in x."""
    ats = [walk._at(i) for i in range(len(walk))]
    about = [walk._about(at) for at in ats]
    return {
        "windows": [outputs for outputs, _ in about],
        "marked": [
            None if element is None else int(np.ravel_multi_index((*at[:2], *element), windows.array.shape))
            for at, (_, element) in zip(ats, about, strict=True)
        ],
        "x": None if windows is walk._reading else _laid_out(windows),
    }


def _factors(walk: Walkthrough, at: tuple[int, ...]) -> Any:
    """Of one step: a list, or one number where they are all the same."""
    factors = walk._factors(at)
    assert factors is not None
    flat = factors.reshape(-1)
    if flat.size and (flat == flat[0]).all():
        return _number(flat[0])
    return [_number(value) for value in flat]


def _array(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "values": [_number(value) for value in array.reshape(-1)]}


def _number(value: Any) -> Any:
    """As JSON: the shortest digits that mean it; what is not finite as JavaScript's Number reads it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if float(value).is_integer() and abs(value) < 1 << 53:
        return int(value)
    return float(str(value))
