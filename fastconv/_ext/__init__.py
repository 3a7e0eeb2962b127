"""Cython kernels: loops only. Python decides, Cython loops.

Kernels allocate nothing, validate nothing, take `const` views and an `out`, and release the GIL; every index was proven
in range by the operation that calls them.
"""
