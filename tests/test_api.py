"""The public face: every name that others rely on, with its arguments, their order, kinds and defaults.

A signature may have more than the table says: keyword-only options, and for layers those of torch's that are accepted
at their default.
"""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import fastconv as fc
from fastconv import datasets, functional, models, optim, reference
from fastconv.layers import LAYERS
from fastconv.ops import OPS


def each_of(template, axes=(1, 2, 3)):
    return {template[0].replace("…", f"{n}d"): template[1] for n in axes}


CONV = "x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, algorithm='auto'"
TRANSPOSED = "x, w, b=None, *, stride=1, padding=0, output_padding=0, output_size=None, dilation=1, groups=1"
FUNCTIONS = {
    **each_of(("conv…", CONV)),
    **each_of(("conv_transpose…", TRANSPOSED)),
    "locally_connected2d": "x, w, b=None, *, stride=1, padding=0, dilation=1",
    **each_of((
        "max_pool…",
        "x, kernel_size, *, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False",
    )),
    **each_of(("max_unpool…", "x, indices, kernel_size, *, stride=None, padding=0, output_size=None")),
    **each_of(("avg_pool…", "x, kernel_size, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True")),
    **each_of(("lp_pool…", "x, norm_type, kernel_size, *, stride=None, padding=0, ceil_mode=False")),
    **each_of(("adaptive_avg_pool…", "x, output_size")),
    **each_of(("adaptive_max_pool…", "x, output_size")),
    "function_pool2d": "x, function, kernel_size, *, stride=None, padding=0, vjp=None",
    "pad": "x, padding, *, mode='constant', value=0",
    "downsample": "x, factor, *, phase=0",
    "upsample": "x, factor, *, output_size=None",
    "resize": "x, *, size=None, scale=None, mode='nearest', align_corners=False",
    "pixel_shuffle": "x, upscale_factor",
    "pixel_unshuffle": "x, downscale_factor",
    "reshape": "x, shape",
    "unflatten": "x, dim, sizes",
    "linear": "x, w, b=None",
    **dict.fromkeys(("flatten", "relu", "selu", "silu", "sigmoid", "tanh", "hardswish", "step"), "x"),
    "leaky_relu": "x, negative_slope=0.01",
    "prelu": "x, weight",
    "elu": "x, alpha=1.0",
    "gelu": "x, *, approximate='none'",
    "softplus": "x, beta=1.0, threshold=20.0",
    "softmax": "x, *, dim=1",
    "log_softmax": "x, *, dim=1",
    "batch_norm": "x, running_mean, running_var, weight=None, bias=None, *, training=False, momentum=0.1, eps=1e-5",
    "group_norm": "x, num_groups, weight=None, bias=None, eps=1e-5",
    "instance_norm": "x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, "
                     "momentum=0.1, eps=1e-5",
    "layer_norm": "x, normalized_shape, weight=None, bias=None, eps=1e-5",
    "local_response_norm": "x, size, alpha=1e-4, beta=0.75, k=1.0",
    "dropout": "x, p, *, training, rng",
    "cross_entropy": "x, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction='mean'",
    "nll_loss": "x, target, *, weight=None, ignore_index=-100, reduction='mean'",
    "mse_loss": "x, target, *, reduction='mean'",
    "l1_loss": "x, target, *, reduction='mean'",
    "bce_with_logits": "x, target, *, reduction='mean'",
}  # fmt: skip

