from numpy import ndarray

from fastconv.engine.contract import Epilogue
from fastconv.engine.depthwise import Lanes, Reach

KINDS: dict[str, int]
STREAMED_BYTES: int

def pack(w: ndarray, groups: int, exchanged: bool, lanes: ndarray, packed: ndarray) -> None: ...
def unpack(packed: ndarray, groups: int, exchanged: bool, blocks: ndarray, lanes: ndarray, w: ndarray) -> None: ...
def forward(
    x: ndarray,
    w: ndarray,
    bias: ndarray | None,
    y: ndarray,
    reach: Reach,
    lanes: Lanes,
    length: int,
    tasks: int,
    prefetches: bool,
    far: bool,
    after: Epilogue,
    num_threads: int,
) -> None: ...
def gradient_weights(
    x: ndarray,
    dy: ndarray,
    partial: ndarray,
    reach: Reach,
    lanes: Lanes,
    x_is_source: bool,
    length: int,
    prefetches: bool,
    num_threads: int,
) -> None: ...
