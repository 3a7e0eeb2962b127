"""The same kernels three ways: naive loops, plain NumPy, and fastconv; and PyTorch's, where it is installed.

    naive     fastconv.reference: direct loops over Python lists
    NumPy     fastconv.lab.numpy_baseline: sliding_window_view + matmul and whole-array arithmetic, on NumPy's own BLAS,
              as many threads as it takes by itself
    fastconv  fastconv.functional and its pullbacks
    PyTorch   torch.nn.functional and autograd on the whole batch, C-contiguous tensors, as many threads as fastconv
              (bench/peers.py compares whole nets, both layouts, in processes apart)

Results are held against each other before anything is timed. The versions take turns, so that what else the machine
does falls on all of them alike; times are medians over the rounds and ratios are medians of each round's ratio.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import functional, notebook, plots, reference
from fastconv.autograd import vjp
from fastconv.lab.numpy_baseline import CASES, PLAIN
from fastconv.lab.shapes import Case
from fastconv.machine.config import show_config
from fastconv.machine.threads import get_num_threads

__all__ = ["KERNELS", "Report", "Row", "Versions", "compare", "race", "verify"]

KERNELS = {  # operation -> items that the naive loops get; the other two are also compared on a whole batch
    "conv2d": 1,
    "max_pool2d": 1,
    "avg_pool2d": 1,
    "downsample": 1,
    "upsample": 1,
    "relu": 1,
    "batch_norm": 1,
    "linear": 1,
    "softmax": 16,
    "cross_entropy": 128,
}
TOLERANCE = 1e-4  # of the largest value, float32
TURN = 0.02  # seconds that one version computes before the other has its turn
PAUSE = 0.1  # seconds before a turn: a BLAS thread pool that has just worked spins for some 30 ms
ONCE = 0.5  # a call that takes longer is neither warmed up nor repeated within a turn

Forward = Callable[[], Any]
Backward = Callable[[np.ndarray], tuple[Any, ...]]


# --- the versions ----------------------------------------------------------------------------------------------------


class Versions:
    """A case's forward and backward passes, by version: "naive" (where the case is small), "numpy", "fastconv".

    forward[version]() -> y; backward[version]() -> the gradients, from a forward pass that was run once. Nothing is
    computed before it is asked for. `layout` gives the arrays, and dy with them, another order in memory. With the
    module `torch` there is a version "torch" too, where PyTorch has the operation.
    """

    def __init__(
        self, case: Case, layout: Callable[[np.ndarray], np.ndarray] | None = None, torch: Any = None
    ) -> None:  # fmt: skip
        self.case = case
        self.names = [name for name, wanted in (("naive", case.naive), ("numpy", case.op in PLAIN)) if wanted]
        self.names.append("fastconv")
        self._twin = None if torch is None else _Twin.of(case, torch)
        if self._twin is not None:
            self.names.append("torch")
        self._arrays = case.arrays()
        self._layout = layout
        if layout is not None:
            self._arrays = tuple(layout(a) if isinstance(a, np.ndarray) else a for a in self._arrays)
        self._pulled: dict[str, tuple[Any, Backward]] = {}
        self._dy: np.ndarray | None = None

    def forward(self, version: str) -> Any:
        if version == "torch":
            return self._torch().forward()
        arrays, keywords = self._arrays, self.case.keywords()
        if version == "numpy":
            return PLAIN[self.case.op](*arrays, **keywords)[0]
        return getattr(reference if version == "naive" else functional, self.case.op)(*arrays, **keywords)

    def pull(self, version: str) -> tuple[Any, Backward]:
        """(y, pullback) of a forward pass on fresh copies of the arrays (running statistics are updated in place)."""
        if version not in self._pulled:
            arrays = [a.copy(order="K") if isinstance(a, np.ndarray) else a for a in self._arrays]
            function = getattr(reference if version == "naive" else functional, self.case.op)
            if version == "torch":
                self._pulled[version] = self._torch().pull(self.needed())
            elif version == "numpy":
                self._pulled[version] = PLAIN[self.case.op](*arrays, **self.case.keywords())
            else:
                self._pulled[version] = vjp(function, *arrays, **self.case.keywords())
        return self._pulled[version]

    def dy(self) -> np.ndarray:
        if self._dy is None:
            shape = np.shape(self.pull("fastconv")[0])
            dy = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
            self._dy = np.asarray(dy) if self._layout is None else self._layout(np.asarray(dy))
        return self._dy

    def needed(self) -> list[bool]:
        """Which arguments have a gradient."""
        return [gradient is not None for gradient in self.backward("fastconv")]

    def _torch(self) -> _Twin:
        assert self._twin is not None
        return self._twin

    def backward(self, version: str) -> tuple[Any, ...]:
        return self.pull(version)[1](self.dy())

    def bytes(self, direction: str) -> int:
        """Bytes that a pass must read and write at least: its arrays and what it returns."""
        given: int = sum(a.nbytes for a in self._arrays if isinstance(a, np.ndarray))
        if direction == "forward":
            return given + np.asarray(self.pull("fastconv")[0]).nbytes
        gradients: int = sum(a.nbytes for a in self.backward("fastconv") if a is not None)
        return given + self.dy().nbytes + gradients

    def flops(self, direction: str) -> int:
        """Floating-point operations of a pass: the gradients to x and to w cost a forward pass each."""
        return self.case.flops * self.case.batch * (1 if direction == "forward" else 2)


def verify(versions: Versions) -> None:
    """Raise ArithmeticError unless all versions of a case give the same output and gradients.

    Dropout's other versions draw other zeros: they are not held against fastconv's.
    """
    case = versions.case
    expected = (versions.pull("fastconv")[0], *versions.backward("fastconv"))
    for name in versions.names:
        if name == "fastconv" or (name != "naive" and case.op == "dropout"):
            continue
        found = (versions.pull(name)[0], *versions.backward(name))
        for index, (a, b) in enumerate(zip(found, expected, strict=True)):
            what = "the output" if index == 0 else f"gradient {index - 1}"
            if (a is None) != (b is None) or np.shape(a) != np.shape(b):
                raise ArithmeticError(f"{case.label}: {what} has another shape in {name} than in fastconv")
            if a is None:
                continue
            scale = float(np.abs(b).max(initial=0.0))
            error = float(np.abs(np.asarray(a) - b).max(initial=0.0))
            if not error <= TOLERANCE * max(scale, 1e-30):
                raise ArithmeticError(
                    f"{case.label}: {what} differs by {error:.2g} of {scale:.2g} between {name} and fastconv"
                )


# --- PyTorch's version -----------------------------------------------------------------------------------------------


class _Twin:
    """A case's call in PyTorch, on tensors that share fresh copies of its arrays."""

    def __init__(self, case: Case, torch: Any, function: Callable[..., Any]) -> None:
        self.torch, self.function = torch, function
        self.options = {name: value for name, value in case.keywords().items() if name != "rng"}
        self.tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in case.arrays()]

    @classmethod
    def of(cls, case: Case, torch: Any) -> _Twin | None:
        """None where PyTorch has no such operation."""
        functions = torch.nn.functional

        def downsample(x: Any, factor: int) -> Any:
            return x[(..., *(slice(None, None, factor),) * (x.ndim - 2))].contiguous()

        def upsample(x: Any, factor: int) -> Any:
            y = x.new_zeros(*x.shape[:2], *((n - 1) * factor + 1 for n in x.shape[2:]))
            y[(..., *(slice(None, None, factor),) * (x.ndim - 2))] = x
            return y

        def resize(x: Any, mode: str, size: Any = None, scale: Any = None) -> Any:
            return functions.interpolate(x, size, scale, {"linear": "bilinear"}.get(mode, mode))

        own: dict[str, Callable[..., Any]] = {
            "downsample": downsample,
            "upsample": upsample,
            "resize": resize,
            "pad": lambda x, padding: functions.pad(x, (padding,) * (2 * (x.ndim - 2))),
            "step": lambda x: (x >= 0).to(x.dtype) + 0 * x,  # with its gradient, 0
            "flatten": lambda x: torch.flatten(x, 1),
            "reshape": lambda x, shape: x.reshape(len(x), *shape),
            "unflatten": torch.unflatten,
            "softmax": lambda x: functions.softmax(x, 1),
            "log_softmax": lambda x: functions.log_softmax(x, 1),
            "bce_with_logits": functions.binary_cross_entropy_with_logits,
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
        }
        function = own.get(case.op) or getattr(functions, case.op, None)
        return None if function is None else cls(case, torch, function)

    def forward(self) -> Any:
        with self.torch.no_grad():
            return self.function(*self.tensors, **self.options)

    def pull(self, needed: Sequence[bool]) -> tuple[Any, Backward]:
        leaves = [tensor.requires_grad_() for tensor, need in zip(self.tensors, needed, strict=True) if need]
        y = self.function(*self.tensors, **self.options)

        def pullback(dy: np.ndarray) -> tuple[Any, ...]:
            found = iter(self.torch.autograd.grad(y, leaves, self.torch.from_numpy(dy), retain_graph=True))
            return tuple(next(found) if need else None for need in needed)

        return y.detach(), pullback


