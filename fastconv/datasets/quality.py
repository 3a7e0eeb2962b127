"""What is suspicious in a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from fastconv import notebook
from fastconv.datasets.lazy import LazyImages
from fastconv.errors import ShapeError

__all__ = ["Report", "report"]

CHUNK = 8 << 20  # bytes of X looked at together, so that a memory-mapped X is never read as a whole
UNEVEN = 2.0  # times the smallest class; a larger one is noted
LARGEST_LABEL = 999  # without `classes`, a label beyond is taken for an error
EXAMPLES = 4


@dataclass(frozen=True)
class Report:
    """What `report` found in a data set, images named by their index. It prints as a table."""

    images: int
    shape: tuple[int, ...]  # of one image
    dtype: str
    value_range: tuple[float, float] | None  # of the images without NaN and infinity; None when there is none
    class_counts: dict[str, int]
    duplicates: list[list[int]]  # groups of equal images
    conflicts: list[list[int]]  # the groups among them whose labels differ
    blank: list[int]  # images of a single value
    nonfinite: list[int]  # images with NaN or infinity
    bad_labels: list[int]  # images whose label is no class
    notes: list[str]  # on types, values and class sizes
    shared: list[tuple[int, int]] = field(default_factory=list)  # equal images: index here, index in the test part
    test: Report | None = None

    @property
    def missing_classes(self) -> list[str]:
        """The classes without images."""
        return [name for name, count in self.class_counts.items() if not count]

    @property
    def imbalance(self) -> float:
        """How many times the smallest class that has images the largest is; 1 without images."""
        return _imbalance(self.class_counts)

    @property
    def suspicious(self) -> bool:
        """Whether any check, or any of the test part's, found something."""
        here = bool(self.notes) or any(found for _, found, _ in self._checks())
        return here or (self.test is not None and self.test.suspicious)

    def as_dict(self) -> dict[str, Any]:
        """Every field and property, in values that `json.dumps` accepts."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values |= {name: getattr(self, name) for name in ("missing_classes", "imbalance", "suspicious")}
        return values | {"test": self.test and self.test.as_dict()}

    def __str__(self) -> str:
        lines = self._head()
        lines.append(f"  {'check':28}{'found':>9}  examples")
        lines += [f"  {check:28}{found:>9,}  {examples}".rstrip() for check, found, examples in self._checks()]
        lines += [f"  note: {note}" for note in self.notes]
        if self.test is not None:
            lines += ["test part:", *(f"  {line}" for line in str(self.test).splitlines())]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [("check", "found", "examples"), *((check, f"{found:,}", few) for check, found, few in self._checks())]
        notes = "; ".join(f"note: {note}" for note in self.notes)
        test = "" if self.test is None else f"<p>test part:</p>{self.test._repr_html_()}"
        return notebook.table(rows, above="; ".join(self._head()), below=notes) + test

    def _head(self) -> list[str]:
        spread = "no finite values" if self.value_range is None else "{:g} to {:g}".format(*self.value_range)
        lines = [f"{self.images:,} images of {' x '.join(map(str, self.shape))}, {self.dtype}, {spread}"]
        if self.class_counts:
            by_size = sorted(self.class_counts, key=self.class_counts.__getitem__)
            smallest, largest = (f"{self.class_counts[name]:,} ({name})" for name in (by_size[0], by_size[-1]))
            lines.append(f"{len(by_size):,} classes of {smallest} to {largest} images")
        return lines

    def _checks(self) -> list[tuple[str, int, str]]:
        """What was checked, how often it was found, and where."""
        checks = [
            ("repeats an earlier image", sum(len(group) - 1 for group in self.duplicates), _equal(self.duplicates)),
            ("... under another label", len(self.conflicts), _equal(self.conflicts)),
            ("blank image", len(self.blank), _some(self.blank)),
            ("NaN or infinity", len(self.nonfinite), _some(self.nonfinite)),
            ("label that is no class", len(self.bad_labels), _some(self.bad_labels)),
            ("class without images", len(self.missing_classes), _some(self.missing_classes)),
        ]
        if self.test is not None:
            checks.append(("test image seen in training", len(self.shared), _equal(self.shared)))
        return checks


def report(
    X: ArrayLike,
    y: ArrayLike,
    classes: SupportsIndex | Sequence[str] | None = None,
    *,
    test: tuple[ArrayLike, ArrayLike] | None = None,
) -> Report:
    """What is suspicious in a data set: a `Report`, which prints as a table.

    X (N, ...): images of any shape and real dtype; a memory map is read in pieces. y (N,): labels. `classes`: how many
    classes there are, or their names; by default the labels up to the largest (999 at most) are the classes. `test`:
    the test part `(X, y)`, examined alike and searched for images of X.

    It looks for equal images (bit for bit), equal images with different labels, blank images, NaN and infinity, labels
    that are no class, classes without images or of very different sizes, and unusual dtypes and value ranges.

    Raises ShapeError where X and y, or X and the test part's images, do not fit; TypeError for what is no real number.
    """
    images, labels = _need_set(X, y)
    names = _class_names(classes, labels)
    result, groups = _examine(images, labels, names)
    if test is None:
        return result

    test_images, test_labels = _need_set(*test)
    if test_images.shape[1:] != images.shape[1:]:
        raise ShapeError(f"report: test images must have shape {images.shape[1:]}, got {test_images.shape[1:]}")
    if test_images.dtype != images.dtype:
        raise TypeError(f"report: test images must be {images.dtype} like X, got {test_images.dtype}")
    test_result, test_groups = _examine(test_images, test_labels, names)
    shared = [(groups[key][0], index) for key in groups.keys() & test_groups.keys() for index in test_groups[key]]
    return dataclasses.replace(result, shared=sorted(shared), test=test_result)


def _need_set(X: Any, y: ArrayLike) -> tuple[Any, np.ndarray]:
    images = X if isinstance(X, LazyImages) else np.asarray(X)
    labels = np.asarray(y)
    for name, array in (("X", images), ("y", labels)):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"report: {name} must hold real numbers, got {array.dtype}")
    if images.ndim < 2 or 0 in images.shape[1:]:
        raise ShapeError(f"report: X must have shape (N, ...), one pixel at least per image, got {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ShapeError(f"report: y must have one label per image, {images.shape[:1]}, got {labels.shape}")
    return images, labels


def _class_names(classes: SupportsIndex | Sequence[str] | None, labels: np.ndarray) -> list[str]:
    if classes is None:
        plausible = labels[(labels >= 0) & (labels <= LARGEST_LABEL)]
        classes = int(plausible.max()) + 1 if plausible.size else 0
    names = [str(name) for name in (range(int(classes)) if isinstance(classes, SupportsIndex) else classes)]
    if len(set(names)) < len(names):
        raise ValueError(f"report: class names must differ, got {names}")
    return names


def _examine(images: np.ndarray, labels: np.ndarray, names: list[str]) -> tuple[Report, dict[bytes, list[int]]]:
    """The report on one part, and its equal images by their digest."""
    low, high, groups = _scan(images)
    finite = np.isfinite(low) & np.isfinite(high)
    value_range = (float(low[finite].min()), float(high[finite].max())) if finite.any() else None
    is_class = (labels >= 0) & (labels < len(names)) & (labels == np.floor(labels))
    counts = np.bincount(labels[is_class].astype(np.int64), minlength=len(names))
    class_counts = dict(zip(names, counts.tolist(), strict=True))
    duplicates = [group for group in groups.values() if len(group) > 1]
    result = Report(
        images=len(images),
        shape=images.shape[1:],
        dtype=str(images.dtype),
        value_range=value_range,
        class_counts=class_counts,
        duplicates=duplicates,
        conflicts=[group for group in duplicates if len(set(labels[group].tolist())) > 1],
        blank=_indices((low == high) & finite),
        nonfinite=_indices(~finite),
        bad_labels=_indices(~is_class),
        notes=_notes(images.dtype, labels.dtype, value_range, _imbalance(class_counts)),
    )
    return result, groups


def _scan(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[bytes, list[int]]]:
    """Each image's least and largest value (NaN where it has one), and the indices of the images of each digest."""
    pixels = math.prod(images.shape[1:])
    step = max(1, CHUNK // (pixels * images.itemsize))
    low, high = np.empty((2, len(images)))
    groups: dict[bytes, list[int]] = {}
    for start in range(0, len(images), step):
        rows = np.ascontiguousarray(images[start : start + step]).reshape(-1, pixels)
        with np.errstate(invalid="ignore"):
            low[start : start + step] = rows.min(axis=1)
            high[start : start + step] = rows.max(axis=1)
        for index, row in enumerate(rows, start):
            groups.setdefault(hashlib.blake2b(row.data, digest_size=16).digest(), []).append(index)
    return low, high, groups


def _notes(pixels: np.dtype, labels: np.dtype, value_range: tuple[float, float] | None, imbalance: float) -> list[str]:
    low, high = value_range or (0.0, 1.0)
    notes = []
    if pixels not in (np.float32, np.uint8):
        notes.append(f"the pixels are {pixels}; float32 or uint8 is usual")
    if pixels.kind == "f" and (low < 0 or high > 1):
        notes.append(f"the pixels reach from {low:g} to {high:g}; 0 to 1 is usual for {pixels}")
    if pixels.kind != "f" and value_range and high <= 1:
        notes.append(f"the {pixels} pixels reach from {low:g} to {high:g}; were they scaled before they were cast?")
    if labels.kind not in "iu":
        notes.append(f"the labels are {labels}; integers are usual")
    if imbalance > UNEVEN:
        notes.append(f"the largest class has {imbalance:.3g} times the images of the smallest")
    return notes


def _imbalance(class_counts: dict[str, int]) -> float:
    counts = [count for count in class_counts.values() if count]
    return max(counts) / min(counts) if counts else 1.0


def _indices(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def _some(entries: Sequence[object]) -> str:
    return ", ".join(map(str, entries[:EXAMPLES])) + (", ..." if len(entries) > EXAMPLES else "")


def _equal(groups: Sequence[Sequence[int]]) -> str:
    """Groups of equal images: "3 = 7 = 8, 20 = 21"."""
    return _some([" = ".join(map(str, group[:EXAMPLES])) for group in groups[: EXAMPLES + 1]])
