"""Files written whole: two writers and a reader, kills, links, modes, names, and every path that writes."""

import ast
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import files, plots
from fastconv.files import open_regular, replace_text, replace_whole
from fastconv.training.checkpoint import read, write
from fastconv.training.history import History

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastconv.__file__).parents[1]), "FASTCONV_NUM_THREADS": "1"}
WRITER = """
    import itertools, sys
    import numpy as np
    from fastconv.training.checkpoint import write
    path, mark = sys.argv[1], int(sys.argv[2])
    print("ready", flush=True)
    for i in itertools.count():
        write(path, {"a": np.full(60_000, mark), "i": np.full(9, i)}, {"mark": str(mark)})
        print(i, flush=True)
"""

KILLED = """
    import os, sys
    from fastconv.files import replace_whole
    replace_whole(sys.argv[1], lambda file: os.kill(os.getpid(), 9))
"""


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(code, *arguments):
    """What a process prints that runs the code to its end."""
    with python(code, *arguments) as process:
        output = process.communicate()[0]
    assert process.returncode == 0
    return output


# --- whole, whoever writes -------------------------------------------------------------------------------------------


def test_two_writers_and_a_reader(tmp_path):
    path = tmp_path / "x"
    write(path, {"a": np.full(60_000, 0), "i": np.full(9, 0)}, {"mark": "0"})
    writers = [python(WRITER, path, mark) for mark in (1, 2)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        seen, end = set(), time.monotonic() + 1.5
        while time.monotonic() < end or len(seen - {0}) < 2:
            tensors, metadata = read(path)
            mark = int(metadata["mark"])
            assert (tensors["a"] == mark).all() and np.ptp(tensors["i"]) == 0
            seen.add(mark)
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    write(path, {})
    assert names(tmp_path) == ["x"]


def test_threads_of_one_process(tmp_path):
    path, failed = tmp_path / "x", []

    def save(mark):
        try:
            for _ in range(50):
                replace_text(path, mark * 30_000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(mark,)) for mark in "abc"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            text = path.read_text()
            assert len(text) == 30_000 and len(set(text)) == 1
    for thread in threads:
        thread.join()
    assert not failed
    assert names(tmp_path) == ["x"]


def test_kills_leave_one_temporary_at_most(tmp_path):
    path = tmp_path / "x"
    write(path, {"a": np.full(60_000, 0)})
    left = 0
    for turn in range(4):
        with python(WRITER, path, 7) as process:
            process.stdout.readline()
            time.sleep(0.004 + 0.003 * turn)
            process.kill()
        a = read(path)[0]["a"]
        assert (a == a[0]).all()
        assert len(names(tmp_path)) <= 2, names(tmp_path)
        left += len(names(tmp_path)) == 2
    with python(KILLED, path) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    temporary = next(name for name in names(tmp_path) if name != "x")
    assert temporary.startswith("x.") and temporary.endswith(".tmp") and f".{process.pid}." in temporary
    write(path, {})
    assert names(tmp_path) == ["x"]


def test_what_is_not_a_dead_saves_stays(tmp_path):
    """A live save's temporary, another target's, another host's, and a user's own files."""
    path = tmp_path / "m"
    host = socket.gethostname().replace(".", "-")
    with python("import sys; from fastconv.files import replace_whole\n"
                "replace_whole(sys.argv[1], lambda f: (print('in', flush=True), sys.stdin.read()))",
                path, stdin=subprocess.PIPE) as process:  # fmt: skip
        process.stdout.readline()
        (live,) = names(tmp_path)
        others = ["m.tmp", f"m.other.{process.pid}.01234567.tmp", f"mm.{host}.1.01234567.tmp", f"m.{host}.1.x.tmp"]
        for name in others:
            (tmp_path / name).write_text("precious")
        (tmp_path / f"m.{host}.1.01234568.tmp").mkdir()
        replace_text(path, "new")
        assert names(tmp_path) == sorted([live, "m", *others, f"m.{host}.1.01234568.tmp"])
        process.stdin.close()
    assert live not in names(tmp_path)
    assert all((tmp_path / name).read_text() == "precious" for name in others)


def test_without_locks_the_process_number_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_lock", lambda descriptor: None)
    prefix = "x." + socket.gethostname().replace(".", "-")
    with python("") as process:
        pass
    dead, alive = f"{prefix}.{process.pid}.00000000.tmp", f"{prefix}.{os.getpid()}.00000000.tmp"
    for name in (dead, alive):
        (tmp_path / name).write_text("")
    replace_text(tmp_path / "x", "")
    assert names(tmp_path) == ["x", alive]


# --- modes, links, names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o644, 0o400])
def test_a_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(mode)
    seen = []
    replace_whole(path, lambda file: seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode)))
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert seen == [0o600]  # nobody reads what is not finished


