from numpy import ndarray

from fastconv.engine.contract import Epilogue
from fastconv.window import Window

class Parts:
    count: int
    size: int
    def __init__(
        self,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        groups: int,
        parts: tuple[
            tuple[Window, tuple[slice, ...], tuple[slice, ...], tuple[int, int, int], int],
            ...,
        ],
        kernel: tuple[int, ...],
        widest: int,
    ) -> None: ...

def panels(filters: int, widest: int) -> tuple[int, int]: ...
def room(seen: int, pixels: int, channels: int, taps: int) -> tuple[int, int]: ...
def pack(w: ndarray, packed: ndarray, widest: int, num_threads: int) -> None: ...
def unpack(partial: ndarray, dw: ndarray, widest: int, num_threads: int) -> None: ...
def pack_parts(w: ndarray, packed: ndarray, parts: Parts, widest: int, num_threads: int) -> None: ...
def forward(
    x: ndarray,
    packed: ndarray,
    start: ndarray,
    y: ndarray,
    parts: Parts,
    scratch: ndarray,
    tables: ndarray,
    far: bool,
    widest: int,
    after: Epilogue,
) -> None: ...
def gradient_weights(
    x: ndarray,
    dy: ndarray,
    partial: ndarray,
    window: Window,
    groups: int,
    cut: tuple[int, int, int],
    splits: int,
    scratch: ndarray,
    tables: ndarray,
    widest: int,
    transposed: bool,
) -> None: ...
