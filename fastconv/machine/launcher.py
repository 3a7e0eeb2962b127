"""What a launcher of MPI's says in the environment, and what Open MPI is told there before it begins."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["RANKS", "SIZES", "number", "prepare", "told_ranks"]

SIZES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"  # of Open MPI's launcher, and of MPICH's and its kin
RANKS = "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"
ABI, LIBRARY = "MPI4PY_MPIABI", "MPI4PY_LIBMPI"
SUM = "OMPI_MCA_coll_libnbc_iallreduce_algorithm"
RING, HALVING = "1", "3"  # Open MPI's own numbers; halving is for as many ranks as a power of two


def number(names: Iterable[str]) -> tuple[str, int] | None:
    """The first of these variables of the environment that is a count."""
    for name in names:
        text = os.environ.get(name, "")
        if text.isdecimal() and len(text) < 10:
            return name, int(text)
    return None


def told_ranks() -> tuple[str, int] | None:
    """The variable by which a launcher says that there are several ranks, and how many at least; None without."""
    size, rank = number(SIZES), number(RANKS)
    if size is not None:
        return size if size[1] > 1 else None
    return (rank[0], rank[1] + 1) if rank is not None and rank[1] else None


def prepare() -> None:
    """Under Open MPI's launcher, before MPI begins: that mpi4py shall take Open MPI, where it finds another MPI first,
    and how gradients are added up. By itself Open MPI sends all of them to one rank and back, twice the bytes of a ring
    or of halving and doubling. What the environment says already, or mpiexec's command line, stays."""
    told = number(SIZES[:1])
    if told is not None and told[1] > 1:
        if LIBRARY not in os.environ:
            os.environ.setdefault(ABI, "openmpi")
        os.environ.setdefault(SUM, HALVING if told[1] & (told[1] - 1) == 0 else RING)
