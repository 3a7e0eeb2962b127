"""Weights out of PyTorch's files, without PyTorch; safetensors and .npz; nothing in a file is ever run.

pytest tests/test_weights.py --weights-fuzz 10000 -s      so many damaged files, and what they took
"""

import collections
import io
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_files import MAGIC, Raw, Tensor, Writer, as_older, as_zip, name

import fastconv as fc
from fastconv import load_weights
from fastconv.machine import memory
from fastconv.training import checkpoint

WRITERS = {"zip": as_zip, "older": as_older}
rng = np.random.default_rng(0)


def put(tmp_path, data, called="net.pth"):
    path = tmp_path / called
    path.write_bytes(data)
    return path


def plain(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def whole(array):
    """A tensor with a storage of its own."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(array.reshape(-1), 0, array.shape, strides)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, strict=True)


def sorted_(arrays):
    return dict(sorted(arrays.items()))


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    """Writes a value as a file of torch.save's, either kind."""
    return lambda value, **options: put(tmp_path, WRITERS[request.param](value, **options))


# --- what is read ----------------------------------------------------------------------------------------------------


def test_state_dict(written):
    arrays = {"0.weight": plain(4, 3, 3, 3), "0.bias": plain(4), "1.num_batches_tracked": np.array(7)}
    found = load_weights(written({key: whole(array) for key, array in arrays.items()}))
    assert_same(found, arrays)
    assert all(array.flags.writeable for array in found.values())


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i4", "i2", "i1", "u1", "?", "c8", "c16"])
def test_types(dtype, written):
    array = (10 * rng.standard_normal(24)).astype(dtype)
    assert_same(load_weights(written({"a": whole(array)})), {"a": array})


def test_half_and_bfloat16(written):
    half = np.array([0.1, -65504, np.inf, np.nan, 6e-8], np.float16)
    assert_same(load_weights(written({"a": whole(half)})), {"a": half.astype(np.float32)})
    values = np.array([1.5, -2.0, 3.140625, np.inf, 1e38], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    found = load_weights(written({"a": Tensor(bits.view(np.int16), kind="BFloat16Storage")}))
    assert_same(found, {"a": expected})


def test_big_endian(tmp_path):
    for array in (plain(5), np.arange(5), np.arange(5).astype(np.float16), np.arange(5).astype(bool)):
        expected = array.astype(np.float32) if array.dtype == np.float16 else array
        assert_same(load_weights(put(tmp_path, as_zip({"a": whole(array)}, order="big"))), {"a": expected})
    bits = np.array([0x3FC0, 0xC000], np.uint16).view(np.int16)
    found = load_weights(put(tmp_path, as_zip({"a": Tensor(bits, kind="BFloat16Storage")}, order="big")))
    assert_same(found, {"a": np.array([1.5, -2.0], np.float32)})


def test_views_of_one_storage(written):
    storage = np.arange(24, dtype=np.float32)
    table = storage.reshape(2, 3, 4)
    views = {
        "all": Tensor(storage, 0, (2, 3, 4), (12, 4, 1)), "turned": Tensor(storage, 0, (4, 2, 3), (1, 12, 4)),
        "some": Tensor(storage, 5, (2, 2), (12, 2)), "expanded": Tensor(storage, 3, (5, 2), (0, 1)),
        "number": Tensor(storage, 23, (), ()), "none": Tensor(storage, 24, (0, 7), (7, 1)),
        "parameter": Tensor(storage, 0, (3,), (1,), parameter=True),
    }  # fmt: skip
    found = load_weights(written(views))
    expected = {
        "all": table, "turned": table.transpose(2, 0, 1), "some": table[:, 1, 1::2], "number": storage[23],
        "expanded": np.broadcast_to(storage[3:5], (5, 2)), "none": np.zeros((0, 7), np.float32),
        "parameter": storage[:3],
    }  # fmt: skip
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)
    found["all"][0, 0, 1] = -1  # tied weights stay tied
    assert found["parameter"][1] == -1 == found["turned"][1, 0, 0]


def test_a_part_of_a_storage(tmp_path):
    storage = np.arange(10, dtype=np.float32)
    path = put(tmp_path, as_older({"a": Tensor(storage, 1, (2, 2), (2, 1), part=(4, 6))}))
    assert_same(load_weights(path), {"a": storage[5:9].reshape(2, 2)})


def test_sizes_and_dtypes(written):
    size = Raw(name("torch", "Size") + b"(" + Writer().pickled((2, 3)) + b"tR")
    assert_same(load_weights(written({"a": Tensor(np.arange(6.0), 0, size, (3, 1)), "type": name("torch", "float32")})),
                {"a": np.arange(6.0).reshape(2, 3)})  # fmt: skip


def test_attributes_of_an_ordered_dict(written):
    state = Writer().pickled({"a": 1})
    value = {"b": {"x": Raw(name("collections", "OrderedDict") + b")R" + state + b"b")}, "a": whole(plain(2))}
    assert list(load_weights(written(value))) == ["a"]


def test_nested(written):
    a, b, loss = plain(2), plain(3), np.array(0.5)
    model = {"module.x": whole(a), "module.y.z": whole(b)}
    optimizer = {"state": {0: {"exp_avg": whole(b)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    checkpoint_ = {"epoch": 3, "loss": whole(loss), "model": model, "optimizer": optimizer, "name": "x" * 300}
    path = written(checkpoint_)
    assert_same(load_weights(path), {"x": a, "y.z": b})
    assert_same(load_weights(path, key="model"), {"x": a, "y.z": b})
    assert_same(load_weights(written({"sd": {"_orig_mod.module.x": whole(a)}})), {"x": a})
    assert_same(load_weights(written({"module.x": whole(a), "y": whole(b)})), {"module.x": a, "y": b})
    two = written({"G": {"w": whole(a)}, "D": {"inner": {"w": whole(b)}}, "E": {"w": whole(b)}})
    assert_same(load_weights(two, key="D.inner"), {"w": b})
    with pytest.raises(
        fc.FormatError, match=r"holds several dicts of tensors, choose one by key=: 'G', 'E', 'D\.inner'"
    ):
        load_weights(two)
    with pytest.raises(ValueError, match=r"no dict of tensors called 'F'; it has 'G', 'E', 'D\.inner'"):
        load_weights(two, key="F")
    assert load_weights(written({})) == {}


@pytest.mark.parametrize("wrapped", [False, True])
def test_of_torch_itself(wrapped, tmp_path):
    """Files that PyTorch wrote, read by a process that has no PyTorch."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 2))
    net[2].weight = torch.nn.Parameter(net[2].weight.detach().half().T)
    optimizer = torch.optim.Adam(net.parameters())
    net[0].weight.sum().backward()
    optimizer.step()
    value = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 2} if wrapped else net.state_dict()
    expected = {key: tensor.float().numpy() if tensor.dtype == torch.half else tensor.numpy()
                for key, tensor in net.state_dict().items()}  # fmt: skip
    np.savez(tmp_path / "expected.npz", **expected)
    for protocol in (2, 3, 4, 5):
        torch.save(value, tmp_path / f"zip{protocol}.pth", pickle_protocol=protocol)
        torch.save(value, tmp_path / f"old{protocol}.pth", pickle_protocol=protocol,
                   _use_new_zipfile_serialization=False)  # fmt: skip
    torch.serialization.set_crc32_options(False)
    torch.save(value, tmp_path / "unchecked.pth")
    torch.serialization.set_crc32_options(True)
    code = """
    import sys
    sys.modules["torch"] = sys.modules["pickle"] = sys.modules["_pickle"] = None
    from pathlib import Path
    import numpy as np, fastconv
    folder = Path(sys.argv[1])
    expected = fastconv.load_weights(folder / "expected.npz")
    files = sorted(folder.glob("*.pth"))
    for file in files:
        found = fastconv.load_weights(file)
        assert list(found) == list(expected), file
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, strict=True)
    print(len(files))
    """
    code = textwrap.dedent(code).replace(' = sys.modules["pickle"] = sys.modules["_pickle"]', "")
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("9\n", 0), done.stderr


# --- torchvision's nets ----------------------------------------------------------------------------------------------


def torchvisions_resnet18(torch, classes):
    """torchvision.models.resnet18's modules, by their names."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, planes, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.downsample = None
            if stride != 1 or inputs != planes:
                around = nn.Conv2d(inputs, planes, 1, stride, bias=False)
                self.downsample = nn.Sequential(around, nn.BatchNorm2d(planes))

        def forward(self, x):
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    def layer(inputs, planes, stride):
        return nn.Sequential(Block(inputs, planes, stride), Block(planes, planes, 1))

    return nn.Sequential(collections.OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False), bn1=nn.BatchNorm2d(64), relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, 2, 1),
        layer1=layer(64, 64, 1), layer2=layer(64, 128, 2), layer3=layer(128, 256, 2), layer4=layer(256, 512, 2),
        avgpool=nn.AdaptiveAvgPool2d((1, 1)), flatten=nn.Flatten(), fc=nn.Linear(512, classes),
    ))  # fmt: skip


