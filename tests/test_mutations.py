"""A run's folder whose files were damaged, by chance or on purpose: every command ends with a status and one line.

pytest tests/test_mutations.py --mutations 3000      so many of every file
"""

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import Trainer
from fastconv.cli import main, rundir
from fastconv.training import checkpoint

COMMANDS = {
    "train": ("train", "--resume", "run", "--no-plots", "--quiet"),
    "predict": ("predict", "run", "image.pgm"),
    "summary": ("summary", "run"),
    "export": ("export", "run", "weights.safetensors"),
    "export best": ("export", "run", "weights.npz", "--best"),
}
DEEP = "[" * 100_000 + "]" * 100_000
VALUES = [
    None, True, False, -1, 0, 1, 2, 3, 1000, 2**31, 2**63, 10**30, -(10**18), 0.5, -0.0, 1e-320, 1e300, "", "x", "0",
    "\0", "\ud800", "a" * 5000, "SGD", "Sequential", [], [0], [1, 1], [None], ["x", "x"], [[[[[]]]]], {},
    {"layer": "ReLU"}, {"schedule": "Cosine", "lr": 1}, {"fraction": [1, 0]},
]  # fmt: skip
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "-0", "9" * 4300, "9" * 5000, DEEP, '{"a": 1, "a": 2}', "", "nul", "01"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was stopped in its last epoch, with the files of one that was not."""
    folder = tmp_path_factory.mktemp("whole")
    run = folder / "run"
    options = ["--epochs", "2", "--batch-size", "512", "--validation", "0.2", "--checkpoint-every", "1", "--quiet"]
    kept = {}
    write = Trainer._write

    def keep(self, path, automatic):
        write(self, path, automatic)
        kept[self.step] = Path(path).read_bytes()

    Trainer._write = keep
    try:
        assert main(["train", "digits", "--out", str(run), *options]) == 0
    finally:
        Trainer._write = write
    (run / rundir.CHECKPOINT).write_bytes(kept[max(kept) - 1])
    for name in rundir.FILES:  # where matplotlib is missing
        if not (run / name).exists():
            (run / name).write_bytes(b"")
    rng = np.random.default_rng(0)
    image = np.pad(rng.integers(0, 200, (12, 9), np.uint8), 8)
    header = f"P5 {image.shape[1]} {image.shape[0]} 255\n".encode()
    (folder / "image.pgm").write_bytes(header + image.tobytes())
    return folder


# --- mutations -------------------------------------------------------------------------------------------------------


def places(data, path=()):
    """The way to every value inside."""
    yield path
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


def changed_json(text, rng):
    """JSON with one value replaced, removed, added or written in another way."""
    data = json.loads(text)
    *way, last = rng.choice([path for path in places(data) if path]) if data else ["x"]
    inside = data
    for key in way:
        inside = inside[key]
    kind = rng.randrange(5)
    if kind == 0:
        del inside[last]
    elif kind == 1 and isinstance(inside, dict):
        inside[rng.choice(["x", "layer", "", "groups", "total"])] = inside.pop(last)
    elif kind == 2:
        inside[last] = [inside[last]] * rng.choice([1, 2, 3])
    elif kind == 3:
        inside[last] = "@"
        return json.dumps(data).replace('"@"', rng.choice(RAW), 1)
    else:
        inside[last] = rng.choice(VALUES)
    return json.dumps(data)


def changed_header(path, data, rng):
    """A safetensors file with another header, or with another net or trainer in it and checksums that hold."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        text = changed_json(data[8 : 8 + length], rng).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    tensors, metadata = checkpoint.read(path)
    name = rng.choice(sorted(metadata.keys() - {"format"}))
    if rng.random() < 0.9:
        metadata[name] = changed_json(metadata[name], rng)
    else:
        victim = rng.choice(sorted(tensors))
        tensors[victim] = rng.choice([
            tensors[victim].reshape(-1)[:0], tensors[victim].astype(np.float64), np.zeros(3, np.uint8),
            np.float32(np.nan), np.full_like(tensors[victim], -1), tensors[victim].reshape(-1),
        ])  # fmt: skip
    with contextlib.suppress(UnicodeEncodeError):
        checkpoint.write(path, tensors, metadata)
    return path.read_bytes()


