from numpy import ndarray

def keep_every(
    wide: ndarray, narrow: ndarray, factor: tuple[int, ...], phase: tuple[int, ...], num_threads: int
) -> None: ...
def place_every(
    narrow: ndarray, wide: ndarray, factor: tuple[int, ...], phase: tuple[int, ...], num_threads: int
) -> None: ...
def spread(
    narrow: ndarray, wide: ndarray, factor: tuple[int, ...], phase: tuple[int, ...], num_threads: int
) -> None: ...
def pick(
    x: ndarray,
    y: ndarray,
    picked0: ndarray,
    picked1: ndarray,
    picked2: ndarray,
    twice: bool,
    num_threads: int,
) -> None: ...
def combine(
    x: ndarray,
    y: ndarray,
    begins: ndarray,
    columns: ndarray,
    weights: ndarray,
    pieces: int,
    num_threads: int,
) -> None: ...