def test_a_new_file_has_the_umasks_mode(tmp_path):
    before = os.umask(0o027)
    try:
        replace_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    path.chmod(0o664)
    replace_text(path, "new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o664)
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    become = "import os, sys; from fastconv.files import replace_text; os.setgroups([]); os.setgid(99); os.setuid(1234)"
    finished(f"{become}; os.umask(0); replace_text(*sys.argv[1:])", path, "newer")
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (1234, 99)
    assert stat.S_IMODE(found.st_mode) == 0o644  # another group has what everybody has
    tmp_path.chmod(0o755)
    refused = """
try:
    replace_text(sys.argv[1], "")
except PermissionError as error:
    print(error.filename == sys.argv[1])
"""
    assert finished(become + refused, path) == "True\n"
    assert path.read_text() == "newer" and names(tmp_path) == ["x"]


def test_links_stay_and_what_they_lead_to_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("middle")
    (tmp_path / "middle").symlink_to("real/file")
    for text in ("new", "newer"):  # at first nothing is there
        replace_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "middle").is_symlink()
        assert (tmp_path / "real" / "file").read_text() == text
    assert names(tmp_path / "real") == ["file"]
    with pytest.raises(OSError, match="is a symbolic link, which is not followed here") as caught:
        replace_text(tmp_path / "link", "", follow_links=False)
    assert caught.value.filename == str(tmp_path / "link")
    with pytest.raises(fastconv.FormatError, match="link: is a symbolic link"):
        open_regular(tmp_path / "link", follow_links=False)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        replace_text(tmp_path / "loop", "")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"newer"


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        there = names(tmp_path)
        for name in there:
            for what in (replace_text, lambda path, text: open_regular(path)):
                with pytest.raises((OSError, fastconv.FormatError)) as caught:
                    what(tmp_path / name, "")
                assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(OSError, match="/dev/null"):
        replace_text("/dev/null", "")
    assert names(tmp_path) == there
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * 200, "-", " ", "a.b\n.tmp", "\udcff"])
def test_any_name(tmp_path, name):
    for text in ("old", "new"):
        replace_text(tmp_path / name, text)
        assert (tmp_path / name).read_text() == text
    with pytest.raises(ZeroDivisionError):
        replace_whole(tmp_path / name, lambda file: 1 / 0)
    assert names(tmp_path) == [name]


def test_a_leftover_of_the_longest_name(tmp_path):
    path = tmp_path / ("x" * 255)
    for target in (path, path.with_name("x" * 254)):
        with python(KILLED, target):
            pass
    assert len(names(tmp_path)) == 2
    replace_text(path, "")
    assert len(names(tmp_path)) == 2
    replace_text(path.with_name("x" * 254), "")
    assert names(tmp_path) == ["x" * 254, "x" * 255]


def test_a_path_as_long_as_paths_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(16):
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    replace_text("x" * 255, "text")
    assert names(Path()) == ["x" * 255]


# --- errors ----------------------------------------------------------------------------------------------------------


def too_large(code):
    """The code, in a process whose files may have 10,000 bytes."""
    return "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n" + textwrap.dedent(code)


def test_a_full_disk_names_the_file(tmp_path):
    """EFBIG stands for ENOSPC: both come from write(2)."""
    code = """
        import sys
        import numpy as np
        import fastconv
        from fastconv import files, plots
        from fastconv.training.checkpoint import write
        from fastconv.training.history import History
        from matplotlib.figure import Figure

        big = np.random.default_rng(0).random(9000)
        path = sys.argv[1]
        for save in (
            lambda: write(path, {"a": big}),
            lambda: files.replace_text(path, "x" * 20_000),
            lambda: files.replace_whole(path, lambda file: np.savez(file, a=big)),
            lambda: History([{"a": 0.1}] * 9000).to_csv(path),
            lambda: History([{"a": 0.1}] * 9000).to_json(path),
            lambda: plots.save(Figure(figsize=(30, 30)), path),
        ):
            try:
                save()
            except OSError as error:
                assert error.filename == path, repr(error)
            else:
                raise AssertionError
    """
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.png"
    path.write_text("old")
    finished(too_large(code), path)
    assert names(tmp_path) == ["x.png"] and path.read_text() == "old"


