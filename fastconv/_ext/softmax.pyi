from numpy import ndarray

def log_sums(x: ndarray, sums: ndarray, num_threads: int) -> None: ...
def cross_entropy(x: ndarray, target: ndarray, sums: ndarray, losses: ndarray, num_threads: int) -> bool: ...
def softmax(x: ndarray, y: ndarray, sums: ndarray, num_threads: int) -> None: ...
def log_softmax(x: ndarray, sums: ndarray, y: ndarray, num_threads: int) -> None: ...
def softmax_backward(
    dy: ndarray, x: ndarray, sums: ndarray, dx: ndarray, as_logarithm: bool, num_threads: int
) -> None: ...
def cross_entropy_backward(
    x: ndarray,
    sums: ndarray,
    target: ndarray,
    weight: ndarray | None,
    direct: ndarray,
    smooth: ndarray | None,
    weight_sum: float,
    dx: ndarray,
    num_threads: int,
) -> None: ...
