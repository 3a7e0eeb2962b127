from numpy import ndarray

from fastconv.engine.winograd import Tiling
from fastconv.window import Window

def vector_bytes(widest: int) -> int: ...
def forward_blocks(
    x: ndarray,
    w: ndarray,
    bias: ndarray | None,
    y: ndarray,
    window: Window,
    groups: int,
    reversed: bool,
    tiling: Tiling,
    u: ndarray,
    buffers: ndarray,
    row: int,
    plane: int,
    block: int,
    bytes: int,
    num_threads: int,
) -> None: ...
def gradient_weights_blocks(
    x: ndarray,
    dy: ndarray,
    partial: ndarray,
    window: Window,
    groups: int,
    tiling: Tiling,
    buffers: ndarray,
    row: int,
    plane: int,
    u_plane: int,
    block: int,
    bytes: int,
    num_threads: int,
) -> None: ...
