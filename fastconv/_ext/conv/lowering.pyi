from numpy import ndarray

from fastconv.window import Window

def im2col(x: ndarray, y_shape: tuple[int, ...], window: Window, col: ndarray) -> None: ...
def col2im(col: ndarray, y_shape: tuple[int, ...], window: Window, dx: ndarray) -> None: ...
def all_finite(x: ndarray, num_threads: int) -> bool: ...
def forward(
    x: ndarray,
    w: ndarray,
    bias: ndarray | None,
    y: ndarray,
    window: Window,
    groups: int,
    tile: int,
    scratch: ndarray,
    turned: bool,
) -> None: ...
def gradient_weights(
    x: ndarray,
    dy: ndarray,
    partial: ndarray,
    window: Window,
    groups: int,
    tile: int,
    scratch: ndarray,
) -> None: ...
def gradient_input(
    dy: ndarray,
    w: ndarray,
    dx: ndarray,
    window: Window,
    groups: int,
    tile: int,
    images: int,
    bands: int,
    axis: int,
    scratch: ndarray,
) -> None: ...
