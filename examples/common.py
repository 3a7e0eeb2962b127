"""What the examples share: their command line, and the digits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import datasets, plots

Part = tuple[np.ndarray, np.ndarray]


def arguments(
    doc: str, name: str, argv: list[str] | None, *, data: bool = False, more: Mapping[str, dict[str, Any]] | None = None
) -> argparse.Namespace:
    """`--out FOLDER` and `--small`, with `data` also `--data FOLDER`, and `more` options by name, as argparse has
    them; ends in one line where matplotlib is missing, for each example draws a picture when its work is done."""
    parser = argparse.ArgumentParser(prog=f"{name}.py", description=doc.splitlines()[0])
    if data:
        parser.add_argument("--data", type=Path, help="folder of MNIST's files (default: the bundled 8x8 digits)")
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="folder for what it writes")
    parser.add_argument("--small", action="store_true", help="a form that takes seconds, for the tests")
    for option, settings in (more or {}).items():
        parser.add_argument(option, **settings)
    try:
        plots.need_matplotlib("the picture")
    except ImportError as error:
        if not any(given in ("-h", "--help") for given in argv or []):
            parser.error(str(error))
    return parser.parse_args(argv)


def read_digits(folder: Path | None) -> tuple[Part, Part]:
    """To train on and to test with: MNIST's from its folder, or the bundled 8x8 ones."""
    train, test = datasets.load_digits() if folder is None else datasets.load_mnist(folder)
    if test is None:
        sys.exit(f"{folder} has no test images")
    return train, test


def save(figure: object, folder: Path, name: str) -> None:
    """Write the picture and say where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    plots.save(figure, folder / f"{name}.png")
    print(f"picture: {folder / f'{name}.png'}")
