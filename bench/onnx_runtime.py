"""The nets of ONNX's own test suite, read by `fastconv.onnx.load`, against ONNX Runtime.

    python bench/onnx_runtime.py                         nine nets, one image each, about five minutes
    python bench/onnx_runtime.py --quick --only resnet50 --threads 1

The files of the package onnx hold the nets without weights: they are drawn here, the same for both. Two processes take
turns as in peers.py; in a turn each runs its net over and over. x is ONNX Runtime's time over fastconv's, whose net is
loaded with `trainable=False` and is then `for_inference()`.

Needs the packages onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peers

import fastconv
from fastconv.files import replace_text

NETS = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512",
)  # fmt: skip
AGREEMENT = 1e-4


def model_of(name: str) -> Any:
    """The net with weights, of the same scale as what they multiply."""
    import onnx
    import onnx.backend.test

    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    model, rng = onnx.load(folder / f"light_{name}.onnx"), np.random.default_rng(0)
    known = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    made: dict[str, np.ndarray] = {}
    nodes = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(known[node.input[0]])
            inputs = int(np.prod(shape[1:]))
            values = rng.uniform(0.5, 1.5, shape) if len(shape) < 2 else rng.normal(0, (2 / inputs) ** 0.5, shape)
            made[node.output[0]] = values.astype(np.float32)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in made.items())
    return model


def image_for(model: Any) -> tuple[str, np.ndarray]:
    """The name and a picture of the size of a model's input."""
    initialised = {each.name for each in model.graph.initializer}
    [given] = [each for each in model.graph.input if each.name not in initialised]
    shape = [each.dim_value for each in given.type.tensor_type.shape.dim]
    return given.name, np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def in_fastconv(name: str, threads: int) -> tuple[np.ndarray, Any]:
    from fastconv import onnx

    model = model_of(name)
    _, x = image_for(model)
    net = onnx.load(model, trainable=False).for_inference()
    return net(x), lambda: net(x)


def in_runtime(name: str, threads: int) -> tuple[np.ndarray, Any]:
    import onnxruntime

    model = model_of(name)
    key, x = image_for(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {key: x})[0], lambda: session.run(None, {key: x})


LIBRARIES = {"fastconv": in_fastconv, "onnxruntime": in_runtime}


def work(arguments: argparse.Namespace) -> None:
    [threads] = arguments.threads

    def prepare(name: str) -> tuple[dict[str, peers.Calls], list[float]]:
        y, call = LIBRARIES[arguments.worker](name, threads)
        return {arguments.worker: {"inference": call}}, [float(np.abs(y).max()), *map(float, y.ravel()[:64])]

    peers.serve(prepare, fastconv.set_num_threads if arguments.worker == "fastconv" else lambda _: None)


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"net": name, "threads": {}} for name in arguments.only or NETS]
    print(f"{'net':14} threads    runtime       ours      x   range, milliseconds")
    for threads in arguments.threads:
        with contextlib.ExitStack() as stack:
            script = [str(Path(__file__).resolve()), "--threads", str(threads)]
            workers = [peers.Worker(library, threads, script) for library in LIBRARIES]
            for worker in workers:
                stack.callback(worker.close)
            for row in rows:
                ours, theirs = (np.array(worker.ask("prepare", row["net"])) for worker in workers)
                if np.abs(ours - theirs).max() > AGREEMENT * ours[0]:
                    raise SystemExit(f"onnx_runtime: {row['net']}: {ours[:4]} and {theirs[:4]}")
                found = peers.in_turns(workers, [threads], arguments.rounds, arguments.turn, ["inference"])
                row["threads"][str(threads)] = figures = found[str(threads)]["inference"]
                ms, (low, high) = figures["milliseconds"], figures["range"]
                print(
                    f"{row['net']:14} {threads:7} {ms['onnxruntime']:10.2f} {ms['fastconv']:10.2f} "
                    f"{figures['ratio']:6.2f}   {low:.2f} to {high:.2f}",
                    flush=True,
                )
    return rows


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="nets of ONNX's test suite against ONNX Runtime")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", nargs="+", choices=NETS, default=[], metavar="NET", help="default: all")
    parser.add_argument("--quick", action="store_true", help="3 short rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns that each library gets (7; quick: 3)")
    parser.add_argument("--turn", type=float, metavar="SECONDS", help="of each (1; quick: 0.2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--worker", choices=sorted(LIBRARIES), help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            parser.error(f"{package} is not installed: pip install onnx onnxruntime")
    if min(arguments.threads) < 1:
        parser.error("--threads must be positive")
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 7)
    arguments.turn = arguments.turn or (0.2 if arguments.quick else 1)
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.worker:
        work(arguments)
        return 0
    rows = compare(arguments)
    for count in map(str, arguments.threads):
        ratios = {row["net"]: row["threads"][count]["ratio"] for row in rows}
        worst = min(ratios, key=lambda name: ratios[name])
        print(
            f"ONNX Runtime's time over ours, {count} threads: geometric mean "
            f"{statistics.geometric_mean(ratios.values()):.2f}, worst {ratios[worst]:.2f} ({worst})"
        )
    if arguments.json is not None:
        replace_text(arguments.json, json.dumps({"machine": peers.machine(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