def torchvisions_vgg16(torch, classes, pixels, hidden):
    """torchvision.models.vgg16's modules, its classifier made smaller."""
    nn = torch.nn
    features, inputs = [], 3
    for planes in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if planes == "M":
            features.append(nn.MaxPool2d(2, 2))
            continue
        features += [nn.Conv2d(inputs, planes, 3, padding=1), nn.ReLU(True)]
        inputs = planes
    classifier = nn.Sequential(
        nn.Linear(512 * pixels * pixels, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(True),
        nn.Dropout(), nn.Linear(hidden, classes),
    )  # fmt: skip
    return nn.Sequential(collections.OrderedDict(
        features=nn.Sequential(*features), avgpool=nn.AdaptiveAvgPool2d(pixels), flatten=nn.Flatten(),
        classifier=classifier,
    ))  # fmt: skip


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("net", ["resnet18", "vgg16"])
def test_torchvisions_weights(net, older, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    if net == "resnet18":
        theirs, ours, side = torchvisions_resnet18(torch, 10), fc.models.resnet18(10), 64
    else:
        theirs, ours, side = torchvisions_vgg16(torch, 10, 2, 64), fc.models.vgg16(10, size=64, hidden=64), 96
    with torch.no_grad():
        for key, tensor in theirs.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=not older)
    assert ours.load_state_dict(load_weights(tmp_path / "net.pth")) == ([], [])
    x = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(x)).numpy()
    np.testing.assert_allclose(ours.predict(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# --- other formats ---------------------------------------------------------------------------------------------------


def test_npz(tmp_path):
    arrays = {"a.weight": plain(2, 3), "b": np.asfortranarray(plain(3, 4)), "n": np.array(3), "big": np.arange(3.0)}
    np.savez(tmp_path / "a.npz", **{**arrays, "big": arrays["big"].astype(">f8")})
    assert_same(load_weights(tmp_path / "a.npz"), arrays)
    np.savez_compressed(tmp_path / "b.npz", half=np.arange(3).astype(np.float16), **{"module.x": arrays["b"]})
    assert_same(load_weights(tmp_path / "b.npz"), {"half": np.arange(3, dtype=np.float32), "module.x": arrays["b"]})
    assert_same(load_weights(tmp_path / "b.npz", key="module"), {"x": arrays["b"]})


def test_npz_that_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([print], object))
    with pytest.raises(fc.FormatError, match=r"a\.npz: 'a' holds object; only numbers are read"):
        load_weights(path)
    np.savez(path, a=np.zeros(2, [("x", float)]))
    with pytest.raises(fc.FormatError, match=r"a\.npz: 'a' holds .*only numbers"):
        load_weights(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # a bomb: a terabyte of zeros, so it says
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 37,)})
        archive.writestr("a.npy", header.getvalue() + bytes(1 << 20))
    with pytest.raises(fc.FormatError, match=r"a\.npz: 'a' needs 1,099,511,627,776 bytes, its entry has 1,048,576"):
        load_weights(path)
    np.savez_compressed(path, a=np.zeros(3 << 20), b=np.zeros(3 << 20))
    monkeypatch.setattr(memory, "available_bytes", lambda: 40 << 20)
    monkeypatch.setattr(memory.memory, "cached", lambda: 0)
    with pytest.raises(MemoryError, match=r"a\.npz: reading: needs 50,331,648 bytes"):
        load_weights(path)
    np.save(tmp_path / "a.npy", np.zeros(2))
    with pytest.raises(fc.FormatError, match=r"a\.npy: holds one array without a name; write numpy.savez"):
        load_weights(tmp_path / "a.npy")