def test_errors_name_the_file(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as caught:
        replace_text(tmp_path / "nowhere" / "x", "")
    assert caught.value.filename == str(tmp_path / "nowhere" / "x")
    for name, number in (("fsync", errno.EIO), ("replace", errno.EROFS), ("open", errno.EMFILE)):

        def fail(*arguments, number=number, **options):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                replace_text(tmp_path / "x", "")
        assert caught.value.filename == str(tmp_path / "x") and caught.value.errno == number
        assert names(tmp_path) == []


def test_ctrl_c_while_writing(tmp_path):
    def fill(file):
        file.write(b"half")
        raise KeyboardInterrupt

    replace_text(tmp_path / "x", "old")
    with pytest.raises(KeyboardInterrupt):
        replace_whole(tmp_path / "x", fill)
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


# --- every path that writes ------------------------------------------------------------------------------------------

WRITES = {"write_text", "write_bytes", "savefig", "save", "savez", "savez_compressed", "savetxt", "tofile", "to_csv",
          "dump", "NamedTemporaryFile", "mkstemp", "rename", "replace"}  # fmt: skip
OWN = {("plots", "save"), ("onnx", "save"), ("trainer", "save"), ("self", "save"), ("history", "to_csv"),
       ("report", "to_csv"), ("dataclasses", "replace")}  # fmt: skip


def writes(tree):
    """(line, what) of the calls that could write a file by themselves."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id == "open":
            yield node.lineno, "open"
        if not isinstance(function, ast.Attribute):
            continue
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        if function.attr in ("open", "fdopen") and any(isinstance(m, str) and set(m) & set("wax+") for m in modes):
            yield node.lineno, "open"
        if function.attr in WRITES and (owner, function.attr) not in OWN:
            texts = [mode for mode in modes if isinstance(mode, str)]
            if function.attr == "replace" and (len(texts) == 2 or len(node.args) == 2 or node.keywords):
                continue  # of text, of a dataclass
            yield node.lineno, function.attr


def test_nothing_is_written_but_through_replace_whole():
    root = Path(fastconv.__file__).parents[1]
    places = [*sorted((root / "fastconv").rglob("*.py")), *sorted((root / "bench").glob("*.py"))]
    found = []
    for path in places:
        source = path.read_text()
        lines = source.splitlines()
        for line, what in writes(ast.parse(source)):
            if path != root / "fastconv" / "files.py" and "replace_whole" not in lines[line - 1]:
                found.append(f"{path.relative_to(root)}:{line}: {what}")
    assert [place for place in found if not place.startswith("fastconv/plots.py")] == []
    assert len(found) <= 2, "plots.save hands savefig to replace_whole, plots.as_png a buffer in memory"


@pytest.mark.parametrize(
    "save",
    [
        lambda path: write(path, {"a": np.zeros(3)}),
        lambda path: fastconv.training.checkpoint.save_net(path, fastconv.Linear(2, 2)),
        lambda path: fastconv.Trainer(fastconv.Linear(2, 2), fastconv.optim.SGD(0.1)).save(path),
        lambda path: History([{"loss": 0.5}]).to_csv(path),
        lambda path: History([{"loss": 0.5}]).to_json(path),
        lambda path: plots.save(plots.dots({"a": {"b": 1.0}}, title="", label=""), path),
    ],
    ids=["write", "save_net", "Trainer.save", "to_csv", "to_json", "plots.save"],
)
def test_every_writer_keeps_links_and_modes(tmp_path, save):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link.png").symlink_to("file")
    (tmp_path / "file.tmp").write_text("the user's")
    save(tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "file").read_bytes() != b"old"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert (tmp_path / "file.tmp").read_text() == "the user's"
    assert names(tmp_path) == ["file", "file.tmp", "link.png"]


def opened_and_interrupted(monkeypatch):
    """From here on, Ctrl-C comes as a file is open, before anybody has it."""
    found = os.fdopen

    def interrupted(*args, **options):
        found(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdopen", interrupted)


def test_an_interrupt_as_a_file_is_opened_to_be_written(tmp_path, monkeypatch):
    """The old file stays, nothing is left behind, and nothing unclosed is complained of."""
    path = tmp_path / "text"
    replace_text(path, "old")
    held = Path("/proc/self/fd")  # where there is such
    before = len(list(held.glob("*")))
    opened_and_interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        replace_text(path, "new")
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["text"] and path.read_text() == "old"
    assert len(list(held.glob("*"))) == before


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_as_a_file_is_opened_to_be_read(tmp_path, monkeypatch):
    """It is the interrupt that comes out, not what closing twice would raise."""
    path = tmp_path / "text"
    replace_text(path, "old")
    opened_and_interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        open_regular(path)