TORCHS = "device=None, dtype=None"
NORM = f"num_features, eps=1e-5, momentum=0.1, affine={{0}}, track_running_stats={{0}}, {TORCHS}, *, bias=True"
CONV_LAYER = "in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, "
LAYER_ARGUMENTS = {
    **each_of(("Conv…", f"{CONV_LAYER}padding_mode='zeros', {TORCHS}, *, rng=None")),
    **each_of((
        "ConvTranspose…",
        "in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True, "
        f"dilation=1, padding_mode='zeros', {TORCHS}, *, rng=None",
    )),
    **each_of((
        "MaxPool…", "kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False",
    )),
    **each_of((
        "AvgPool…",
        "kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None",
    )),
    **each_of(("LpPool…", "norm_type, kernel_size, stride=None, ceil_mode=False")),
    **each_of(("AdaptiveAvgPool…", "output_size")),
    **each_of(("AdaptiveMaxPool…", "output_size, return_indices=False")),
    "FunctionPool2d": "function, kernel_size, stride=None, padding=0, vjp=None",
    "NetworkPool2d": "network, kernel_size, stride=None, padding=0",
    **dict.fromkeys(
        (f"{kind}Pad{n}d" for kind in ("Zero", "Reflection", "Replication", "Circular") for n in (1, 2, 3)), "padding"
    ),
    **each_of(("ConstantPad…", "padding, value")),
    "Downsample": "factor, phase=0",
    "Upsample": "factor, output_size=None",
    "Resize": "size=None, scale_factor=None, mode='nearest', align_corners=None, recompute_scale_factor=None",
    "LocallyConnected2d": "in_channels, out_channels, output_size, kernel_size, stride=1, padding=0, dilation=1, "
                          "bias=True, *, rng=None",
    "Linear": f"in_features, out_features, bias=True, {TORCHS}, *, rng=None",
    "Flatten": "start_dim=1, end_dim=-1",
    "Identity": "*args, **kwargs",
    "Reshape": "shape, *more",
    "Unflatten": "dim, unflattened_size",
    "PixelShuffle": "upscale_factor",
    "PixelUnshuffle": "downscale_factor",
    **dict.fromkeys(("ReLU", "SELU", "SiLU", "Hardswish"), "inplace=False"),
    **dict.fromkeys(("Sigmoid", "Tanh", "Step"), ""),
    "LeakyReLU": "negative_slope=0.01, inplace=False",
    "PReLU": f"num_parameters=1, init=0.25, {TORCHS}",
    "ELU": "alpha=1.0, inplace=False",
    "GELU": "approximate='none'",
    "Softplus": "beta=1.0, threshold=20.0",
    "Softmax": "dim=1",
    "LogSoftmax": "dim=1",
    "Dropout": "p=0.5, inplace=False",
    "Dropout2d": "p=0.5, inplace=False",
    **each_of(("BatchNorm…", NORM.format(True))),
    "InstanceNorm2d": NORM.format(False),
    "GroupNorm": f"num_groups, num_channels, eps=1e-5, affine=True, {TORCHS}, *, bias=True",
    "LayerNorm": f"normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, {TORCHS}",
    "LocalResponseNorm": "size, alpha=1e-4, beta=0.75, k=1.0",
    "Normalize": "mean, std",
    "Sequential": "*layers",
    "Residual": "body, shortcut=None",
    "Concat": "*layers",
    "Graph": "nodes, output=None, *, inputs=('input',), outputs=None",
    "Function": "name",
    "Operation": "name",
    "Values": "parameters=None, buffers=None",
}  # fmt: skip

