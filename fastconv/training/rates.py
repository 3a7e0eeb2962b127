"""The learning-rate finder's answer: the loss while the rate rose, and a rate to begin with."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Rates"]

SMOOTHING = 0.9  # of the losses' moving average, bias taken out
DIVERGED = 4.0  # times the lowest loss so far


@dataclass(frozen=True)
class Rates:
    """The loss of each step while the learning rate rose from step to step (Smith, 2017).

    rates, losses   a number a step; the loss is that before the step with this rate
    smoothed        the losses' moving average
    suggestion      the rate at which that fell the fastest, before its lowest point; None: it did not fall
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)

    def add(self, rate: float, loss: float) -> bool:
        """One more step; whether the loss is still in bounds."""
        before = 0.0 if not self.smoothed else self.smoothed[-1] * (1 - SMOOTHING ** len(self.losses))
        self.rates.append(rate)
        self.losses.append(loss)
        average = SMOOTHING * before + (1 - SMOOTHING) * loss
        self.smoothed.append(average / (1 - SMOOTHING ** len(self.losses)))
        return self.smoothed[-1] <= DIVERGED * min(self.smoothed)

    @property
    def suggestion(self) -> float | None:
        lowest = int(np.argmin(self.smoothed)) if self.smoothed else 0
        if lowest < 2:
            return None
        slopes = np.gradient(np.array(self.smoothed), np.log(self.rates))[: lowest + 1]
        steepest = int(np.argmin(slopes))
        return float(self.rates[steepest]) if slopes[steepest] < 0 else None

    def __str__(self) -> str:
        if not self.rates:
            return "learning rates: no step was taken"
        best = int(np.argmin(self.smoothed))
        tried = f"{len(self.rates)} steps from {self.rates[0]:.3g} to {self.rates[-1]:.3g}"
        lowest = f"the loss was lowest, {self.smoothed[best]:.4g}, at {self.rates[best]:.3g}"
        if self.suggestion is None:
            return f"learning rates: {tried}; {lowest}; it did not fall: no suggestion"
        return f"learning rates: {tried}; {lowest} and fell the fastest at {self.suggestion:.3g}, which is suggested"

    __repr__ = __str__

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A matplotlib figure of the loss over the rate, which shows in a notebook; written to `path` if it is given
        (.png, .svg or .pdf). Needs matplotlib: the extra [plot]."""
        from fastconv import plots

        return plots.saved(plots.learning_rates(self.rates, self.losses, self.smoothed, self.suggestion), path)
