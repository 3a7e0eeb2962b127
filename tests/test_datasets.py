"""The loaders on good files in every accepted form, on hostile ones, and the data-set report."""

from __future__ import annotations

import concurrent.futures
import functools
import gzip
import io
import itertools
import json
import lzma
import os
import random
import re
import shutil
import struct
import sys
import tarfile
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv import datasets
from fastconv.datasets import cifar10, image_files, lazy
from fastconv.errors import FormatError, ShapeError

PACK = {"": bytes, ".gz": gzip.compress, ".xz": functools.partial(lzma.compress, preset=0)}
RECORD = cifar10.RECORD
rng = np.random.default_rng(0)


def fails(path: Path, rule: str):
    """A context in which one FormatError must be raised: one line, the path, then `rule` (a regex)."""
    return pytest.raises(FormatError, match=rf"^{re.escape(str(path))}: {rule}[^\n]*$")


class Peak:
    """The most bytes that were allocated at once inside the `with`, as `.bytes`."""

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *exception):
        self.bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


# --- digits


def test_digits():
    (X, y), (X_test, y_test) = datasets.load_digits()
    assert X.shape == (1437, 1, 8, 8) and X_test.shape == (360, 1, 8, 8)
    assert X.dtype == np.float32 and y.dtype == y_test.dtype == np.int64
    assert X.min() == 0 and X.max() == 1
    assert np.bincount(np.concatenate([y, y_test])).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert y[:5].tolist() == [0, 1, 2, 3, 4] and y_test[-3:].tolist() == [8, 9, 8]
    assert (X[0, 0, :2] * 16).tolist() == [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]


def test_digits_raw():
    (X, _), (X_test, _) = datasets.load_digits(raw=True)
    assert X.dtype == np.uint8 and X.max() == 16
    np.testing.assert_array_equal(X_test / np.float32(16), datasets.load_digits()[1][0])


def test_digits_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.datasets")
    images, labels = sklearn.load_digits(return_X_y=True)
    (X, y), (X_test, y_test) = datasets.load_digits(raw=True)
    np.testing.assert_array_equal(np.concatenate([X, X_test]).reshape(-1, 64), images)
    np.testing.assert_array_equal(np.concatenate([y, y_test]), labels)


# --- MNIST

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_set(count: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)


def write_mnist(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, suffix="", dot=False) -> None:
    for kind, array in (("images", images), ("labels", labels)):
        name = f"{part}-{kind}{'.' if dot else '-'}idx{array.ndim}-ubyte"
        (folder / (name + suffix)).write_bytes(PACK[suffix](idx(array)))


@pytest.fixture
def mnist(tmp_path):
    write_mnist(tmp_path, "train", *mnist_set(7))
    return tmp_path


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("suffix", PACK)
def test_mnist(tmp_path, suffix, dot):
    train, test = mnist_set(7), mnist_set(3)
    write_mnist(tmp_path, "train", *train, suffix, dot)
    write_mnist(tmp_path, "t10k", *test, suffix, dot)
    parts = datasets.load_mnist(tmp_path)
    raw_parts = datasets.load_mnist(str(tmp_path), raw=True)
    for (X, y), (X_raw, y_raw), (images, labels) in zip(parts, raw_parts, (train, test), strict=True):
        assert X.shape == (len(images), 1, 28, 28) and X.dtype == np.float32 and y.dtype == np.int64
        np.testing.assert_array_equal(X[:, 0], images / np.float32(255))
        np.testing.assert_array_equal(X_raw[:, 0], images)
        assert X_raw.dtype == np.uint8 and X.flags.writeable and X_raw.flags.writeable
        np.testing.assert_array_equal(y, labels)
        np.testing.assert_array_equal(y_raw, labels)


def test_mnist_without_test_part(mnist):
    (X, y), test = datasets.load_mnist(mnist)
    assert len(X) == len(y) == 7 and test is None


def test_mnist_prefers_the_file_to_a_folder_of_that_name(mnist):
    (mnist / IMAGES).rename(mnist / "train-images.idx3-ubyte")
    (mnist / IMAGES).mkdir()
    assert len(datasets.load_mnist(mnist)[0][0]) == 7


def test_mnist_members_of_gzip_and_xz(mnist):
    for name, suffix in ((IMAGES, ".gz"), (LABELS, ".xz")):
        data = (mnist / name).read_bytes()
        (mnist / name).unlink()
        padding = bytes(8)
        (mnist / (name + suffix)).write_bytes(PACK[suffix](data[:9]) + PACK[suffix](data[9:]) + padding)
    assert datasets.load_mnist(mnist)[0][0].shape == (7, 1, 28, 28)


def test_mnist_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder"):
        datasets.load_mnist(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=rf"{re.escape(str(tmp_path))}: no MNIST training files; .*{IMAGES}, .*"
    ):
        datasets.load_mnist(tmp_path)
    write_mnist(tmp_path, "train", *mnist_set(2))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(FileNotFoundError, match=r"looked for t10k-images-idx3-ubyte and t10k-images\.idx3-ubyte"):
        datasets.load_mnist(tmp_path)
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        datasets.load_mnist(tmp_path / IMAGES)


GOOD = idx(np.zeros((7, 28, 28), np.uint8))
HOSTILE_IDX = {
    "empty": (b"", "holds nothing, expected an IDX file"),
    "three bytes": (GOOD[:3], "IDX's magic number must have 4 bytes, a file of this size holds 3 at most"),
    "no lengths": (GOOD[:9], "IDX's lengths must have 12 bytes, a file of this size holds 9 at most"),
    "magic": (b"\0\0\7" + GOOD[3:], r"expected IDX's magic number 0x00000803 \(.*\), got 0x00000703"),
    "floats": (b"\0\0\x0d\3" + GOOD[4:], "expected IDX's magic number 0x00000803 .* got 0x00000d03"),
    "labels": (idx(np.zeros(7, np.uint8)), "expected IDX's magic number 0x00000803 .* got 0x00000801"),
    "shape": (idx(np.zeros((7, 32, 32), np.uint8)), "expected N x 28 x 28 bytes .* declares 7 x 32 x 32"),
    "no images": (idx(np.zeros((0, 28, 28), np.uint8)), "expected N x 28 x 28 bytes with N > 0, .* 0 x 28 x 28"),
    "truncated": (GOOD[:-1], "an array of 7 x 28 x 28 must have 5,488 bytes, the file ends after 5,487"),
    "header only": (GOOD[:16], "an array of 7 x 28 x 28 must have 5,488 bytes, a file of this size holds 16 at most"),
    "trailing": (GOOD + b"\n", "more data follows an array of 7 x 28 x 28"),
    "huge": (GOOD[:4] + b"\xff" * 4 + GOOD[8:], "an array of 4,294,967,295 x 28 x 28 must have 3,367,254,"),
    "gzip": (gzip.compress(GOOD), "holds gzip data, expected an IDX file"),
    "web page": (b"<!doctype html><title>404</title>", "holds a web page, expected an IDX file"),
    "pickle": (b"\x80\4}.", "holds a Python pickle, which is never read"),
    "zip": (b"PK\3\4" + GOOD, "holds a zip archive, expected an IDX file"),
    "count": (idx(np.zeros((6, 28, 28), np.uint8)), f"holds 6 images, but {LABELS} has 7 labels"),
}


