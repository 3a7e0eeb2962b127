"""The errors that fastconv raises on purpose, besides TypeError, MemoryError and OSError.

Every message is one line that names the operation (or the file), the rule that was broken and the numbers.
"""

__all__ = ["FormatError", "ShapeError"]


class ShapeError(ValueError):
    """Shapes, axes or window parameters that do not fit an operation's shape rule."""


class FormatError(ValueError):
    """A file that is not what its name, header or caller says; the message begins with the file's path."""
