from numpy import ndarray

from fastconv.window import Window

def panels(filters: int, widest: int) -> tuple[int, int]: ...
def pack(w: ndarray, packed: ndarray, widest: int, num_threads: int) -> None: ...
def unpack(partial: ndarray, dw: ndarray, widest: int, num_threads: int) -> None: ...
def forward(
    x: ndarray,
    packed: ndarray,
    start: ndarray,
    y: ndarray,
    window: Window,
    outputs: tuple[slice, ...],
    groups: int,
    cut: tuple[int, int, int],
    splits: int,
    scratch: ndarray,
    tables: ndarray,
    widest: int,
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
) -> None: ...
