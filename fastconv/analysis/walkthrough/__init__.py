"""Convolution, pooling and resampling made visible: one output at a time, forward and backward.

`call.py` says which operations there are and what each step of them reads, `reading.py` holds that as a table per axis,
`steps.py` computes and prints the steps, `page.py` makes an HTML page of them, `picture.py` a strip and an animation.
"""

from fastconv.analysis.walkthrough.call import walkthrough
from fastconv.analysis.walkthrough.steps import Step, Walkthrough

__all__ = ["Step", "Walkthrough", "walkthrough"]