def test_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    net = fc.Sequential(fc.Linear(2, 3, rng=0), fc.BatchNorm1d(3))
    fc.save(net, path)
    assert_same(sorted_(load_weights(path)), sorted_(net.state_dict()))
    assert_same(sorted_(load_weights(path, key="0")), sorted_(net[0].state_dict()))
    with pytest.raises(ValueError, match=r"load_weights: .* has no name that begins with 'x\.'; it has '1\.num"):
        load_weights(path, key="x")
    trainer = fc.Trainer(net, fc.optim.Adam())
    x = plain(8, 2)
    trainer.fit(x, np.zeros(8, int), epochs=1, validation_data=(x, np.zeros(8, int)), progress=False)
    trainer.save(path)
    assert_same(sorted_(load_weights(path)), sorted_(net.state_dict()))
    assert_same(sorted_(load_weights(path, key="best")), sorted_(trainer.best_state))
    checkpoint.write(path, {"module.h": np.arange(3).astype(np.float16)})
    assert_same(load_weights(path), {"h": np.arange(3, dtype=np.float32)})


def test_safetensors_in_bfloat16(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path = put(tmp_path, struct.pack("<Q", len(header)) + header + struct.pack("<HH", 0x3FC0, 0xC000), "a.safetensors")
    assert_same(load_weights(path), {"a": np.array([1.5, -2.0], np.float32)})


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD = {"a": whole(np.arange(6, dtype=np.float32).reshape(2, 3))}
F4 = np.arange(6, dtype=np.float32)


def calls(module, function, *arguments):
    return Raw(name(module, function) + Writer().pickled(tuple(arguments)) + b"R")


def state(**attributes):
    return Writer().pickled(attributes)


BAD_PICKLES = {
    "system": (calls("posix", "system", "touch executed"), r"asks for 'posix\.system'; nothing in a file is run here"),
    "eval": (calls("builtins", "eval", "open('executed', 'w')"), r"asks for 'builtins\.eval'"),
    "net": (calls("torch.nn.modules.container", "Sequential"), r"write torch\.save\(net\.state_dict\(\), path\)"),
    "stack global": (Raw(b"\x8c\x05posix\x8c\x06system\x93)R"), r"asks for 'posix\.system'"),
    "new object": (Raw(name("collections", "OrderedDict") + b")\x81"), "opcode NEWOBJ"),
    "inst": (Raw(b"(iposix\nsystem\n"), "opcode INST"),
    "obj": (Raw(b"(" + name("collections", "OrderedDict") + b"o"), "opcode OBJ"),
    "extension": (Raw(b"\x82\x01"), "opcode EXT1"),
    "build": (Raw(b"}" + state(a=1) + b"b"), "sets attributes of something else than an OrderedDict"),
    "build of a global": (Raw(name("collections", "OrderedDict") + state(a=1) + b"b"), "sets attributes"),
    "calls data": (Raw(b"})R"), "calls what is no function"),
    "calls a storage": (Raw(name("torch", "FloatStorage") + b")R"), "calls what is no function"),
    "no storage": (Raw(name("torch._utils", "_rebuild_tensor") + Writer().pickled((1, 0, (2,), (1,))) + b"R"),
                   "a tensor is made of what is no storage"),
    "too long": ({"a": Tensor(F4, 0, (7,), (1,))}, "reaches beyond its storage of 6 elements"),
    "too far": ({"a": Tensor(F4, 4, (2, 2), (1, 1))}, "reaches beyond its storage of 6 elements"),
    "huge stride": ({"a": Tensor(F4, 0, (2, 2), (2**61, 1))}, "reaches beyond its storage of 6 elements"),
    "huge size": ({"a": Tensor(F4, 0, (2**50,), (0,))}, "shows the 6 elements of its storage"),
    "huge empty": ({"a": Tensor(F4, 0, (2**61, 2**61, 0), (1, 1, 1))}, "'a' has a shape that NumPy cannot hold"),
    "negative": ({"a": Tensor(F4, 5, (2,), (-1,))}, r"a stride must hold integers from 0 to 2\*\*62"),
    "negative offset": ({"a": Tensor(F4, -1, (2,), (1,))}, "an? offset must hold integers from 0"),
    "axes": ({"a": Tensor(F4, 0, (1,) * 40, (1,) * 40)}, "a size must be a tuple of at most 32 integers"),
    "unequal": ({"a": Tensor(F4, 0, (2, 3), (1,))}, "must have as many entries"),
    "text as size": ({"a": Tensor(F4, 0, ("2",), (1,))}, "a size must be a tuple"),
    "unknown type": ({"a": Tensor(F4, kind="QInt8Storage")}, r"asks for 'torch\.QInt8Storage'"),
    "key": ({2**61 - 1: 1}, "a dict has a key of type int"),
    "tuple as key": ({(1, 2): 1}, "a dict has a key of type tuple"),
    "memo": (Raw(b"h\x05"), "its pickle is damaged"),
    "memo far": (Raw(b"Nr\xff\xff\xff\xff"), "its pickle is damaged: entry 4294967295 of its memo is out of order"),
    "empty stack": (Raw(b"\x85"), "its pickle is damaged"),
    "marks": (Raw(b"tttt"), "its pickle is damaged"),
    "text": (Raw(b"X\xff\xff\xff\x7f"), "a text of 2,147,483,647 bytes"),
    "long line": (Raw(b"c" + b"x" * 5000 + b"\nx\n"), "its pickle is damaged"),
    "number": (Raw(b"\x8b\xff\xff\xff\x7f"), "its pickle is damaged: a text of"),
    "much": (Raw(b"(" + b"}" * 500_000 + b"t"), "would fill more memory than a file of its size may"),
    "many": (Raw(b"N0" * 10 + b"(" + b"N" * 800_000 + b"t"), "opcode POP"),
    "long": (Raw(b"(" + b"N" * 800_000 + b"t"), "has more than 700,000 opcodes"),
    "deep": (Raw(b"]q\x00" + b"]a" * 100_000), "holds no dict of tensors by name"),
    "deep tuple": (Raw(b")" + b"\x85" * 200_000), "holds no dict of tensors by name"),
    "deep tuple as a key": (Raw(b"}" + b")" + b"\x85" * 100_000 + b"Ns"), "a dict has a key of type tuple"),
    "deep tuple as a storage": (Raw(b")" + b"\x85" * 100_000 + b"Q"), "it names what is no storage"),
    "cycle": (Raw(b"}q\x00X\x01\x00\x00\x00ah\x00s"), "holds no dict of tensors by name"),
    "list": ([whole(F4)], "holds no dict of tensors by name"),
    "protocol": (Raw(b"\x80\x09N"), "holds no dict"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_PICKLES)
def test_bad_pickles(bad, written, tmp_path, monkeypatch):
    value, message = BAD_PICKLES[bad]
    monkeypatch.chdir(tmp_path)
    path = written(value)
    with pytest.raises(fc.FormatError, match=message) as caught:
        load_weights(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < len(str(path)) + 300
    assert not (tmp_path / "executed").exists()


def test_a_module_of_older_files(tmp_path):
    value = Raw(Writer().pickled(("module", name("torch", "Size"), "x.py", "code")) + b"Q")
    with pytest.raises(fc.FormatError, match="holds a whole net as an object"):
        load_weights(put(tmp_path, as_older(value)))


def damaged(data, at, new):
    return data[:at] + new + data[at + len(new) :]


BAD_ARCHIVES = {
    "compressed": (as_zip(GOOD, compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted, which torch.save's"),
    "short storage": (as_zip(GOOD, **{"data/0": bytes(20)}), "storage '0' has 20 bytes, its elements need 24"),
    "long storage": (as_zip(GOOD, **{"data/0": bytes(28)}), "storage '0' has 28 bytes, its elements need 24"),
    "no storage": (as_zip(GOOD, **{"data/0": None}), "it lacks storage '0'"),
    "byte order": (as_zip(GOOD, byteorder=b"middle"), "its byte order is .*middle.*, neither little nor big"),
    "script": (as_zip(GOOD, **{"constants.pkl": b"x", "code/x.py": b"x"}), "of torch.jit.save"),
    "no pickle": (as_zip(GOOD, **{"data.pkl": None}), "is no array, or stands there twice"),
    "cut off": (as_zip(GOOD)[:-30], "is a damaged archive: File is not a zip file"),
    "a flipped bit": (damaged(as_zip(GOOD), as_zip(GOOD).index(F4.tobytes()) + 3, b"\1"), "storage '0' is not what"),
    "a flipped bit of the pickle": (damaged(as_zip(GOOD), as_zip(GOOD).index(b"Float"), b"f"), "its pickle is not"),
    "bools": (as_zip({"a": Tensor(np.array([2, 1], np.uint8), kind="BoolStorage")}), "holds other bytes than 0 and 1"),
    "empty": (b"PK\5\6" + bytes(18), "is an empty archive"),
    "magic": (as_older(GOOD, magic=MAGIC + 1), "is a pickle, but none that torch.save wrote"),
    "version": (as_older(GOOD, version=1000), "its version is not 1001"),
    "plain pickle": (pickle.dumps({"a": 1}), "is a pickle, but none that torch.save wrote"),
    "keys": (as_older(GOOD, keys=["0", "0"]), "or lists it twice"),
    "missing key": (as_older(GOOD, keys=[]), "it lacks storage '0'"),
    "other key": (as_older(GOOD, keys=["0", "1"]), "it lists storage '1', which no tensor names"),
    "older cut off": (as_older(GOOD)[:-1], "ends within storage '0'"),
    "older, other length": (damaged(as_older(GOOD), len(as_older(GOOD)) - 32, b"\7"), "storage '0' has 28 bytes"),
    "text": (b"weights = 1\n" * 9, "is none of .pt, .pth, .safetensors and .npz"),
    "nothing": (b"", "is none of .pt, .pth, .safetensors and .npz"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_ARCHIVES)
def test_bad_archives(bad, tmp_path):
    data, message = BAD_ARCHIVES[bad]
    path = put(tmp_path, data)
    with pytest.raises(fc.FormatError, match=message) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_entries_that_share_their_bytes(tmp_path):
    """Ten storages that are all the same megabyte."""
    arrays = {str(i): np.zeros(1 << 18, np.float32) for i in range(10)}
    data = as_zip({key: Tensor(array) for key, array in arrays.items()}, **{f"data/{i}": None for i in range(1, 10)})
    at = data.index(b"PK\1\2")
    directory, entries, end = data[at:], [], data.rindex(b"PK\5\6")
    for piece in data[at:end].split(b"PK\1\2")[1:]:
        entries.append(b"PK\1\2" + piece)
        if b"data/0" in piece:
            entries += [b"PK\1\2" + piece.replace(b"data/0", f"data/{i}".encode()) for i in range(1, 10)]
    joined = b"".join(entries)
    directory = joined + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(entries), len(entries), len(joined), at, 0)
    with pytest.raises(fc.FormatError, match=r"its storages overlap|Overlapped"):
        load_weights(put(tmp_path, data[:at] + directory))


def test_a_long_directory(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", b"x")
        archive.comment = b"c" * 60_000
    data = bytearray(file.getvalue())
    at = data.rindex(b"PK\5\6") + 12
    data[at : at + 4] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(fc.FormatError, match="its list of entries would have 1,073,741,824 bytes"):
        load_weights(put(tmp_path, bytes(data)))


def test_bad_calls(tmp_path):
    with pytest.raises(TypeError, match="load_weights: key must be a text, got 3"):
        load_weights(put(tmp_path, as_zip(GOOD)), key=3)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "nothing")
    with pytest.raises(fc.FormatError, match="is not a regular file"):
        load_weights(tmp_path)


def test_more_than_memory(written, monkeypatch):
    path = written({"a": Tensor(np.zeros(5 << 20, np.float32))})
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    monkeypatch.setattr(memory, "UNCHECKED", 1 << 20)
    monkeypatch.setattr(memory.memory, "cached", lambda: 0)
    with pytest.raises(MemoryError, match=r"net\.pth: reading: needs 20,971,520 bytes"):
        load_weights(path)


# --- damaged files ---------------------------------------------------------------------------------------------------

CALLS = [calls("posix", "system", "touch executed"), calls("builtins", "exec", "open('executed', 'w')"),
         Raw(b"cos\nsystem\n(X\x0e\x00\x00\x00touch executedtR"),
         Raw(b"(S'touch executed'\nios\nsystem\n")]  # fmt: skip
PIECES = [b"}", b"]", b")", b"(", b"t", b"R", b"b", b"Q", b"u", b"s", b"h\x00", b"q\x00", b"\x85", b"N", b"0", b"2",
          b"e", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"K\x00", b"J\xff\xff\xff\xff", b"\x81", b"\x93",
          b"X\xff\xff\xff\x7f"]  # fmt: skip


def bases():
    shared = np.arange(3000, dtype=np.float32)
    values = {"a.weight": Tensor(shared, 0, (30, 100), (100, 1)), "a.bias": Tensor(shared, 7, (30,), (3,)),
              "h": whole(np.arange(64).astype(np.float16)), "n": whole(np.array(3)), "t": whole(np.eye(5).T),
              "b": Tensor(np.arange(9, dtype=np.int16), kind="BFloat16Storage"),
              "m": whole(np.ones(3, bool))}  # fmt: skip
    nested = {"epoch": 1, "model": values, "optimizer": {"state": {0: {"x": values["n"]}}, "groups": [{"lr": 0.1}]}}
    return [(write, value) for write in (as_zip, as_older) for value in (values, nested)]


def mutated(write, value, chance):
    """A damaged file: its bytes, or the pickle in it with checksums that hold."""
    kind = chance.randrange(8)
    if kind < 4:
        pickled = bytearray(Writer().dump(value))
        for _ in range(chance.choice([1, 1, 2, 5])):
            at = chance.randrange(2, len(pickled))
            what = chance.randrange(4)
            if what == 0:
                pickled[at] = chance.randrange(256)
            elif what == 1:
                pickled[at:at] = chance.choice(PIECES) * chance.choice([1, 1, 3, 1000])
            elif what == 2:
                pickled[at:at] = chance.choice(CALLS)
            else:
                del pickled[at : at + chance.choice([1, 2, 8, 100])]
        whole_ = bytearray(write(value))
        if write is as_zip:
            return write(value, **{"data.pkl": bytes(pickled)})
        at = whole_.index(Writer().dump(value))
        whole_[at : at + len(Writer().dump(value))] = pickled
        return bytes(whole_)
    data = bytearray(write(value))
    if kind == 4:
        return bytes(data[: chance.randrange(len(data))])
    if kind == 5:
        at = chance.randrange(len(data))
        data[at : at + chance.choice([0, 1, 512])] = bytes(chance.choice([1, 8, 512]))
        return bytes(data)
    start = data.index(b"PK\1\2") if write is as_zip and kind == 7 else 0  # the list of entries
    for _ in range(chance.choice([1, 1, 2, 20])):
        data[chance.randrange(start, len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def resident(anew=False):
    """The most bytes of memory that this process has had at once, since it was asked `anew`."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def test_damaged_files(tmp_path, monkeypatch, request):
    """One line with the file's name each, nothing is run, and no more memory is taken than twice the file and 50 MB."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    refused, slowest, longest = collections.Counter(), 0.0, 0
    everything = bases()
    for number in range(request.config.getoption("--weights-fuzz")):
        chance = random.Random(number)
        data = mutated(*chance.choice(everything), chance)
        path.write_bytes(data)
        begun, before = time.process_time(), resident(anew=True)
        try:
            found = load_weights(path)
        except fc.FormatError as error:
            text = str(error)
            assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 1000, (number, text)
            refused[text[len(str(path)) + 2 :][:28]] += 1
        except BaseException as error:
            raise AssertionError(f"damaged file {number}: {error!r}") from error
        else:
            assert sum(array.nbytes for array in found.values()) < 8 * len(data) + 1000, number
        slowest = max(slowest, time.process_time() - begun)
        taken = resident() - before
        longest = max(longest, taken)
        assert taken < 2 * len(data) + (50 << 20), (number, taken)
        assert not (tmp_path / "executed").exists(), number
    assert len(refused) > 5
    print(
        f"slowest {slowest:.2f} s, most memory {longest >> 20} MB; refused {refused.total()}: {refused.most_common(12)}"
    )
