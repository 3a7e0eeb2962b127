"""The errors that fastconv raises on purpose, besides TypeError, MemoryError and OSError.

Every message is one line that names the operation (or the file), the rule that was broken and the numbers.
"""

import difflib
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["FormatError", "ShapeError", "integer", "is_numpy_bool", "listing", "nearest", "position", "printable"]


class ShapeError(ValueError):
    """Shapes, axes or window parameters that do not fit an operation's shape rule."""


class FormatError(ValueError):
    """A file that is not what its name, header or caller says; the message begins with the file's path."""


def integer(op: str, name: str, value: Any) -> int:
    """`value` as an int: Python's and NumPy's integers and bools, and 0-d arrays of them; TypeError for the rest."""
    try:
        return operator.index(value)
    except TypeError:
        if is_numpy_bool(value):
            return int(value)
        whole = isinstance(value, float) and value.is_integer()
        instead = f"; write {int(value)}" if whole else ""
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}{instead}") from None


def position(op: str, name: str, value: Any, count: int) -> int:
    """`value` as the place of one of `count` things, negative from the end; TypeError, or IndexError with the count."""
    at = integer(op, name, value)
    if not -count <= at < count:
        raise IndexError(f"{op}: {name} {at} is out of range, there are {count}, counted from 0")
    return at % count


def is_numpy_bool(value: Any) -> bool:
    """Whether it is one of NumPy's bools, as a scalar or a 0-d array."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and dtype.kind == "b" and not value.ndim


def nearest(word: Any, words: Iterable[str]) -> str:
    """The end of a message about a word that is none of `words`: which of them may have been meant, "" for none."""
    folded = {each.casefold(): each for each in words}
    found = difflib.get_close_matches(str(word)[:100].casefold(), list(folded), 1)
    return f"; did you mean {folded[found[0]]!r}?" if found else ""


def printable(text: str) -> str:
    """The text with a question mark for whatever a terminal would not print, or would obey: names from files."""
    return "".join(char if char.isprintable() else "?" for char in text)


def listing(names: Iterable[str], most: int = 8) -> str:
    """The first of the names for a message, and how many more there are; "none" for no names."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more or "none"
