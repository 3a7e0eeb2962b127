from numpy import ndarray

from fastconv.window import Window

DIVISORS: dict[str, int]

def max_forward(
    x: ndarray, y: ndarray, taps: ndarray, window: Window, adapts: bool, tasks: int, num_threads: int
) -> None: ...
def sum_forward(
    x: ndarray,
    y: ndarray,
    window: Window,
    adapts: bool,
    transposed: bool,
    divisor: int,
    tasks: int,
    num_threads: int,
) -> None: ...
def max_backward(
    dy: ndarray,
    taps: ndarray,
    dx: ndarray,
    offsets: ndarray,
    window: Window,
    adapts: bool,
    apart: bool,
    axis: int,
    cuts: ndarray,
    num_threads: int,
) -> None: ...
def unpool(x: ndarray, indices: ndarray, y: ndarray, num_threads: int) -> None: ...
def unpool_backward(dy: ndarray, indices: ndarray, dx: ndarray, num_threads: int) -> None: ...
