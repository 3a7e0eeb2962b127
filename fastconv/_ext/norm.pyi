from numpy import ndarray

def moments(
    x: ndarray,
    coefficients: ndarray,
    sums: ndarray,
    statistics: ndarray,
    step: int,
    block_rows: int,
    num_threads: int,
) -> None: ...
def update_running(running: ndarray, statistics: ndarray, which: int, factor: float, momentum: float) -> None: ...
def normalise(
    x: ndarray,
    y: ndarray,
    statistics: ndarray,
    eps: float,
    weight: ndarray | None,
    bias: ndarray | None,
    coefficients: ndarray,
    block_rows: int,
    num_threads: int,
    relu: bool = False,
    addend: ndarray | None = None,
) -> None: ...
def settle(
    statistics: ndarray, eps: float, weight: ndarray | None, bias: ndarray | None, coefficients: ndarray
) -> None: ...
def products(
    dy: ndarray,
    x: ndarray,
    coefficients: ndarray,
    sums: ndarray,
    block_rows: int,
    num_threads: int,
    relu: bool = False,
    y: ndarray | None = None,
    gated: ndarray | None = None,
) -> None: ...
def settle_products(
    sums: ndarray,
    statistics: ndarray,
    coefficients: ndarray,
    weight: ndarray | None,
    totals: ndarray,
    dweight: ndarray | None,
    dbias: ndarray | None,
) -> None: ...
def settle_backward(
    totals: ndarray,
    statistics: ndarray,
    weight: ndarray | None,
    groups: int,
    pixels: int,
    coefficients: ndarray,
) -> None: ...
def scale_shift_backward(
    dy: ndarray,
    x: ndarray,
    coefficients: ndarray,
    dx: ndarray,
    block_rows: int,
    num_threads: int,
    before: ndarray | None = None,
) -> None: ...

most_taps: int
widest: int

def normalise_windows(
    x: ndarray,
    y: ndarray,
    chosen: ndarray,
    kernel: tuple[int, ...],
    statistics: ndarray,
    eps: float,
    weight: ndarray | None,
    bias: ndarray | None,
    coefficients: ndarray,
    num_threads: int,
) -> None: ...
def windows_products(
    dy: ndarray,
    chosen: ndarray,
    x: ndarray,
    kernel: tuple[int, ...],
    coefficients: ndarray,
    sums: ndarray,
    block_rows: int,
    num_threads: int,
) -> None: ...
def windows_backward(
    dy: ndarray,
    chosen: ndarray,
    x: ndarray,
    kernel: tuple[int, ...],
    coefficients: ndarray,
    dx: ndarray,
    num_threads: int,
) -> None: ...
def layer_norm(
    x: ndarray,
    weight: ndarray,
    bias: ndarray,
    y: ndarray,
    statistics: ndarray,
    eps: float,
    num_threads: int,
) -> None: ...
def layer_norm_backward(
    dy: ndarray,
    x: ndarray,
    weight: ndarray,
    statistics: ndarray,
    dx: ndarray,
    sums: ndarray,
    block_rows: int,
    num_threads: int,
) -> None: ...
