"""fastconv: train convolutional networks on the CPU.

    functional    every operation as a function, torch.nn.functional's names; `reference` has the same in naive loops
    vjp           the gradient of any of them, of a net, or of an operation of one's own (`register`)
    Conv2d …      layers with torch.nn's names, arguments and state_dict keys; `Sequential` joins them
    optim         SGD, Adam …; `Trainer` is the loop with validation, history and checkpoints
    analysis      receptive fields, convolution as a matrix, scanners, padding from sizes; `net.summary` is its table
    datasets      digits (bundled), MNIST, CIFAR-10, folders of images
    explain       the algorithm, the workspace and the speed of every layer of a net (FASTCONV_TRACE=1: of every call)
    set_num_threads, set_workspace_limit, show_config    the machine

The house: `window.py` parses geometry once, `ops/` holds one operation a file (maths, shape rule, reference, fast),
`_ext/` the Cython loops, `layers/` configuration and parameters, `training/` the loop. Start at `ops/conv.py`.
"""

from fastconv import _command

_command.begin()

from typing import Any

from fastconv import functional, reference
from fastconv.autograd import vjp
from fastconv.errors import FormatError, ShapeError
from fastconv.layers import *  # noqa: F403
from fastconv.layers import __all__ as _layers
from fastconv.ops import register
from fastconv.random import manual_seed
from fastconv.runtime import get_num_threads, set_num_threads, show_config  # first: it decides how BLAS is loaded
from fastconv.training.step import value_and_grad
from fastconv.workspace import get_workspace_limit, set_workspace_limit

__version__ = "0.1.0"

_LATE = {  # imported when first used: they cost time that `import fastconv` need not spend
    "Trainer": ("fastconv.training.trainer", "Trainer"),
    "datasets": ("fastconv.datasets", None),
    "models": ("fastconv.models", None),
    "optim": ("fastconv.optim", None),
    "augment": ("fastconv.augment", None),
    "analysis": ("fastconv.analysis", None),
    "explain": ("fastconv.explanation", "explain"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    import importlib

    module, attribute = _LATE[name]
    value = importlib.import_module(module)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


__all__ = [
    "FormatError",
    "ShapeError",
    "__version__",
    "functional",
    "get_num_threads",
    "get_workspace_limit",
    "manual_seed",
    "reference",
    "register",
    "set_num_threads",
    "set_workspace_limit",
    "show_config",
    "value_and_grad",
    "vjp",
]
__all__ += _layers
