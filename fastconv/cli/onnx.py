"""Nets as ONNX files: `export RUN FILE` writes the net of a run or of a net file, `import FILE NET` makes a net file.

A net file is what `fastconv.load` and the other commands read; weights, names and layers are those that
`fastconv.onnx.load` makes of the model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

__all__ = ["NAME", "add_arguments", "run"]

NAME = "onnx"


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be lengths such as 1,3,32,32, got {text!r}") from None
    if len(shape) < 2 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 2 positive lengths, N,C,…, got {text!r}")
    return shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ways = parser.add_subparsers(dest="way", metavar="export|import", required=True, parser_class=type(parser))
    out = ways.add_parser("export", help="a run's net as an ONNX file")
    out.add_argument(
        "run_folder", type=Path, metavar="RUN", help="a run folder that `fastconv train` left, or a net file"
    )
    out.add_argument("file", type=Path, metavar="FILE", help="the ONNX file; replaced if it exists")
    out.add_argument("--best", action="store_true", help="the weights of the best validated epoch, not of the last")
    out.add_argument("--opset", type=int, default=17, metavar="N", help="the operator set (default 17)")
    out.add_argument("--input-shape", type=_shape, metavar="N,C,…", help="fix the spatial lengths (default: free)")
    into = ways.add_parser("import", help="an ONNX file as a net file")
    into.add_argument("file", type=Path, metavar="FILE", help="an ONNX file")
    into.add_argument("net", type=Path, metavar="NET", help="the net file; replaced if it exists")
    for each in (out, into):
        each.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    told = _export(args) if args.way == "export" else _import(args)
    if args.json:
        print(json.dumps(told))
    else:
        print(", ".join(f"{name} {value:,}" if isinstance(value, int) else str(value) for name, value in told.items()))
    return 0


def _export(args: argparse.Namespace) -> dict[str, object]:
    from fastconv import onnx
    from fastconv.cli import rundir

    net = rundir.net_for(args.file, args.run_folder, args.best)
    onnx.save(net, args.file, args.input_shape, opset=args.opset)
    return {"file": str(args.file), "opset": args.opset, "bytes": args.file.stat().st_size}


def _import(args: argparse.Namespace) -> dict[str, object]:
    from fastconv import onnx
    from fastconv.training import checkpoint

    net = onnx.load(args.file)
    checkpoint.save_net(args.net, net)
    count = sum(array.size for array in net.parameters().values())
    return {"file": str(args.net), "layers": len(net.nodes), "parameters": int(count)}
