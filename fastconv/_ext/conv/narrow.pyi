from numpy import ndarray

from fastconv.window import Window

LINE_FLOATS: int

def geometry(
    x_shape: tuple[int, ...], y_shape: tuple[int, ...], window: Window, cut: tuple[int, int], widest: int
) -> bytes: ...
def room(geometry: bytes) -> tuple[int, int, int, int]: ...
def offsets(geometry: bytes, at: ndarray) -> None: ...
def forward(
    geometry: bytes,
    at: ndarray,
    x: ndarray,
    w: ndarray,
    bias: ndarray | None,
    y: ndarray,
    scratch: ndarray,
    threads: int,
    far: bool,
) -> None: ...
def gradient_weights(
    geometry: bytes,
    at: ndarray,
    x: ndarray,
    dy: ndarray,
    dw: ndarray,
    db: ndarray | None,
    scratch: ndarray,
    chunks: int,
    threads: int,
) -> None: ...