ADAM = (
    "betas=(0.9, 0.999), eps=1e-8, weight_decay={}, amsgrad=False, *, maximize=False, l1=0.0, clip_norm=None, groups=()"
)
MODEL = "num_classes={}, in_channels={}, size={}, *, rng=None"
NET = "self, "
OTHERS = {  # dotted path: arguments
    "vjp": "function, /, *arrays, **options",
    "register": "name, forward, backward=None, *, replace=False",
    "value_and_grad": "net, loss, x=None, y=None",
    "manual_seed": "seed",
    "save": "net, path",
    "load": "path, *, best=False",
    "load_weights": "path, *, key=None",
    "set_num_threads": "n",
    "get_num_threads": "",
    "set_workspace_limit": "nbytes",
    "show_config": "",
    "layers.Layer.__call__": NET + "x",
    "layers.Layer.train": NET + "mode=True",
    "layers.Layer.eval": NET,
    "layers.Layer.predict": NET + "x, batch_size=256",
    "layers.Layer.parameters": NET,
    "layers.Layer.state_dict": NET,
    "layers.Layer.load_state_dict": NET + "state, strict=True",
    "layers.Layer.freeze": NET + "name=''",
    "layers.Layer.unfreeze": NET + "name=''",
    "layers.Layer.astype": NET + "dtype",
    "layers.Layer.summary": NET + "input_shape",
    "optim.SGD": "lr, momentum=0.0, nesterov=False, weight_decay=0.0, *, dampening=0.0, maximize=False, "
                 "l1=0.0, clip_norm=None, groups=()",
    "optim.Adam": "lr=1e-3, " + ADAM.format(0.0),
    "optim.AdamW": "lr=1e-3, " + ADAM.format(0.01),
    "optim.RMSprop": "lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, *, "
                     "maximize=False, l1=0.0, clip_norm=None, groups=()",
    "optim.SGD.step": "self, parameters, gradients",
    "optim.Constant": "lr, warmup=0, total=None",
    "optim.Step": "lr, milestones=(0.5, 0.75), gamma=0.1, warmup=0, total=None",
    "optim.Linear": "lr, final=0.0, warmup=0, total=None",
    "optim.Cosine": "lr, final=0.0, warmup=0, total=None",
    "optim.Exponential": "lr, final, warmup=0, total=None",
    "optim.OneCycle": "peak, warmup=0.3, div=25.0, final_div=1e4, total=None",
    "Trainer": "net, optimizer, loss='cross_entropy', *, seed=0, checkpoint=None, checkpoint_every=None",
    "Trainer.fit": "self, X, y=None, epochs=None, batch_size=None, validation_data=None, augment=None, callbacks=(), "
                   "progress=None, *, prefetch=2, sample_weight=None, class_weight=None, metrics=(), accumulate=1, "
                   "average=None",
    "Trainer.find_lr": "self, X, y=None, batch_size=None, augment=None",
    "callbacks.Callback": "",
    "callbacks.EarlyStopping": "monitor='val_loss', patience=10, restore_best=True",
    "callbacks.ReduceLROnPlateau": "monitor='val_loss', factor=0.1, patience=10, threshold=1e-4, threshold_mode='rel', "
                                   "cooldown=0, min_lr=0.0, eps=1e-8",
    "callbacks.TensorBoard": "folder",
    "Trainer.evaluate": "self, X, y=None, batch_size=None",
    "Trainer.save": "self, path",
    "Trainer.resume": "path, functions=None",
    "datasets.load_digits": "",
    "datasets.load_mnist": "folder",
    "datasets.load_cifar10": "folder",
    "datasets.load_folder": "path",
    "datasets.open_folder": "path",
    "datasets.load_image": "path",
    "datasets.read_image": "path, net",
    "datasets.mean_and_std": "X",
    "analysis.record": "net, x, target=None, loss=None",
    "analysis.walkthrough": "function, /, *arrays, direction='forward', dy=None, **options",
    "datasets.place": "X, size, *, top=None, left=None, rng=None, background=0.0, return_places=False",
    "analysis.scan": "net, image, *, image_shape=None, threshold=0.5, stride=None, answers=None, nothing=None, "
                     "overlap=0.3",
    "models.lenet5": MODEL.format(10, 1, 28),
    "models.digits_cnn": MODEL.format(10, 1, 8),
    "models.mnist_cnn": MODEL.format(10, 1, 28),
    "models.vgg_cifar": MODEL.format(10, 3, 32),
    "models.folder_cnn": "num_classes, in_channels=3, size=32, *, rng=None",
    "models.vgg16": MODEL.format(1000, 3, 224),
    "models.resnet18": MODEL.format(1000, 3, 224),
    "models.resnet20": MODEL.format(10, 3, 32),
    "models.mobilenet": MODEL.format(1000, 3, 224),
    "models.m5": MODEL.format(35, 1, 16000),
    "models.voxnet": MODEL.format(40, 1, 32),
    "models.build": "name, image_shape, num_classes, *, rng=None",
}  # fmt: skip


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def assert_signature(function, documented):
    """What is documented, in this order; beyond it keyword-only options and keywords by any name."""
    expected = parameters(eval(f"lambda {documented}: None"))
    actual = parameters(function)
    assert [p for p in actual if p in expected] == expected, f"{inspect.signature(function)} is not ({documented})"
    free = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    for name, kind, default in [p for p in actual if p not in expected]:
        assert kind in free, name
        assert kind is inspect.Parameter.VAR_KEYWORD or default is not inspect.Parameter.empty, name


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("module", [functional, reference], ids=["functional", "reference"])
def test_functions(name, module):
    assert_signature(getattr(module, name), FUNCTIONS[name])


