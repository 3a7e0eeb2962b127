"""The handwritten digits that come with this package."""

from __future__ import annotations

import numpy as np

from fastconv.datasets.pixels import Part, as_images

__all__ = ["load_digits"]

TEST_IMAGES = 360
WHITE = 16


def load_digits(*, raw: bool = False) -> tuple[Part, Part]:
    """1,797 handwritten digits: 1,437 training images and, the last 360 in their order, the test images.

    Returns `(X_train, y_train), (X_test, y_test)`: X (N, 1, 8, 8) float32, the stored 0..16 scaled to [0, 1]; y (N,)
    int64, 0..9. `raw=True`: X uint8 as stored.

    Source: the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998 (CC BY 4.0), in the file that scikit-learn (BSD-3-Clause) ships: LICENSE-digits.txt.
    """
    import gzip
    from importlib.resources import files

    with (files("fastconv") / "data" / "digits.csv.gz").open("rb") as packed, gzip.open(packed) as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)  # 64 pixels, then the label
    images = as_images("load_digits", [table[:, :-1]], len(table), (1, 8, 8), raw=raw, white=WHITE)
    labels = table[:, -1].astype(np.int64)
    return (images[:-TEST_IMAGES], labels[:-TEST_IMAGES]), (images[-TEST_IMAGES:], labels[-TEST_IMAGES:])
