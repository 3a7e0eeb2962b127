"""Weights out of files of others: `load_weights`. `pytorch` reads torch.save's files, `pickles` the pickles in them,
`archives` NumPy's; safetensors are `training.checkpoint`'s."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastconv.errors import listing
from fastconv.files import open_regular
from fastconv.training import checkpoint
from fastconv.training.checkpoint import Tensors, refuse, short
from fastconv.weights.archives import opened, read_npz
from fastconv.weights.pickles import Ordered, View
from fastconv.weights.pytorch import File, from_older, from_zip

__all__ = ["load_weights"]

Pathlike = str | os.PathLike[str]

CUSTOMARY = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights")
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
DEEP = 3  # dicts inside dicts in which a state_dict is looked for


def load_weights(path: Pathlike, *, key: str | None = None) -> Tensors:
    """The arrays of a weights file by name, for `net.load_state_dict`; which kind of file it is, its contents say.

        net.load_state_dict(fastconv.load_weights("resnet18.pth"))

    .pt .pth       what torch.save wrote, as an archive or as before PyTorch 1.6; PyTorch is not needed, and nothing in
                   the file is run. Of a dict that holds more than tensors the state_dict is found; tensors that shared
                   a storage share memory
    .safetensors   of any program, fastconv's nets and checkpoints included
    .npz           numpy.savez's

    key   which of several dicts in the file: "model", or "model.backbone" for one inside another. Of a checkpoint of
          fastconv's "net" (the default) or "best"; of other .safetensors and .npz the names that begin with `key` and a
          dot, without them

    A "module." or "_orig_mod." before all names is removed. float16 and bfloat16 become float32, everything else keeps
    its type. Raises FormatError, with what to do, for anything else: damaged files, whole nets (torch.save(net)),
    compressed entries, types that NumPy has not; ValueError for no such `key`; MemoryError, before anything is
    allocated, for more than this process may use; OSError.
    """
    if key is not None and not isinstance(key, str):
        raise TypeError(f"load_weights: key must be a text, got {key!r}")
    with open_regular(path) as file:
        head = file.read(9)
        if head[:4] == b"PK\3\4":
            with opened(path, file) as archive:
                torchs = any(name.endswith("data.pkl") for name in archive.namelist())
                contents = from_zip(path, file, archive) if torchs else read_npz(path, archive)
            return _state(path, contents, key) if isinstance(contents, File) else _part(path, contents, key)
        if head[:1] == b"\x80":
            return _state(path, from_older(path, file), key)
        if head[:4] == b"PK\5\6":
            refuse(path, "is an empty archive")
        if head[:6] == b"\x93NUMPY":
            refuse(path, "holds one array without a name; write numpy.savez(path, name=array)")
        if head[8:] != b"{":
            refuse(path, "is none of .pt, .pth, .safetensors and .npz")
    tensors, metadata = checkpoint.read(path)
    if metadata.get("format") == checkpoint.TRAINER:
        return _part(path, tensors, key or "net")
    return _part(path, tensors, key)


def _part(path: Pathlike, tensors: Tensors, key: str | None) -> Tensors:
    """The arrays whose names begin with `key` and a dot, without them; all without a key."""
    if key is not None:
        found = {name[len(key) + 1 :]: array for name, array in tensors.items() if name.startswith(f"{key}.")}
        if not found:
            there = listing(map(short, tensors))
            raise ValueError(f"load_weights: {path} has no name that begins with {key + '.'!r}; it has {there}")
        tensors = found
    for name, array in tensors.items():
        if array.dtype == np.float16:
            tensors[name] = array.astype(np.float32)
    return _unwrapped(tensors)


def _unwrapped(named: dict[str, Any]) -> dict[str, Any]:
    """Without what DataParallel and torch.compile put before all names."""
    while named:
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) and name != w for name in named)), None)
        if wrapper is None:
            break
        named = {name[len(wrapper) :]: entry for name, entry in named.items()}
    return named


# --- the state_dict in what torch.save was given ---------------------------------------------------------------------


def _state(path: Pathlike, file: File, key: str | None) -> Tensors:
    found = dict(_dicts(file.value))
    listed = listing(short(".".join(way)) for way in found if way)
    if key is not None:
        chosen = next((state for way, state in found.items() if ".".join(way) == key), None)
        if chosen is None:
            raise ValueError(f"load_weights: {path} has no dict of tensors called {key!r}; it has {listed}")
    else:
        chosen = {} if type(file.value) in (dict, Ordered) and not file.value else _customary(found)
        if chosen is None and len(found) > 1:
            refuse(path, f"holds several dicts of tensors, choose one by key=: {listed}")
        if chosen is None:
            refuse(path, "holds no dict of tensors by name; write torch.save(net.state_dict(), path)")
    return file.arrays(_unwrapped({name: entry for name, entry in chosen.items() if type(entry) is View}))


def _dicts(value: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The dicts that have tensors by name, with the way to each: those that are nearest to the outermost first."""
    level: list[tuple[tuple[str, ...], Any]] = [((), value)]
    seen: set[int] = set()
    for _ in range(DEEP + 1):
        below: list[tuple[tuple[str, ...], Any]] = []
        for way, entries in level:
            if type(entries) not in (dict, Ordered) or id(entries) in seen:
                continue
            seen.add(id(entries))
            named = {name: entry for name, entry in entries.items() if type(name) is str}
            if any(type(entry) is View for entry in named.values()):
                yield way, named
            below += [((*way, name), entry) for name, entry in named.items() if type(entry) in (dict, Ordered)]
        level = below


def _customary(found: dict[tuple[str, ...], dict[str, Any]]) -> dict[str, Any] | None:
    """The one that is meant where no key is given: called by one of the customary names, or the outermost, or the only
    one."""
    for name in CUSTOMARY:
        if (name,) in found:
            return found[(name,)]
    if () in found or len(found) == 1:
        return next(iter(found.values()))
    shallow = [way for way in found if len(way) == 1]
    return found[shallow[0]] if len(shallow) == 1 else None