@contextlib.contextmanager
def _torch_beside(wanted: bool | None) -> Iterator[Any]:
    """The module torch, on as many threads as fastconv; None where it is not wanted, or only if installed and it is
    not."""
    if wanted is False or (wanted is None and importlib.util.find_spec("torch") is None):
        yield None
        return
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ImportError("compare: PyTorch is not installed: pip install 'fastconv[peers]'") from None
    before = torch.get_num_threads()
    torch.set_num_threads(get_num_threads())
    try:
        yield torch
    finally:
        torch.set_num_threads(before)


# --- timing ----------------------------------------------------------------------------------------------------------


def race(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, one median a round; the calls take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    slow = {name: _timed(call) > ONCE for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            if len(calls) > 1:
                time.sleep(PAUSE)
            if not slow[name]:
                call()
            samples = [_timed(call)]
            while sum(samples) < TURN and not slow[name]:
                samples.append(_timed(call))
            seconds[name].append(statistics.median(samples))
    return seconds


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result  # giving the memory back is the next call's gain, not this one's cost
    return seconds


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One kernel in one direction; seconds are medians, ratios say how many times faster fastconv is."""

    kernel: str
    shape: str
    direction: str
    small_batch: int
    naive_seconds: float
    numpy_small_seconds: float
    fastconv_small_seconds: float
    naive_ratio: float
    numpy_small_ratio: float
    batch: int
    numpy_seconds: float
    fastconv_seconds: float
    numpy_ratio: float
    gflops: float | None  # of fastconv on the batch; None where memory bounds the operation
    gbytes: float  # per second
    torch_seconds: float | None = None  # on the batch; None where PyTorch was not beside
    torch_ratio: float | None = None


@dataclass(frozen=True)
class Report:
    """What `compare` found: `table()`, `as_dict()`, `plot(path)`."""

    rows: tuple[Row, ...]
    config: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {"config": dict(self.config), "rows": [asdict(row) for row in self.rows]}

    def _head(self) -> list[str]:
        """What ran."""
        c = self.config
        return [
            f"fastconv {c['fastconv']}: {c['threads']} threads, {c['blas']} ({c['blas_kernels']} kernels)",
            f"NumPy {c['numpy']}: {c['numpy_blas_threads']} threads in BLAS, {c['numpy_blas']} "
            f"({c['numpy_blas_kernels']} kernels)",
            *([f"PyTorch {c['torch']}: {c['threads']} threads"] if c.get("torch") else []),
            f"CPU: {c['cpu']}, {c['simd']}; float32, C-contiguous arrays; milliseconds; x: times faster than",
        ]

    def _cells(self) -> list[list[str]]:
        beside = any(row.torch_seconds is not None for row in self.rows)
        head = [
            "kernel", "shape", "pass",
            "batch", "naive", "NumPy", "fastconv", "x naive", "x NumPy",
            "batch", "NumPy", *(["PyTorch"] * beside), "fastconv", "x NumPy", *(["x PyTorch"] * beside), "rate",
        ]  # fmt: skip
        cells = [
            [
                row.kernel, row.shape, row.direction,
                str(row.small_batch),
                _ms(row.naive_seconds), _ms(row.numpy_small_seconds), _ms(row.fastconv_small_seconds),
                _times(row.naive_ratio), _times(row.numpy_small_ratio),
                str(row.batch), _ms(row.numpy_seconds),
                *(["" if row.torch_seconds is None else _ms(row.torch_seconds)] * beside),
                _ms(row.fastconv_seconds), _times(row.numpy_ratio),
                *(["" if row.torch_ratio is None else _times(row.torch_ratio)] * beside),
                f"{row.gflops:.0f} GFLOP/s" if row.gflops is not None else f"{row.gbytes:.1f} GB/s",
            ]
            for row in self.rows
        ]  # fmt: skip
        return [head, *cells]

    def table(self) -> str:
        """The report as text: what ran, then a line a kernel and direction."""
        lines = [*self._head(), ""]
        head, *cells = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        for line in [head, ["-" * width for width in widths], *cells]:
            left = [text.ljust(width) for text, width in zip(line[:3], widths, strict=False)]
            right = [text.rjust(width) for text, width in zip(line[3:], widths[3:], strict=True)]
            lines.append("  ".join(left + right).rstrip())
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return notebook.table(self._cells(), left=3, above="; ".join(self._head()))

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the ratios as bars on a logarithmic axis, written to `path` if it is given (.png, .svg
        or .pdf).

        Raises ImportError, naming the extra, where matplotlib is not installed.
        """
        figure_class = plots.need_matplotlib("a comparison's picture")
        labels = [f"{row.kernel} {row.direction}" for row in self.rows]
        at = np.arange(len(labels))
        beside = any(row.torch_ratio is not None for row in self.rows)
        figure = figure_class(figsize=(9, 1.9 + (0.56 if beside else 0.42) * len(labels)), layout="constrained")
        axes = figure.subplots()
        bars = [
            ("#4878a8", "naive loops", [row.naive_ratio for row in self.rows]),
            ("#e49444", "plain NumPy", [row.numpy_small_ratio for row in self.rows]),
            *[("#6a9f58", "PyTorch", [row.torch_ratio or np.nan for row in self.rows])] * beside,
        ]
        height = 0.8 / len(bars)
        for place, (colour, name, ratios) in enumerate(bars):
            offset = height * (place - (len(bars) - 1) / 2)
            drawn = axes.barh(at + offset, ratios, 0.95 * height, color=colour, label=f"times faster than {name}")
            axes.bar_label(drawn, ["" if r != r else _times(r) for r in ratios], padding=3, fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlim(right=5 * max(row.naive_ratio for row in self.rows))
        axes.set_yticks(at, labels)
        axes.invert_yaxis()
        small = "loops and NumPy on one image, PyTorch on the whole batch" if beside else "the same arrays (one image)"
        axes.set_xlabel(f"{small}; medians of interleaved runs")
        others = "naive loops, plain NumPy and PyTorch" if beside else "naive loops and plain NumPy"
        axes.set_title(f"fastconv on {self.config['threads']} threads against {others}")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(bars), fontsize=9, frameon=False)
        return plots.saved(figure, path)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def _times(ratio: float) -> str:
    if ratio < 0.1:
        return f"{ratio:.1g}"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"


def numpy_blas() -> dict[str, Any]:
    """NumPy's BLAS, the kernels it chose for this CPU and the threads it runs on, as far as it can be asked."""
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    found: dict[str, Any] = {
        "numpy_blas": f"{build.get('name', 'unknown')} {build.get('version', '')}".strip(),
        "numpy_blas_kernels": "unknown",
        "numpy_blas_threads": "unknown",
    }
    try:
        # a symbol look-up on an extension's handle also searches the libraries that it was linked with
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return found
    for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
        try:
            core = getattr(library, f"{prefix}openblas_get_corename{suffix}")
            threads = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
        except AttributeError:
            continue
        core.restype, threads.restype = ctypes.c_char_p, ctypes.c_int
        found["numpy_blas_kernels"] = core().decode()
        found["numpy_blas_threads"] = threads()
        break
    return found


# --- compare ---------------------------------------------------------------------------------------------------------


def compare(
    kernels: Iterable[str] | None = None,
    *,
    quick: bool = False,
    repeats: int | None = None,
    progress: Callable[[str], Any] | None = None,
    torch: bool | None = None,
) -> Report:
    """Time naive loops, plain NumPy and fastconv on the same arrays, forward and backward apart.

    kernels   names of operations; default: those of KERNELS
    quick     small shapes and few rounds: seconds instead of a minute, and figures to match
    repeats   rounds in which NumPy and fastconv take turns; default 9 (quick: 3). The naive loops, which take seconds,
              run twice
    progress  called with a line of text before every kernel
    torch     time PyTorch on the batch too; default: where it is installed

    Raises ValueError for a kernel that has no case, ArithmeticError where two versions disagree, ImportError for
    torch=True where PyTorch is not installed.
    """
    names = list(KERNELS if kernels is None else [kernels] if isinstance(kernels, str) else kernels)
    for name in names:
        if name not in CASES or name not in PLAIN:
            known = ", ".join(sorted(CASES.keys() & PLAIN.keys()))
            raise ValueError(f"compare: no kernel is named {name!r}; there are {known}")
    rounds = repeats if repeats is not None else 3 if quick else 9
    if rounds < 1:
        raise ValueError(f"compare: repeats must be at least 1, got {repeats}")
    rows: list[Row] = []
    with _torch_beside(torch) as module:
        for name in names:
            case = next((case for case in CASES[name] if case.naive), CASES[name][0]) if quick else CASES[name][0]
            small = case if quick else case.small(KERNELS.get(name, 1))
            batch = case.with_batch(4 * small.batch) if quick else case
            if progress is not None:
                progress(f"{name}: {case.name}")
            rows.extend(_compare_kernel(small, batch, rounds, module))
        version = None if module is None else module.__version__
    with contextlib.redirect_stdout(io.StringIO()):
        config = show_config()
    return Report(tuple(rows), {**config, **numpy_blas(), "torch": version, "rounds": rounds})


def _compare_kernel(small: Case, batch: Case, rounds: int, torch: Any) -> list[Row]:
    one, many = Versions(small), Versions(batch, torch=torch)
    verify(one)
    verify(many)
    rows = []
    for direction in ("forward", "backward"):
        ours, theirs = _calls(one, direction), _calls(many, direction)
        naive = _timed(ours.pop("naive"))
        near, far = race(ours, rounds), race(theirs, rounds)
        fast = statistics.median(far["fastconv"])
        rows.append(
            Row(
                kernel=small.op,
                shape=small.name,
                direction=direction,
                small_batch=small.batch,
                naive_seconds=naive,
                numpy_small_seconds=statistics.median(near["numpy"]),
                fastconv_small_seconds=statistics.median(near["fastconv"]),
                naive_ratio=naive / statistics.median(near["fastconv"]),
                numpy_small_ratio=_ratio(near["numpy"], near["fastconv"]),
                batch=batch.batch,
                numpy_seconds=statistics.median(far["numpy"]),
                fastconv_seconds=fast,
                numpy_ratio=_ratio(far["numpy"], far["fastconv"]),
                gflops=many.flops(direction) / fast / 1e9 if batch.flops else None,
                gbytes=many.bytes(direction) / fast / 1e9,
                torch_seconds=statistics.median(far["torch"]) if "torch" in far else None,
                torch_ratio=_ratio(far["torch"], far["fastconv"]) if "torch" in far else None,
            )
        )
    return rows


def _calls(versions: Versions, direction: str) -> dict[str, Callable[[], Any]]:
    method = versions.forward if direction == "forward" else versions.backward
    return {name: (lambda name=name: method(name)) for name in versions.names}  # type: ignore[misc]
