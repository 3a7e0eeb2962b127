"""`fastconv.onnx.load` and `save`: what a file becomes, round trips, and what is refused.

pytest tests/test_onnx.py --onnx-mutations 10000      so many mutated files
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cases import LAYERS

import fastconv as fc
from fastconv import models

pytest.importorskip("onnx", reason="onnx is not installed")
import onnx
from onnx import TensorProto, helper, numpy_helper

import fastconv.onnx
from fastconv.onnx import load, save

try:
    import onnxruntime
except ImportError:
    onnxruntime = None
NEWEST = onnx.defs.onnx_opset_version()


def draw(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def model_of(nodes, inputs, outputs=("y",), opset=17, **initializers):
    """inputs: {name: shape or (type, shape)}."""

    def info(name, value):
        kind, shape = value if isinstance(value, tuple) else (TensorProto.FLOAT, value)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes, "graph", [info(name, value) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(op, inputs, outputs="y", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


# --- in ---------------------------------------------------------------------------------------------------------------


def test_keys_are_pytorchs_where_the_file_has_them():
    w, b, stats = draw(4, 3, 3, 3), draw(4), {"weight": draw(4), "bias": draw(4), "running_mean": draw(4)}
    named = {f"features.1.{name}": array for name, array in stats.items()}
    net = load(
        model_of(
            [
                node("Conv", "x features.0.weight features.0.bias", "c", name="/features/0/Conv", pads=[1] * 4),
                node("BatchNormalization", "c features.1.weight features.1.bias features.1.running_mean "
                     "features.1.running_var", "n", name="/features/1/Norm", momentum=0.8),
                node("Relu", "n", "r"),
                node("GlobalAveragePool", "r", "g"),
                node("Flatten", "g", "f"),
                node("MatMul", "f onnx::MatMul_7", "m", name="/head/MatMul"),
                node("Add", "head.bias m", "y"),
            ],
            {"x": [1, 3, 8, 8]},
            **{"features.0.weight": w, "features.0.bias": b, **named, "features.1.running_var": np.ones(4, np.float32),
               "onnx::MatMul_7": draw(4, 5), "head.bias": draw(5)},
        )
    )  # fmt: skip
    assert list(net.parameters()) == [
        "features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias", "head.weight", "head.bias",
    ]  # fmt: skip
    norm = net.children()["features.1"]
    assert (type(norm).__name__, norm.momentum, norm.eps, net.training) == ("BatchNorm2d", 0.2, 1e-5, False)
    assert type(net.children()["head"]).__name__ == "Linear"
    x = draw(3, 3, 8, 8)
    y = fc.functional.conv2d(x, w, b, padding=1)
    y = fc.functional.batch_norm(y, stats["running_mean"], np.ones(4, np.float32), stats["weight"], stats["bias"])
    y = np.maximum(y, 0).mean((2, 3)) @ net.children()["head"].weight.T + net.children()["head"].bias
    np.testing.assert_allclose(net(x), y, rtol=1e-4, atol=1e-5)
    assert all(row.receptive_field is not None for row in net.summary((1, 3, 8, 8)))


def test_parameters_and_buffers():
    nodes = [
        node("Sub", "x mean", "s"), node("Div", "s std", "d"),  # an input normalisation: buffers
        node("Pow", "d two", "p"), node("Mul", "p scale.weight", "m"),  # a buffer; a parameter of its own name
        node("Unsqueeze", "shift axes", "u"), node("Add", "m u", "a", name="shifted"),  # a parameter, through a view
        node("Add", "a one", "o"), node("Clip", "o low high", "y"),  # one element: a buffer
    ]  # fmt: skip
    net = load(
        model_of(
            nodes, {"x": [2, 3, 4, 4]}, mean=draw(3, 1, 1), std=np.float32(2), two=np.float32(2),
            **{"scale.weight": draw(3, 1, 1)}, shift=draw(3), axes=np.array([1, 2]), one=np.float32(1),
            low=np.float32(-9), high=np.float32(9),
        )
    )  # fmt: skip
    assert set(net.parameters()) == {"scale.weight", "shifted.weight"}
    double = net.astype(np.float64)
    assert {array.dtype.name for array in double.state_dict().values()} == {"float64"}
    x = draw(2, 3, 4, 4, dtype=np.float64)
    assert double(x).dtype == np.float64
    np.testing.assert_allclose(double(x), net(x), rtol=1e-3, atol=1e-4)


def test_one_initialiser_read_twice_is_one_parameter():
    nodes = [node("Conv", "x w", "a", name="first"), node("Conv", "a w", "y", name="second")]
    net = load(model_of(nodes, {"x": [1, 2, 8, 8]}, w=draw(2, 2, 3, 3)))
    assert list(net.parameters()) == ["first.weight"]
    x, w = draw(2, 2, 8, 8), net.parameters()["first.weight"]
    _, gradients = fc.value_and_grad(net, "mse_loss", x, np.zeros((2, 2, 4, 4)))
    hidden, pull_second = fc.vjp(fc.functional.conv2d, x, w)
    y, pull_first = fc.vjp(fc.functional.conv2d, hidden, w)
    dhidden, dw = pull_first(2 * y / y.size)
    np.testing.assert_allclose(gradients["first.weight"], dw + pull_second(dhidden)[1], rtol=1e-4, atol=1e-6)


def test_values_keep_onnxs_types():
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n first", "nu"),
        node("Concat", "nu rest", "shape", axis=0), node("Reshape", "x shape", "r"), node("ArgMax", "r", "y", axis=1),
    ]  # fmt: skip
    net = load(
        model_of(nodes, {"x": [None, 2, 3]}, zero=np.array(0), first=np.array([0]), rest=np.array([-1]), outputs=("y",))
    )
    for dtype in (np.float32, np.float64):
        y, pull = fc.vjp(net, draw(4, 2, 3, dtype=dtype))
        assert (y.dtype, y.shape) == (np.int64, (4, 1))
        assert pull(np.zeros((4, 1))) == (None,)


def test_a_constant_batch_in_a_reshape_is_the_batch():
    net = load(model_of([node("Reshape", "x shape")], {"x": [2, 3, 4]}, shape=np.array([2, 2, 6])))
    assert net(draw(5, 3, 4)).shape == (5, 2, 6)
    net = load(model_of([node("Reshape", "x shape")], {"x": [2, 3, 4]}, shape=np.array([2, -1])))
    assert net(draw(5, 3, 4)).shape == (5, 12)


def test_nodes_that_are_layers_and_operations_of_ours(tmp_path):
    nodes = [
        node("Identity", "x", "i", name="same"), node("DepthToSpace", "i", "d", name="up", blocksize=2, mode="CRD"),
        node("Reshape", "d rows", "r", name="rows"), node("DepthToSpace", "x", "e", name="dcr", blocksize=2),
        node("SpaceToDepth", "e", "s", name="down", blocksize=2), node("Reshape", "s any", "y", name="any"),
    ]  # fmt: skip
    rows, free = np.array([0, -1, 3]), np.array([-1, 4])
    model = model_of(nodes, {"x": ["N", 8, 2, 3]}, ("r", "y"), rows=rows, any=free)
    net = load(model)
    inside = net.children()
    assert isinstance(inside["same"], fc.Identity) and repr(inside["rows"]) == "Reshape(shape=(-1, 3))"
    assert repr(inside["up"]) == "PixelShuffle(upscale_factor=2)"
    assert [inside[name].name for name in ("dcr", "down", "any")] == ["DepthToSpace", "SpaceToDepth", "Reshape"]
    x = draw(2, 8, 2, 3)
    y = np.asarray(fc.functional.pixel_shuffle(x, 2)).reshape(2, -1, 3)
    np.testing.assert_array_equal(net(x)[0], y)
    fixed = load(model_of([node("Reshape", "x shape")], {"x": [2, 3, 4]}, shape=np.array([2, 2, -1])))
    assert isinstance(fixed.children()["y"], fc.Reshape) and fixed(draw(5, 3, 4)).shape == (5, 2, 6)
    zero = load(model_of([node("Reshape", "x shape", allowzero=1)], {"x": [0, 3, 4]}, shape=np.array([0, 12])))
    assert zero.children()["y"].name == "Reshape"


SHAPES = {  # nets with the layers that change shapes alone, their input, and a second one of other free lengths
    "vector": (
        lambda: fc.Sequential(fc.Linear(4, 24, rng=0), fc.Unflatten(1, (2, 3, -1)), fc.Reshape(-1, 6), fc.Identity()),
        (None, 4), (3, 4),
    ),
    "image": (
        lambda: fc.Sequential(fc.Conv2d(1, 8, 3, padding=1, rng=0), fc.PixelShuffle(2), fc.Identity(),
                              fc.Conv2d(2, 4, 1, rng=1)),
        (None, 1, None, None), (3, 1, 5, 4),
    ),
    "rows": (lambda: fc.Sequential(fc.Unflatten(2, (3, 2)), fc.ReLU()), (None, 2, 6, None), (2, 2, 6, 5)),
    "channels": (lambda: fc.Sequential(fc.Unflatten(-3, (3, -1))), (None, 6, 4, 5), (3, 6, 4, 5)),
    "pixels": (lambda: fc.Sequential(fc.PixelUnshuffle(2), fc.PixelUnshuffle(1)), (None, 3, 4, 6), (2, 3, 4, 6)),
}  # fmt: skip


@pytest.mark.parametrize("opset", sorted({13, 17, NEWEST}))
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_go_out_and_in(name, opset, tmp_path):
    make, looks, shape = SHAPES[name]
    net, path, x = make(), tmp_path / "net.onnx", draw(*shape)
    nodes = {"net": (net, "input")}
    save(fc.Graph(nodes, inputs={"input": ("float", looks)}), path, opset=opset)
    twin = load(path)
    np.testing.assert_allclose(twin(x), net(x), rtol=1e-6, atol=1e-6)
    assert twin(x[:0]).shape == net(x[:0]).shape
    save(twin, tmp_path / "again.onnx", opset=opset)
    if name != "pixels" or opset >= 28:  # before, pixel_unshuffle is two operators
        assert text_of(tmp_path / "again.onnx") == text_of(path)
    if onnxruntime is not None and opset <= 25:
        np.testing.assert_allclose(by_runtime(path, x), net(x), rtol=1e-5, atol=1e-5)


def test_outputs_cut_a_file_and_replace_exchanges_a_part():
    nodes = [
        node("Conv", "x w", "c", name="conv"), node("Flatten", "c", "f"),
        node("Gemm", "f v", "g", name="head", transB=1), node("Softmax", "g", "y", axis=-1),
    ]  # fmt: skip
    model = model_of(nodes, {"x": [1, 2, 4, 4]}, w=draw(3, 2, 3, 3), v=draw(5, 12))
    x = draw(2, 2, 4, 4)
    assert load(model, outputs=("c",))(x).shape == (2, 3, 2, 2)
    logits, features = load(model, outputs=("g", "f"))(x)
    assert (logits.shape, features.shape) == ((2, 5), (2, 12))
    with pytest.warns(RuntimeWarning, match="ends in softmax"):
        fc.value_and_grad(load(model), "cross_entropy", x, np.array([0, 1]))
    net = load(model, outputs=("g",)).replace("head", fc.Linear(12, 2, rng=0)).freeze().unfreeze("head")
    before = net.state_dict()
    fc.Trainer(net, fc.optim.SGD(0.1)).fit(x, np.array([0, 1]), epochs=2, batch_size=2, progress=False)
    changed = {name for name, array in net.state_dict().items() if not np.array_equal(array, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_not_trainable_folds_norms_and_has_no_parameters():
    net = models.resnet20(rng=0).eval()
    for name, array in net.state_dict().items():
        if name.endswith(("mean", "var")):
            net.load_state_dict({**net.state_dict(), name: np.abs(draw(*array.shape)) + 0.5})
    x = draw(2, 3, 32, 32)
    data = bytes_of(net)
    folded = load(data, trainable=False)
    assert folded.parameters() == {}
    assert not any("BatchNorm" in type(layer).__name__ for layer in folded.children().values())
    np.testing.assert_allclose(folded(x), net(x), rtol=1e-4, atol=1e-5)


def bytes_of(net, *arguments, tmp="net.onnx", **options):
    save(net, tmp, *arguments, **options)
    return Path(tmp).read_bytes()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_halves_are_computed_in_float32(kind):
    w = helper.make_tensor("w", kind, [2], [1.5, -2.0])
    model = model_of([node("Mul", "x w")], {"x": (kind, [2])})
    model.graph.initializer.append(w)
    net = load(model)
    y = net(np.array([2, 2], np.float32))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [3, -4])


def test_old_operator_sets():
    nodes = [
        node("BatchNormalization", "x s b m v", "n", spatial=1), node("Clip", "n", "c", min=-1.0, max=1.0),
        node("Pad", "c", "p", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5), node("Dropout", "p", "d", ratio=0.25),
        node("Slice", "d", "e", starts=[1], ends=[3], axes=[2]), node("Unsqueeze", "e", "u", axes=[4]),
        node("ReduceSum", "u", "y", axes=[2, 3, 4], keepdims=0),
    ]  # fmt: skip
    ones = np.ones(2, np.float32)
    net = load(model_of(nodes, {"x": [1, 2, 3, 3]}, s=ones, b=ones * 0, m=ones * 0, v=ones, opset=7))
    x = draw(2, 2, 3, 3)
    expected = np.pad(np.clip(x / np.sqrt(1 + 1e-5), -1, 1), [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=0.5)
    np.testing.assert_allclose(net(x), expected[:, :, 1:3].sum((2, 3)), rtol=1e-5)


def test_external_data(tmp_path):
    w = draw(2, 2)
    model = model_of([node("MatMul", "x w")], {"x": [1, 2]}, w=w)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    x = draw(3, 2)
    np.testing.assert_allclose(load(tmp_path / "m.onnx")(x), x @ w, rtol=1e-5)
    with pytest.raises(fc.FormatError, match="load the model by its path"):
        load((tmp_path / "m.onnx").read_bytes())
    (tmp_path / "w.bin").write_bytes(b"")
    with pytest.raises(fc.FormatError, match="up to byte 16, of 0 that are there"):
        load(tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").symlink_to("/etc/hostname")
    with pytest.raises(fc.FormatError, match="which is a symbolic link"):
        load(tmp_path / "m.onnx")
    for location in ("/etc/hostname", "../w.bin", "a/../../w.bin"):
        broken = onnx.load(tmp_path / "m.onnx", load_external_data=False)
        broken.graph.initializer[0].external_data[0].value = location
        (tmp_path / "b.onnx").write_bytes(broken.SerializeToString())
        with pytest.raises(fc.FormatError, match="no path beside the model or below it"):
            load(tmp_path / "b.onnx")


X = {"x": [1, 2]}
REFUSED = {
    "operator": (lambda: model_of([node("Nosuch", "x", name="n1")], X), r"node 'n1' \(Nosuch\): is no operator"),
    "domain": (lambda: model_of([node("Relu", "x", domain="com.us")], X), "of domain 'com.us'"),
    "control": (lambda: model_of([node("If", "x", name="branch")], X), r"node 'branch' \(If\): control flow"),
    "cycle": (lambda: model_of([node("Add", "x b", "a"), node("Relu", "a", "b")], X, ("b",)), "part of a cycle"),
    "undefined": (lambda: model_of([node("Add", "x b")], X), "reads 'b', which nothing defines"),
    "twice": (lambda: model_of([node("Relu", "x"), node("Tanh", "x")], X), "its output 'y' is there twice"),
    "opset": (lambda: model_of([node("Relu", "x")], X, opset=5), "operator set 5.* onnx.version_converter"),
    "future": (lambda: model_of([node("Relu", "x")], X, opset=NEWEST + 5), f"knows {NEWEST} at most"),
    "output": (lambda: model_of([node("Relu", "x")], X, ("z",)), "output 'z' is no value"),
    "string": (lambda: model_of([node("Relu", "x")], {"x": (TensorProto.STRING, [1])}), "input 'x': has type 8"),
    "attribute": (lambda: model_of([node("Relu", "x", slope=1)], X), "its attribute 'slope' is unknown"),
    "shape": (lambda: model_of([node("ConstantOfShape", "s")], X, s=np.array([10**12])), "ConstantOfShape: needs"),
    "negative": (lambda: model_of([node("ConstantOfShape", "s")], X, s=np.array([-1])), "no negative lengths"),
    "mode": (lambda: model_of([node("Pad", "x p", mode="odd")], X, p=np.array([0, 1, 0, 1])), None),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line(what, tmp_path):
    make, match = REFUSED[what]
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    if match is None:  # known when it is called
        with pytest.raises(fc.ShapeError, match="mode must be"):
            load(path)(draw(1, 2))
        return
    with pytest.raises((fc.FormatError, MemoryError), match=match) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_tensor_whose_data_is_not_its_shapes_is_refused_before_it_is_made():
    model = model_of([node("PRelu", "x w")], {"x": [1, 2]}, w=draw(2, 1))
    model.graph.initializer[0].dims[:] = [2_000_000_000, 1]
    with pytest.raises(fc.FormatError, match="needs 8,000,000,000 bytes, it has 8"):
        load(model)


def test_functions_are_refused():
    model = model_of([node("Relu", "x")], X)
    model.functions.add().name = "f"
    with pytest.raises(fc.FormatError, match="has functions"):
        load(model)


def test_importing_fastconv_imports_no_onnx():
    code = "import sys, fastconv, fastconv.onnx; sys.exit('onnx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- hostile files ----------------------------------------------------------------------------------------------------


def mutated(data, rng):
    if rng.random() < 0.6:
        model = onnx.ModelProto()
        model.ParseFromString(data)
        data = change(model, rng).SerializeToString()
        if rng.random() < 0.7:
            return data
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(raw))
        kind = rng.random()
        if kind < 0.5:
            raw[at] = rng.randrange(256)
        elif kind < 0.7:
            del raw[at : at + rng.randrange(1, 30)]
        elif kind < 0.9:
            raw[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
        else:
            del raw[at:]
        if not raw:
            break
    return bytes(raw)


def change(model, rng):
    graph = model.graph
    some = rng.choice(list(graph.node))
    tensor = rng.choice(list(graph.initializer) or [numpy_helper.from_array(np.zeros(1))])
    made = [name for each in graph.node for name in each.output]
    names = "If Loop Scan Foo Gather Conv Reshape Expand Tile Range ConstantOfShape MatMul Split Pad Resize LSTM"
    kind = rng.randrange(11)
    if kind == 0:
        some.op_type = rng.choice(names.split())
    elif kind == 1 and some.input:
        some.input[rng.randrange(len(some.input))] = rng.choice([*made, "nowhere", ""])
    elif kind == 2:
        some.output[0] = rng.choice(made)
    elif kind == 3 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, -1, 2**62, 2**31, 10**9, 1])
    elif kind == 4:
        tensor.data_type = rng.randrange(25)
    elif kind == 5:
        tensor.data_location = 1
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", rng.choice(["/etc/passwd", "../../x", "nofile", "/dev/zero", "", "\0"])
    elif kind == 6 and some.attribute:
        rng.choice(list(some.attribute)).type = rng.randrange(15)
    elif kind == 7 and some.attribute:
        attribute = rng.choice(list(some.attribute))
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice([0, -1, 2**62, -(2**63), 10**6])
        attribute.i, attribute.f = rng.choice([0, -1, 2**62]), rng.choice([float("nan"), 1e30, -1.0])
    elif kind == 8:
        model.opset_import[0].version = rng.choice([0, 1, 5, 6, 9, 13, 30, -1, 2**62])
    elif kind == 9:
        shape = np.array([rng.choice([2**62, 2**40, 10**12, -5]) for _ in range(rng.randrange(1, 5))])
        tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    else:
        some.domain = "evil"
    return model


def field(number, data):
    """A protobuf field of bytes."""
    length, head = (
        len(data),
        bytes([number << 3 | 2]) if number < 16 else bytes([(number << 3 | 2) & 127 | 128, number >> 4]),
    )
    while length > 127:
        head += bytes([length & 127 | 128])
        length >>= 7
    return head + bytes([length]) + data


BLOWN_UP = {
    "nodes": lambda n: field(7, field(1, b"") * (n // 2)),
    "tensors": lambda n: field(7, field(5, b"") * (n // 2)),
    "attributes": lambda n: field(7, field(1, field(5, b"") * (n // 2))),
    "numbers": lambda n: field(7, field(5, field(7, bytes(8 * n)))),
    "functions": lambda n: field(25, b"") * (n // 3),
}


@pytest.mark.parametrize("what", BLOWN_UP)
def test_small_parts_by_the_thousands_are_refused_before_they_are_parsed(what):
    with pytest.raises(fc.FormatError, match="would take far more memory than the file has"):
        load(BLOWN_UP[what](1_000_000))


def test_mutated_files_are_one_line(tmp_path, request):
    bases = [bytes_of(models.lenet5(rng=0), tmp=tmp_path / "lenet5.onnx")]
    bases.append(model_of([node("Conv", "x w", "c"), node("Reshape", "c s", "r"), node("Expand", "r t")],
                          {"x": [1, 2, 4, 4]}, w=draw(2, 2, 3, 3), s=np.array([1, -1]),
                          t=np.array([3, 8])).SerializeToString())  # fmt: skip
    rng, path = random.Random(0), tmp_path / "evil.onnx"
    refused = 0
    for _ in range(request.config.getoption("--onnx-mutations")):
        path.write_bytes(mutated(rng.choice(bases), rng))
        begun = time.process_time()
        try:
            load(path)
        except (fc.FormatError, MemoryError) as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
            assert len(str(error)) < 1000
        assert time.process_time() - begun < 10  # 2 s on a machine of one's own
    assert refused


# --- out --------------------------------------------------------------------------------------------------------------

NETS = {
    "lenet5": (1, 28, 28), "digits_cnn": (1, 8, 8), "mnist_cnn": (1, 28, 28), "folder_cnn": (3, 16, 16),
    "resnet20": (3, 16, 16), "resnet18": (3, 32, 32), "mobilenet": (3, 32, 32), "vgg_cifar": (3, 16, 16),
    "vgg16": (3, 32, 32), "m5": (1, 1600), "voxnet": (1, 24, 24, 24),
}  # fmt: skip
LARGE = ("resnet18", "mobilenet", "vgg_cifar", "vgg16")


def built(name, dtype=np.float32):
    options = {"hidden": 16} if name == "vgg16" else {"width": 0.25} if name == "mobilenet" else {}
    return models.build(name, NETS[name], 10, rng=0, **options).astype(dtype)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nets_go_out_and_in_and_train_as_before(name, dtype, tmp_path, request):
    if name in LARGE and not request.config.getoption("--onnx-all"):
        pytest.skip("a large net: --onnx-all")
    net, x, y = built(name, dtype), draw(3, *NETS[name], dtype=dtype), np.arange(3)
    save(net, tmp_path / "net.onnx")
    twin = load(tmp_path / "net.onnx")
    close = {"rtol": 0, "atol": 1e-6 if dtype is np.float32 else 1e-12}
    np.testing.assert_allclose(twin(x), net.eval()(x), **close)
    assert twin.state_dict().keys() == net.state_dict().keys()
    steps = [fc.optim.SGD(0.01, momentum=0.9) for _ in range(2)]
    for step in range(3):
        results = []
        for each, optimizer in zip((net, twin), steps, strict=True):
            loss, gradients = fc.value_and_grad(each, "cross_entropy", x, y, rng=np.random.default_rng(step))
            optimizer.step(each.parameters(), gradients)
            results.append((loss, gradients))
        assert abs(results[0][0] - results[1][0]) <= close["atol"]
        for name, gradient in results[0][1].items():
            np.testing.assert_allclose(results[1][1][name], gradient, **close, err_msg=name)
    for name, array in net.state_dict().items():
        np.testing.assert_allclose(twin.state_dict()[name], array, **close, err_msg=name)


@pytest.mark.parametrize("opset", sorted({13, 17, 21, NEWEST}))
def test_layers_go_out_and_in(opset, tmp_path, request):
    cases = LAYERS if request.config.getoption("--onnx-all") else LAYERS[::5]
    path = tmp_path / "layer.onnx"
    for case in cases:
        fc.manual_seed(0)
        layer = getattr(fc, case.name)(*case.arguments, **case.options)
        rng = np.random.default_rng(1)
        for _, inner, name in layer.named_arrays():
            array = getattr(inner, name)
            if array.dtype.kind == "f":
                array[...] = rng.uniform(0.5, 1.5, array.shape)
        net, x = fc.Sequential(layer).eval(), draw(*case.x_shape)
        try:
            save(net, path, case.x_shape, opset=opset)
        except ValueError as error:
            assert case.name == "FunctionPool2d" or "of operator set" in str(error)
            continue
        expected, scale = net(x), 1 + np.abs(net(x)).max()
        twin = load(path)
        np.testing.assert_allclose(twin(x), expected, rtol=0, atol=1e-6 * scale, err_msg=str(case))
        if net.parameters():  # a norm without weights gets some
            assert {name.removeprefix("0.") for name in twin.parameters()} == set(layer.parameters()), case
        if onnxruntime is not None and opset <= 25:
            np.testing.assert_allclose(by_runtime(path, x), expected, rtol=0, atol=1e-5 * scale, err_msg=str(case))


def by_runtime(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(path), options).run(None, {"input": x})[0]


@pytest.mark.skipif(onnxruntime is None, reason="onnxruntime is not installed")
@pytest.mark.parametrize("name", NETS)
def test_onnx_runtime_agrees(name, tmp_path):
    net, x = built(name).eval(), draw(2, *NETS[name])
    save(net, tmp_path / "net.onnx")
    np.testing.assert_allclose(by_runtime(tmp_path / "net.onnx", x), net(x), rtol=1e-5, atol=1e-5)


def test_graphs_go_out_and_in(tmp_path):
    net = fc.Graph(
        {
            "conv.1": (fc.Conv2d(2, 4, 3, padding=1, rng=0), "image"),
            "parts": ("Split", "conv.1", {"axis": 1, "outputs": 2}),
            "left": ("item", "parts", {"index": 0}), "right": ("item", "parts", {"index": 1}),
            "gate": ("Sigmoid", "left"), "gated": ("mul", "gate", "right"),
            "wide": ("Resize", "gated", {"scales": (1.0, 1.0, 2.0, 2.0), "mode": "linear"}),
            "pooled": ("ReduceMean", "wide", {"axes": (2, 3), "keepdims": 0}),
            "both": ("concat", "pooled", "extra"),
            "head": (fc.Linear(5, 3, rng=1), "both"),
        },
        inputs=("image", "extra"),
        outputs=("head", "pooled"),
    )  # fmt: skip
    image, extra = draw(3, 2, 6, 6), draw(3, 3)
    for opset in (13, 18, NEWEST):
        save(net, tmp_path / "net.onnx", {"image": image.shape, "extra": extra.shape}, opset=opset)
        twin = load(tmp_path / "net.onnx")
        assert (twin.inputs, twin.outputs) == (("image", "extra"), ("head", "pooled"))
        for ours, theirs in zip(net(image, extra), twin(image, extra), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
        assert twin.parameters().keys() == net.parameters().keys()


def text_of(path):
    model = onnx.load(path)
    model.graph.name = "net"  # the class of what was written
    return onnx.printer.to_text(model)


@pytest.mark.parametrize("name", ["resnet20", "m5", "lenet5"])
def test_what_comes_in_goes_out_again_as_it_was(name, tmp_path):
    first, second, net = tmp_path / "a.onnx", tmp_path / "b.onnx", built(name)
    for shape in (None, (1, *NETS[name])):
        save(net, first, shape)
        save(load(first), second)
        assert text_of(second) == text_of(first)
    fc.save(load(first), tmp_path / "net")
    kept = fc.load(tmp_path / "net")
    assert kept.input_shapes == {"input": (None, *NETS[name])}
    save(kept, second)
    assert text_of(second) == text_of(first)


def test_inputs_that_no_layer_describes_keep_their_shapes(tmp_path):
    nodes = [node("Flatten", "x", "f"), node("Concat", "f e", "c", axis=1), node("Gemm", "c w", "y", name="head"),
             node("Shape", "x", "n"), node("Identity", "e", "z")]  # fmt: skip
    model = model_of(nodes, {"x": ["N", 2, 3], "e": ["N", 4]}, ("y", "n", "e", "z"), w=draw(10, 5))
    net, arrays = load(model), (draw(2, 2, 3), draw(2, 4))
    assert net.input_shapes == {"x": (None, 2, 3), "e": (None, 4)}
    save(net, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [value.name for value in graph.input] == ["x", "e"]
    assert [value.name for value in graph.output][:2] == ["y", "n"]
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    for ours, theirs in zip(net(*arrays), load(tmp_path / "b.onnx")(*arrays), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_training_mode(tmp_path):
    net = fc.Sequential(fc.Conv2d(1, 2, 3, rng=0), fc.BatchNorm2d(2), fc.Dropout(0.25), fc.Flatten())
    save(net, tmp_path / "net.onnx", training=True)
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    norm = next(each for each in nodes if each.op_type == "BatchNormalization")
    assert {a.name: a.i for a in norm.attribute}["training_mode"] == 1
    assert len(next(each for each in nodes if each.op_type == "Dropout").input) == 3
    x = draw(2, 1, 5, 5)
    np.testing.assert_allclose(load(tmp_path / "net.onnx")(x), net.eval()(x), rtol=1e-6)


def test_what_cannot_be_written_is_told(tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(fc.ShapeError, match=r"give input_shape=\(N, C, …\)"):
        save(fc.Sequential(fc.Flatten(), fc.Linear(4, 2)), path)
    with pytest.raises(fc.ShapeError, match=r"layer '1' \(AdaptiveAvgPool2d\) needs sizes"):
        save(fc.Sequential(fc.Conv2d(1, 1, 1), fc.AdaptiveAvgPool2d(2)), path)
    with pytest.raises(fc.ShapeError, match=r"layer '1' \(Unflatten\) needs sizes \(the axes behind it keep"):
        save(fc.Sequential(fc.Conv2d(1, 4, 1), fc.Unflatten(1, (2, 2))), path)
    with pytest.raises(ValueError, match=r"layer '1' \(PixelUnshuffle\) needs the number of its channels; give"):
        save(fc.Sequential(fc.Conv2d(1, 4, 1), fc.PixelUnshuffle(2)), path)
    with pytest.raises(ValueError, match=r"layer '0' \(LpPool2d\) needs LpPool's ceil_mode of operator set 18"):
        save(fc.Sequential(fc.LpPool2d(2, 2, ceil_mode=True)), path, (1, 1, 5, 5))
    unpooled = {"u": ("max_unpool2d", "v", "at", {"kernel_size": 2})}
    with pytest.raises(ValueError, match=r"layer 'u' \(max_unpool2d\) has no ONNX operators"):
        save(fc.Graph(unpooled, inputs={"v": "float", "at": "int64"}), path, ((1, 1, 2, 2), (1, 1, 2, 2)))
    with pytest.raises(ValueError, match="opset must lie between 13 and"):
        save(fc.Sequential(fc.ReLU()), path, (1, 1), opset=12)
    assert not path.exists()


def test_command_line(tmp_path, capsys):
    from fastconv.cli import main

    out = tmp_path / "run"
    assert main(["train", "digits", "--epochs", "1", "--out", str(out), "--quiet", "--no-plots"]) == 0
    assert main(["onnx", "export", str(out), str(tmp_path / "net.onnx"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["opset"] == 17
    assert main(["onnx", "import", str(tmp_path / "net.onnx"), str(tmp_path / "net.safetensors")]) == 0
    from fastconv.training import checkpoint

    net = checkpoint.load_net(tmp_path / "net.safetensors")
    x = draw(2, 1, 8, 8)
    np.testing.assert_array_equal(net(x), load(tmp_path / "net.onnx")(x))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert main(["onnx", "import", str(tmp_path / "bad.onnx"), str(tmp_path / "x")]) == 1
    assert os.fspath(tmp_path / "bad.onnx") in capsys.readouterr().err
