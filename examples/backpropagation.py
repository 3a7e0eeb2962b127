"""Back-propagation by hand: every variable of a small CNN and its gradient, symbols beside numbers.

    X (5x5) -> Z = Conv(X, W) + b (4x4) -> Y = ReLU(Z) -> P = max-pool 2x2, stride 2 (2x2) -> s = V flatten(P) + c
            -> softmax p -> L = -log p of the true class

The gradients are computed backwards by the chapter's rules, written out below: dW is a convolution of X with dZ, dX one
of the zero-padded dZ with the reversed filter, a maximum's gradient goes to its place. Each is held against
`fastconv.vjp` and against finite differences: L for a number a little larger and a little smaller.

    python examples/backpropagation.py [--out FOLDER]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from common import arguments, save

import fastconv
from fastconv import chapter, plots
from fastconv import functional as F

STEP = 1e-5
TARGET = 1  # the true class, of three

Values = dict[str, np.ndarray]


def parameters(seed: int = 438) -> Values:
    """The input and the weights, numbers with one decimal."""
    rng = np.random.default_rng(seed)
    shapes = {"X": (5, 5), "W": (2, 2), "b": (1,), "V": (3, 4), "c": (3,)}
    values = {name: np.round(rng.uniform(-1, 1, shape), 1) for name, shape in shapes.items()}
    values["X"] = np.abs(values["X"])
    return values


# --- forward, and backward by hand -----------------------------------------------------------------------------------


def forward(given: Values) -> Values:
    """All variables."""
    X, W, b, V, c = given.values()
    Z = chapter.Conv(X, W, 1, b)
    Y = np.maximum(Z, 0)
    P = chapter.Pool(Y, 2, 2, "max")
    s = V @ chapter.flatten(P) + c
    e = np.exp(s - s.max())
    p = e / e.sum()
    return {**given, "Z": Z, "Y": Y, "P": P, "s": s, "p": p, "L": -np.log(p[TARGET])}


def backward(v: Values) -> Values:
    """The gradient of L to each of them, from the last to the first."""
    d: Values = {}
    d["s"] = v["p"] - np.eye(3)[TARGET]  # softmax and cross-entropy together
    d["c"] = d["s"]
    d["V"] = np.outer(d["s"], chapter.flatten(v["P"]))
    d["P"] = (v["V"].T @ d["s"]).reshape(2, 2)
    d["Y"] = np.zeros((4, 4))
    places = chapter.places(v["Y"], 2, 2)  # 1 ... 4
    for i in range(2):
        for j in range(2):
            row, column = divmod(int(places[i, j]) - 1, 2)
            d["Y"][2 * i + row, 2 * j + column] += d["P"][i, j]
    d["Z"] = d["Y"] * (v["Z"] > 0)
    d["W"] = chapter.Conv(v["X"], d["Z"])
    d["b"] = d["Z"].sum(keepdims=True).ravel()
    d["X"] = chapter.Conv(d["Z"], v["W"][::-1, ::-1], padding=1)
    return d


# --- the same by others ----------------------------------------------------------------------------------------------


def by_vjp(v: Values) -> Values:
    """By fastconv's pullbacks, one operation after the other."""
    x, w = v["X"][None, None], v["W"][None, None]
    z, back_conv = fastconv.vjp(F.conv2d, x, w, v["b"])
    y, back_relu = fastconv.vjp(F.relu, z)
    pooled, back_pool = fastconv.vjp(F.max_pool2d, y, kernel_size=2)
    flat, back_flat = fastconv.vjp(F.flatten, pooled)
    s, back_linear = fastconv.vjp(F.linear, flat, v["V"], v["c"])
    _, back_loss = fastconv.vjp(F.cross_entropy, s, np.array([TARGET]))
    (ds, _) = back_loss(1.0)
    dflat, dV, dc = back_linear(ds)
    (dP,) = back_flat(dflat)
    (dY,) = back_pool(dP)
    (dZ,) = back_relu(dY)
    dX, dW, db = back_conv(dZ)
    return {"s": ds[0], "c": dc, "V": dV, "P": dP[0, 0], "Y": dY[0, 0], "Z": dZ[0, 0], "W": dW[0, 0], "b": db,
            "X": dX[0, 0]}  # fmt: skip


def by_differences(v: Values) -> Values:
    """(L(a + h) - L(a - h)) / 2h for every number a of the input and the weights."""
    given = {name: v[name] for name in ("X", "W", "b", "V", "c")}
    result = {}
    for name, array in given.items():
        gradient = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            losses = []
            for step in (STEP, -STEP):
                moved = array.copy()
                moved[at] += step
                losses.append(forward({**given, name: moved})["L"])
            gradient[at] = (losses[0] - losses[1]) / (2 * STEP)
        result[name] = gradient
    return result


def errors(d: Values, other: Values) -> dict[str, float]:
    return {name: float(np.abs(d[name] - other[name]).max()) for name in other}


# --- the picture -----------------------------------------------------------------------------------------------------

RULES = (  # what is shown beside the maps: the rule with symbols, and the number that comes out at one place
    ("softmax and loss", "ds = p - e, e = 1 at the true class, else 0"),
    ("fully connected", "dV = ds ⊗ flatten(P),  dc = ds,  dP = Vᵀ ds as a map"),
    ("max-pooling", "dP goes to the place of each maximum, all others get 0"),
    ("ReLU", "dZ = dY where Z > 0, else 0"),
    ("to the filter", "dW = Conv(X, dZ),  db = the sum of dZ"),
    ("to the input", "dX = Conv(dZ with a zero border, W with rows and columns reversed)"),
)


