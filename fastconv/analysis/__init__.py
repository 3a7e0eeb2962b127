"""The chapter's own tools: what a net's layers are, seen from outside.

    receptive_field, input_region            which inputs a layer's neurons see, exactly
    empirical_receptive_field, draw_…        the same by gradients; both over an image
    output_shape, summary                    shapes, parameters, FLOPs; `net.summary` is the latter
    infer_padding                            padding from sizes
    conv_matrix                              a convolutional layer's neurons as a sparse matrix
    to_scanner                               a trained classifier that slides over larger images
    scan                                     which class is where in a larger picture, or none: ∅
    window_indices                           which element of its window a maximum is, 1 … L * L
    record                                   every variable of a net on one batch, forward and backward, by layer
    walkthrough                              a convolution, pooling or resampling, and its gradients, step by step

`steps.py` follows a net without computing it, `reach.py` says what every layer reads, `explain.py` what served it and
how long it took, `fastconv.explain`: `stopwatch.py` watches the steps, `floor.py` says how long they take at least.
"""

from fastconv.analysis.geometry import conv_matrix, infer_padding, window_indices
from fastconv.analysis.receptive import (
    ReceptiveField,
    draw_receptive_field,
    empirical_receptive_field,
    input_region,
    receptive_field,
)
from fastconv.analysis.record import Entry, Record, record
from fastconv.analysis.scanner import to_scanner
from fastconv.analysis.scanning import Box, Scan, scan
from fastconv.analysis.steps import output_shape
from fastconv.analysis.table import Row, Summary, summary
from fastconv.analysis.walkthrough import Step, Walkthrough, walkthrough

__all__ = [
    "Entry",
    "Box",
    "ReceptiveField",
    "Record",
    "Row",
    "Step",
    "Scan",
    "Summary",
    "Walkthrough",
    "conv_matrix",
    "draw_receptive_field",
    "empirical_receptive_field",
    "infer_padding",
    "input_region",
    "output_shape",
    "receptive_field",
    "record",
    "scan",
    "summary",
    "to_scanner",
    "walkthrough",
    "window_indices",
]
