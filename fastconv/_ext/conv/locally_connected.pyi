from numpy import ndarray

def forward(
    x: ndarray, w: ndarray, y: ndarray, stride: tuple[int, ...], dilation: tuple[int, ...], num_threads: int
) -> None: ...
def gradient_weights(
    dy: ndarray, x: ndarray, dw: ndarray, stride: tuple[int, ...], dilation: tuple[int, ...], num_threads: int
) -> None: ...
def gradient_input(
    dy: ndarray, w: ndarray, dx: ndarray, stride: tuple[int, ...], dilation: tuple[int, ...], num_threads: int
) -> None: ...
