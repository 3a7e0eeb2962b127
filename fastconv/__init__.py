"""fastconv."""

__version__ = "0.1.0"
from fastconv.errors import FormatError, ShapeError