def mutate(path, others, rng):
    """Change one file."""
    data = path.read_bytes()
    kind = rng.randrange(12)
    at = rng.randrange(len(data) + 1)
    if kind < 4 and path.suffix == ".json":
        data = changed_json(data, rng).encode("utf-8", "surrogatepass")
    elif kind < 4 and path.suffix == ".safetensors":
        data = changed_header(path, data, rng)
    elif kind < 7 and data:
        changed = bytearray(data)
        header = min(len(data), 3000) if rng.random() < 0.7 else len(data)
        for _ in range(rng.choice([1, 1, 2, 20])):
            changed[rng.randrange(header)] ^= 1 << rng.randrange(8)
        data = bytes(changed)
    elif kind == 7:
        data = data[:at]
    elif kind == 8:
        data = data[:at] + bytes(rng.choice([1, 8, 512])) + data[at + rng.choice([0, 1, 512]) :]
    elif kind == 9:
        data = rng.choice(
            [b"", b"\0" * 100, b"[]", b"{}", b"null", b'"x"', b"\xff\xfe", DEEP.encode(), rng.randbytes(99)]
        )
    elif kind == 10:
        data = (path.parent / rng.choice(others)).read_bytes()
    else:
        path.unlink()
        what = rng.randrange(5)
        if what == 0:
            path.mkdir()
        elif what == 1:
            os.mkfifo(path)
        elif what == 2:
            path.symlink_to("../victim")
        elif what == 3:
            path.symlink_to("nowhere")
        return
    path.write_bytes(data)


@pytest.mark.parametrize("name", rundir.FILES)
def test_mutations(name, whole, tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(tmp_path)
    shutil.copy(whole / "image.pgm", tmp_path)
    (tmp_path / "victim").write_bytes((whole / "run" / name).read_bytes())
    victim = (tmp_path / "victim").read_bytes()
    total = Trainer._total_epochs
    monkeypatch.setattr(Trainer, "_total_epochs", lambda self, epochs: min(total(self, epochs), 3))
    for number in range(request.config.getoption("--mutations")):
        rng = random.Random(f"{name} {number}")
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(whole / "run", "run")
        mutate(Path("run", name), rundir.FILES, rng)
        for command, arguments in sorted(COMMANDS.items(), key=lambda entry: entry[0] == "train"):
            capsys.readouterr()
            try:
                status = main(arguments)
            except BaseException as error:
                raise AssertionError(f"mutation {number}: {command}: {error!r}") from error
            err = capsys.readouterr().err
            assert status in (0, 1, 2), (number, command, status)
            assert err.count("\n") <= 1 and len(err) < 1000, (number, command, status, err)
            assert status == 0 or " run" in err, (number, command, status, err)
            assert (tmp_path / "victim").read_bytes() == victim, (number, command)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (rundir.CHECKPOINT, "train"),
        (rundir.WEIGHTS, "predict"),
        (rundir.WEIGHTS, "summary"),
        (rundir.WEIGHTS, "export"),
        (rundir.BEST, "export best"),
    ],
)
def test_a_flipped_bit_among_the_numbers(name, command, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole / "run", "run")
    path = Path("run", name)
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    assert main(COMMANDS[command]) == 1
    error = capsys.readouterr().err
    assert f"{path}: is damaged: the data of " in error and error.count("\n") == 1


def test_exported_weights_have_checksums(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole / "run", "run")
    assert main(COMMANDS["export"]) == 0
    data = bytearray(Path("weights.safetensors").read_bytes())
    assert b"checksums" in data
    data[-1] ^= 128
    Path("weights.safetensors").write_bytes(data)
    with pytest.raises(fastconv.FormatError, match=r"weights\.safetensors: is damaged"):
        checkpoint.read("weights.safetensors")


@pytest.mark.parametrize("name", rundir.FILES)
def test_links_in_a_run_are_refused_before_the_work(name, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole / "run", "run")
    Path("run", name).rename("behind")
    Path("run", name).symlink_to("../behind")
    before = Path("behind").read_bytes()
    assert main(COMMANDS["train"]) == 1
    assert f"run/{name}: is " in capsys.readouterr().err
    assert Path("behind").read_bytes() == before and Path("run", name).is_symlink()
