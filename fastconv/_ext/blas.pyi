from numpy import ndarray

def matmul(
    a: ndarray,
    transpose_a: bool,
    b: ndarray,
    transpose_b: bool,
    bias: ndarray | None,
    out: ndarray,
    row_block: int,
    column_block: int,
    num_threads: int,
) -> None: ...
def set_longest(count: int) -> int: ...
