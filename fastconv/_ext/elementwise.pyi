from numpy import ndarray

ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]
ERRORS_OF_ONE_SUM: int

def activate(kind: int, x: ndarray, y: ndarray, a: float, b: float, num_threads: int) -> None: ...
def activate_backward(
    kind: int, dy: ndarray, x: ndarray, dx: ndarray, a: float, b: float, num_threads: int
) -> None: ...
def dropout(x: ndarray, y: ndarray, key: int, threshold: int, scale: float, num_threads: int) -> None: ...
def errors(kind: int, x: ndarray, target: ndarray, y: ndarray, num_threads: int) -> None: ...
def error_sums(kind: int, x: ndarray, target: ndarray, sums: ndarray, num_threads: int) -> None: ...
def errors_backward(
    kind: int,
    to_target: bool,
    dy: ndarray,
    x: ndarray,
    target: ndarray,
    dx: ndarray,
    scale: float,
    num_threads: int,
) -> None: ...
