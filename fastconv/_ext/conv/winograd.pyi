from numpy import ndarray

from fastconv.engine.contract import Epilogue
from fastconv.engine.winograd import Tiling
from fastconv.window import Window

TILES: dict[int, tuple[int, int]]

def axis_transforms() -> tuple[list[list[float]], list[list[float]], list[list[float]], list[list[float]]]: ...
def forward_blocks(
    x: ndarray,
    w: ndarray,
    bias: ndarray | None,
    y: ndarray,
    window: Window,
    groups: int,
    reversed: bool,
    taps_last: bool,
    tiling: Tiling,
    u: ndarray,
    ready: bool,
    buffers: ndarray,
    row: int,
    plane: int,
    block: int,
    bytes: int,
    after: Epilogue,
    far: bool,
    num_threads: int,
) -> None: ...
def forward_panels(
    x: ndarray,
    w: ndarray,
    bias: ndarray | None,
    y: ndarray,
    window: Window,
    groups: int,
    reversed: bool,
    taps_last: bool,
    tiling: Tiling,
    v: ndarray,
    u: ndarray,
    m: ndarray,
    row: int,
    chunk: int,
    depth: int,
    wide: int,
    bytes: int,
    after: Epilogue,
    far: bool,
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
def gradient_weights_pieces(
    x: ndarray,
    dy: ndarray,
    sums: ndarray,
    window: Window,
    groups: int,
    tiling: Tiling,
    v: ndarray,
    m: ndarray,
    u: ndarray,
    row: int,
    m_row: int,
    chunk: int,
    height: int,
    width: int,
    depth: int,
    bytes: int,
    num_threads: int,
) -> None: ...
