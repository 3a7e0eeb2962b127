"""A search for the learning rate and the batch size, over the processors of this machine or of many.

scikit-learn's GridSearchCV asks joblib for its fits, joblib asks dask, and dask has a process for each processor, here
or elsewhere. Each trains a net of its own with as many threads as are its share: FASTCONV_NUM_THREADS of the workers'
environment, or else every one of them would take all processors of its machine.

python examples/search_distributed.py [--out FOLDER] [--workers N | --scheduler ADDRESS]

On several machines, this installed on each, --scheduler tcp://FIRST:8786 here, and

dask scheduler                                                                          on the first
FASTCONV_NUM_THREADS=1 dask worker tcp://FIRST:8786 --nworkers 8 --nthreads 1           on each, of 8 processors

Needs pip install "fastconv[search]".
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from common import arguments, save

import fastconv
from fastconv import plots
from fastconv.machine.threads import usable_cpus

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
BATCHES = (16, 64, 256)
OPTIONS: dict[str, dict[str, Any]] = {
    "--workers": {"type": int, "metavar": "N", "help": "processes on this machine (one for each processor)"},
    "--scheduler": {
        "metavar": "ADDRESS",
        "help": "a cluster of dask's that runs already, instead of one on this machine",
    },
}


@contextlib.contextmanager
def client_of(args: argparse.Namespace) -> Iterator[Any]:
    """dask's client of the cluster at `--scheduler`, or of one on this machine with a process a processor."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        sys.exit('search_distributed.py needs dask.distributed: pip install "fastconv[search]"')
    if args.scheduler:
        with Client(args.scheduler) as client:
            yield client
        return
    cpus = fastconv.get_num_threads()
    workers = args.workers or cpus
    share = {"FASTCONV_NUM_THREADS": str(max(1, cpus // workers))}
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, env=share, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def placed() -> tuple[str, int, int]:
    """Of the worker that this runs on: its machine, the threads that it computes with, the processors there."""
    return platform.node(), fastconv.get_num_threads(), usable_cpus()


def check(client: Any) -> dict[str, tuple[int, int]]:
    """By machine the threads of all workers and the processors; ends where there are more threads."""
    threads: Counter[str] = Counter()
    cpus: dict[str, int] = {}
    for machine, count, there in client.run(placed).values():
        threads[machine] += count
        cpus[machine] = there
    found = {machine: (threads[machine], cpus[machine]) for machine in cpus}
    for machine, (count, there) in found.items():
        print(f"{machine}: {count} threads on {there} processors")
        if count > there:
            sys.exit(f"{machine}: set FASTCONV_NUM_THREADS where its workers are started, to less")
    return found


def search(args: argparse.Namespace, X: np.ndarray, y: np.ndarray) -> Any:
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    from fastconv.sklearn import CNNClassifier

    net = CNNClassifier(image_shape=(1, 8, 8), epochs=2 if args.small else 10, random_state=0)
    grid = {"lr": RATES[1::2] if args.small else RATES, "batch_size": BATCHES[:2] if args.small else BATCHES}
    with parallel_config(backend="dask"):
        return GridSearchCV(net, grid, cv=2 if args.small else 4).fit(X, y)


def draw(results: dict[str, Any]) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    rates, batches = (np.array(results[f"param_{name}"], float) for name in ("lr", "batch_size"))
    for colour, batch in zip((plots.BLUE, *plots.OTHERS), np.unique(batches), strict=False):
        of = batches == batch
        order = np.argsort(rates[of])
        mean, spread = (100 * results[f"{name}_test_score"][of][order] for name in ("mean", "std"))
        axes.errorbar(rates[of][order], mean, spread, color=colour, marker="o", capsize=3, label=f"batch {batch:.0f}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="digits read, %", title="Adam on the digits, cross-validated")
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(__doc__, "search_distributed", argv, more=OPTIONS)
    (X, y), (X_test, y_test) = fastconv.datasets.load_digits()
    if args.small:
        X, y = X[:400], y[:400]
    with client_of(args) as client:
        machines = check(client)
        found = search(args, X, y)
    for tried, score in zip(found.cv_results_["params"], found.cv_results_["mean_test_score"], strict=True):
        print(f"  lr {tried['lr']:<8g} batch {tried['batch_size']:<5d} {100 * score:5.1f} %")
    accuracy = found.score(X_test, y_test)
    print(f"best: {found.best_params_}; of the digits that it has not seen it reads {100 * accuracy:.1f} %")
    save(draw(found.cv_results_), args.out, "search_distributed")
    return {"machines": machines, "best": found.best_params_, "accuracy": accuracy}


if __name__ == "__main__":
    main(sys.argv[1:])
