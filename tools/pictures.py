"""Make the pictures in docs/ again: those of the examples, the README's of a training on the bundled digits, and those
of measured speed, which want a machine that does nothing else; `distributed` also root and Open MPI.

    python tools/pictures.py --data FOLDER_OF_MNIST [NAME …]        or: make pictures DATA=FOLDER_OF_MNIST

A picture takes from seconds to five minutes, all of them together some ten on two cores, and `peers` ten more. What
needs a package that is not installed is left as it is; cifar10_speedrun, which trains for an hour, unless --cifar10
names the folder of CIFAR-10's files.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "common")
ON_MNIST = ("scanning", "shift_invariance", "what_layers_see")
ON_CIFAR10 = "cifar10_speedrun"
DIGITS = "digits"
MEASURED = {  # bench/NAME.py and its options
    "grid": ("--threads", "2"),
    "peers": (),
    "nets": ("--memory",),
    "distributed": ("--ranks", "2", "--hosts", "100", "1000"),
}
NEEDS = {  # what may not be there: the package, its name, our extra
    "peers": ("torch", "PyTorch", "peers"),
    "nets": ("torch", "PyTorch", "peers"),
    "distributed": ("mpi4py", "mpi4py", "mpi"),
    "search_distributed": ("distributed", "dask.distributed", "search"),
}
NAMES = (*EXAMPLES, DIGITS, *MEASURED)


def of_example(name: str, folder: Path, data: Path | None) -> None:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--out", str(folder)]
    if name in (*ON_MNIST, ON_CIFAR10):
        command += ["--data", str(data)]
    subprocess.run(command, check=True)


def of_training(folder: Path) -> None:
    """The three pictures of `fastconv train digits`, one above the other; what they show is in the file as data."""
    from PIL import Image, PngImagePlugin

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
    result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    images, mistakes_ = result["test_images"], result["test_mistakes"]
    info = PngImagePlugin.PngInfo()
    info.add_text("numbers", json.dumps({"images": images, "right": images - mistakes_}))
    sheet.save(folder / f"{DIGITS}.png", optimize=True, pnginfo=info)


def of_measurement(name: str, folder: Path) -> None:
    script = str(ROOT / "bench" / f"{name}.py")
    subprocess.run([sys.executable, script, *MEASURED[name], "--plot", str(folder / f"{name}.png")], check=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="make the pictures in docs/ again")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(NAMES)}")
    parser.add_argument("--data", type=Path, help=f"folder of MNIST's files, for {', '.join(ON_MNIST)}")
    parser.add_argument("--cifar10", type=Path, help=f"folder of CIFAR-10's binary files, for {ON_CIFAR10}")
    args = parser.parse_args(argv)
    names = args.names or [name for name in NAMES if name != ON_CIFAR10 or args.cifar10]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no picture is called {unknown[0]}; there are {', '.join(NAMES)}")
    if args.data is None and (on_mnist := [name for name in names if name in ON_MNIST]):
        parser.error(f"{on_mnist[0]} needs --data, the folder of MNIST's files")
    if args.cifar10 is None and ON_CIFAR10 in names:
        parser.error(f"{ON_CIFAR10} needs --cifar10, the folder of CIFAR-10's binary files")
    for name in names:
        if name in NEEDS and importlib.util.find_spec(NEEDS[name][0]) is None:
            _, called, extra = NEEDS[name]
            print(f"{name} is left as it is: {called} is not installed (pip install 'fastconv[{extra}]')")
            continue
        with tempfile.TemporaryDirectory() as folder:
            if name in MEASURED:
                of_measurement(name, Path(folder))
            elif name == DIGITS:
                of_training(Path(folder))
            else:
                of_example(name, Path(folder), args.cifar10 if name == ON_CIFAR10 else args.data)
            shutil.copy(Path(folder) / f"{name}.png", DOCS / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
