from numpy import ndarray

LOSSES: dict[str, int]
ERRORS_OF_ONE_SUM: int

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
