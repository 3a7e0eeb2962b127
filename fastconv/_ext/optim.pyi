from numpy import ndarray

def squares(x: ndarray, sums: ndarray, block: int, num_threads: int) -> None: ...
def sgd(
    p: ndarray,
    g: ndarray,
    momentum_of: ndarray | None,
    scale: float,
    decay: float,
    lr: float,
    momentum: float,
    nesterov: bool,
    num_threads: int,
) -> None: ...
def adam(
    p: ndarray,
    g: ndarray,
    mean: ndarray,
    square: ndarray,
    largest: ndarray | None,
    scale: float,
    decay: float,
    keep: float,
    beta1: float,
    beta2: float,
    step_size: float,
    correction: float,
    eps: float,
    num_threads: int,
) -> None: ...
def rmsprop(
    p: ndarray,
    g: ndarray,
    square: ndarray,
    average: ndarray | None,
    momentum_of: ndarray | None,
    scale: float,
    decay: float,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    num_threads: int,
) -> None: ...