def worked(v: Values, d: Values) -> list[str]:
    """Two gradients as sums, with symbols and then with numbers; places are counted from 1, zeros are left out."""
    lines = []
    terms = [(i, j) for i in range(4) for j in range(4) if d["Z"][i, j]]
    symbols = " + ".join(f"dz{i + 1}{j + 1} x{i + 1}{j + 1}" for i, j in terms)
    numbers = " ".join(f"{d['Z'][i, j]:+.3f}·{v['X'][i, j]:.1f}" for i, j in terms)
    lines += [f"dw11 = {symbols}", f"     = {numbers} = {d['W'][0, 0]:+.3f}"]
    windows = {}  # of every element of X: the outputs that it went into, and that have a gradient
    for row, column in np.ndindex(v["X"].shape):
        windows[row, column] = [(i, j) for i, j in terms if i in (row, row - 1) and j in (column, column - 1)]
    (row, column), reached = max(windows.items(), key=lambda item: len(item[1]))
    symbols = " + ".join(f"dz{i + 1}{j + 1} w{row - i + 1}{column - j + 1}" for i, j in reached)
    numbers = " ".join(f"{d['Z'][i, j]:+.3f}·({v['W'][row - i, column - j]:+.1f})" for i, j in reached)
    lines += [f"dx{row + 1}{column + 1} = {symbols}", f"     = {numbers} = {d['X'][row, column]:+.3f}"]
    return lines


def draw(v: Values, d: Values, vjp: Values, differences: Values) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(12.5, 8.6), layout="constrained")
    figure.suptitle("Back-propagation by hand: every variable, and below it the gradient of the loss to it",
                    fontweight="bold", fontsize=13)  # fmt: skip
    maps, text = figure.subfigures(2, 1, height_ratios=(1.55, 1))
    names = {"X": "input X", "W": "filter W", "Z": "Z = Conv(X, W) + b", "Y": "Y = ReLU(Z)", "P": "P = pool(Y)",
             "V": "weights V", "s": "scores s"}  # fmt: skip
    widths = [v[name].shape[1] if v[name].ndim == 2 else 1 for name in names]
    grid = maps.subplots(2, len(names), width_ratios=[max(width, 1.5) for width in widths])
    for column, (name, title) in enumerate(names.items()):
        for row, (values, colours) in enumerate(((v[name], "Blues"), (d[name], "RdBu"))):
            axes = grid[row, column]
            table = values if values.ndim == 2 else values[:, None]
            most = float(np.abs(table).max()) or 1.0
            low = -most if row or table.min() < 0 else 0.0
            axes.imshow(table, cmap=colours if row or low == 0 else "RdBu", vmin=1.6 * low, vmax=1.6 * most)
            for (i, j), value in np.ndenumerate(table):
                shown = f"{value:.1f}" if not row and name in ("X", "W", "V") else f"{round(value, 2) + 0.0:.2f}"
                axes.text(j, i, "0" if value == 0 else shown, ha="center", va="center", fontsize=8)
            if name == "Y":
                mark(axes, v)
            axes.set_xticks(range(table.shape[1]), range(1, table.shape[1] + 1), fontsize=7)
            axes.set_yticks(range(table.shape[0]), range(1, table.shape[0] + 1), fontsize=7)
            axes.tick_params(length=0)
            axes.set_title(f"gradient d{name}" if row else title, fontsize=10)
    axes = text.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    height = 0.95
    for place, rule in RULES:
        axes.text(0.0, height, place, fontsize=10, color=plots.BLUE, va="top", fontweight="bold")
        axes.text(0.14, height, rule, fontsize=10, va="top")
        height -= 0.085
    for line in worked(v, d):
        height -= 0.02 if line.startswith("d") else 0
        axes.text(0.0, height, line, fontsize=9.5, va="top", family="monospace")
        height -= 0.075
    probabilities = ", ".join(f"{p:.3f}" for p in v["p"])
    with_vjp, with_steps = max(errors(d, vjp).values()), max(errors(d, differences).values())
    line = (
        f"p = ({probabilities}), the true class is the second: L = {v['L']:.4f}.  Orange: the places of the maxima.\n"
        f"By hand and by vjp: the same to {with_vjp:.0e};  by hand and by finite differences: to {with_steps:.0e}."
    )
    axes.text(0.0, height - 0.02, line, fontsize=10, va="top", linespacing=1.5)
    return figure


def mark(axes: Any, v: Values) -> None:
    """A frame around the place of each maximum."""
    from matplotlib.patches import Rectangle

    for (i, j), place in np.ndenumerate(chapter.places(v["Y"], 2, 2)):
        row, column = divmod(int(place) - 1, 2)
        corner = 2 * j + column - 0.46, 2 * i + row - 0.46
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=plots.ORANGE, linewidth=2))


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    args = arguments(__doc__, "backpropagation", argv)
    v = forward(parameters())
    d = backward(v)
    vjp, differences = by_vjp(v), by_differences(v)
    found = {"vjp": errors(d, vjp), "differences": errors(d, differences)}
    print(f"loss {v['L']:.4f}; the largest difference to the gradients by hand:")
    print("       " + "".join(f"{name:>10s}" for name in d))
    for other, errors_of in found.items():
        cells = "".join(f"{errors_of[name]:10.1e}" if name in errors_of else " " * 10 for name in d)
        print(f"{other[:7]:7s}{cells}")
    for line in worked(v, d):
        print(line)
    save(draw(v, d, vjp, differences), args.out, "backpropagation")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
