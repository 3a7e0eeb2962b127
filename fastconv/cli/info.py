"""Show what the kernels run on: BLAS and its kernels, SIMD level, threads."""

from __future__ import annotations

import argparse
import contextlib
import io
import json

from fastconv.cli.common import add_threads, set_threads

__all__ = ["NAME", "add_arguments", "run"]

NAME = "info"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_threads(parser)
    parser.add_argument("-j", "--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    import fastconv

    set_threads(args)
    with contextlib.redirect_stdout(io.StringIO()) as table:
        config = fastconv.show_config()
    print(json.dumps(config) if args.json else table.getvalue().rstrip())
    return 0
