"""What a net makes of labelled images: for the end of `fastconv train`, and for `fastconv evaluate`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.cli import rundir
from fastconv.files import replace_text
from fastconv.layers.base import Layer
from fastconv.training.classification import ClassReport

__all__ = ["Outcome", "finite"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a net makes of images it was not trained on."""

    probabilities: np.ndarray  # (N, classes)
    loss: float  # the mean of -log of the true class's probability
    report: ClassReport

    @classmethod
    def of(cls, net: Layer, x: Any, y: np.ndarray, classes: tuple[str, ...], batch_size: int) -> Outcome:
        from fastconv import functional

        logits = net.predict(x, batch_size=batch_size)
        loss = float(functional.cross_entropy(logits, y))
        return cls(functional.softmax(logits), loss, ClassReport.of(y, logits.argmax(axis=1), classes))

    @property
    def accuracy(self) -> float:
        return self.report.accuracy

    def told(self, part: str) -> str:
        """In a line."""
        report = self.report
        return f"{part} accuracy {100 * report.accuracy:.2f} % ({report.right:,} of {report.images:,} images)"

    def as_dict(self, part: str) -> dict[str, Any]:
        """For JSON."""
        return {"part": part, "loss": finite(self.loss), **self.report.as_dict()}

    def write(self, folder: Path, part: str) -> None:
        """Into a run's folder: report.json and report.txt."""
        rundir.write_json(folder / rundir.REPORT, self.as_dict(part))
        text = f"{self.told(part)}, cross-entropy {self.loss:.4f}\n\n{self.report}\n"
        replace_text(folder / rundir.REPORT_TEXT, text, follow_links=False)


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN and no infinity."""
    return value if math.isfinite(value) else None
