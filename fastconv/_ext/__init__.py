"""Cython kernels: loops only. Python decides, Cython loops.

`conv/` holds the convolutions' kernels, `pool/` pooling's, `team/` the thread team, `simd/` what knows an instruction
set; the modules beside them are named by their task.

Kernels allocate nothing, validate nothing, take `const` views and an `out`, and release the GIL; every index was proven
in range by the operation that calls them.
"""

from importlib.util import find_spec as _find_spec

if _find_spec("fastconv._ext.blas") is None:
    raise ImportError(
        f"{__path__[0]}: the kernels are not compiled here. In a clone of the sources, start Python in another folder "
        "(an installed fastconv is then found), or compile them in place: pip install -e ."
    )
