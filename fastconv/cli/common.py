"""What several commands need: errors, argument types, output."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastconv.distributed import Ranks

from fastconv.errors import printable

__all__ = [
    "Failure", "UsageError", "add_threads", "count", "file_named", "launched", "one_line", "picture", "rate",
    "set_threads", "whole",
]  # fmt: skip

LONGEST = 900  # characters of an error: what a file holds may be in it


class UsageError(Exception):
    """The call is wrong: exit status 2."""


class Failure(Exception):
    """The work failed: exit status 1."""


def one_line(error: object) -> str:
    """An error as one line of text, not for ever; what the system says of a file with the file first."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        error = f"{error.filename}: {error.strerror}"
    text = printable(" ".join(str(error).split()))
    return (text if len(text) <= LONGEST else f"{text[:LONGEST]}…") or type(error).__name__


def whole(text: str) -> int:
    """An argument that is an integer, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer, 0 or more, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """An argument that is a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def rate(text: str) -> float:
    """An argument that is a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def file_named(*suffixes: str) -> Callable[[str], Path]:
    """An argument that names a file to be written, which ends so."""

    named = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))

    def path_of(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"the name must end in {named}, got {text!r}")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"no such folder: {path.parent}")
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"is a folder: {text}")
        return path

    return path_of


def picture(text: str) -> Path:
    """An argument that names a picture to be written."""
    from fastconv.plots import FORMATS

    return file_named(*FORMATS)(text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The option --threads."""
    parser.add_argument(
        "-t", "--threads", type=count, metavar="N", help="threads (default: the CPUs this process may use)"
    )


def set_threads(args: argparse.Namespace, ranks: Ranks | None = None) -> None:
    """Follow --threads; of several ranks each takes its share of the CPUs where nobody said anything."""
    from fastconv import set_num_threads

    if args.threads is not None:
        set_num_threads(args.threads)
    elif ranks is not None and not any(os.environ.get(name) for name in ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS")):
        set_num_threads(ranks.threads())


def launched() -> Ranks | None:
    """The ranks that mpiexec has begun, None for one; UsageError where they cannot be reached."""
    from fastconv import distributed

    try:
        return distributed.launched()
    except (ImportError, RuntimeError) as error:
        raise UsageError(str(error)) from None
