"""Operations, one a file, and the list of them that tests, bench and docs walk.

A file holds, in this order: the maths and shapes (its docstring), the shape rule, the reference, the fast forward and
backward. `conv.py` is the worked example.
"""

from fastconv.ops import (  # noqa: F401
    activation,
    adaptive_pool,
    conv,
    conv_transpose,
    dropout,
    function_pool,
    linear,
    locally_connected,
    loss,
    norm,
    pool,
    resample,
    resize,
    unpool,
)
from fastconv.ops.registry import OPS, Op, register

__all__ = ["OPS", "Op", "register"]
