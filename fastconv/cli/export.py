"""Write the weights of a run to a file that other programs read: .safetensors or .npz.

Names, shapes and order of the axes are those of torch.nn's state_dict: a PyTorch net of the same layers loads them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fastconv.cli.common import UsageError

__all__ = ["NAME", "add_arguments", "run"]

NAME = "export"
FORMATS = (".safetensors", ".npz")


def _file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"the name must end in {' or '.join(FORMATS)}, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"is a folder: {text}")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder that `fastconv train` left")
    parser.add_argument("file", type=_file, metavar="FILE", help="NAME.safetensors or NAME.npz; replaced if it exists")
    parser.add_argument("--best", action="store_true", help="the weights of the best validated epoch, not of the last")
    parser.add_argument("--json", action="store_true", help="print one JSON object with the names and shapes")


def run(args: argparse.Namespace) -> int:
    from fastconv.cli import rundir
    from fastconv.files import replace_whole
    from fastconv.training import checkpoint

    folder = args.run_folder
    rundir.Config.read(folder)  # says so where this is no run folder
    source = rundir.weights_file(folder, args.best)
    if args.file.resolve().parent == folder.resolve() and args.file.name in rundir.FILES:
        raise UsageError(f"{args.file}: belongs to the run itself")
    arrays = checkpoint.load_net(source, follow_links=False).state_dict()
    if args.file.suffix.lower() == ".npz":
        replace_whole(args.file, lambda stream: np.savez(stream, **arrays))  # type: ignore[arg-type]
    else:
        checkpoint.write(args.file, arrays, {"format": "pt"})  # as the safetensors tools mark torch's names and layout
    if args.json:
        shapes = {name: {"shape": array.shape, "dtype": str(array.dtype)} for name, array in arrays.items()}
        print(json.dumps({"run": str(folder), "file": str(args.file), "arrays": shapes}))
    else:
        total = sum(array.size for array in arrays.values())
        print(f"{args.file}: {len(arrays)} arrays, {total:,} numbers, {args.file.stat().st_size:,} bytes")
    return 0
