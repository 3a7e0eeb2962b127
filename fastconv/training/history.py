"""What a Trainer writes down: one record an epoch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from typing import Any, SupportsIndex, overload

import numpy as np

from fastconv.files import replace_text

__all__ = ["History", "plain"]

Record = dict[str, Any]


class History(list[Record]):
    """A list of records, one dict an epoch; `history["loss"]` is a column (None where a record has no such entry)."""

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


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
