"""fastconv: train convolutional networks on the CPU.

    functional    every operation as a function, torch.nn.functional's names; `reference` has the same in naive loops
    vjp           the gradient of any of them, of a net, or of an operation of one's own (`register`)
    Conv2d …      layers with torch.nn's names, arguments and state_dict keys; `Sequential` joins them
    onnx          `load` makes a net of an ONNX file, `save` a file of a net
    optim         SGD, Adam …; `Trainer` is the loop with validation, history and checkpoints
    callbacks     EarlyStopping, ReduceLROnPlateau, TensorBoard; a base class for one's own
    analysis      receptive fields, convolution as a matrix, scanners, padding from sizes; `net.summary` is its table
    chapter       the chapter's own words on plain matrices: Conv, Pool, dSample, uSample
    save, load    a net with its configuration; `load_weights`: the arrays of PyTorch's files, safetensors, .npz
    datasets      digits (bundled), MNIST, CIFAR-10, folders of images
    sklearn       CNNClassifier and CNNRegressor, estimators for scikit-learn
    explain       the algorithm, memory, speed and floor of a net's steps, their timeline (FASTCONV_TRACE=1: of calls)
    set_num_threads, set_workspace_limit, show_config    the machine
    set_precision, precision    "fast", or "strict": no output depends on inputs outside its window

The house: `window.py` parses geometry once, `ops/` holds one operation a file (maths, shape rule, reference, fast),
`_ext/` the Cython loops, `layers/` configuration and parameters, `training/` the loop. Start at `ops/conv.py`.
"""

from fastconv import _command

_command.begin()

from typing import TYPE_CHECKING, Any

from fastconv import functional as functional
from fastconv import layers as layers
from fastconv import reference as reference
from fastconv.autograd import vjp as vjp
from fastconv.engine.precision import get_precision as get_precision
from fastconv.engine.precision import precision as precision
from fastconv.engine.precision import set_precision as set_precision
from fastconv.errors import FormatError as FormatError
from fastconv.errors import ShapeError as ShapeError
from fastconv.errors import nearest
from fastconv.layers import *  # noqa: F403
from fastconv.machine import launcher as _launcher
from fastconv.machine.config import show_config as show_config
from fastconv.machine.memory import get_workspace_limit as get_workspace_limit
from fastconv.machine.memory import set_workspace_limit as set_workspace_limit
from fastconv.machine.threads import get_num_threads as get_num_threads
from fastconv.machine.threads import set_num_threads as set_num_threads
from fastconv.ops import register as register
from fastconv.random import manual_seed as manual_seed
from fastconv.training.step import value_and_grad as value_and_grad
from fastconv.version import __version__ as __version__

_LATE = {  # imported when first used: they cost time that `import fastconv` need not spend
    "Trainer": ("fastconv.training.trainer", "Trainer"),
    "datasets": ("fastconv.datasets", None),
    "models": ("fastconv.models", None),
    "onnx": ("fastconv.onnx", None),
    "optim": ("fastconv.optim", None),
    "augment": ("fastconv.augment", None),
    "callbacks": ("fastconv.callbacks", None),
    "analysis": ("fastconv.analysis", None),
    "chapter": ("fastconv.chapter", None),
    "explain": ("fastconv.analysis.explain", "explain"),
    "load": ("fastconv.saving", "load"),
    "load_weights": ("fastconv.weights", "load_weights"),
    "save": ("fastconv.saving", "save"),
    "sklearn": ("fastconv.sklearn", None),
}

_EXTRAS = {"onnx": "onnx", "sklearn": "sklearn"}  # what of these needs a package that may be missing

if TYPE_CHECKING:
    from fastconv import analysis as analysis
    from fastconv import augment as augment
    from fastconv import callbacks as callbacks
    from fastconv import chapter as chapter
    from fastconv import datasets as datasets
    from fastconv import models as models
    from fastconv import onnx as onnx
    from fastconv import optim as optim
    from fastconv import sklearn as sklearn
    from fastconv.analysis.explain import explain as explain
    from fastconv.saving import load as load
    from fastconv.saving import save as save
    from fastconv.training.trainer import Trainer as Trainer
    from fastconv.weights import load_weights as load_weights


def _late(name: str) -> Any:
    if name not in _LATE:
        meant = "" if name.startswith("_") else nearest(name, __dir__())
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}{meant}")
    import importlib

    module, attribute = _LATE[name]
    value = importlib.import_module(module)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    import importlib.util

    missing = {name for name, package in _EXTRAS.items() if importlib.util.find_spec(package) is None}
    return sorted({*globals(), *_LATE} - missing)


def _summary(net: layers.Layer, input_shape: Any) -> Any:
    from fastconv.analysis import summary

    return summary(net, input_shape)


def _for_inference(net: layers.Layer) -> layers.Layer:
    from fastconv.inference import for_inference

    return for_inference(net)


_launcher.prepare()
layers.base.HANDED_IN["summary"] = _summary
layers.base.HANDED_IN["for_inference"] = _for_inference

_NAMES = [
    "FormatError",
    "ShapeError",
    "__version__",
    "functional",
    "get_num_threads",
    "get_precision",
    "get_workspace_limit",
    "manual_seed",
    "precision",
    "reference",
    "register",
    "set_num_threads",
    "set_precision",
    "set_workspace_limit",
    "show_config",
    "value_and_grad",
    "vjp",
]

if not TYPE_CHECKING:  # type checkers go by the imports above: they can read neither late ones nor a list put together
    __getattr__ = _late
    __all__ = [*_NAMES, *layers.__all__]
