"""Time naive loops, plain NumPy and fastconv on the same arrays, kernel by kernel; PyTorch beside, where installed."""

from __future__ import annotations

import argparse
import json
import sys

from fastconv.cli.common import UsageError, add_threads, count, picture, set_threads

__all__ = ["NAME", "add_arguments", "run"]

NAME = "compare"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="operations, e.g. conv2d (default: the main ones)")
    parser.add_argument("--quick", action="store_true", help="small shapes: seconds instead of a minute")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out, also where it is installed")
    parser.add_argument("--repeats", type=count, metavar="N", help="rounds in which the versions take turns")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="also draw it: .png, .svg or .pdf")
    add_threads(parser)
    parser.add_argument("-j", "--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not say what is being timed")


def run(args: argparse.Namespace) -> int:
    from fastconv.lab.compare import compare
    from fastconv.lab.numpy_baseline import CASES, PLAIN
    from fastconv.plots import need_matplotlib

    known = sorted(CASES.keys() & PLAIN.keys())
    for name in args.kernels:
        if name not in known:
            raise UsageError(f"no kernel is called {name!r}; there are {', '.join(known)}")
    if args.plot is not None:
        need_matplotlib("--plot")
    set_threads(args)
    tell = None if args.quiet else lambda line: print(line, file=sys.stderr, flush=True)
    torch = False if args.no_torch else None
    report = compare(args.kernels or None, quick=args.quick, repeats=args.repeats, progress=tell, torch=torch)
    print(json.dumps(report.as_dict()) if args.json else report.table())
    if args.plot is not None:
        report.plot(args.plot)
        if not args.json:
            print(f"\npicture: {args.plot}")
    return 0
