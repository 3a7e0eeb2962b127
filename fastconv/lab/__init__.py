"""The benchmark laboratory: which calls are timed, what they are held against, and how.

    shapes.py           named shapes of real nets, and a timed call of an operation
    numpy_baseline.py   every operation in plain NumPy, and the calls of each that are timed
    compare.py          naive loops, plain NumPy, the kernels and PyTorch in turns: `fastconv compare`

`bench/` times with pytest-benchmark what stands here.
"""
