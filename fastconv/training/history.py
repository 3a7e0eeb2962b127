"""What a Trainer writes down: one record an epoch."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

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

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a row an epoch; numbers in full precision."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns())
            writer.writeheader()
            writer.writerows(self)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write a list of objects; what is no finite number becomes null."""
        records = [{name: plain(value) for name, value in record.items()} for record in self]
        rows = [{name: value if _is_finite(value) else None for name, value in record.items()} for record in records]
        Path(path).write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """A NumPy scalar, or an array of one without axes, as Python's number; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray)) and not value.ndim:
        value = value.item()
    return float(value) if isinstance(value, np.floating) else value  # longdouble, of which Python has none


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
