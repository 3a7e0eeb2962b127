"""Products of matrices: blocks of one BLAS call each, cut by shape."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv._ext import blas, reduce
from fastconv.arrays import add_bias, contiguous, copy_into
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for

__all__ = ["Cut", "product"]

TASKS = 16  # blocks that a product is cut into where its size allows
LONGEST = 1 << 32  # products of one task, at most: a tenth of a second
NARROWEST = 96  # rows or columns of a block: below, BLAS packs its operands as long as it multiplies
SHORTEST = 256  # terms of a sum that is added up apart, likewise
SMALL = 1 << 20  # multiply-adds of a product that one BLAS call does best


class Cut(NamedTuple):
    """How a product (m, k) @ (k, n) is cut: into blocks of outputs or, where those are few, into sums of some terms, as
    many as the workspace limit has room for."""

    rows: int
    columns: int
    terms: int
    sums: int
    tasks: int

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(m: int, n: int, k: int, itemsize: int, limit: int) -> Cut:
        rows, columns = max(1, m), max(1, n)
        if (work := m * n * k) < SMALL:
            return Cut(rows, columns, max(1, k), 1, 1)
        most = max(TASKS, work // LONGEST)
        pieces = max(1, min(most, max(m, n) // NARROWEST))
        if pieces == 1 and (sums := min(most, k // SHORTEST, limit // (m * n * itemsize))) > 1:
            terms = -(-k // sums)
            sums = -(-k // terms)
            return Cut(rows, columns, terms, sums, sums)
        rows, columns = (-(-m // pieces), n) if m > n else (m, -(-n // pieces))
        return Cut(rows, columns, k, 1, pieces)

    def scratch(self, itemsize: int) -> int:
        """Bytes that the product borrows."""
        return self.sums * self.rows * self.columns * itemsize if self.sums > 1 else 0


def product(
    op: str, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, y: np.ndarray | None = None
) -> np.ndarray:
    """a @ b, plus bias (columns,), in y if that is given; what is contiguous, or its transpose, is read as it lies."""
    (m, k), n = a.shape, b.shape[1]
    if y is None:
        y = allocate(op, (m, n), a.dtype)
    if not k:
        copy_into(y, 0 if bias is None else bias)
        return y
    if not a.flags.forc:
        a = contiguous(op, a)
    if not b.flags.forc:
        b = contiguous(op, b)
    if bias is not None and not bias.flags.c_contiguous:
        bias = contiguous(op, bias)
    cut = Cut.of(m, n, k, a.itemsize, get_workspace_limit())
    apart = cut.sums > 1
    sums = allocate(op, (cut.sums, m, n), a.dtype) if apart else y
    with blas_held:
        blas.matmul(
            a, b, None if apart else bias, sums, cut.rows, cut.columns, cut.terms, threads_for(m * n * k // 4)
        )  # fmt: skip
    if apart:
        reduce.add_in_order(sums.reshape(cut.sums, m * n), y.reshape(m * n), threads_for(sums.nbytes))
        if bias is not None:
            add_bias(y, bias)
    return y