def test_tables_are_complete():
    assert {name for name, op in OPS.items() if op.reference is not None} == set(FUNCTIONS)
    assert set(LAYERS) == set(LAYER_ARGUMENTS)
    for name in LAYERS:
        assert getattr(fc, name) is LAYERS[name]
        assert name in fc.__all__
    assert set(models.MODELS) <= {path.removeprefix("models.") for path in OTHERS}
    for module in (optim, datasets, models):
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", LAYER_ARGUMENTS)
def test_layers(name):
    layer = getattr(fc, name)
    assert_signature(layer, LAYER_ARGUMENTS[name])
    assert issubclass(layer, fc.layers.Layer)
    assert layer.__doc__.endswith((".", "\n    "))


@pytest.mark.parametrize("path", OTHERS)
def test_the_rest(path):
    found = fc
    for part in path.split("."):
        found = getattr(found, part)
    assert_signature(found, OTHERS[path])
    assert found.__doc__


def test_errors():
    assert issubclass(fc.ShapeError, ValueError)
    assert issubclass(fc.FormatError, ValueError)


# --- torch's arguments that have no meaning here ---------------------------------------------------------------------

FIRST = {  # what a layer must be given
    **each_of(("Conv…", (2, 3, 1))), **each_of(("ConvTranspose…", (2, 3, 1))), **each_of(("MaxPool…", (2,))),
    **each_of(("AvgPool…", (2,))), **each_of(("LpPool…", (2, 2))), **each_of(("AdaptiveAvgPool…", (2,))),
    **each_of(("AdaptiveMaxPool…", (2,))), **each_of(("BatchNorm…", (3,))), "Linear": (2, 3), "InstanceNorm2d": (3,),
    "GroupNorm": (1, 3), "LayerNorm": (3,), "LocalResponseNorm": (2,), "Resize": (2,),
    **{f"{kind}Pad{n}d": (1,) for kind in ("Zero", "Reflection", "Replication", "Circular") for n in (1, 2, 3)},
    **each_of(("ConstantPad…", (1, 0.5))), "Reshape": (2,), "Unflatten": (1, (2, 3)), "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
}  # fmt: skip
MEANINGLESS = {
    "device": (None, "cpu"), "dtype": (None, "float64"), "inplace": (False, True), "padding_mode": ("zeros", "reflect"),
    "divisor_override": (None, 3), "return_indices": (False, True), "recompute_scale_factor": (None, True),
}  # fmt: skip
OF_LAYERS = {  # torch's arguments of each layer, beside those in LAYER_ARGUMENTS
    **each_of(("Conv…", ("device", "dtype"))), **each_of(("ConvTranspose…", ("padding_mode", "device", "dtype"))),
    **dict.fromkeys(["Linear", "PReLU", "GroupNorm", "LayerNorm", "InstanceNorm2d", *each_of(("BatchNorm…", ""))],
                    ("device", "dtype")),
    **dict.fromkeys(["ReLU", "SELU", "SiLU", "Hardswish", "LeakyReLU", "ELU", "Dropout", "Dropout2d"], ("inplace",)),
    **dict.fromkeys(["AvgPool2d", "AvgPool3d"], ("divisor_override",)),
    **dict.fromkeys([*each_of(("MaxPool…", "")), *each_of(("AdaptiveMaxPool…", ""))], ("return_indices",)),
    "Resize": ("recompute_scale_factor",),
}  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), [(name, a) for name, them in OF_LAYERS.items() for a in them])
def test_torchs_arguments(name, argument):
    default, other = MEANINGLESS[argument]
    layer = getattr(fc, name)
    layer(*FIRST.get(name, ()), **{argument: default})
    with pytest.raises(TypeError, match=f"{name}: {argument} is accepted at its default") as error:
        layer(*FIRST.get(name, ()), **{argument: other})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"Function", "Identity", "Operation"}))
