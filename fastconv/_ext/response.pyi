from numpy import ndarray

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
