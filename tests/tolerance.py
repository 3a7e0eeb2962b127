"""The one table of tolerances: for cases that are not exact, the largest difference from the reference.

Relative to the largest value of the array that is compared. What is not listed has DEFAULT's; a line here says why.
"""

import numpy as np

DEFAULT = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}  # a few roundings

TOLERANCES: dict[str, dict[np.dtype, float]] = {}  # op -> {dtype: tolerance}


def tolerance(op: str, dtype: np.dtype) -> float:
    """The tolerance of `op` in `dtype`."""
    return TOLERANCES.get(op, DEFAULT)[np.dtype(dtype)]
