"""PyTorch's own samples for its tests (OpInfo, ModuleInfo) on fastconv: outputs, gradients, and what is refused.

Every OpInfo whose operation fastconv has is walked, in float32 and float64: each sample's arguments go to our function
of the same meaning, and PyTorch's values and gradients are what it must give. What the contract leaves out stands in
the tables below with the reason; of what we refuse the error is checked. `pytest -rP tests/test_opinfo.py` prints how
many samples agree, how many are left out, and why. `--opinfo-all` takes them with gaps in memory too, and holds the
naive reference against them as well.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from oracles import Left, LeftOutError, Tally, need
from support import assert_close

import fastconv
from fastconv import ShapeError, functional, reference, vjp
from fastconv.layers import LAYERS, Context
from fastconv.ops import OPS

torch = pytest.importorskip("torch", reason="PyTorch, whose samples these are, is not installed")
pytest.importorskip("expecttest", reason="expecttest, which PyTorch's samples need, is not installed")
from torch.testing._internal.common_methods_invocations import SampleInput, op_db  # noqa: E402
from torch.testing._internal.common_modules import module_db  # noqa: E402

if not torch.__version__.startswith("2.13."):
    pytest.skip(f"the tables are of PyTorch 2.13's samples, this is {torch.__version__}", allow_module_level=True)
torch.set_num_threads(1)  # small arrays: a second pool of threads would only be in the way

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of what is slow or deprecated

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}  # of the largest value


# --- what is left out, and why ---------------------------------------------------------------------------------------


NO_BATCH = Left("no batch axis, or no channels", ShapeError, r"x must have .*axes|takes \d axes")
EMPTY = Left("empty along an axis that is not N", ShapeError, "x must not be empty along")
NO_AXES = Left("an array without axes has no dim", ShapeError, "dim must be an axis of x")
NEGATIVE_EPS = Left("a negative eps", ValueError, "eps must be at least 0")
DIVISOR = Left("divisor_override: an average divides by what it adds up")
DIVISOR_OF_LAYER = Left("the same, of a layer", TypeError, "divisor_override is accepted at its default")
INDICES = Left("a layer gives one array, so no indices", TypeError, "return_indices is accepted at its default")
NORM = Left("LpPool of another p than 2: PyTorch takes x ** p, which is nan or negative, ONNX and we |x| ** p")
RANDOM = Left("dropout with p between 0 and 1 in training is random")
CAST = Left("another dtype: the array is cast before the call")
ANTIALIAS = Left("resize has no antialias")
PADDED = Left("padding of a batch or of channels, or below 0, which crops")
NAN = Left("nan in x: PyTorch's gradient there is dy, ours nan")
FLATTENED = Left("flatten keeps the batch axis, and no other")
BATCH = Left("reshape and unflatten keep the batch axis")
NO_LENGTH = Left("a length of 0", ShapeError, "must hold lengths of at least 1")


# --- which samples go to which operation -----------------------------------------------------------------------------


class Entry(NamedTuple):
    op: str  # ours
    parameters: list[str]  # PyTorch's, in its order
    left: tuple[Left, ...]
    adapt: Callable[..., dict[str, Any]] | None
    slack: float  # times TOLERANCE
    maybe: tuple[Left, ...] = ()  # reasons that may be found


ENTRIES: dict[str, Entry] = {}  # by OpInfo's name


def entry(
    name: str, op: str, parameters: str, *left: Left, adapt: Callable[..., dict[str, Any]] | None = None,
    slack: float = 1,
) -> None:  # fmt: skip
    ENTRIES[name] = Entry(op, parameters.split(), left, adapt, slack)


def averaged(divisor_override: Any = None, **given: Any) -> dict[str, Any]:
    need(divisor_override is None, DIVISOR)
    return given


def unpooled(x: Any, output_size: Any = None, **given: Any) -> dict[str, Any]:
    """PyTorch takes the whole shape as output_size, too."""
    if output_size is not None and len(output_size) == x.ndim:
        output_size = output_size[2:]
    return {"x": x, "output_size": output_size, **given}


def resized(
    x: Any, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: Any = None,
    recompute_scale_factor: Any = None, antialias: bool = False,
) -> dict[str, Any]:  # fmt: skip
    need(not antialias, ANTIALIAS)
    if recompute_scale_factor:
        size, scale = tuple(math.floor(n * scale) for n in x.shape[2:]), None
    mode = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return {"x": x, "size": size, "scale": scale, "mode": mode, "align_corners": bool(align_corners)}


def padded(x: Any, padding: Any, mode: str = "constant", value: Any = None) -> dict[str, Any]:
    """PyTorch counts axes from the last, in pairs, and pads channels and batches as well; negative: it crops."""
    pairs = [tuple(padding[i : i + 2]) for i in range(0, len(padding), 2)][::-1]
    spatial = x.ndim - 2
    need(spatial > 0 and len(pairs) <= spatial and min(padding, default=0) >= 0, PADDED)
    pairs = [(0, 0)] * (spatial - len(pairs)) + pairs
    return {"x": x, "padding": tuple(pairs), "mode": mode, "value": 0 if value is None else value}


def dropped(p: float = 0.5, training: bool = True, inplace: bool = False, **given: Any) -> dict[str, Any]:
    need(p in (0, 1) or not training, RANDOM)
    return {"p": p, "training": training, "rng": np.random.default_rng(0), **given}


def flattened(x: Any, start_dim: int = 0, end_dim: int = -1) -> dict[str, Any]:
    need(x.ndim > 1 and start_dim == 1 and end_dim in (-1, x.ndim - 1), FLATTENED)
    return {"x": x}


def reshaped(x: Any, shape: Any) -> dict[str, Any]:
    need(x.ndim > 0 and len(shape) > 0 and shape[0] == len(x), BATCH)
    return {"x": x, "shape": tuple(shape[1:])}


def unflattened(x: Any, dim: int, sizes: Any) -> dict[str, Any]:
    need(dim % x.ndim > 0, BATCH)
    return {"x": x, "dim": dim, "sizes": sizes}


def without_nan(x: Any, **given: Any) -> dict[str, Any]:
    need(not x.isnan().any(), NAN)
    return {"x": x, **given}


def cast(x: Any, dtype: Any = None, **given: Any) -> dict[str, Any]:
    need(dtype == x.dtype, CAST)
    return {"x": x, **given}


def as_groups(x: Any, N: int, C: int, HxW: int, **given: Any) -> dict[str, Any]:
    return {"x": x, **given}


def with_statistics(
    running_mean: Any, running_var: Any, training: Any, momentum: Any = None, eps: Any = None, **given: Any
) -> dict[str, Any]:
    """One overload has no running statistics: what follows them stands in their place."""
    if isinstance(running_mean, bool):
        training, momentum, eps, running_mean, running_var = running_mean, running_var, training, None, None
    statistics = {"running_mean": running_mean, "running_var": running_var, "training": training}
    return {**given, **statistics, "momentum": momentum, "eps": eps}


for _axes in (1, 2, 3):
    _d = f"{_axes}d"
    entry(f"nn.functional.conv{_d}", f"conv{_d}", "input weight bias stride padding dilation groups", NO_BATCH)
    entry(
        f"nn.functional.conv_transpose{_d}", f"conv_transpose{_d}",
        "input weight bias stride padding output_padding groups dilation", NO_BATCH,
    )  # fmt: skip
    entry(
        f"nn.functional.max_pool{_d}", f"max_pool{_d}",
        "input kernel_size stride padding dilation ceil_mode return_indices", NO_BATCH,
    )  # fmt: skip
    entry(
        f"nn.functional.avg_pool{_d}", f"avg_pool{_d}",
        "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
        *((DIVISOR,) if _axes > 1 else ()), adapt=averaged,
    )  # fmt: skip
    entry(f"nn.functional.adaptive_avg_pool{_d}", f"adaptive_avg_pool{_d}", "input output_size", NO_BATCH)
    entry(
        f"nn.functional.adaptive_max_pool{_d}", f"adaptive_max_pool{_d}", "input output_size return_indices", NO_BATCH
    )
    for _name in (f"max_unpool{_d}", f"max_unpool{_d}.grad"):
        entry(
            f"nn.functional.{_name}", f"max_unpool{_d}", "input indices kernel_size stride padding output_size",
            adapt=unpooled,
        )  # fmt: skip
# slack of resize: PyTorch's float32 positions are rounded in float32
for _mode in ("nearest", "linear", "bilinear", "trilinear", "bicubic"):
    entry(
        f"nn.functional.interpolate.{_mode}", "resize",
        "input size scale_factor mode align_corners recompute_scale_factor antialias",
        *((ANTIALIAS,) if _mode in ("bilinear", "bicubic") else ()), adapt=resized, slack=100,
    )  # fmt: skip
entry("nn.functional.upsample_nearest", "resize", "input size scale_factor")
entry(
    "nn.functional.upsample_bilinear", "resize", "input size scale_factor",
    adapt=lambda **given: {"mode": "linear", "align_corners": True, **given}, slack=100,
)  # fmt: skip
entry("nn.functional.linear", "linear", "input weight bias", NO_BATCH)
entry("flatten", "flatten", "input start_dim end_dim", FLATTENED, adapt=flattened)
entry("reshape", "reshape", "input shape", BATCH, NO_LENGTH, adapt=reshaped)
entry("unflatten", "unflatten", "input dim sizes", BATCH, NO_LENGTH, adapt=unflattened)

for _mode in ("constant", "reflect", "replicate", "replicate_negative", "circular"):
    entry(f"nn.functional.pad.{_mode}", "pad", "input padding mode value", PADDED, adapt=padded)

entry("nn.functional.prelu", "prelu", "input weight", NO_BATCH)
entry("nn.functional.elu", "elu", "input alpha", NAN, adapt=without_nan)
entry("nn.functional.selu", "selu", "input", NAN, adapt=without_nan)
for _op in ("softmax", "log_softmax"):
    entry(_op, _op, "input dim", NO_AXES, EMPTY)
    entry(f"{_op}.with_dtype", _op, "input dim dtype", NO_AXES, EMPTY, CAST, adapt=cast)

BATCH_NORM = "input running_mean running_var weight bias training momentum eps"
for _name in ("nn.functional.batch_norm", "nn.functional.batch_norm.without_cudnn"):
    entry(_name, "batch_norm", BATCH_NORM, NO_BATCH)
entry(
    "nn.functional.instance_norm", "instance_norm",
    "input running_mean running_var weight bias use_input_stats momentum eps",
)  # fmt: skip
entry("nn.functional.group_norm", "group_norm", "input num_groups weight bias eps", NEGATIVE_EPS)
for _name in ("nn.functional.layer_norm", "native_layer_norm"):  # slack: PyTorch's dx of one value is rounding, ours 0
    entry(_name, "layer_norm", "input normalized_shape weight bias eps", NEGATIVE_EPS, slack=100)
entry("native_group_norm", "group_norm", "input weight bias N C HxW num_groups eps", NEGATIVE_EPS, adapt=as_groups)
for _name in ("native_batch_norm", "_native_batch_norm_legit"):
    entry(
        _name, "batch_norm", "input weight bias running_mean running_var training momentum eps", adapt=with_statistics
    )
entry("nn.functional.dropout", "dropout", "input p training inplace", RANDOM, adapt=dropped)

entry(
    "nn.functional.cross_entropy", "cross_entropy",
    "input target weight size_average ignore_index reduce reduction label_smoothing",
)  # fmt: skip
entry("nn.functional.nll_loss", "nll_loss", "input target weight size_average ignore_index reduce reduction", NO_BATCH)
entry("nn.functional.mse_loss", "mse_loss", "input target size_average reduce reduction")
entry("nn.functional.l1_loss", "l1_loss", "input target size_average reduce reduction")
entry(
    "nn.functional.binary_cross_entropy_with_logits", "bce_with_logits",
    "input target weight size_average reduce reduction pos_weight",
)  # fmt: skip

OTHERS = {
    "nn.functional.interpolate.area": "resize has no mode of that name; adaptive_avg_pool computes it",
    "nn.functional.interpolate.nearest-exact": "no mode of resize",
    "_upsample_bilinear2d_aa": "resize has no antialias",
    "nn.functional.dropout2d": "a layer only, and random",
    "_batch_norm_with_update": "batch_norm in training, inside torch.compile",
    "max_pool2d_with_indices_backward": "the pullback of max_pool2d, called by itself",
    "_softmax_backward_data": "the pullback of softmax, called by itself",
    "native_dropout_backward": "the pullback of dropout, called by itself",
    "masked.softmax": "masks",
    "masked.log_softmax": "masks",
    "torch.ops.aten._safe_softmax.default": "softmax, but 0 where every logit is -inf",
    "nn.functional.silu.complex": "complex numbers",
    "nn.functional.softmin": "no operation of that name",
}

INFOS = {f"{info.name}.{info.variant_test_name}".rstrip("."): info for info in op_db}
for _name in sorted(INFOS.keys() - ENTRIES.keys() - OTHERS.keys()):
    _op = _name.removeprefix("nn.functional.")
    if _op in OPS:  # its parameters are ours, the rules of the house may leave out some samples
        _, *_others = inspect.signature(getattr(functional, _op)).parameters
        ENTRIES[_name] = Entry(_op, ["input", *_others], (), None, 1, (NO_BATCH, EMPTY, NO_AXES))


# --- one sample ------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    op: str
    arrays: tuple[Any, ...]  # by position, tensors among them
    options: dict[str, Any]


def call_of(entry: Entry, sample: Any) -> Call:
    """A sample's arguments as a call of ours; raises LeftOutError."""
    parameters = inspect.signature(getattr(functional, entry.op)).parameters
    ours = {"input": "x", "scale_factor": "scale"} | ({"weight": "w", "bias": "b"} if "w" in parameters else {})
    given = dict(zip(entry.parameters, (sample.input, *sample.args), strict=False)) | sample.kwargs
    given = {ours.get(name, name): value for name, value in given.items()}
    if entry.adapt:
        given = entry.adapt(**given)
    assert given.keys() <= parameters.keys(), f"{entry.op} has no {given.keys() - parameters.keys()}"
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    count = max(i for i, p in enumerate(positional, 1) if p.name in given)
    arrays = tuple(given.pop(p.name, p.default) for p in positional[:count])
    return Call(entry.op, arrays, given)


