"""Control groups, played with folders: the tightest of the groups around a process counts, in both versions."""

import math
from pathlib import Path

import pytest

from fastconv.machine import cgroup, memory

INSIDE = Path("jobs/one")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root of hierarchies; the process is in the group jobs/one."""
    monkeypatch.setattr(cgroup, "_folders", lambda: [Path(), INSIDE.parent, INSIDE])
    return tmp_path


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_groups_nothing_is_bounded(root):
    assert cgroup.cpus(root) == math.inf
    assert cgroup.memory(root) == math.inf


@pytest.mark.parametrize("folder", [Path(), INSIDE.parent, INSIDE], ids=str)
def test_cpus(root, folder):
    write(root / folder, cpu__max="150000 100000")
    assert cgroup.cpus(root) == 1.5
    write(root / "cpu" / folder, cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert cgroup.cpus(root) == 0.5


@pytest.mark.parametrize("text", ["max 100000", "", "1 0", "many few"])
def test_no_quota_of_version_2(root, text):
    write(root / INSIDE, cpu__max=text)
    assert cgroup.cpus(root) == math.inf


@pytest.mark.parametrize("text", ["-1", "", "none"])
def test_no_quota_of_version_1(root, text):
    write(root / "cpu" / INSIDE, cpu__cfs_quota_us=text, cpu__cfs_period_us="100000")
    assert cgroup.cpus(root) == math.inf


def test_the_tightest_quota_counts(root):
    write(root / INSIDE, cpu__max="400000 100000")
    write(root / INSIDE.parent, cpu__max="200000 100000")
    assert cgroup.cpus(root) == 2


@pytest.mark.parametrize("folder", [Path(), INSIDE.parent, INSIDE], ids=str)
def test_memory_of_version_2(root, folder):
    stat = "anon 600\nfile 300\ninactive_file 200\nactive_file 100\nslab 5"
    write(root / folder, memory__max="1000", memory__current="900", memory__stat=stat)
    assert cgroup.memory(root) == 1000 - 900 + 300  # the cache of files is given up before anything fails


@pytest.mark.parametrize("folder", [Path(), INSIDE], ids=str)
def test_memory_of_version_1(root, folder):
    stat = "inactive_file 7\ntotal_inactive_file 20\ntotal_active_file 10"
    write(
        root / "memory" / folder,
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="900",
        memory__stat=stat,
    )
    assert cgroup.memory(root) == 130


def test_no_limit_of_memory(root):
    write(root / INSIDE, memory__max="max", memory__current="900", memory__stat="")
    assert cgroup.memory(root) == math.inf


def test_a_group_over_its_limit_has_no_room(root):
    write(root / INSIDE, memory__max="100", memory__current="900", memory__stat="inactive_file 1")
    assert cgroup.memory(root) == 0


def test_the_groups_of_this_process_include_their_parents():
    folders = [*cgroup._folders()]
    for folder in folders:
        assert not folder.is_absolute()
        assert set(folder.parents) <= {*folders}


def test_operations_respect_the_group(monkeypatch):
    monkeypatch.setattr(cgroup, "memory", lambda: 50 << 20)
    memory.require("op", 50 << 20)
    with pytest.raises(MemoryError, match=r"^op: needs"):
        memory.require("op", memory.available_bytes() + 1)
