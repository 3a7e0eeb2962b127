"""What a Trainer writes down: one record an epoch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from typing import Any, SupportsIndex, overload

import numpy as np

from fastconv import notebook
from fastconv.files import replace_text

__all__ = ["History", "plain"]

Record = dict[str, Any]

MOST_ROWS = 50  # of the table in a notebook


class History(list[Record]):
    """A list of records, one dict an epoch; `history["loss"]` is a column (None where a record has no such entry). In a
    notebook it shows as a table."""

    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> Record: ...
    @overload
    def __getitem__(self, key: slice) -> list[Record]: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if self and key not in self.columns():
                raise KeyError(key)
            return [record.get(key) for record in self]
        return super().__getitem__(key)

    def columns(self) -> list[str]:
        """The names of all entries, in order of appearance."""
        return list(dict.fromkeys(name for record in self for name in record))

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A matplotlib figure of loss and accuracy by epoch, which shows in a notebook; written to `path` if it is
        given (.png, .svg or .pdf). Needs matplotlib: the extra [plot]."""
        from fastconv import plots

        return plots.saved(plots.training_curve(self), path)

    def _repr_html_(self) -> str:
        columns = self.columns()
        rows = [[_shown(name, record.get(name)) for name in columns] for record in self]
        if len(rows) > MOST_ROWS:
            rows[MOST_ROWS // 2 : -MOST_ROWS // 2] = [["…"] * len(columns)]
        return notebook.table([columns or ["no epochs yet"], *rows], left=0)

    def to_csv(self, path: str | os.PathLike[str], *, follow_links: bool = True) -> None:
        """Write a table with a row an epoch; numbers in full precision. See `fastconv.files.replace_whole`."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns())
        writer.writeheader()
        writer.writerows(self)
        replace_text(path, text.getvalue(), follow_links=follow_links)

    def to_json(self, path: str | os.PathLike[str], *, follow_links: bool = True) -> None:
        """Write a list of objects; what is no finite number becomes null. See `fastconv.files.replace_whole`."""
        records = [{name: plain(value) for name, value in record.items()} for record in self]
        rows = [{name: value if _is_finite(value) else None for name, value in record.items()} for record in records]
        replace_text(path, json.dumps(rows, indent=1, allow_nan=False) + "\n", follow_links=follow_links)


def plain(value: Any) -> Any:
    """A NumPy scalar, or an array of one without axes, as Python's number; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray)) and not value.ndim:
        value = value.item()
    return float(value) if isinstance(value, np.floating) else value  # longdouble, of which Python has none


def _shown(name: str, value: Any) -> str:
    """A cell of the table."""
    value = plain(value)
    if not isinstance(value, float):
        return "" if value is None else f"{value}"
    return f"{value:.1f}" if name == "seconds" else f"{value:.4f}" if name.endswith("accuracy") else f"{value:.4g}"


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