def to_numpy(value: Any) -> Any:
    """A tensor as an array of its own, with its strides."""
    if not isinstance(value, torch.Tensor):
        return value
    return np.array(value.detach().numpy(), order="K") if value.is_contiguous() else value.detach().clone().numpy()


def as_leaf(value: Any) -> Any:
    """A tensor by itself: some samples are views of others, into which gradients do not flow."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def agree(
    call: Call, sample: Any, torch_function: Callable[..., Any], function: Callable[..., Any], slack: float = 1
) -> None:
    """Values, indices, gradients and what is updated in place, as PyTorch has them; raises what the call raises."""
    arrays = tuple(map(to_numpy, call.arrays))
    options = {name: to_numpy(value) for name, value in call.options.items()}
    output, pullback = vjp(function, *arrays, **options)
    ours = output if isinstance(output, tuple) else (output,)
    expected = torch_function(sample.input, *sample.args, **sample.kwargs)
    theirs = expected if isinstance(expected, tuple) else (expected,)
    for a, e in zip(ours, theirs, strict=False):  # the native norms return their moments beside the values
        assert_near(np.asarray(a), e, "output", slack)
    for a, e in zip([*arrays, *options.values()], [*call.arrays, *call.options.values()], strict=True):
        if isinstance(e, torch.Tensor):
            assert_near(a, e, "an argument, afterwards", slack)
    asked = [i for i, t in enumerate(call.arrays) if isinstance(t, torch.Tensor) and t.requires_grad]
    if asked and theirs[0].requires_grad:
        dy = np.random.default_rng(0).uniform(-1, 1, ours[0].shape).astype(ours[0].dtype)
        tensors = [call.arrays[i] for i in asked]
        gradients = torch.autograd.grad(theirs[0], tensors, torch.from_numpy(dy))
        for i, e in zip(asked, gradients, strict=True):
            assert_near(pullback(dy)[i], e, f"gradient {i}", slack)


def assert_near(actual: np.ndarray | None, tensor: Any, what: str, slack: float = 1) -> None:
    """Equal within TOLERANCE of the largest value; integers, nan and infinities exactly."""
    assert actual is not None, f"{what} is None"
    expected = tensor.detach().numpy()
    if expected.dtype.kind == "f":
        assert_close(actual, expected, slack * TOLERANCE[tensor.dtype], what)
    else:
        np.testing.assert_array_equal(actual, expected, err_msg=what, strict=True)


def describe(*values: Any, **named: Any) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        return repr(value)

    return ", ".join([*map(shown, values), *(f"{name}={shown(value)}" for name, value in named.items())])


@pytest.mark.parametrize("name", ENTRIES)
def test_samples(name, request):
    info, each = INFOS[name], ENTRIES[name]
    everything = request.config.getoption("--opinfo-all")
    tally = Tally(each.left, each.maybe)
    for dtype in TOLERANCE:
        torch.manual_seed(0)
        found = [sample.transform(as_leaf) for sample in info.reference_inputs("cpu", dtype, requires_grad=True)]
        if everything and name != "native_group_norm":  # PyTorch's takes no gaps there
            found += [sample.noncontiguous() for sample in found]
        for sample in found:
            for functions in [functional, reference] if everything else [functional]:
                tally.take(
                    describe(sample.input, *sample.args, **sample.kwargs),
                    lambda s=sample, f=functions: agree(call_of(each, s), s, info.op, getattr(f, each.op), each.slack),
                )
    tally.close(name)


def test_every_operation_is_walked_or_left_out():
    """An OpInfo named as an operation of ours has an entry, or a reason; and there is no name that OpInfo has not."""
    ours = {name for name in INFOS if {*name.split(".")} & set(OPS)}
    assert ours <= ENTRIES.keys() | OTHERS.keys()
    assert ENTRIES.keys() | OTHERS.keys() <= INFOS.keys()
    assert not ENTRIES.keys() & OTHERS.keys()


# --- what PyTorch refuses --------------------------------------------------------------------------------------------

INTEGERS = "integers become the other array's float type"
ACCEPTED = {
    ("reshape", "is ambiguous"): "-1 is told by one sample's elements, of an empty batch too",
    ("nn.functional.conv1d", "should be the same"): INTEGERS,
    ("nn.functional.conv3d", "should be the same"): INTEGERS,
    ("nn.functional.conv3d", "not supported for strided"): "padding='same' with strides is ONNX's SAME_UPPER",
}


@pytest.mark.parametrize("name", [name for name in ENTRIES if INFOS[name].error_inputs_func])
def test_what_pytorch_refuses_is_refused(name):
    accepted, wrong = set(), []
    for each in INFOS[name].error_inputs("cpu"):
        sample = each.sample_input
        what = describe(sample.input, *sample.args, **sample.kwargs)
        try:
            call = call_of(ENTRIES[name], sample)
            getattr(functional, call.op)(*map(to_numpy, call.arrays), **call.options)
        except LeftOutError:
            continue
        except (ValueError, TypeError) as error:
            if not str(error).startswith(f"{call.op}: "):
                wrong.append(f"{what}: {type(error).__name__}: {error}")
        else:
            key = next((key for key in ACCEPTED if key[0] == name and key[1] in each.error_regex), None)
            if key is None:
                wrong.append(f"{what}: accepted; PyTorch says {each.error_regex}")
            else:
                accepted.add(key)
    assert not wrong, "\n".join(wrong)
    assert accepted == {key for key in ACCEPTED if key[0] == name}


# --- layers and losses: ModuleInfo -----------------------------------------------------------------------------------

LOSSES = {
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "MSELoss": "mse_loss",
    "L1Loss": "l1_loss",
    "BCEWithLogitsLoss": "bce_with_logits",
}
MODULES = {info.module_cls.__name__: info for info in module_db}
NAMES = {name.replace("LpPool", "LPPool"): name for name in LAYERS}  # PyTorch's: ours


class ModuleSample(NamedTuple):
    what: str
    module: Any  # PyTorch's
    arguments: tuple[Any, ...]  # that it was made from
    options: dict[str, Any]
    inputs: tuple[Any, ...]


def module_samples(name: str, training: bool = True) -> Iterator[ModuleSample]:
    info = MODULES[name]
    for dtype in TOLERANCE:
        torch.manual_seed(0)
        for each in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
            arguments = each.constructor_input.args
            options = {k: v for k, v in each.constructor_input.kwargs.items() if k not in ("device", "dtype")}
            inputs = (*each.forward_input.args, *each.forward_input.kwargs.values())
            what = f"{name}({describe(*arguments, **options)}) of {describe(*inputs)}"
            module = info.module_cls(*arguments, **options).to(dtype).train(training)
            yield ModuleSample(what, module, arguments, options, inputs)


def layer_agrees(name: str, sample: ModuleSample) -> None:
    """Output, gradients, and the state afterwards."""
    module, (x,) = sample.module, sample.inputs
    need(not name.startswith("LpPool") or sample.arguments[0] == 2, NORM)
    layer = getattr(fastconv, name)(*sample.arguments, **sample.options).astype(to_numpy(x).dtype)
    layer.load_state_dict({key: value.numpy() for key, value in module.state_dict().items()})
    y, saved = layer.forward(to_numpy(x), Context(module.training))
    expected = module(x)
    assert_near(y, expected, "output")
    for key, value in module.state_dict().items():
        assert_near(layer.state_dict()[key], value, key)
    dy = np.random.default_rng(0).uniform(-1, 1, y.shape).astype(y.dtype)
    dx, gradients = layer.backward(dy, saved, True)
    names, tensors = zip(("input", x), *module.named_parameters(), strict=True)
    theirs = torch.autograd.grad(expected, tensors, torch.from_numpy(dy))
    for key, e in zip(names, theirs, strict=True):
        assert_near({"input": dx, **gradients}[key], e, f"gradient to {key}")


def test_layers():
    tally = Tally((NO_BATCH, NO_AXES, DIVISOR_OF_LAYER, INDICES, NORM))
    for name in sorted(NAMES.keys() & MODULES.keys()):
        for training in (True, False):
            for sample in module_samples(name, training):
                tally.take(sample.what, lambda n=NAMES[name], s=sample: layer_agrees(n, s))
    tally.close("layers")


def test_losses():
    tally = Tally((NO_BATCH,))
    for name, op in LOSSES.items():
        for sample in module_samples(name):
            call = Call(op, sample.inputs, sample.options)
            given = SampleInput(*sample.inputs)
            tally.take(sample.what, lambda c=call, g=given, m=sample.module: agree(c, g, m, getattr(functional, c.op)))
    tally.close("losses")
