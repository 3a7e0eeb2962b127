"""The file format: round trips, atomic writing, and files that are not what they say."""

import concurrent.futures
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastconv as fc
from fastconv.training import checkpoint, checksum
from fastconv.training.checkpoint import load_net, read, save_net, write

DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")


def arrays():
    rng = np.random.default_rng(0)
    result = {dtype: (rng.random((3, 5)) * 100).astype(dtype) for dtype in DTYPES}
    result["channels last"] = np.moveaxis(rng.random((2, 3, 3, 4), np.float32), -1, 1)
    result["big-endian"] = np.arange(4.0).astype(">f8")
    result["number"] = np.array(7, np.int64)
    result["empty"] = np.zeros((3, 0), np.float32)
    result["ünïcode \"'\\ \n"] = np.ones(1, np.uint8)
    return result


def small_net():
    return fc.Sequential(
        fc.Conv2d(1, 4, 3, stride=2, padding=((1, 0), (0, 1)), rng=0),
        fc.BatchNorm2d(4),
        fc.ReLU(),
        fc.Sequential({"a": fc.Conv2d(4, 6, 3, groups=2, bias=False, rng=1), "b": fc.Flatten()}),
        fc.Dropout(0.25),
        fc.Linear(6, 10, rng=2),
    )


def test_round_trip(tmp_path):
    path = tmp_path / "x.safetensors"
    expected = arrays()
    write(path, expected, {"a": "ü", "b": ""})
    tensors, metadata = read(path)
    assert metadata == {"a": "ü", "b": ""}
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].shape == array.shape
        assert tensors[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].flags.writeable
    write(path, {})
    assert read(path) == ({}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_against_the_safetensors_package(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    expected = {name: array for name, array in arrays().items() if name != "big-endian"}
    write(path, expected, {"a": "b"})
    theirs = safetensors.load_file(path)
    assert theirs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(theirs[name], array)
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in expected.items()}
    safetensors.save_file(contiguous, path, {"a": "b"})
    tensors, metadata = read(path)
    assert metadata == {"a": "b"} and tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write(path, {"a": np.arange(3)})
    with pytest.raises(TypeError, match="b: safetensors holds no arrays of complex128"):
        write(path, {"b": np.zeros(3, complex)})
    with pytest.raises(TypeError, match="holds no arrays of object"):
        write(path, {"b": np.array([None])})

    def refuse(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="no space left"):
            write(path, {"b": np.arange(5)})
    np.testing.assert_array_equal(read(path)[0]["a"], np.arange(3))
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere" / "x", {})


def test_links_and_permissions(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "file")
    write(link, {"a": np.arange(3)})
    assert link.is_symlink() and (tmp_path / "real" / "file").is_file()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "real" / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_killed_while_writing(tmp_path):
    """SIGKILL at any moment: the reader finds the whole old file or the whole new one."""
    path = tmp_path / "x.safetensors"
    write(path, {"a": np.full(200_000, -1)})
    code = """
        import sys, itertools, numpy as np
        from fastconv.training.checkpoint import write
        print("ready", flush=True)
        for i in itertools.count():
            write(sys.argv[1], {"a": np.full(200_000, i), "b": np.full(1000, i, np.uint8)})
    """
    seen = set()
    for delay in (0.0, 0.003, 0.011, 0.023):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            process.stdout.readline()
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            process.wait()
        a = read(path)[0]["a"]
        assert (a == a[0]).all()
        seen.add(a[0])
    assert len(seen) > 1


# --- checksums -------------------------------------------------------------------------------------------------------


def digest(data, dtype="U8", shape=None, size=checksum.SHARE):
    """The checksum of a uint8 array, its sums taken in shares of `size` bytes."""

    def cut(data, size):
        return (data[start : start + size] for start in range(0, len(data), size))

    shares = (checksum.sums(cut(share, checksum.PIECE), len(data)) for share in cut(data, size))
    return checksum.of_array(dtype, (len(data),) if shape is None else shape, shares)


def test_every_flip_of_a_bit_or_two_has_another_checksum():
    rng = np.random.default_rng(0)
    size = 3 * checksum.ROW + 5
    data = rng.integers(0, 256, size, dtype=np.uint8)
    expected = digest(data)
    seen = {expected}
    bits = np.unique(np.concatenate([np.arange(70), 8 * checksum.ROW + np.arange(70), rng.integers(0, 8 * size, 500)]))
    for bit in bits[bits < 8 * size]:
        data[bit // 8] ^= 1 << bit % 8
        seen.add(digest(data))
        data[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 1 + len(bits)
    words = data[: size // 8 * 8].view("<u8")
    for high in (np.uint64(1 << 63), np.uint64(1)):
        for first, second in ((0, 2 * checksum.WORDS), (0, 2), (5, checksum.WORDS + 6)):
            words[[first, second]] ^= high
            assert digest(data) != expected
            words[[first, second]] ^= high
    assert digest(data) == expected


def test_what_changed_places_has_another_checksum():
    data = np.random.default_rng(0).random(5 * checksum.WORDS, np.float32)
    expected = digest(data.view(np.uint8))
    for first, second in ((0, 1), (0, 2), (1, 2 * checksum.WORDS), (3, 2 * checksum.WORDS + 3), (0, len(data) - 1)):
        other = data.copy()
        other[[first, second]] = other[[second, first]]
        assert digest(other.view(np.uint8)) != expected
    rows = data.reshape(-1, checksum.WORDS)
    assert digest(rows[[1, 0, 2, 3, 4]].ravel().view(np.uint8)) != expected
    ones = np.ones(8 * checksum.WORDS)
    lost = ones.copy()
    lost[: 2 * checksum.WORDS] = 0
    assert digest(ones.view(np.uint8)) != digest(lost.view(np.uint8))


def test_shares_types_and_shapes():
    data = np.random.default_rng(0).integers(0, 256, 3 * checksum.PIECE + 100, dtype=np.uint8)
    assert digest(data, size=checksum.PIECE) == digest(data, size=2 * checksum.PIECE) == digest(data)
    assert len({digest(data), digest(data, "I8"), digest(data, shape=(2, len(data) // 2)), digest(data[:-1])}) == 4
    zeros = np.zeros(100, np.uint8)
    assert digest(zeros) != digest(zeros[:-1])


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0fd214faef47177a"), (5, "0ec52d0e174e7fc6"), (8192, "e1cf578c69b24529"), (786509, "917c9c3e2ccd9dd7")],
)
def test_checksums_of_old_files_hold(size, expected):
    assert digest((np.arange(size) * 7 % 251).astype(np.uint8)) == expected


@pytest.mark.parametrize("refused", [False, True])
def test_arrays_of_many_shares(refused, tmp_path, monkeypatch):
    def refuse(self, *task):
        raise RuntimeError("can't start new thread")

    if refused:
        monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", refuse)
    monkeypatch.setattr(checksum, "SHARE", checksum.PIECE)
    rng = np.random.default_rng(0)
    arrays = {name: rng.random(size, np.float32) for name, size in (("a", 3), ("b", checksum.PIECE), ("c", 777_777))}
    path = tmp_path / "x.safetensors"
    bits = {}
    for threads in (1, 3):
        fc.set_num_threads(threads)
        write(path, arrays)
        bits[threads] = path.read_bytes()
        found, _ = read(path)
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert bits[1] == bits[3]
    path.write_bytes(bits[1][:-1] + bytes([bits[1][-1] ^ 1]))
    with pytest.raises(fc.FormatError, match="is damaged: the data of 'c'"):
        read(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    save_net(path, small_net())
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    for at in range(begin, len(whole), 5):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        with pytest.raises(
            fc.FormatError, match=r"x\.safetensors: is damaged: the data of '.*' is not what its checksum"
        ):
            load_net(path)
    path.write_bytes(whole.replace(b'\\"p\\": 0.25', b'\\"p\\": 0.35'))
    with pytest.raises(fc.FormatError, match="is damaged: the metadata 'net' is not what its checksum says"):
        load_net(path)


@pytest.mark.parametrize(
    ("sums", "message"),
    [
        ("", "its checksums is no valid JSON"),
        ("[]", "its checksums are not those of its contents"),
        ("{}", "no entry 'arrays'"),
        ('{"arrays": [], "metadata": {}}', "its checksums are not those of its contents"),
        ('{"arrays": {}, "metadata": {}}', "0 of arrays, which have other names"),
        ('{"arrays": {"a": "0"}, "metadata": {"b": "0"}}', "no entry 'b'"),
        ('{"arrays": {"a": "0"}, "metadata": []}', "its checksums are not those of its contents"),
        ('{"arrays": {"a": 0}, "metadata": {}}', "the data of 'a' is not what its checksum says"),
        ('{"arrays": {"a": null}, "metadata": {}}', "the data of 'a' is not what its checksum says"),
    ],
)
def test_checksums_that_are_none(tmp_path, sums, message):
    path = tmp_path / "x"
    path.write_bytes(raw({"__metadata__": {"checksums": sums}, "a": entry(0, 4, [1])}, b"1234"))
    with pytest.raises(fc.FormatError, match=f"x: .*{message}"):
        read(path)


def test_without_checksums(tmp_path):
    """Files of other programs, and of earlier versions."""
    safetensors = pytest.importorskip("safetensors.numpy")
    save_net(tmp_path / "ours", small_net())
    metadata = {"format": "fastconv.net/1", "net": json.dumps(checkpoint.net_data(small_net()))}
    safetensors.save_file(small_net().state_dict(), tmp_path / "theirs", metadata)
    ours, theirs = load_net(tmp_path / "ours"), load_net(tmp_path / "theirs")
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(theirs.state_dict()[name], array)
    with safetensors.safe_open(tmp_path / "ours", "np") as file:
        assert json.loads(file.metadata()["checksums"])["arrays"].keys() == set(file.keys())


def test_as_many_arrays_as_a_net_may_have(tmp_path):
    names = [f"stage.{number}.block.{number}.conv.weight" for number in range(10_000)]
    write(tmp_path / "x", {name: np.zeros(1, np.float32) for name in names})
    assert read(tmp_path / "x")[0].keys() == set(names)


# --- foreign and hostile files ---------------------------------------------------------------------------------------


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD = {
    "empty": (b"", "has 0 bytes"),
    "short": (b"\x00" * 7, "has 7 bytes"),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "its header would have"),
    "longer than the file": (raw({}, length=3), "its header would have 3 bytes, the file has 10"),
    "2**64 - 1": (b"\xff" * 8 + b"{}", "its header would have 18,446,744,073,709,551,615 bytes"),
    "no header": (raw(b""), "the header is no valid JSON"),
    "garbage": (raw(b"{]"), "the header is no valid JSON"),
    "after the end": (raw(b"{} {}"), "the header is no valid JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "the header is no valid JSON"),
    "half a surrogate": (raw(b'{"\\ud800": {}}'), "the header is no valid JSON"),
    "list": (raw([]), "its header is no JSON object"),
    "twice": (raw(b'{"a": 1, "a": 2}'), "'a' stands there twice"),
    "NaN": (raw(b'{"a": NaN}'), "NaN is no number"),
    "deep": (raw(b"[" * 200_000), "the header is nested too deeply"),
    "digits": (raw(b'{"a": ' + b"1" * 10_000 + b"}"), "the header is no valid JSON"),
    "metadata": (raw({"__metadata__": {"a": 1}}), "must map text to text"),
    "metadata list": (raw({"__metadata__": []}), "must map text to text"),
    "no fields": (raw({"a": {}}), "'a' must have exactly dtype, shape and data_offsets"),
    "more fields": (raw({"a": {**entry(0, 4, [1]), "x": 1}}, b"1234"), "must have exactly"),
    "dtype": (raw({"a": entry(0, 1, [1], "F8_E4M3")}, b"1"), "'a' has dtype 'F8_E4M3'; read are F64"),
    "dtype list": (raw({"a": entry(0, 2, [1], [])}, b"12"), "'a' has dtype"),
    "object": (raw({"a": entry(0, 8, [1], "O")}, b"12345678"), "'a' has dtype 'O'"),
    "shape": (raw({"a": entry(0, 4, [1.0])}, b"1234"), "the shape of 'a' must be a list of integers"),
    "bool shape": (raw({"a": entry(0, 4, [True])}, b"1234"), "the shape of 'a' must be a list of integers"),
    "negative": (raw({"a": entry(0, 4, [-1, -1])}, b"1234"), "the shape of 'a' must be a list of integers"),
    "axes": (raw({"a": entry(0, 4, [1] * 100)}, b"1234"), "at most 32 axes"),
    "offsets": (raw({"a": {**entry(0, 4, [1]), "data_offsets": [4]}}, b"1234"), "must have two data_offsets"),
    "size": (raw({"a": entry(0, 8, [1])}, b"12345678"), "'a' needs 4 bytes, its data_offsets are"),
    "backwards": (raw({"a": entry(8, 4, [1])}, b"12345678"), "'a' needs 4 bytes"),
    "huge": (raw({"a": entry(0, 2**62, [2**60])}), "its arrays end at byte"),
    "overflow": (raw({"a": entry(0, 0, [2**32, 2**32])}), "'a' needs"),
    "no elements": (raw({"a": entry(0, 0, [0, 2**62, 2**62])}), "a shape that NumPy cannot hold"),
    "2**63": (raw({"a": entry(0, 0, [0, 2**63])}), "the shape of 'a' must be a list of integers from 0 to 2**63 - 1"),
    "4300 digits": (
        raw(b'{"a": {"dtype": "U8", "data_offsets": [0, 1], "shape": [' + b"9" * 4300 + b"]}}", b"1"),
        "9999 is no number",
    ),
    "1e999": (raw(b'{"a": 1e999}'), "1e999 is no number"),
    "truncated": (raw({"a": entry(0, 8, [2])}, b"1234"), "its arrays end at byte 8 of the data, but 4 bytes are there"),
    "trailing": (raw({"a": entry(0, 4, [1])}, b"12345"), "its arrays end at byte 4 of the data, but 5 bytes"),
    "hole": (raw({"a": entry(4, 8, [1])}, b"12345678"), "the data of 'a' must begin where the array before ends, at 0"),
    "overlap": (
        raw({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234"),
        "the data of 'b' must begin where the array before ends, at 4, not 0",
    ),
    "bool 2": (raw({"a": entry(0, 2, [2], "BOOL")}, b"\x01\x02"), "is BOOL but holds other bytes"),
    "name": (raw({"a\n" * 500: {}}), "must have exactly"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    data, message = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(fc.FormatError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and message in text, text
    assert "\n" not in text and len(text) < 600


def test_cut_off_anywhere(tmp_path):
    path = tmp_path / "x.safetensors"
    save_net(path, small_net())
    whole = path.read_bytes()
    for length in [*range(40), *range(40, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(fc.FormatError, match=r"x\.safetensors: "):
            load_net(path)


def test_flipped_bytes_never_crash(tmp_path):
    """Any byte of the header changed: the net comes back, or one FormatError."""
    path = tmp_path / "x.safetensors"
    save_net(path, small_net())
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.permutation(end)[:300]:
        changed = bytearray(whole)
        changed[at] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load_net(path)
        except fc.FormatError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused > 200


def test_what_is_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(fc.FormatError, match="is not a regular file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(fc.FormatError, match="is not a regular file"):
        read(tmp_path / "pipe")


def test_sparse_file_larger_than_memory(tmp_path):
    path = tmp_path / "sparse"
    size = 1 << 43
    header = raw({"a": entry(0, size, [size], "U8")})
    path.write_bytes(header)
    try:
        os.truncate(path, len(header) + size)
    except OSError:
        pytest.skip("the file system has no such files")
    with pytest.raises(MemoryError, match="sparse: reading: needs 8,796,093,022,208 bytes"):
        read(path)


# --- nets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_net_round_trip(tmp_path, dtype):
    net = small_net().astype(dtype)
    net.freeze("0.bias").freeze("3")
    net[1].running_mean[...] = 3
    net[1].num_batches_tracked[...] = 5
    fc.manual_seed(7)
    save_net(tmp_path / "net", net)
    again = load_net(tmp_path / "net")
    drawn = fc.Linear(2, 2).weight
    fc.manual_seed(7)
    np.testing.assert_array_equal(fc.Linear(2, 2).weight, drawn)  # loading draws nothing
    assert repr(again) == repr(net) and again.dtype == dtype
    assert again.parameters().keys() == net.parameters().keys()
    for (name, ours), theirs in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs)
    for name, parameter in net.parameters().items():
        assert parameter.strides == again.parameters()[name].strides
    x = np.random.default_rng(0).random((3, 1, 7, 7)).astype(dtype)
    np.testing.assert_array_equal(net.predict(x), again.predict(x))


def test_net_without_arrays(tmp_path):
    save_net(
        tmp_path / "net", fc.Sequential(fc.MaxPool2d(2), fc.BatchNorm2d(3, affine=False, track_running_stats=False))
    )
    assert load_net(tmp_path / "net").state_dict() == {}


def test_nets_that_are_no_data(tmp_path):
    class Own(fc.Layer):
        pass

    shared = fc.Linear(3, 3)
    with pytest.raises(ValueError, match=r"Linear: 0\.weight and 2\.weight are one array"):
        save_net(tmp_path / "net", fc.Sequential(shared, fc.ReLU(), shared))

    with pytest.raises(ValueError, match="Own: only fastconv's own layers can be saved"):
        save_net(tmp_path / "net", fc.Sequential(Own()))
    assert not list(tmp_path.iterdir())


def nested(depth):
    config = {"layer": "ReLU"}
    for _ in range(depth):
        config = {"layer": "Sequential", "layers": [config]}
    return config


HOSTILE = {
    "no layer": {"layer": "os.system", "command": "true"},
    "nothing": None,
    "text": "Sequential",
    "base class": {"layer": "Layer"},
    "missing": {"layer": "Linear", "in_features": 3},
    "unknown": {"layer": "Linear", "in_features": 3, "out_features": 3, "x": 1},
    "terabytes": {"layer": "Linear", "in_features": 10**6, "out_features": 10**6},
    "megabytes": {"layer": "Linear", "in_features": 1000, "out_features": 2000},
    "many": {"layer": "Sequential", "layers": [{"layer": "Linear", "in_features": 100, "out_features": 10}] * 900},
    "many norms": {"layer": "Sequential", "layers": [{"layer": "BatchNorm2d", "num_features": 1025}] * 900},
    "norm": {"layer": "BatchNorm1d", "num_features": 10**9},
    "norm of tuple": {"layer": "BatchNorm1d", "num_features": [10**9]},
    "kernel": {"layer": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 2**40},
    "channels": {"layer": "Conv2d", "in_channels": 2**63, "out_channels": 2**63, "kernel_size": 1},
    "float": {"layer": "Conv2d", "in_channels": 1.5, "out_channels": 1, "kernel_size": 1},
    "own rng": {"layer": "Linear", "in_features": 10**5, "out_features": 10**5, "rng": 0},
    "division": {"layer": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1, "groups": 0},
    "fraction": {"layer": "MaxPool2d", "kernel_size": {"fraction": [1, 0]}},
    "fractions": {"layer": "MaxPool2d", "kernel_size": {"fraction": [1, 2, 3]}},
    "items": {"layer": "Sequential", "layers": {"items": [1]}},
    "names": {"layer": "Sequential", "layers": [{"items": [["a.b", {"layer": "ReLU"}]]}]},
    "no data": {"layer": "MaxPool2d", "kernel_size": {"x": 1}},
    "probability": {"layer": "Dropout", "p": "high"},
    "padding": {"layer": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 2, "padding": "sam"},
    "pads": {"layer": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 2, "padding": [0, 0, 0, 1]},
    "stride": {"layer": "MaxPool2d", "kernel_size": 2, "stride": 0},
    "half": {"layer": "AvgPool2d", "kernel_size": 2, "padding": 2},
    "eps": {"layer": "BatchNorm2d", "num_features": 2, "eps": "small"},
    "slope": {"layer": "LeakyReLU", "negative_slope": "steep"},
    "mode": {"layer": "Resize", "size": 2, "mode": ["nearest"]},
    "options": {"layer": "Function", "name": "max_pool2d"},
    "function": {"layer": "Function", "name": "__import__"},
    "layers": {"layer": "Sequential", "layers": [{"layer": "ReLU"}] * 20_000},
    "deep": nested(50),
    "deeper": nested(300),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configurations(name, tmp_path):
    """A small file that asks for anything gets one FormatError, and next to no memory."""
    path = tmp_path / "hostile"
    net = json.dumps({"config": HOSTILE[name], "dtype": "float32", "frozen": []})
    write(path, {"0.weight": np.zeros((8, 8), np.float32)}, {"format": "fastconv.net/1", "net": net})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(fc.FormatError) as caught:
        load_net(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: the net cannot be rebuilt: ") and "\n" not in text and len(text) < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_nets_as_deep_as_files_hold(tmp_path):
    net = fc.ReLU()
    for _ in range(49):
        net = fc.Sequential(net)
    save_net(tmp_path / "net", net)
    again = load_net(tmp_path / "net")
    x = np.ones((1, 1, 4, 4), np.float32)
    np.testing.assert_array_equal(again.predict(x), x)
    assert again.astype(np.float64).summary(x.shape).output_shape == x.shape
    with pytest.raises(ValueError, match="Sequential: its layers are nested more than 50 deep, which no file holds"):
        save_net(tmp_path / "net", fc.Sequential(net))


def test_nesting_as_deep_as_the_stack(tmp_path):
    text = '{"layer": "Sequential", "layers": [' * 50_000 + "]}" * 50_000
    net = f'{{"config": {text}, "dtype": null, "frozen": []}}'
    write(tmp_path / "deep", {}, {"format": "fastconv.net/1", "net": net})
    with pytest.raises(fc.FormatError, match="deep: the net is nested too deeply"):
        load_net(tmp_path / "deep")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, tensors: data.pop("dtype"), "no entry 'dtype'"),
        (lambda data, tensors: data.update(dtype="float64"), "must be float64, got float32"),
        (lambda data, tensors: data.update(dtype="object"), "its dtype must be float32 or float64"),
        (lambda data, tensors: data.update(frozen=["nobody"]), "frozen lists 'nobody', which the net has not"),
        (lambda data, tensors: data.update(frozen=[1]), "frozen lists 1, which the net has not"),
        (lambda data, tensors: data.update(frozen="5"), "frozen must be a list of names, got '5'"),
        (
            lambda data, tensors: data.update(frozen_layers=["5.bias"]),
            "frozen_layers lists '5.bias', which the net has",
        ),
        (lambda data, tensors: data.update(frozen_layers=[["5"]]), "frozen_layers lists \\['5'\\], which"),
        (lambda data, tensors: data.update(frozen_layers={}), "frozen_layers must be a list of names, got {}"),
        (lambda data, tensors: data.update(training=1), "training must be true or false, got 1"),
        (lambda data, tensors: data.update(other_mode=[None]), "other_mode lists None, which the net has not"),
        (lambda data, tensors: data.update(other_mode="1"), "other_mode must be a list of names, got '1'"),
        (lambda data, tensors: tensors.pop("5.bias"), "missing 5.bias; unknown none"),
        (lambda data, tensors: tensors.update(x=np.zeros(3)), "missing none; unknown x"),
        (lambda data, tensors: tensors.update({"5.bias": np.zeros(9, np.float32)}), r"5.bias must have shape \(10,\)"),
        (lambda data, tensors: tensors.update({"5.bias": np.zeros(10)}), "5.bias must be float32, got float64"),
        (lambda data, tensors: tensors.update({"5.bias": np.zeros(10, np.int8)}), "5.bias must be float32, got int8"),
    ],
)
def test_net_and_arrays_that_do_not_fit(change, message, tmp_path):
    net = small_net()
    data, tensors = checkpoint.net_data(net), net.state_dict()
    change(data, tensors)
    write(tmp_path / "net", tensors, {"format": "fastconv.net/1", "net": json.dumps(data)})
    with pytest.raises(fc.FormatError, match=f"net: the net cannot be rebuilt: .*{message}"):
        load_net(tmp_path / "net")


def test_files_without_modes(tmp_path):
    """Older ones: in training mode, parameters frozen one by one."""
    net = small_net()
    data = checkpoint.net_data(net)
    for name in ("training", "other_mode", "frozen_layers"):
        del data[name]
    data["frozen"] = ["5.bias"]
    write(tmp_path / "net", net.state_dict(), {"format": "fastconv.net/1", "net": json.dumps(data)})
    again = load_net(tmp_path / "net")
    assert all(layer.training and not layer._frozen_whole for _, layer in again.walk())
    assert set(net.parameters()) - set(again.parameters()) == {"5.bias"}


def test_other_formats(tmp_path):
    write(tmp_path / "weights", small_net().state_dict())
    with pytest.raises(fc.FormatError, match="weights: holds no net that fastconv wrote"):
        load_net(tmp_path / "weights")
