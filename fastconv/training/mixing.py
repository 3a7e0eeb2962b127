"""Targets of images that an augmentation has mixed: MixUp and CutMix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.augment import Augment

__all__ = ["Mixed", "augmented"]


@dataclass(frozen=True)
class Mixed:
    """A batch's targets and how they were mixed: `shares` (N, N) has in row i how much of every sample i is made of.

    Of a part of a batch `shares` has its rows, and the targets are all of the batch's. Class indices (N,) become
    probabilities when the net's output says how many classes there are.
    """

    targets: np.ndarray
    shares: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Each sample's target of the larger share."""
        labels: np.ndarray = self.targets[self.shares.argmax(axis=1)]
        return labels

    def __getitem__(self, rows: slice) -> Mixed:
        """Those of some of the samples."""
        return Mixed(self.targets, self.shares[rows])

    def mixed_for(self, output: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) for class indices and the output (N, C); floats as they are mixed. Raises ValueError for
        other targets, and for what is no class."""
        targets = self.targets
        if targets.dtype.kind == "f":
            shared: np.ndarray = np.tensordot(self.shares, targets, axes=1)
            return shared
        if targets.dtype.kind not in "iu" or targets.ndim != 1 or output.ndim != 2:
            raise ValueError(
                "augment: images were mixed, so targets must be class indices (N,) for an output (N, C), or floats; "
                f"got {targets.dtype} {targets.shape} for an output {output.shape}"
            )
        classes = output.shape[1]
        if targets.size and not 0 <= targets.min() <= targets.max() < classes:
            raise ValueError(
                f"augment: images were mixed, so targets must be classes from 0 to {classes - 1}, got "
                f"{targets.min()} to {targets.max()}"
            )
        probabilities = np.zeros(output.shape, output.dtype)
        rows, columns = np.nonzero(self.shares)
        np.add.at(probabilities, (rows, targets[columns]), self.shares[rows, columns].astype(output.dtype))
        return probabilities


def augmented(augment: Callable[..., Any], x: Any, y: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """The batch with its images changed; its targets as `Mixed` where images were mixed."""
    if not (isinstance(augment, Augment) and augment.mixes):
        return augment(x, rng), y
    if not isinstance(y, np.ndarray):
        raise ValueError("augment: images that are mixed must have one array of targets; these have several")
    x, shares = augment(x, rng, targets=np.eye(len(x)))
    return x, Mixed(y, shares)
