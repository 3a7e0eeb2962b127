"""Operations, one (or one family with one kernel) a file, and the list of them that tests, bench and docs walk.

A file holds, in this order: the maths and shapes (its docstring), the shape rule, the reference, the fast forward and
backward. `conv.py` is the worked example.
"""

import importlib
import pkgutil

from fastconv.ops.registry import OPS, Op, register

for _found in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_found.name)

__all__ = ["OPS", "Op", "register"]
