"""Cases of losses (case.py says how)."""

from collections.abc import Callable
from typing import Any

from cases.case import BadCase, Case

CASES: list[Case] = []

BAD_CASES: list[BadCase] = []

RANDOM: dict[str, Callable[..., Case]] = {}

TORCH: dict[str, Callable[..., Any]] = {}
