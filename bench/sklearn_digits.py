"""Digits: CNNClassifier beside scikit-learn's MLPClassifier, accuracy and time of a fit.

    pip install "fastconv[sklearn]" && python bench/sklearn_digits.py            five folds
    python bench/sklearn_digits.py --quick                                       two folds

All of them see the 1,797 digits of 8x8 as rows in [0, 1], float32, in the same folds and with the threads that they
take by themselves (scikit-learn's BLAS, fastconv's team). They are fitted in turns; the median is in the table.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier

import fastconv
from fastconv.sklearn import CNNClassifier

MODELS = {
    "MLPClassifier()": lambda seed: MLPClassifier(random_state=seed),
    "CNNClassifier()": lambda seed: CNNClassifier(random_state=seed),
    "CNNClassifier(image_shape=(1, 8, 8), epochs=20)": lambda seed: CNNClassifier(
        image_shape=(1, 8, 8), epochs=20, random_state=seed
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two folds")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32) / 16
    right = dict.fromkeys(MODELS, 0)
    seconds: dict[str, list[float]] = {name: [] for name in MODELS}
    for train, test in StratifiedKFold(2 if quick else 5, shuffle=True, random_state=0).split(X, y):
        for name, make in MODELS.items():
            model = make(0)
            begun = time.perf_counter()
            model.fit(X[train], y[train])
            seconds[name].append(time.perf_counter() - begun)
            right[name] += int((model.predict(X[test]) == y[test]).sum())
    print(f"{fastconv.get_num_threads()} threads; {len(seconds['MLPClassifier()'])} fits each\n")
    print("| | accuracy | seconds a fit |\n|---|---|---|")
    for name in MODELS:
        print(f"| `{name}` | {100 * right[name] / len(y):.1f} % | {statistics.median(seconds[name]):.2f} |")


if __name__ == "__main__":
    main()
