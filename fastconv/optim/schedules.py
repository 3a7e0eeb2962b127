"""Learning-rate schedules: pure functions of the step number, and data."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Exponential",
    "Linear",
    "OneCycle",
    "Schedule",
    "Step",
    "as_rate",
    "number",
]


def number(owner: str, name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """`value` as a finite float in [low, high]."""
    if isinstance(value, (bool, np.bool_, str)):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}") from None
    if not (math.isfinite(number) and low <= number <= high):
        bounds = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{owner}: {name} must be finite and {bounds}, got {value!r}")
    return number


def _part(owner: str, name: str, value: Any) -> int | float:
    """A number of steps (an int), or a part of the total (a float in [0, 1])."""
    try:
        steps = operator.index(value)
    except TypeError:
        return number(owner, name, value, 0, 1)
    if steps < 0 or isinstance(value, bool):
        raise ValueError(f"{owner}: {name} must be a number of steps or a part of the total, got {value!r}")
    return steps


@dataclass(frozen=True)
class Schedule:
    """A learning rate as a function of the step number, counted from 0.

    `total` is the number of steps of the whole run; where it is None the optimiser's `total_steps` counts, which a
    Trainer sets to epochs * steps per epoch. Wherever steps are asked for, an int is a number of steps and a float a
    part of the total.
    """

    def __post_init__(self) -> None:
        self._check()
        total = getattr(self, "total", None)
        if total is not None:
            try:
                object.__setattr__(self, "total", operator.index(total))
            except TypeError:
                raise TypeError(f"{self._name}: total must be an int or None, got {total!r}") from None
            if self.total < 1:  # type: ignore[attr-defined]
                raise ValueError(f"{self._name}: total must be at least 1, got {total}")

    def __call__(self, step: int, total: int | None = None) -> float:
        """The rate of step number `step`; `total` counts where the schedule has none of its own."""
        raise NotImplementedError

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check(self) -> None:
        """Check and normalise the fields."""

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _total(self, total: int | None) -> int:
        own = getattr(self, "total", None)
        if own is None and total is None:
            raise ValueError(
                f"{self._name}: the total number of steps is not known: give the schedule total=, or the optimiser "
                "total_steps (a Trainer does it where the number of batches is known)"
            )
        return own if own is not None else total  # type: ignore[return-value]

    def _steps(self, part: int | float, total: int | None) -> float:
        return part * self._total(total) if isinstance(part, float) else part

    def config(self) -> dict[str, Any]:
        """The schedule as data, for JSON; ValueError for one that is not fastconv's own."""
        if SCHEDULES.get(self._name) is not type(self):
            raise ValueError(f"{self._name}: only fastconv's own schedules can be saved")
        return {"schedule": self._name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class _Warm(Schedule):
    """A schedule from `lr`, after `warmup` steps that rise to it in a straight line."""

    lr: float

    def _check(self) -> None:
        self._set(lr=number(self._name, "lr", self.lr))
        for name in ("final", "gamma"):
            if hasattr(self, name):
                self._set(**{name: number(self._name, name, getattr(self, name))})
        self._set(warmup=_part(self._name, "warmup", self.warmup))  # type: ignore[attr-defined]

    def __call__(self, step: int, total: int | None = None) -> float:
        warmup = self._steps(self.warmup, total)  # type: ignore[attr-defined]
        if step < warmup:
            return self.lr * min(1.0, (step + 1) / warmup)
        return self._after(step, warmup, total)

    def _after(self, step: int, warmup: float, total: int | None) -> float:
        return self._at(min(1.0, (step - warmup) / max(1.0, self._total(total) - warmup)))

    def _at(self, progress: float) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(_Warm):
    """`lr` all the way."""

    warmup: int | float = 0
    total: int | None = None

    def _after(self, step: int, warmup: float, total: int | None) -> float:
        return self.lr


@dataclass(frozen=True)
class Step(_Warm):
    """`lr`, times `gamma` from each of the `milestones` on (torch's MultiStepLR)."""

    milestones: Sequence[int | float] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: int | float = 0
    total: int | None = None

    def _check(self) -> None:
        super()._check()
        entries = self.milestones if np.ndim(self.milestones) else (self.milestones,)
        self._set(milestones=tuple(_part(self._name, "milestones", entry) for entry in entries))

    def _after(self, step: int, warmup: float, total: int | None) -> float:
        return self.lr * self.gamma ** sum(step >= self._steps(part, total) for part in self.milestones)


@dataclass(frozen=True)
class Linear(_Warm):
    """From `lr` to `final` in a straight line."""

    final: float = 0.0
    warmup: int | float = 0
    total: int | None = None

    def _at(self, progress: float) -> float:
        return self.lr + (self.final - self.lr) * progress


@dataclass(frozen=True)
class Cosine(_Warm):
    """From `lr` to `final` along half a cosine (Loshchilov and Hutter, 2017; torch's CosineAnnealingLR)."""

    final: float = 0.0
    warmup: int | float = 0
    total: int | None = None

    def _at(self, progress: float) -> float:
        return self.final + (self.lr - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Exponential(_Warm):
    """From `lr` to `final` by the same factor at every step."""

    final: float
    warmup: int | float = 0
    total: int | None = None

    def _check(self) -> None:
        super()._check()
        if not (self.lr > 0 and self.final > 0):
            raise ValueError(f"Exponential: lr and final must be positive, got {self.lr} and {self.final}")

    def _at(self, progress: float) -> float:
        return float(self.lr * (self.final / self.lr) ** progress)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From peak / div up to `peak` during `warmup`, then down to peak / div / final_div, along half cosines (Smith and
    Topin, 2018; torch's OneCycleLR without its cycling of the momentum)."""

    peak: float
    warmup: int | float = 0.3
    div: float = 25.0
    final_div: float = 1e4
    total: int | None = None

    def _check(self) -> None:
        self._set(
            peak=number(self._name, "peak", self.peak),
            warmup=_part(self._name, "warmup", self.warmup),
            div=number(self._name, "div", self.div, 1),
            final_div=number(self._name, "final_div", self.final_div, 1),
        )

    def __call__(self, step: int, total: int | None = None) -> float:
        last = self._total(total) - 1
        top = self._steps(self.warmup, total) - 1
        start = self.peak / self.div
        if step <= top:
            return _half_cosine(start, self.peak, step / top if top > 0 else 1.0)
        return _half_cosine(self.peak, start / self.final_div, min(1.0, (step - top) / max(1.0, last - top)))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    cls.__name__: cls for cls in (Constant, Step, Linear, Cosine, Exponential, OneCycle)
}


def rate_from_data(options: dict[str, Any]) -> dict[str, Any]:
    """Options whose "lr" may be a schedule's `config`, with the schedule itself in its place."""
    rate = options.get("lr")
    if not isinstance(rate, dict):
        return options
    cls = SCHEDULES.get(str(rate.get("schedule")))
    if cls is None:
        raise ValueError(f"no learning-rate schedule is called {str(rate.get('schedule'))[:80]!r}")
    return {**options, "lr": cls(**{name: value for name, value in rate.items() if name != "schedule"})}


def as_rate(owner: str, value: Any) -> float | Schedule:
    return value if isinstance(value, Schedule) else number(owner, "lr", value)
