from numpy import ndarray

from fastconv.window import Window

def geometry(
    y_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    window: Window,
    shifted: bool,
    cut: tuple[int, ...],
    widest: int,
) -> bytes: ...
def room(geometry: bytes) -> tuple[int, int, int]: ...
def fill_index(geometry: bytes, index: ndarray) -> None: ...
def transposed(
    geometry: bytes,
    y: ndarray,
    w: ndarray,
    start: ndarray,
    x: ndarray,
    index: ndarray,
    scratch: ndarray,
    tables: ndarray,
) -> None: ...
