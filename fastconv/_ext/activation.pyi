from numpy import ndarray

ACTIVATIONS: dict[str, int]

def activate(kind: int, x: ndarray, y: ndarray, a: float, b: float, num_threads: int) -> None: ...
def activate_backward(
    kind: int, dy: ndarray, x: ndarray, dx: ndarray, a: float, b: float, num_threads: int
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
