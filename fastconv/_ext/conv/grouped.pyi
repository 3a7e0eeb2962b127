from numpy import ndarray

from fastconv.engine.grouped import Lanes
from fastconv.window import Window

APART_FLOATS: int
STREAMED_BYTES: int
MOST_OUTPUTS: int

def pack(w: ndarray, packed: ndarray, lanes: Lanes) -> None: ...
def unpack(partial: ndarray, dw: ndarray, lanes: Lanes) -> None: ...
def forward(
    x: ndarray,
    packed: ndarray,
    start: ndarray,
    y: ndarray,
    window: Window,
    outputs: tuple[slice, ...],
    lanes: Lanes,
    cut: tuple[int, int],
    splits: int,
    scratch: ndarray,
    prefetches: bool,
    far: bool,
    bytes: int,
) -> None: ...
def gradient_weights(
    x: ndarray,
    dy: ndarray,
    partial: ndarray,
    window: Window,
    lanes: Lanes,
    cut: tuple[int, int],
    splits: int,
    scratch: ndarray,
    prefetches: bool,
    bytes: int,
) -> None: ...
