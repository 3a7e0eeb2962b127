from numpy import ndarray

from fastconv.window import Window

def room(
    y_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    window: Window,
    shifted: bool,
    cut: tuple[int, ...],
    widest: int,
) -> tuple[int, int, int]: ...
def transposed(
    y: ndarray,
    w: ndarray,
    start: ndarray,
    x: ndarray,
    window: Window,
    shifted: bool,
    cut: tuple[int, ...],
    index: ndarray,
    scratch: ndarray,
    tables: ndarray,
    widest: int,
) -> None: ...
