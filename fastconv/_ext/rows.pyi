from numpy import ndarray

def column_sums(x: ndarray, sums: ndarray, block_rows: int, num_threads: int) -> None: ...
def add_in_order(partial: ndarray, out: ndarray, num_threads: int) -> None: ...
def add_row(x: ndarray, row: ndarray, num_threads: int) -> None: ...
def moments(
    x: ndarray,
    pivot: ndarray,
    sums: ndarray,
    mean: ndarray,
    var: ndarray,
    step: int,
    block_rows: int,
    num_threads: int,
) -> None: ...
def update_running(running: ndarray, values: ndarray, factor: float, momentum: float) -> None: ...
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
def scale_shift_backward(
    dy: ndarray,
    x: ndarray,
    coefficients: ndarray,
    dx: ndarray,
    block_rows: int,
    num_threads: int,
    before: ndarray | None = None,
) -> None: ...
def log_sums(x: ndarray, sums: ndarray, num_threads: int) -> None: ...
def softmax(x: ndarray, y: ndarray, sums: ndarray, num_threads: int) -> None: ...
def log_softmax(x: ndarray, sums: ndarray, y: ndarray, num_threads: int) -> None: ...
def softmax_backward(
    dy: ndarray, x: ndarray, sums: ndarray, dx: ndarray, as_logarithm: bool, num_threads: int
) -> None: ...
def cross_entropy_backward(
    x: ndarray,
    sums: ndarray,
    target: ndarray,
    weight: ndarray,
    direct: ndarray,
    smooth: ndarray,
    weight_sum: float,
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
def local_response_norm(
    x: ndarray,
    y: ndarray,
    before: int,
    after: int,
    alpha: float,
    beta: float,
    k: float,
    scratch: ndarray,
) -> None: ...
def local_response_norm_backward(
    dy: ndarray,
    x: ndarray,
    dx: ndarray,
    before: int,
    after: int,
    alpha: float,
    beta: float,
    k: float,
    scratch: ndarray,
) -> None: ...
def prelu(x: ndarray, weight: ndarray, y: ndarray, block_rows: int, num_threads: int) -> None: ...
def prelu_backward(
    dy: ndarray,
    x: ndarray,
    weight: ndarray,
    dx: ndarray,
    sums: ndarray,
    block_rows: int,
    num_threads: int,
) -> None: ...
