"""The cases of every operation, one module a family of operations; case.py says what a module offers."""

from collections.abc import Callable
from typing import Any

from cases import activation, conv, conv_transpose, dropout, linear, locally_connected, loss, norm, pool, resample
from cases.case import BadCase, Case, Draw

__all__ = ["BAD_CASES", "CASES", "LARGE", "RANDOM", "TORCH", "BadCase", "Case", "Draw"]

FAMILIES = (conv, conv_transpose, locally_connected, pool, resample, linear, activation, norm, loss, dropout)

CASES: list[Case] = [case for family in FAMILIES for case in family.CASES]
BAD_CASES: list[BadCase] = [case for family in FAMILIES for case in family.BAD_CASES]
LARGE: list[Case] = [case for family in FAMILIES for case in getattr(family, "LARGE", [])]
RANDOM: dict[str, Callable[..., Case]] = {name: make for family in FAMILIES for name, make in family.RANDOM.items()}
TORCH: dict[str, Callable[..., Any]] = {name: twin for family in FAMILIES for name, twin in family.TORCH.items()}
