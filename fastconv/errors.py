"""The errors that fastconv raises on purpose, besides TypeError, MemoryError and OSError.

Every message is one line that names the operation (or the file), the rule that was broken and the numbers.
"""

import difflib
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["FormatError", "ShapeError", "integer", "nearest"]


class ShapeError(ValueError):
    """Shapes, axes or window parameters that do not fit an operation's shape rule."""


class FormatError(ValueError):
    """A file that is not what its name, header or caller says; the message begins with the file's path."""


def integer(op: str, name: str, value: Any) -> int:
    """`value` as an int: Python's and NumPy's integers and bools, and 0-d arrays of them; TypeError for the rest."""
    try:
        return operator.index(value)
    except TypeError:
        if getattr(value, "dtype", None) == bool and not value.ndim:
            return int(value)
        whole = isinstance(value, float) and value.is_integer()
        instead = f"; write {int(value)}" if whole else ""
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}{instead}") from None


def nearest(word: Any, words: Iterable[str]) -> str:
    """The end of a message about a word that is none of `words`: which of them may have been meant, "" for none."""
    found = difflib.get_close_matches(str(word)[:100], list(words), 1)
    return f"; did you mean {found[0]!r}?" if found else ""