def test_unknown_arguments(name):
    given = {"NetworkPool2d": (fc.Linear(4, 1), 2), "FunctionPool2d": (np.mean, 2), "LocallyConnected2d": (1, 1, 2, 1),
             "Normalize": (0, 1), "Upsample": (2,), "Downsample": (2,), "Residual": (fc.ReLU(),),
             "Concat": (fc.ReLU(),), "Graph": ({"a": (fc.ReLU(), "input")},), **FIRST}  # fmt: skip
    with pytest.raises(TypeError, match=f"^{name}: .*colour"):
        getattr(fc, name)(*given.get(name, ()), colour=1)


def torchs_twin(torch, name):
    twin = getattr(torch.nn, name.replace("LpPool", "LPPool").replace("Resize", "Upsample"), None)
    return None if name in ("Identity", "Sequential", "Upsample") else twin


@pytest.mark.parametrize("name", LAYER_ARGUMENTS)
def test_torchs_arguments_by_position(name):
    """Every argument that PyTorch's layer takes by position stands in the same place here, with the same default."""
    torch = pytest.importorskip("torch")
    twin = torchs_twin(torch, name)
    if twin is None:
        return
    by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
    theirs = [p for p in parameters(twin) if p[1] is by_position]
    ours = [p for p in parameters(getattr(fc, name)) if p[1] is by_position]
    assert [p[0] for p in ours[: len(theirs)]] == [p[0] for p in theirs]
    defaults = [(q[2], p[2]) for p, q in zip(ours, theirs, strict=False) if p[0] != "dim"]  # there None means a guess
    assert all(a == b for a, b in defaults)
    given = list(FIRST.get(name, ()))
    given += [ours[i][2] for i in range(len(given), len(ours))]  # all of them by position
    layer = getattr(fc, name)(*given)
    assert repr(getattr(fc, name)(**layer._arguments)) == repr(layer)
    with pytest.raises(TypeError, match="too many positional arguments"):
        getattr(fc, name)(*given, None)


def test_a_convolution_by_position():
    layer = fc.Conv2d(4, 6, 3, 1, 0, 1, 2, False, "zeros", None, None, rng=0)
    np.testing.assert_array_equal(layer.weight, fc.Conv2d(4, 6, 3, groups=2, bias=False, rng=0).weight)
    assert layer.bias is None
    layer = fc.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False, 2, "zeros")
    assert layer(np.zeros((1, 4, 5, 5))).shape == fc.ConvTranspose2d(
        4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False, dilation=2
    )(np.zeros((1, 4, 5, 5))).shape  # fmt: skip


def test_torchs_arguments_are_all_known():
    """What PyTorch's layers take is ours, or in the tables above; at its default it changes nothing."""
    torch = pytest.importorskip("torch")
    for name in LAYERS:
        twin = torchs_twin(torch, name)
        if twin is None:
            continue
        for parameter in inspect.signature(twin).parameters.values():
            if parameter.default is parameter.empty or parameter.name == "dim":  # there None means a guess
                continue
            if parameter.name not in ("size", "scale_factor"):  # one of the two must be given
                getattr(fc, name)(*FIRST.get(name, ()), **{parameter.name: parameter.default})
            ours = parameter.name in inspect.signature(getattr(fc, name).__init__).parameters
            assert ours or parameter.name in OF_LAYERS.get(name, ()), (name, parameter.name)


# --- extras ----------------------------------------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["sklearn"] = None
import fastconv
assert "sklearn" not in dir(fastconv)
try:
    fastconv.sklearn
except ImportError as error:
    print(error)
"""


def test_without_scikit_learn():
    """Its estimators are told of by no list, and asking for them names the extra."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout == 'fastconv.sklearn needs scikit-learn, 1.6 or newer: pip install "fastconv[sklearn]"\n'


def test_extras_are_imported_late():
    code = "import sys, fastconv; fastconv.Trainer, fastconv.models; print([n for n in sys.modules if 'sklearn' in n])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
