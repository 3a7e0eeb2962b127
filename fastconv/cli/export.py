"""Write the weights of a run to a file that other programs read: .safetensors or .npz.

Names, shapes and order of the axes are those of torch.nn's state_dict: a PyTorch net of the same layers loads them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fastconv.cli.common import file_named

__all__ = ["NAME", "add_arguments", "run"]

NAME = "export"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="a run folder that `fastconv train` left, or a net file"
    )
    parser.add_argument(
        "file", type=file_named(".safetensors", ".npz"), metavar="FILE",
        help="NAME.safetensors or NAME.npz; replaced if it exists",
    )  # fmt: skip
    parser.add_argument("--best", action="store_true", help="the weights of the best validated epoch, not of the last")
    parser.add_argument("-j", "--json", action="store_true", help="print one JSON object with the names and shapes")


def run(args: argparse.Namespace) -> int:
    from fastconv.cli import rundir
    from fastconv.files import replace_whole
    from fastconv.training import checkpoint

    folder = args.run_folder
    arrays = rundir.net_for(args.file, folder, args.best).state_dict()
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