@pytest.mark.parametrize("case", HOSTILE_IDX)
def test_mnist_hostile(mnist, case):
    data, rule = HOSTILE_IDX[case]
    (mnist / IMAGES).write_bytes(data)
    with fails(mnist / IMAGES, rule), Peak() as peak:
        datasets.load_mnist(mnist)
    assert peak.bytes < 4 << 20


def test_mnist_bad_label(mnist):
    (mnist / LABELS).write_bytes(idx(np.array([0, 1, 2, 255, 4, 5, 10], np.uint8)))
    with fails(mnist / LABELS, "labels must be 0 to 9, number 3 is 255"):
        datasets.load_mnist(mnist)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at:][1:]


NOISE = rng.bytes(7 * 784)
HOSTILE_PACKED = {
    "truncated": (lambda pack, good: pack(good)[:-20], "damaged .* data: .* end-of-stream marker"),
    "damaged": (lambda pack, good: flip(pack(good), len(pack(good)) // 2), "damaged .* data: "),
    "checksum": (lambda pack, good: flip(pack(good), len(pack(good)) - 6), "damaged .* data: "),
    "plain": (lambda pack, good: good, "holds something else, expected .* data"),
    "empty": (lambda pack, good: b"", "holds nothing, expected .* data"),
    "of nothing": (lambda pack, good: pack(b""), "holds nothing, expected an IDX file"),
    "of a pickle": (lambda pack, good: pack(b"\x80\2}"), "holds a Python pickle"),
    "twice": (lambda pack, good: pack(pack(good)), "holds .* data, expected an IDX file"),
    "garbage after": (lambda pack, good: pack(good) + b"garbage!", "damaged .* data: "),
    "trailing": (lambda pack, good: pack(good + b"\0"), "more data follows an array of 7 x 28 x 28"),
    "short": (lambda pack, good: pack(good[:-1]), "an array .* must have 5,488 bytes, the file ends after 5,487"),
    "huge": (lambda pack, good: pack(good[:4] + b"\xff" * 4 + good[8:]), "an array .* a file of this size holds"),
}


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("case", HOSTILE_PACKED)
def test_mnist_hostile_packed(mnist, case, suffix):
    (mnist / IMAGES).unlink()
    spoil, rule = HOSTILE_PACKED[case]
    path = mnist / (IMAGES + suffix)
    path.write_bytes(spoil(PACK[suffix], GOOD[:16] + NOISE))
    with fails(path, rule), Peak() as peak:
        datasets.load_mnist(mnist)
    assert peak.bytes < 16 << 20


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_bomb_is_not_unpacked(mnist, suffix):
    """64 MiB follow the declared data, or are declared and missing: neither is ever in memory."""
    (mnist / IMAGES).unlink()
    path = mnist / (IMAGES + suffix)
    path.write_bytes(PACK[suffix](GOOD + bytes(64 << 20)))
    with fails(path, "more data follows"), Peak() as peak:
        datasets.load_mnist(mnist)
    assert peak.bytes < 16 << 20

    declared = GOOD[:4] + struct.pack(">I", 64 << 10) + GOOD[8:16] + bytes(16) + rng.bytes(60_000)
    path.write_bytes(PACK[suffix](declared))
    rule = "an array of 65,536 x 28 x 28 must have 51,380,224 bytes, the file ends after 60,016"
    with fails(path, rule), Peak() as peak:
        datasets.load_mnist(mnist)
    assert peak.bytes < 16 << 20


def test_xz_with_a_dictionary_of_4_gib(mnist):
    packed = bytearray(lzma.compress(GOOD))
    size = 4 * packed[12]  # of the block header without its checksum
    packed[packed.index(b"\x21\x01", 12) + 2] = 40  # the filter's dictionary size: 4 GiB
    packed[12 + size : 16 + size] = struct.pack("<I", zlib.crc32(packed[12 : 12 + size]))
    (mnist / IMAGES).unlink()
    path = mnist / (IMAGES + ".xz")
    path.write_bytes(packed)
    with fails(path, "damaged xz data: Memory usage limit exceeded"):
        datasets.load_mnist(mnist)


def test_memory_is_asked_for_first(mnist):
    """A sparse file of 3 TB is what its header says, yet larger than any memory."""
    count = (1 << 32) - 1
    with (mnist / IMAGES).open("wb") as file:
        file.write(GOOD[:4] + struct.pack(">3I", count, 28, 28))
        try:
            file.truncate(16 + count * 784)
        except OSError:
            pytest.skip("no sparse files of 3 TB here")
    (mnist / LABELS).write_bytes(idx(np.zeros(7, np.uint8)))
    with pytest.raises(MemoryError, match=r"^load_mnist: needs [\d,]+ bytes"):
        datasets.load_mnist(mnist)


def place_folder(path: Path) -> None:
    path.mkdir()


def place_pipe(path: Path) -> None:
    os.mkfifo(path)


def place_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("place", [place_folder, place_pipe, place_device])
def test_what_is_no_file(tmp_path, place):
    mnist_path = tmp_path / (IMAGES + ".gz")
    write_mnist(tmp_path, "train", *mnist_set(2))
    (tmp_path / IMAGES).unlink()
    cifar_path = tmp_path / "data_batch_3.bin"
    write_cifar(tmp_path, 2)
    cifar_path.unlink()
    for path, load in ((mnist_path, datasets.load_mnist), (cifar_path, datasets.load_cifar10)):
        place(path)
        with fails(path, "is not a regular file"):
            load(tmp_path)


# --- CIFAR-10


def records(count: int) -> np.ndarray:
    data = rng.integers(0, 256, (count, RECORD), np.uint8)
    data[:, 0] %= 10
    return data


def write_cifar(folder: Path, count: int, suffix="", test=True) -> dict[str, np.ndarray]:
    folder.mkdir(exist_ok=True)
    batches = {name: records(count) for name in (*cifar10.TRAIN, *[cifar10.TEST] * test)}
    for name, batch in batches.items():
        (folder / (name + suffix)).write_bytes(PACK[suffix](batch.tobytes()))
    return batches


def tar(files: dict[str, bytes], format=tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        folder = tarfile.TarInfo("cifar-10-batches-bin")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo("cifar-10-batches-bin/" + name)
            member.size = len(data)
            member.pax_headers = {"comment": "x" * 1000} if format == tarfile.PAX_FORMAT else {}
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def check_cifar(loaded, batches: dict[str, np.ndarray]) -> None:
    expected = [np.concatenate([batches[name] for name in cifar10.TRAIN]), batches.get(cifar10.TEST)]
    for part, stored in zip(loaded, expected, strict=True):
        if stored is None:
            assert part is None
            continue
        X, y = part
        assert X.shape == (len(stored), 3, 32, 32) and X.dtype == np.float32 and y.dtype == np.int64
        np.testing.assert_array_equal(y, stored[:, 0])
        np.testing.assert_array_equal(X.reshape(len(X), -1), stored[:, 1:] / np.float32(255))


@pytest.mark.parametrize("sub", ["", "cifar-10-batches-bin"])
@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("test", [True, False])
def test_cifar10(tmp_path, suffix, sub, test):
    batches = write_cifar(tmp_path / sub, 3, suffix, test)
    check_cifar(datasets.load_cifar10(tmp_path), batches)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("suffix", PACK)
def test_cifar10_archive(tmp_path, suffix, format):
    batches = {name: records(3) for name in (*reversed(cifar10.TRAIN), cifar10.TEST)}
    files = {"readme.html": b"<html>", **{name: batch.tobytes() for name, batch in batches.items()}}
    (tmp_path / ("cifar-10-binary.tar" + suffix)).write_bytes(PACK[suffix](tar(files, format)))
    check_cifar(datasets.load_cifar10(tmp_path), batches)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar" + suffix]


def test_cifar10_raw(tmp_path):
    batches = write_cifar(tmp_path, 3)
    (X, _), (X_test, _) = datasets.load_cifar10(tmp_path, raw=True)
    assert X.dtype == np.uint8 and X_test.shape == (3, 3, 32, 32)
    np.testing.assert_array_equal(X[3:6].reshape(3, -1), batches["data_batch_2.bin"][:, 1:])


def test_cifar10_missing_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"looked for data_batch_1.bin to data_batch_5.bin .* cifar-10-binary.tar"
    ):
        datasets.load_cifar10(tmp_path)
    write_cifar(tmp_path, 1, ".gz")
    (tmp_path / "data_batch_2.bin.gz").unlink()
    (tmp_path / "data_batch_5.bin.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_2.bin, data_batch_5.bin, plain, .gz or .xz"):
        datasets.load_cifar10(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_cifar10_python_version(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\2}")
    with fails(tmp_path / name, r"the Python version .* never read; download the binary version .*binary.tar.gz\)"):
        datasets.load_cifar10(tmp_path)


one = records(1).tobytes()
HOSTILE_CIFAR = {
    "empty": ("", b"", "holds nothing, expected the binary version of CIFAR-10"),
    "truncated": ("", one + one[:-1], r"a batch must have 1 to 20,000 records of 3,073 bytes, got 6,145 bytes"),
    "label": ("", one + b"\x0a" + one[1:], "labels must be 0 to 9, number 1 is 10"),
    "pickle": ("", b"\x80\2}q\1(U\x0bbatch_label", "holds a Python pickle, .* binary version of CIFAR-10"),
    "packed pickle": (".gz", gzip.compress(b"\x80\3}q\0"), "holds a Python pickle"),
    "gzip": ("", gzip.compress(one), "holds gzip data, expected the binary version of CIFAR-10"),
    "no gzip": (".gz", one, "holds something else, expected gzip data"),
    "no xz": (".xz", gzip.compress(one), "holds gzip data, expected xz data"),
    "damaged xz": (".xz", lzma.compress(one)[:-1], "damaged xz data: "),
    "damaged gzip": (".gz", flip(gzip.compress(one), 1000), "damaged gzip data: "),
}


@pytest.mark.parametrize("case", HOSTILE_CIFAR)
def test_cifar10_hostile(tmp_path, case):
    suffix, data, rule = HOSTILE_CIFAR[case]
    write_cifar(tmp_path, 1)
    (tmp_path / "data_batch_4.bin").unlink()
    path = tmp_path / ("data_batch_4.bin" + suffix)
    path.write_bytes(data)
    with fails(path, rule):
        datasets.load_cifar10(tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_cifar10_bomb(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(cifar10, "MOST", 100 * RECORD)
    write_cifar(tmp_path, 1)
    (tmp_path / "data_batch_1.bin").unlink()
    path = tmp_path / ("data_batch_1.bin" + suffix)
    path.write_bytes(PACK[suffix](bytes(20_000 * RECORD)))
    with fails(path, "a batch may have 307,300 bytes at most, the file holds more"), Peak() as peak:
        datasets.load_cifar10(tmp_path)
    assert peak.bytes < 16 << 20


def header(name: str, size: int, type: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, type
    return member.tobuf(tarfile.GNU_FORMAT)


full = dict.fromkeys(cifar10.TRAIN, one)
HOSTILE_TAR = {
    "empty": (b"", "holds nothing, expected the binary version"),
    "no tar": (one, "damaged tar archive: "),
    "truncated": (tar(full)[:6000], "data_batch_2.bin must have 3,073 bytes, the file ends after"),
    "no end": (tar(full)[: 512 * 41], "a tar header must have 512 bytes, the file ends after 0"),
    "python": (tar({"data_batch_1": b"\x80\2}"}), "lacks data_batch_1.bin, data_batch_2.bin"),
    "one missing": (tar({**full, "data_batch_3.bin": b""}), "data_batch_3.bin must have 1 to 20,000 records"),
    "twice": (header("a/data_batch_1.bin", 0) + tar({"data_batch_1.bin": one}), "holds data_batch_1.bin twice"),
    "link": (header("data_batch_1.bin", 0, tarfile.SYMTYPE) + tar({}), "lacks data_batch_1.bin"),
    "huge": (header("data_batch_1.bin", 1 << 40) + tar({}), "an archive's files may have 368,760,000 bytes, .* 1,099,"),
    "negative": (header("data_batch_1.bin", -512) + tar({}), ".* declares -512"),
    "huge long name": (header("x", 1 << 33, tarfile.GNUTYPE_LONGNAME), "an archive's files may have 368,760,000 bytes"),
    "missing long name": (header("x", 1 << 28, tarfile.XHDTYPE), "x must have 1,048,576 bytes, .* at most"),
    "trailing": (tar(full) + b"more", "more data follows the end of the archive"),
    "members": (header("x", 0) * 1001 + tar({}), "an archive may have 1,000 members, this one has more"),
}


@pytest.mark.parametrize("case", HOSTILE_TAR)
def test_cifar10_hostile_archive(tmp_path, case):
    data, rule = HOSTILE_TAR[case]
    path = tmp_path / "cifar-10-binary.tar"
    path.write_bytes(data)
    with fails(path, rule), Peak() as peak:
        datasets.load_cifar10(tmp_path)
    assert peak.bytes < 16 << 20


def test_tar_bomb(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(gzip.compress(header("pax", 64 << 20, tarfile.XHDTYPE) + bytes(64 << 20)))
    with fails(path, "a tar header must have 512 bytes, the file ends after 0"), Peak() as peak:
        datasets.load_cifar10(tmp_path)
    assert peak.bytes < 16 << 20


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_random_damage_is_a_format_error_or_nothing(tmp_path, suffix):
    path = tmp_path / ("cifar-10-binary" + suffix)
    good = PACK[suffix[4:]](tar(full))
    dice = random.Random(1)
    for _ in range(100):
        data = bytearray(good)
        for _ in range(dice.choice([1, 10])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data[: dice.choice([len(data), dice.randrange(len(data))])])
        try:
            datasets.load_cifar10(tmp_path)
        except FormatError as error:
            assert str(error).startswith(f"{path}: ")


# --- folders of images


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="needs Pillow")


def save(pillow, path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(pixels).save(path, **options)


def gray(h=4, w=5) -> np.ndarray:
    return rng.integers(0, 256, (h, w), np.uint8)


def colour(h=4, w=5) -> np.ndarray:
    return rng.integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "pgm", "gif", "tif", "PNG"])
def test_folder_gray(tmp_path, pillow, suffix):
    images = [gray() for _ in range(4)]
    for pixels, name in zip(images, ("cat/2", "cat/3", "dog/0", "dog/1"), strict=True):
        save(pillow, tmp_path / f"{name}.{suffix}", pixels)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / ".git").mkdir()
    (X, y), test = datasets.load_folder(tmp_path)
    assert test is None and datasets.folder_classes(tmp_path) == ["cat", "dog"]
    assert X.shape == (4, 1, 4, 5) and X.dtype == np.float32 and y.dtype == np.int64
    assert y.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(X[:, 0], np.stack(images) / np.float32(255))
    np.testing.assert_array_equal(datasets.load_folder(tmp_path, raw=True)[0][0][:, 0], np.stack(images))


def test_folder_colour_and_splits(tmp_path, pillow):
    one, two, three = colour(), gray(), colour()
    save(pillow, tmp_path / "train" / "b" / "1.png", one)
    save(pillow, tmp_path / "train" / "a" / "1.bmp", two)
    save(pillow, tmp_path / "test" / "b" / "1.ppm", three)
    (X, y), (X_test, y_test) = datasets.load_folder(tmp_path, raw=True)
    assert X.shape == (2, 3, 4, 5) and y.tolist() == [0, 1] and y_test.tolist() == [1]
    np.testing.assert_array_equal(X[0], np.stack([two] * 3))
    np.testing.assert_array_equal(X[1], one.transpose(2, 0, 1))
    np.testing.assert_array_equal(X_test[0], three.transpose(2, 0, 1))
    assert datasets.load_folder(tmp_path, channels=1)[0][0].shape == (2, 1, 4, 5)
    assert datasets.load_folder(tmp_path, channels=3, size=8)[1][0].shape == (1, 3, 8, 8)


def test_folder_train_is_a_class_when_it_holds_images(tmp_path, pillow):
    for name in ("train", "boat"):
        save(pillow, tmp_path / name / "1.png", gray())
    assert datasets.folder_classes(tmp_path) == ["boat", "train"]
    assert datasets.load_folder(tmp_path)[0][1].tolist() == [0, 1]


def test_folder_sizes(tmp_path, pillow):
    save(pillow, tmp_path / "a" / "1.png", gray(4, 5))
    save(pillow, tmp_path / "a" / "2.png", gray(6, 5))
    with fails(tmp_path / "a" / "2.png", r"is 6 x 5, .*1.png is 4 x 5: all images must have one size; pass size="):
        datasets.load_folder(tmp_path)
    assert datasets.load_folder(tmp_path, size=(3, 2))[0][0].shape == (2, 1, 3, 2)
    for bad in (0, (4, -1), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
            datasets.load_folder(tmp_path, size=bad)
    with pytest.raises(TypeError):
        datasets.load_folder(tmp_path, size=2.5)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        datasets.load_folder(tmp_path, channels=2)
    with pytest.raises(MemoryError, match=r"^load_folder: needs 80,000,000,000,000 bytes"):
        datasets.load_folder(tmp_path, size=(10**6, 10**7))


def test_folder_palette_and_transparency(tmp_path, pillow):
    pixels = colour()
    image = pillow.fromarray(pixels).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "rgba.png")
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png")
    palette = pillow.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert("P")
    palette.save(tmp_path / "a" / "2.png", transparency=bytes(range(20)))
    palette.convert("1").save(tmp_path / "a" / "3.png")
    (X, _), _ = datasets.load_folder(tmp_path, raw=True)
    np.testing.assert_array_equal(X[0], pixels.transpose(2, 0, 1))
    assert X.shape == (3, 3, 4, 5)  # the first is no gray image
    np.testing.assert_array_equal(X[1], np.stack([np.arange(20).reshape(4, 5)] * 3))


def png(width: int, height: int) -> bytes:
    """A PNG of one gray plane that declares any size, with ten rows of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(bytes(10 * (width + 1)))
    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


HOSTILE_IMAGES = {
    "empty": (b"", "no image that can be read: "),
    "text": (b"hello", "no image that can be read: cannot identify"),
    "web page": (b"<html>", "no image that can be read: cannot identify"),
    "truncated": (png(20, 20)[:-20], "no image that can be read: "),
    "bomb, a warning": (png(10_000, 10_000), "no image that can be read: Image size .* decompression bomb"),
    "bomb, an error": (png(20_000, 20_000), "no image that can be read: Image size .* decompression bomb"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", ".* cannot identify"),
    "16 bits, cut": (b"P5 4 4 65535\n" + bytes(31), "no image that can be read: "),
}


@pytest.mark.parametrize("options", [{}, {"size": 4, "channels": 1}], ids=["headers first", "at once"])
@pytest.mark.parametrize("case", HOSTILE_IMAGES)
def test_folder_hostile(tmp_path, pillow, case, options):
    data, rule = HOSTILE_IMAGES[case]
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "1.png"
    path.write_bytes(data)
    with fails(path, rule):
        datasets.load_folder(tmp_path, **options)


@pytest.mark.parametrize("format", ["png", "gif", "bmp", "jpeg", "ppm", "tiff"])
def test_folder_random_damage(tmp_path, pillow, format):
    path = tmp_path / "a" / f"1.{format}"
    save(pillow, path, colour(16, 16))
    good = path.read_bytes()
    dice = random.Random(2)
    for _ in range(60):
        data = bytearray(good)
        for _ in range(dice.choice([1, 8])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data[: dice.choice([len(data), dice.randrange(len(data))])])
        try:
            datasets.load_folder(tmp_path, size=4)
        except FormatError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_folder_layout_errors(tmp_path, pillow):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        datasets.load_folder(tmp_path / "nowhere")
    with fails(tmp_path, "the images must be in one subfolder per class"):
        datasets.load_folder(tmp_path)
    save(pillow, tmp_path / "train" / "a" / "1.png", gray())
    (tmp_path / "train" / "b").mkdir()
    with fails(tmp_path / "train" / "b", "a class must have images"):
        datasets.load_folder(tmp_path)
    save(pillow, tmp_path / "train" / "b" / "1.png", gray())
    assert datasets.load_folder(tmp_path)[1] is None
    (tmp_path / "test" / "c").mkdir(parents=True)
    with fails(tmp_path / "test" / "c", "is no class of the training part"):
        datasets.load_folder(tmp_path)
    (tmp_path / "test" / "c").rename(tmp_path / "test" / "a")
    assert datasets.load_folder(tmp_path)[1] is None
    save(pillow, tmp_path / "test" / "2.png", gray())
    with pytest.warns(UserWarning, match=r"left out: test/ \(its images are in no class's folder\)$"):
        assert datasets.load_folder(tmp_path)[1] is None


def test_a_folder_that_only_judges_is_not_trained_on(tmp_path, pillow):
    save(pillow, tmp_path / "set" / "test" / "a" / "1.png", gray())
    save(pillow, tmp_path / "set" / "test" / "b" / "1.png", gray())
    with fails(tmp_path / "set", "has test/, but no train/ to learn from"):
        datasets.load_folder(tmp_path)
    assert datasets.open_folder(tmp_path / "set", only_judged=True)[0][1].tolist() == [0, 1]
    save(pillow, tmp_path / "set" / "Val" / "a" / "1.png", gray())
    with fails(tmp_path / "set", "has Val/ and test/, but no train/ to learn from"):
        datasets.load_folder(tmp_path / "set")
    assert datasets.load_folder(tmp_path / "set" / "test")[0][1].tolist() == [0, 1]
    (tmp_path / "set" / "Val").rename(tmp_path / "set" / "c")  # a class of that name beside another is one
    assert datasets.load_folder(tmp_path / "set")[0][1].tolist() == [0, 1, 1]
    (tmp_path / "set").rename(tmp_path / "test")  # what an archive was packed in
    save(pillow, tmp_path / "test" / "train" / "a" / "1.png", gray())
    save(pillow, tmp_path / "test" / "train" / "b" / "1.png", gray())
    with pytest.warns(UserWarning, match="left out: c/"):
        assert datasets.load_folder(tmp_path)[0][1].tolist() == [0, 1]


def test_folder_images_lie_at_any_depth(tmp_path, pillow):
    pixels = {name: gray() for name in ("z.png", "a/2.png", "a/deep/er/1.png", "b/0.png")}
    for name, image in pixels.items():
        save(pillow, tmp_path / "cat" / name, image)
    (tmp_path / "cat" / "b" / "again").symlink_to(tmp_path / "cat", target_is_directory=True)  # a circle
    save(pillow, tmp_path / "dog" / "1.png", gray())
    save(pillow, tmp_path / "__MACOSX" / "cat" / "1.png", gray())
    (X, y), _ = datasets.load_folder(tmp_path, raw=True)
    assert y.tolist() == [0] * 4 + [1]  # a folder's own images by their names, then those of its folders
    np.testing.assert_array_equal(X[:4, 0], np.stack(list(pixels.values())))


def test_folders_that_links_lead_to_again(tmp_path, pillow):
    """Are read once: of twenty that lead to each other there would be more ways than anybody walks."""
    for n in range(20):
        save(pillow, tmp_path / "cat" / f"{n:02}" / "1.png", gray())
    for n in range(20):
        for other in range(20):
            (tmp_path / "cat" / f"{n:02}" / f"to{other}").symlink_to(tmp_path / "cat" / f"{other:02}")
    assert len(list(datasets.folder.images_in(tmp_path / "cat"))) == 20


def test_folder_in_a_folder(tmp_path, pillow):
    """What an archive unpacks: one folder, which holds the parts or the classes."""
    for part in ("Training", "testing", "valid"):
        save(pillow, tmp_path / "unpacked" / "set" / part / "cat" / "1.png", gray())
    assert all(len(y) == 1 for _, y in datasets.load_folder(tmp_path, validation=True))
    for name in ("cat", "dog"):
        save(pillow, tmp_path / "other" / "classes" / name / "1.png", gray())
    assert datasets.folder_classes(tmp_path / "other") == ["cat", "dog"]
    assert datasets.folder_classes(tmp_path / "unpacked" / "set" / "Training") == ["cat"]


def test_folder_validation(tmp_path, pillow):
    images = {part: colour() for part in ("train", "val", "test")}
    for part, pixels in images.items():
        save(pillow, tmp_path / part / "a" / "1.png", pixels)
    with pytest.warns(
        UserWarning, match=r"^load_folder: .*: left out: val/ \(the validation part: validation=True reads it\)$"
    ):
        (X, _), test = datasets.load_folder(tmp_path, raw=True)
    train, validation, test = datasets.load_folder(tmp_path, raw=True, validation=True)
    for (X, y), pixels in zip((train, validation, test), images.values(), strict=True):
        np.testing.assert_array_equal(X[0], pixels.transpose(2, 0, 1))
        assert y.tolist() == [0]
    save(pillow, tmp_path / "extra" / "1.png", gray())
    (tmp_path / "valid").mkdir()
    with pytest.warns(UserWarning, match=r"left out: extra/, valid/$"):
        datasets.load_folder(tmp_path, validation=True)
    for other in ("extra", "valid"):
        (tmp_path / other).rename(tmp_path / f".{other}")
    save(pillow, tmp_path / "val" / "b" / "1.png", gray())
    with fails(tmp_path / "val" / "b", "is no class of the training part"):
        datasets.load_folder(tmp_path, validation=True)
    for name in ("a", "b"):
        (tmp_path / "val" / name / "1.png").unlink()
    (tmp_path / "val" / "b").rmdir()
    with pytest.warns(UserWarning, match=r"left out: val/ \(no images\)$"):
        assert datasets.load_folder(tmp_path, validation=True)[1] is None


def test_folder_parts_in_capitals(tmp_path, pillow):
    for part in ("Train", "VALIDATION", "Test"):
        save(pillow, tmp_path / part / "a" / "1.png", gray())
    assert [len(part[0]) for part in datasets.load_folder(tmp_path, validation=True)] == [1, 1, 1]
    assert datasets.folder_classes(tmp_path) == ["a"]
    save(pillow, tmp_path / "test" / "a" / "1.png", gray())
    with pytest.warns(UserWarning, match=r"left out: Test/$"):
        datasets.load_folder(tmp_path, validation=True)


def test_folder_pipe(tmp_path, pillow):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "1.png")
    with fails(tmp_path / "a" / "1.png", "is not a regular file"):
        datasets.load_folder(tmp_path)


def test_folder_without_pillow(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png(4, 4))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[plot\]"'):
        datasets.load_folder(tmp_path)


# --- images that are read when they are asked for --------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path, pillow):
    """Images of several sizes, modes and orientations, as what `load_folder` makes of them at 16 x 32."""
    sizes = [(40, 60), (30, 90), (20, 50), (44, 66)]
    for part, count in (("train", 8), ("val", 2), ("test", 3)):
        for at in range(count):
            image = pillow.fromarray(colour(*sizes[at % 4]))
            exif = pillow.Exif()
            exif[0x112] = (1, 6, 3, 8)[at % 4]
            path = tmp_path / part / "ab"[at % 2] / f"{at}.{('png', 'jpg', 'png', 'jpeg')[at % 4]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            (image.convert("L") if at == 0 else image).save(path, exif=exif)
    return tmp_path


def test_open_folder_is_load_folder(photographs):
    parts = datasets.open_folder(photographs, size=(16, 32))
    arrays = datasets.load_folder(photographs, size=(16, 32), validation=True)
    for (X, y), (X2, y2) in zip((parts.train, parts.validation, parts.test), arrays, strict=True):
        np.testing.assert_array_equal(y, y2)
        np.testing.assert_array_equal(np.asarray(X), X2)
        assert (X.shape, X.dtype, X.ndim, len(X), X.held) == (X2.shape, X2.dtype, 4, len(X2), len(X2))
        assert (X.size, X.nbytes, X.itemsize) == (X2.size, X2.nbytes, X2.itemsize)
    assert (parts.sizes, parts.unreadable, parts.left_out) == (None, (), ())
    assert [path.name for path in parts.validation[0].paths] == ["0.png", "1.jpg"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stored", ["all", "some", "none"])
def test_lazy_images_wherever_they_are(photographs, monkeypatch, stored, threads):
    monkeypatch.setattr(lazy, "LARGE", 0)
    before = fc.get_num_threads()
    fc.set_num_threads(threads)
    (expected, _), _ = datasets.load_folder(photographs / "train", size=(16, 32))
    image = 3 * 16 * 32
    X, _ = datasets.open_folder(photographs / "train", size=(16, 32), memory_limit=3 * image).train
    fc.set_num_threads(before)
    assert (X.held, X._store.stored) == (3, 8)
    X._store.stored = {"all": 8, "some": 5, "none": 3}[stored]
    for index in (0, -1, 6, slice(1, 7, 2), [7, 0, 3, 3], np.arange(8) % 3 == 1, np.array([], int), slice(None)):
        np.testing.assert_array_equal(X[index], expected[index])
        assert X[index].dtype == np.float32
    half = X.only(np.arange(8) % 2 == 0)
    np.testing.assert_array_equal(half[:], expected[::2])
    np.testing.assert_array_equal(half.only([1, 0])[:], expected[[2, 0]])
    assert half.held == 2
    with pytest.raises(IndexError):
        X[8]
    with pytest.raises(IndexError, match="along one axis"):
        X[np.zeros((2, 2), int)]
    mean = datasets.mean_and_std(expected)
    np.testing.assert_allclose(datasets.mean_and_std(X), mean, rtol=1e-12)
    report = datasets.report(X, np.zeros(8, int))
    assert (report.images, report.dtype, report.value_range) == (8, "float32", (expected.min(), expected.max()))
    assert not list(photographs.glob("fastconv*"))


def test_lazy_images_without_room_for_temporaries(photographs, monkeypatch):
    (expected, _), _ = datasets.load_folder(photographs / "train", size=(16, 32))
    written = itertools.count(1)
    full = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *a: full(*a) if next(written) < 4 else 1)  # the disk is full
    X, _ = datasets.open_folder(photographs / "train", size=(16, 32), memory_limit=0).train
    assert (X.held, X._store.stored) == (0, 3)
    np.testing.assert_array_equal(X[:], expected)
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr(lazy.tempfile, "TemporaryFile", lambda **_: os.mkdir(photographs))  # noqa: PTH102
    X, _ = datasets.open_folder(photographs / "train", size=(16, 32), memory_limit=0).train
    assert X._store.stored == 0
    np.testing.assert_array_equal(X[::-1], expected[::-1])
    next(iter(X.paths)).unlink()
    with pytest.raises(OSError, match=r"0.png"):
        X[0]


def test_open_folder_chooses_a_size(tmp_path, pillow):
    def chosen(*sizes, part="train"):
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
        for at, size in enumerate(sizes):
            save(pillow, tmp_path / "a" / f"{at}.png", gray(*size))
        parts = datasets.open_folder(tmp_path)
        return parts.train[0].shape[2:], parts.sizes

    assert chosen((20, 30), (20, 30)) == ((20, 30), None)
    assert chosen((256, 250)) == ((256, 250), None)
    assert chosen((250, 300)) == ((80, 96), ((250, 300), (250, 300)))
    assert chosen((10, 12), (30, 40), (300, 400)) == ((32, 48), ((10, 12), (300, 400)))
    assert chosen((300, 400), (600, 800)) == ((80, 96), ((300, 400), (600, 800)))
    assert chosen((9, 9), (9, 8)) == ((16, 16), ((9, 8), (9, 9)))
    assert chosen((10, 300), (12, 280)) == ((16, 96), ((10, 300), (12, 280)))


def test_open_folder_keeps_the_depth(tmp_path, pillow):
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    save(pillow, tmp_path / "a" / "1.png", deep)
    save(pillow, tmp_path / "b" / "1.png", gray(4, 4))
    (expected, _), _ = datasets.load_folder(tmp_path)
    for limit in (None, 0):
        X, _ = datasets.open_folder(tmp_path, memory_limit=limit).train
        np.testing.assert_array_equal(X[:], expected)
    np.testing.assert_array_equal(expected[0, 0], deep / np.float32(65535))


def test_open_folder_lists_all_that_cannot_be_read(photographs):
    (photographs / "train" / "a" / "no.png").write_text("no image")
    cut = photographs / "test" / "b" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    with pytest.raises(FormatError, match=r"a/no.png: .*; 1 more cannot be read, the next: .*1.jpg: ") as error:
        datasets.open_folder(photographs)
    assert [str(each).split(":")[0] for each in error.value.errors] == [str(photographs / "train/a/no.png"), str(cut)]
    parts = datasets.open_folder(photographs, skip_unreadable=True)
    assert [str(each) for each in parts.unreadable] == [str(each) for each in error.value.errors]
    assert (len(parts.train[0]), parts.test[1].tolist(), len(parts.test[0])) == (8, [0, 0], 2)
    np.testing.assert_array_equal(np.asarray(parts.test[0])[0], parts.test[0][0])
    for file in (photographs / "train" / "b").iterdir():
        file.write_text("no image")
    with pytest.raises(FormatError, match=r"train/b/1.jpg: cannot be read, as all images of its class"):
        datasets.open_folder(photographs, skip_unreadable=True)
    for file in photographs.rglob("*.*g"):
        file.write_text("no image")
    with pytest.raises(FormatError, match="13 more cannot be read"):
        datasets.open_folder(photographs, skip_unreadable=True)


def test_open_folder_is_trained_on(photographs):
    parts = datasets.open_folder(photographs, size=16, memory_limit=5 * 768)
    (X, y), (X_val, y_val), _ = datasets.load_folder(photographs, size=16, validation=True)

    def trained(train, validation):
        net = fc.Sequential(fc.Conv2d(3, 4, 3, rng=0), fc.ReLU(), fc.Flatten(), fc.Linear(4 * 14 * 14, 2, rng=1))
        trainer = fc.Trainer(net, fc.optim.SGD(0.1))
        trainer.fit(*train, epochs=2, batch_size=3, validation_data=validation, augment=fc.augment.Flip())
        return trainer

    one, two = trained(parts.train, parts.validation), trained((X, y), (X_val, y_val))
    assert one.history["val_loss"] == two.history["val_loss"]
    assert one._settings == two._settings  # a run goes on with either


def test_warnings_of_pillow_are_silent_in_threads(recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(_enter, range(200)))
        assert warnings.filters == filters


def _enter(number):
    with image_files.quiet, image_files.quiet:
        warnings.warn_explicit("corrupt EXIF data", UserWarning, "Image.py", 1, module="PIL.Image")
        return number


# --- the report


def clean_set(count=40, classes=4) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (count, 1, 6, 6), np.uint8), np.arange(count) % classes


def test_report_on_a_clean_set():
    X, y = clean_set()
    found = datasets.report(X, y)
    assert not found.suspicious and found.class_counts == {"0": 10, "1": 10, "2": 10, "3": 10}
    assert (found.images, found.shape, found.dtype, found.test) == (40, (1, 6, 6), "uint8", None)
    assert found.value_range == (X.min(), X.max()) and found.imbalance == 1
    assert str(found).startswith("40 images of 1 x 6 x 6, uint8, ")


def test_report_finds():
    X, y = clean_set()
    X = (X / 255).astype(np.float32)
    X[7] = X[3]  # label 3
    X[20] = X[8]  # label 0
    X[22] = X[8]  # label 2
    X[11] = 0.5
    X[12, 0, 1, 1] = np.nan
    X[13, 0, 5, 5] = -np.inf
    X[14] = np.inf
    y = np.where(y == 1, 9, y)
    found = datasets.report(X, y, classes=["a", "b", "c", "d"])
    assert found.duplicates == [[3, 7], [8, 20, 22]] and found.conflicts == [[8, 20, 22]]
    assert found.blank == [11] and found.nonfinite == [12, 13, 14]
    assert found.bad_labels == list(range(1, 40, 4)) and found.missing_classes == ["b"]
    assert found.suspicious and not found.notes
    text = str(found)
    assert re.search(r"repeats an earlier image +3  3 = 7, 8 = 20 = 22\n", text)
    assert re.search(r"label that is no class +10  1, 5, 9, 13, \.\.\.\n", text)
    assert re.search(r"class without images +1  b$", text)
    assert json.loads(json.dumps(found.as_dict()))["duplicates"] == [[3, 7], [8, 20, 22]]


def test_report_compares_with_the_test_part():
    X, y = clean_set()
    X_test, y_test = clean_set(8)
    X_test[5], X_test[2], X_test[1] = X[30], X[0], X[0]
    found = datasets.report(X, y, test=(X_test, y_test))
    assert found.shared == [(0, 1), (0, 2), (30, 5)]
    assert found.test.duplicates == [[1, 2]] and found.test.class_counts == {"0": 2, "1": 2, "2": 2, "3": 2}
    assert re.search(r"test image seen in training +3  0 = 1, 0 = 2, 30 = 5\n", str(found))
    assert found.as_dict()["test"]["images"] == 8
    with pytest.raises(ShapeError, match=r"test images must have shape \(1, 6, 6\), got \(6, 6\)"):
        datasets.report(X, y, test=(X_test[:, 0], y_test))
    with pytest.raises(TypeError, match="test images must be uint8 like X, got float64"):
        datasets.report(X, y, test=(X_test / 255, y_test))


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda X, y: (X / 255, y), "the pixels are float64"),
        (lambda X, y: (X.astype(np.float32), y), r"the pixels reach from \d+ to \d+; 0 to 1 is usual"),
        (lambda X, y: (X // 128, y), "were they scaled before they were cast"),
        (lambda X, y: (X, y.astype(float)), "the labels are float64"),
        (lambda X, y: (X, np.minimum(y, 1)), "the largest class has 3 times the images of the smallest"),
    ],
)
def test_report_notes(change, note):
    found = datasets.report(*change(*clean_set()))
    assert found.suspicious and len(found.notes) == 1 and re.search(note, found.notes[0])
    assert f"note: {found.notes[0]}" in str(found)


def test_report_labels_of_any_kind():
    X, _ = clean_set(6)
    found = datasets.report(X, [0.0, 1.0, 1.5, np.nan, -1, 1e12])
    assert found.bad_labels == [2, 3, 4, 5] and found.class_counts == {"0": 1, "1": 1}
    assert datasets.report(X, [0, 1, 2, 3, 4, 2**62], classes=3).bad_labels == [3, 4, 5]
    assert datasets.report(X, [True, False] * 3).class_counts == {"0": 3, "1": 3}


def test_report_on_nothing():
    found = datasets.report(np.empty((0, 1, 2, 2), np.float32), np.empty(0, np.int64))
    assert found.value_range is None and not found.suspicious
    assert str(found).startswith("0 images of 1 x 2 x 2, float32, no finite values\n")


@pytest.mark.parametrize(
    ("X", "y", "error", "match"),
    [
        (np.zeros((2, 1, 2, 2)), np.zeros(3), ShapeError, r"one label per image, \(2,\), got \(3,\)"),
        (np.zeros((2, 1, 2, 2)), np.zeros((2, 10)), ShapeError, r"got \(2, 10\)"),
        (np.zeros(4), np.zeros(4), ShapeError, r"X must have shape \(N, ...\)"),
        (np.zeros((4, 0)), np.zeros(4), ShapeError, "one pixel at least"),
        (np.zeros((2, 2), complex), np.zeros(2), TypeError, "X must hold real numbers, got complex128"),
        (np.zeros((2, 2)), np.array(["a", "b"]), TypeError, "y must hold real numbers"),
    ],
)
def test_report_rejects(X, y, error, match):
    with pytest.raises(error, match=match):
        datasets.report(X, y)
    with pytest.raises(ValueError, match="class names must differ"):
        datasets.report(*clean_set(), classes=["a", "a"])


def test_report_reads_a_memory_map_in_pieces(tmp_path):
    count = 3000
    X = np.memmap(tmp_path / "X", np.uint8, "w+", shape=(count, 3, 64, 64))
    X[:, 0, 0, :2] = np.arange(count, dtype="<u2").view(np.uint8).reshape(-1, 2)
    X[-1] = X[5]
    before = np.array(X[::100])
    with Peak() as peak:
        found = datasets.report(X, np.arange(count) % 10)
    assert found.duplicates == [[5, count - 1]] and found.blank == [0]
    assert peak.bytes < X.nbytes / 4
    np.testing.assert_array_equal(X[::100], before)


def test_report_strided_and_read_only():
    X, y = clean_set()
    X.setflags(write=False)
    flipped = datasets.report(X[::-1, :, ::2], y[::-1])
    assert flipped.duplicates == datasets.report(np.ascontiguousarray(X[::-1, :, ::2]), y[::-1]).duplicates


# --- the real data


@pytest.fixture
def real_data():
    folder = os.environ.get("FASTCONV_DATA")
    if not folder:
        pytest.skip("FASTCONV_DATA names no folder with mnist/ and cifar10/")
    return Path(folder)


def test_real_mnist(real_data):
    (X, y), (X_test, y_test) = datasets.load_mnist(real_data / "mnist", raw=True)
    assert X.shape == (60_000, 1, 28, 28) and X_test.shape == (10_000, 1, 28, 28)
    assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert X.sum(dtype=np.int64) == 1_567_298_545  # a mean of 33.318 / 255 = 0.1307, the one everybody quotes
    assert not datasets.report(X, y, test=(X_test, y_test)).suspicious


@pytest.mark.slow
def test_real_cifar10(real_data):
    (X, y), _ = datasets.load_cifar10(real_data / "cifar10", raw=True)
    assert X.shape == (50_000, 3, 32, 32) and np.bincount(y).tolist() == [5000] * 10
    assert y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert (X.mean(axis=(0, 2, 3)) / 255).round(4).tolist() == [0.4914, 0.4822, 0.4465]
    assert not datasets.report(X, y).suspicious
