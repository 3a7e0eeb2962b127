"""Make the pictures in docs/ again: those of the examples, and the README's of a training on the bundled digits.

    python tools/pictures.py --data FOLDER_OF_MNIST [NAME …]        or: make pictures DATA=FOLDER_OF_MNIST

A picture takes from seconds to five minutes, all of them together some ten on two cores. Those that show measured
speed are made where that is measured: `python bench/grid.py --plot docs/grid.png --threads 2` and
`python bench/peers.py --plot docs/peers.png`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "common")
ON_MNIST = ("scanning", "shift_invariance", "what_layers_see")
DIGITS = "digits"


def of_example(name: str, folder: Path, data: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--out", str(folder)]
    if name in ON_MNIST:
        command += ["--data", str(data)]
    subprocess.run(command, check=True)


def of_training(folder: Path) -> None:
    """The three pictures of `fastconv train digits`, one above the other."""
    from PIL import Image

    subprocess.run([sys.executable, "-m", "fastconv", "train", "digits", "--out", str(folder / "run")], check=True)
    parts = [Image.open(folder / "run" / name) for name in ("curve.png", "mistakes.png", "confusion.png")]
    curve, mistakes, confusion = (part.convert("RGB") for part in parts)
    width = mistakes.width
    side = int(0.42 * width)
    curve = curve.resize((width - side, round(curve.height * (width - side) / curve.width)))
    confusion = confusion.resize((side, round(confusion.height * side / confusion.width)))
    top = max(curve.height, confusion.height)
    sheet = Image.new("RGB", (width, top + mistakes.height), "white")
    sheet.paste(curve, (0, (top - curve.height) // 2))
    sheet.paste(confusion, (width - side, 0))
    sheet.paste(mistakes, (0, top))
    sheet.save(folder / f"{DIGITS}.png", optimize=True)


def main() -> int:
    names = (*EXAMPLES, DIGITS)
    parser = argparse.ArgumentParser(description="make the pictures in docs/ again")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(names)}")
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's files")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in names]
    if unknown:
        parser.error(f"no picture is called {unknown[0]}; there are {', '.join(names)}")
    for name in args.names or names:
        with tempfile.TemporaryDirectory() as folder:
            if name == DIGITS:
                of_training(Path(folder))
            else:
                of_example(name, Path(folder), args.data)
            shutil.copy(Path(folder) / f"{name}.png", DOCS / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
