"""The cases of every operation, one module a family of operations; case.py says what a module offers."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from cases.case import BadCase, Case, Draw, LayerCase

__all__ = ["BAD_CASES", "CASES", "LARGE", "LAYERS", "RANDOM", "TORCH", "BadCase", "Case", "Draw", "LayerCase"]

FAMILIES = [importlib.import_module(f"cases.{found.name}") for found in pkgutil.iter_modules(__path__)]

CASES: list[Case] = [case for family in FAMILIES for case in getattr(family, "CASES", [])]
BAD_CASES: list[BadCase] = [case for family in FAMILIES for case in getattr(family, "BAD_CASES", [])]
LARGE: list[Case] = [case for family in FAMILIES for case in getattr(family, "LARGE", [])]
LAYERS: list[LayerCase] = [case for family in FAMILIES for case in getattr(family, "LAYERS", [])]
RANDOM: dict[str, Callable[..., Case]] = {}
TORCH: dict[str, Callable[..., Any]] = {}
for family in FAMILIES:
    RANDOM |= getattr(family, "RANDOM", {})
    TORCH |= getattr(family, "TORCH", {})
