"""Optimisers: torch.optim's update rules, one fused pass over each parameter's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastconv import arrays
from fastconv._ext import optim as kernels
from fastconv.interrupts import uninterrupted
from fastconv.layers.common import only_defaults
from fastconv.machine.threads import threads_for
from fastconv.optim.schedules import Schedule, as_rate, number, rate_from_data

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "from_config", "global_norm"]

if TYPE_CHECKING:
    from typing_extensions import Unpack

    class TorchOptions(TypedDict, total=False):
        """torch's arguments that have no meaning here: accepted at their defaults."""

        foreach: None
        fused: None
        capturable: bool
        differentiable: bool
        decoupled_weight_decay: bool


BLOCK = 16384  # elements that one partial sum of squares covers
FEW_BYTES = 1 << 19  # of gradients: so many stay in the cache of the core that begins the next step
FLAGS = ("nesterov", "centered", "amsgrad", "maximize")


def global_norm(gradients: Mapping[str, np.ndarray | None]) -> float:
    """The Euclidean norm of all gradients (those that are not None) as one vector: summed in float64, in a fixed
    order."""
    given = [g for g in gradients.values() if g is not None]
    sums = np.empty(sum(-(-g.size // BLOCK) for g in given))
    at = 0
    for g in given:
        if g.size:
            blocks = -(-g.size // BLOCK)
            flat = arrays.flat(arrays.dense("global_norm", g))
            kernels.squares(flat, sums[at : at + blocks], BLOCK, threads_for(g.nbytes))
            at += blocks
    return math.sqrt(sums.sum())


@dataclass(slots=True)
class _Plan:
    """What a step needs of one parameter."""

    parameter: np.ndarray
    dense: np.ndarray  # the parameter itself, or a C-contiguous copy where its elements do not fill one run of memory
    strides: tuple[int, ...]  # of `dense`
    flat: np.ndarray  # the memory of `dense`
    flats: dict[str, np.ndarray]  # the slots' memory, in the order of `dense`
    options: dict[str, Any]


class Optimizer:
    """Base of the optimisers.

    steps        how many steps were taken
    total_steps  the steps of the whole run, for schedules that do not say it themselves; a Trainer sets it
    """

    slots: ClassVar[tuple[str, ...]] = ()  # names of the arrays kept for each parameter
    kernel_passes: ClassVar[int] = 4  # arrays that a step reads and writes, about

    def __init__(self, options: dict[str, Any], clip_norm: float | None, groups: Sequence[Mapping[str, Any]]) -> None:
        self._options = self._checked(options)
        self._groups = [self._group(group) for group in groups]
        self.clip_norm = clip_norm if clip_norm is None else number(self._name, "clip_norm", clip_norm)
        self.steps = 0
        self.total_steps: int | None = None
        self._memory: dict[str, dict[str, np.ndarray]] = {}
        self._updates: dict[str, int] = {}  # steps that each parameter took part in
        self._plans: dict[str, _Plan] = {}
        self._apart: bool | None = None  # whether no two parameters share memory; None: not known
        self._checked_groups = not self._groups

    @property
    def _name(self) -> str:
        return type(self).__name__

    # --- to be written by each optimiser

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options given, as what they must be; raises for what they must not."""
        checked: dict[str, Any] = {}
        for name, value in options.items():
            if name == "lr":
                checked[name] = as_rate(self._name, value)
            elif name == "betas":
                if np.shape(value) != (2,):
                    raise TypeError(f"{self._name}: betas must be two numbers, got {value!r}")
                checked[name] = tuple(number(self._name, "betas", beta, 0, 1) for beta in value)
                if max(checked[name]) == 1:
                    raise ValueError(f"{self._name}: betas must be below 1, got {value!r}")
            elif name in FLAGS:
                checked[name] = self._flag(name, value)
            else:
                checked[name] = number(self._name, name, value, 0, 1 if name == "alpha" else math.inf)
        return checked

    def _flag(self, name: str, value: Any) -> bool:
        if np.ndim(value) or np.asarray(value).dtype != bool:
            raise TypeError(f"{self._name}: {name} must be True or False, got {value!r}")
        return bool(value)

    def _slots(self, options: dict[str, Any]) -> tuple[str, ...]:
        """The slots in use with these options."""
        return self.slots

    def _unused(self) -> set[str]:
        """The slots that no parameter uses."""
        every = [self._options, *({**self._options, **group["options"]} for group in self._groups)]
        return set(self.slots).difference(*map(self._slots, every))

    kernel: ClassVar[Any]  # (entries, threads)

    def _entry(self, plan: _Plan, g: np.ndarray, scale: float, lr: float, updates: int) -> tuple[Any, ...]:
        """What the kernel takes of one parameter."""
        raise NotImplementedError

    # --- options

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A group as {"match": tuple, "ndim": int or None, "options": dict}."""
        if not isinstance(group, Mapping):
            raise TypeError(f"{self._name}: a group must be a dict, got {group!r}")
        options = {name: value for name, value in group.items() if name not in ("match", "ndim")}
        for name in options:
            if name not in self._options:
                known = ", ".join(["match", "ndim", *self._options])
                raise ValueError(f"{self._name}: a group has no option {name!r} (it may have {known})")
        match, ndim = group.get("match", "*"), group.get("ndim")
        patterns = tuple(match) if isinstance(match, (tuple, list)) else (match,)
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(f"{self._name}: a group's match must be a name pattern or a list of them, got {match!r}")
        if ndim is not None:
            if np.ndim(ndim) or np.asarray(ndim).dtype.kind not in "iu":
                raise TypeError(f"{self._name}: a group's ndim must be an int, got {ndim!r}")
            ndim = int(ndim)
        return {"match": patterns, "ndim": ndim, "options": self._checked(options)}

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the plans, which are views of the parameters of the net that was trained."""
        return {**self.__dict__, "_plans": {}}

    def options_of(self, name: str, ndim: int) -> dict[str, Any]:
        """The options that hold for the parameter called `name` with `ndim` axes."""
        for group in self._groups:
            if _fits(group, name, ndim):
                return {**self._options, **group["options"]}
        return self._options

    def check_groups(self, parameters: Mapping[str, np.ndarray]) -> None:
        """ValueError where a group fits none of these parameters. The first `step` asks this of those that it is given,
        unless it has been asked before: of a net that is partly frozen, say, whose frozen parameters are not given."""
        for place, group in enumerate(self._groups):
            if not any(_fits(group, name, np.ndim(p)) for name, p in parameters.items()):
                wanted = f"match {list(group['match'])}" + ("" if group["ndim"] is None else f", ndim {group['ndim']}")
                names = ", ".join(list(map(str, parameters))[:6]) + (" …" if len(parameters) > 6 else "")
                raise ValueError(
                    f"{self._name}: group {place} ({wanted}) fits no parameter; there are {names or 'none'}"
                )
        self._checked_groups = True

    @property
    def lr(self) -> float | Schedule:
        """The learning rate, a number or a schedule; may be set. Groups with one of their own keep it."""
        lr: float | Schedule = self._options["lr"]
        return lr

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        self._options["lr"] = as_rate(self._name, value)
        self._plans.clear()

    def scale_lr(self, factor: float, lowest: float = 0.0, least: float = 0.0) -> None:
        """Multiply every learning rate by `factor`, those of groups too, down to `lowest`, and by more than `least` or
        not at all; ValueError where one is a schedule."""
        for options in (self._options, *(group["options"] for group in self._groups)):
            rate = options.get("lr")
            if isinstance(rate, Schedule):
                raise ValueError(
                    f"{self._name}: lr is a schedule, {type(rate).__name__}, which says itself how the rate falls; to "
                    "have it scaled write a number"
                )
            if rate is not None and rate - max(rate * factor, lowest) > least:
                options["lr"] = max(rate * factor, lowest)
        self._plans.clear()

    def learning_rate(self, step: int | None = None) -> float:
        """The rate of step number `step`, counted from 0; default: of the next step."""
        return self._rate(self.lr, self.steps if step is None else step)

    def _rate(self, rate: float | Schedule, step: int) -> float:
        return rate(step, self.total_steps) if isinstance(rate, Schedule) else rate

    # --- the step

    def step(
        self,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray | None],
        *,
        norm: float | None = None,
    ) -> None:
        """Update the parameters in place; the gradients stay as they are.

        parameters, gradients   dicts with the same keys and shapes (`net.parameters()`, `value_and_grad`); a gradient
                                that is None leaves its parameter, and what is remembered of it, alone
        norm                    `global_norm(gradients)` where it is known already

        Raises, before anything is changed, TypeError where one of them is no dict, ValueError where the two do not fit,
        or where a group fits no parameter.
        """
        if not isinstance(parameters, Mapping) or not isinstance(gradients, Mapping):
            wrong = type(gradients if isinstance(parameters, Mapping) else parameters).__name__
            raise TypeError(
                f"{self._name}.step takes two dicts of arrays, got a {wrong}: "
                f"{self._name}.step(net.parameters(), gradients)"
            )
        if parameters.keys() != gradients.keys():
            odd = sorted(map(str, parameters.keys() ^ gradients.keys()))
            raise ValueError(
                f"{self._name}.step: parameters and gradients must have the same keys, but only one of them has "
                f"{', '.join(odd[:6])}{' …' if len(odd) > 6 else ''}"
            )
        if not (self._checked_groups or self.steps):
            self.check_groups(parameters)
        work = []
        for name, p in parameters.items():
            g = gradients[name]
            if g is None:
                continue
            plan = self._plans.get(name)
            if plan is None or plan.parameter is not p or g.dtype is not p.dtype or g.strides != plan.strides:
                plan, g = self._prepare(name, p, g)
            elif g.shape != p.shape:
                raise self._misfit(name, p, g)
            work.append((name, plan, g))
        scale = 1.0
        if self.clip_norm is not None:
            norm = global_norm(gradients) if norm is None else norm
            scale = min(1.0, self.clip_norm / (norm + 1e-6))
        rates: dict[int, float] = {}
        entries = []
        for name, plan, g in work:
            lr = plan.options["lr"]
            rate = rates.get(id(lr))
            if rate is None:
                rate = rates[id(lr)] = self._rate(lr, self.steps)
            entries.append((name, plan, g, scale, rate))
        if self._apart is None:
            self._apart = _are_apart([plan.parameter for plan in self._plans.values()])
        with uninterrupted():
            for together in [entries] if self._apart else [[entry] for entry in entries]:
                self._update(together)
            self.steps += 1

    def _update(self, work: list[tuple[str, _Plan, np.ndarray, float, float]]) -> None:
        """Parameters that share no memory, in one pass; each its name, plan, gradient, the gradient's factor and the
        rate."""
        entries, size = [], 0
        for name, plan, g, scale, lr in work:
            updates = self._updates[name] = self._updates.get(name, 0) + 1
            if plan.dense is not plan.parameter:
                np.copyto(plan.dense, plan.parameter)
            l1, share = plan.options["l1"], -scale if plan.options["maximize"] else scale
            if l1:
                g, share = share * g + l1 * np.sign(plan.dense), 1.0
            entries.append(self._entry(plan, g, share, lr, updates))
            size += g.nbytes
        self.kernel(entries, threads_for(self.kernel_passes * size) if size > FEW_BYTES else 1)
        for _, plan, *_ in work:
            if plan.dense is not plan.parameter:
                np.copyto(plan.parameter, plan.dense)

    def _prepare(self, name: str, p: np.ndarray, g: np.ndarray) -> tuple[_Plan, np.ndarray]:
        """The plan for a parameter, and its gradient as a run of memory in the same order."""
        plan = self._plans.get(name)
        if plan is None or plan.parameter is not p:
            plan = self._plans[name] = self._plan(name, p)
            self._apart = None
        if g.shape != p.shape:
            raise self._misfit(name, p, g)
        if g.dtype != p.dtype:
            g = g.astype(p.dtype)
        return plan, g if g.strides == plan.strides else arrays.like(self._name, g, plan.dense)

    def _misfit(self, name: str, p: np.ndarray, g: np.ndarray) -> ValueError:
        return ValueError(f"{self._name}.step: {name} has shape {p.shape}, its gradient {g.shape}")

    def _plan(self, name: str, p: np.ndarray) -> _Plan:
        owner = f"{self._name}.step"
        if not isinstance(p, np.ndarray) or p.dtype not in (np.float32, np.float64):
            raise ValueError(f"{owner}: {name} must be a float32 or float64 array, got {getattr(p, 'dtype', type(p))}")
        if not p.flags.writeable:
            raise ValueError(f"{owner}: {name} is read-only")
        dense = arrays.dense(owner, p)
        options = self.options_of(name, p.ndim)
        slots = self._slots(options)
        memory = self._memory.setdefault(name, {})
        for slot in list(memory):
            if slot not in slots:
                del memory[slot]
        for slot in slots:
            kept = memory.get(slot)
            if kept is not None and kept.shape != p.shape:
                raise ValueError(f"{owner}: {name} has shape {p.shape}, its {slot} {kept.shape}")
            if kept is None or kept.dtype != p.dtype or kept.strides != dense.strides:
                memory[slot] = arrays.empty_like(owner, dense, lasts=True)
                memory[slot][...] = 0 if kept is None else kept
        flats = {slot: arrays.flat(array) for slot, array in memory.items()}
        return _Plan(p, dense, dense.strides, arrays.flat(dense), flats, options)

    # --- as data

    @property
    def updates(self) -> dict[str, int]:
        """The steps that each parameter took part in, by name."""
        return dict(self._updates)

    def _state(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """(slot, parameter's name, the array itself)."""
        for slot in self.slots:
            for name, memory in self._memory.items():
                if slot in memory:
                    yield slot, name, memory[slot]

    def state_dict(self) -> dict[str, Any]:
        """{"steps": int, "updates": {name: int}, slot: {name: copy of the array}, …}: numbers and arrays only."""
        state: dict[str, Any] = {"steps": self.steps, "updates": self.updates}
        for slot in self.slots:
            state[slot] = {}
        for slot, name, array in self._state():
            state[slot][name] = np.array(array, order="C")
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; ValueError for what is no such thing, and then nothing is changed."""
        owner = f"{self._name}.load_state_dict"
        known = {"steps", "updates", *self.slots}
        if not isinstance(state, Mapping) or not known - self._unused() <= state.keys() <= known:
            raise ValueError(
                f"{owner}: the entries must be {', '.join(['steps', 'updates', *self.slots])}, all that are in use"
            )
        steps = _count(owner, "steps", state["steps"])
        updates = {str(name): _count(owner, f"updates of {name}", value) for name, value in state["updates"].items()}
        memory: dict[str, dict[str, np.ndarray]] = {}
        for slot in self.slots:
            for name, value in state.get(slot, {}).items():
                array = np.array(value)
                if array.dtype not in (np.float32, np.float64):
                    raise ValueError(f"{owner}: {slot} of {name} must be float32 or float64, got {array.dtype}")
                memory.setdefault(name, {})[slot] = array
        self.steps, self._updates, self._memory = steps, updates, memory
        self._plans.clear()

    def config(self) -> dict[str, Any]:
        """The optimiser's arguments as data, for JSON; `from_config` rebuilds it (without its state).

        Raises ValueError for an optimiser or a schedule that is not fastconv's own.
        """
        if OPTIMIZERS.get(self._name) is not type(self):
            raise ValueError(f"{self._name}: only fastconv's own optimisers can be saved")
        return self._arguments()

    def _arguments(self) -> dict[str, Any]:
        groups = [
            {"match": list(group["match"]), "ndim": group["ndim"], **_as_data(group["options"])}
            for group in self._groups
        ]
        return {"optimizer": self._name, **_as_data(self._options), "clip_norm": self.clip_norm, "groups": groups}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items() if name != "optimizer")
        return f"{self._name}({arguments})"


class SGD(Optimizer):
    """Stochastic gradient descent.

    lr            the learning rate, a number or a schedule
    momentum      u = momentum * u + (1 - dampening) * g in place of the gradient g (default 0); the first u is g
    nesterov      g + momentum * u in place of u; needs a momentum and no dampening
    weight_decay  this times the parameter is added to its gradient (default 0): L2 regularisation
    dampening     see momentum (default 0)
    maximize      go up the gradient, not down (default False). All optimisers take it
    l1            this times the parameter's sign is added to its gradient, after clipping (default 0): the gradient of
                  l1 * sum(|parameter|). All optimisers take it
    clip_norm     scale all gradients so that their global norm is at most this (default None: do not)
    groups        options of their own for some parameters: see `fastconv.optim`

    torch's order is (lr, momentum, dampening, weight_decay, nesterov). Its other arguments (`foreach`, …) are accepted
    at their defaults. Raises ValueError or TypeError for values out of range.
    """

    slots = ("momentum",)
    kernel, kernel_passes = staticmethod(kernels.sgd), 5

    def __init__(
        self,
        lr: float | Schedule,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        dampening: float = 0.0,
        maximize: bool = False,
        l1: float = 0.0,
        clip_norm: float | None = None,
        groups: Sequence[Mapping[str, Any]] = (),
        **torch_options: Unpack[TorchOptions],
    ) -> None:
        only_defaults("SGD", torch_options, foreach=None, differentiable=False, fused=None)
        options = {
            "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "dampening": dampening,
            "maximize": maximize, "l1": l1,
        }  # fmt: skip
        super().__init__(options, clip_norm, groups)
        for group in ({"options": {}}, *self._groups):
            merged = {**self._options, **group["options"]}
            if merged["nesterov"] and (not merged["momentum"] or merged["dampening"]):
                raise ValueError(
                    "SGD: nesterov needs a momentum above 0 and no dampening, got "
                    f"{merged['momentum']:g} and {merged['dampening']:g}"
                )

    def _flag(self, name: str, value: Any) -> bool:
        try:
            return super()._flag(name, value)
        except TypeError as error:
            if name != "nesterov" or not isinstance(value, (int, float, np.number)):
                raise
            raise TypeError(
                f"{error}; in the third position stands nesterov, write weight_decay={value!r} or dampening={value!r}"
            ) from None

    def _slots(self, options: dict[str, Any]) -> tuple[str, ...]:
        return self.slots if options["momentum"] else ()

    def _entry(self, plan: _Plan, g: np.ndarray, scale: float, lr: float, updates: int) -> tuple[Any, ...]:
        o = plan.options
        taken = 1 - o["dampening"] if o["momentum"] and updates > 1 else 1.0
        return (
            plan.flat, g, plan.flats.get("momentum"), taken * scale, taken * o["weight_decay"], lr, o["momentum"],
            o["nesterov"],
        )  # fmt: skip


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), weight decay added to the gradient. Arguments as torch's; see `SGD` for the rest.

    amsgrad   divide by the root of the largest mean square so far (Reddi et al., 2018), not of the present one
    """

    slots = ("mean", "square", "largest")
    kernel, kernel_passes = staticmethod(kernels.adam), 7
    decoupled: ClassVar[bool] = False  # weight decay shrinks the parameter itself

    def __init__(
        self,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        l1: float = 0.0,
        clip_norm: float | None = None,
        groups: Sequence[Mapping[str, Any]] = (),
        **torch_options: Unpack[TorchOptions],
    ) -> None:
        only_defaults(
            self._name, torch_options, foreach=None, capturable=False, differentiable=False, fused=None,
            **({} if self.decoupled else {"decoupled_weight_decay": False}),
        )  # fmt: skip
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "l1": l1,
        }  # fmt: skip
        super().__init__(options, clip_norm, groups)

    def _slots(self, options: dict[str, Any]) -> tuple[str, ...]:
        return self.slots if options["amsgrad"] else self.slots[:2]

    def _entry(self, plan: _Plan, g: np.ndarray, scale: float, lr: float, updates: int) -> tuple[Any, ...]:
        o, flats = plan.options, plan.flats
        beta1, beta2 = o["betas"]
        decay = o["weight_decay"]
        keep = 1.0
        if self.decoupled:
            decay, keep = 0.0, 1 - lr * decay
        return (
            plan.flat, g, flats["mean"], flats["square"], flats.get("largest"), scale, decay, keep, beta1, beta2,
            lr / (1 - beta1**updates), math.sqrt(1 - beta2**updates), o["eps"],
        )  # fmt: skip


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters themselves (Loshchilov and Hutter, 2019)."""

    decoupled = True

    def __init__(
        self,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        l1: float = 0.0,
        clip_norm: float | None = None,
        groups: Sequence[Mapping[str, Any]] = (),
        **torch_options: Unpack[TorchOptions],
    ) -> None:
        super().__init__(
            lr, betas, eps, weight_decay, amsgrad, maximize=maximize, l1=l1, clip_norm=clip_norm, groups=groups,
            **torch_options,
        )  # fmt: skip


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture 6e): gradients over the root of their running mean square. Arguments as torch's; see
    `SGD` for the rest.

    centered   the root of their running variance, in its place
    """

    slots = ("square", "average", "momentum")
    kernel, kernel_passes = staticmethod(kernels.rmsprop), 5

    def __init__(
        self,
        lr: float | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        l1: float = 0.0,
        clip_norm: float | None = None,
        groups: Sequence[Mapping[str, Any]] = (),
        **torch_options: Unpack[TorchOptions],
    ) -> None:
        only_defaults("RMSprop", torch_options, capturable=False, foreach=None, differentiable=False)
        options = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum,
            "centered": centered, "maximize": maximize, "l1": l1,
        }  # fmt: skip
        super().__init__(options, clip_norm, groups)

    def _slots(self, options: dict[str, Any]) -> tuple[str, ...]:
        used = {"square": True, "average": options["centered"], "momentum": options["momentum"]}
        return tuple(slot for slot in self.slots if used[slot])

    def _entry(self, plan: _Plan, g: np.ndarray, scale: float, lr: float, updates: int) -> tuple[Any, ...]:
        o, flats = plan.options, plan.flats
        return (
            plan.flat, g, flats["square"], flats.get("average"), flats.get("momentum"), scale, o["weight_decay"], lr,
            o["alpha"], o["eps"], o["momentum"],
        )  # fmt: skip


# --- from data -------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {cls.__name__: cls for cls in (SGD, Adam, AdamW, RMSprop)}


def _are_apart(arrays: list[np.ndarray]) -> bool:
    """Whether no two share memory, nor lie in each other's gaps."""
    bounds = sorted(map(byte_bounds, arrays))
    return all(end <= begin for (_, end), (begin, _) in pairwise(bounds))


def _fits(group: dict[str, Any], name: str, ndim: int) -> bool:
    return group["ndim"] in (None, ndim) and any(fnmatchcase(name, pattern) for pattern in group["match"])


def _count(owner: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{owner}: {name} must be a count, got {value!r}")
    return value


def _as_data(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value.config() if isinstance(value, Schedule) else value for name, value in options.items()}


def from_config(config: Any) -> Optimizer:
    """Build an optimiser from `Optimizer.config`'s data; ValueError or TypeError for anything else."""
    if not isinstance(config, dict) or config.get("optimizer") not in OPTIMIZERS:
        raise ValueError(f"no optimiser is configured by {str(config)[:80]!r}")
    options = {name: value for name, value in config.items() if name != "optimizer"}
    groups = options.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("an optimiser's groups must be a list of dicts")
    options["groups"] = [rate_from_data(group) for group in groups]
    return OPTIMIZERS[config["optimizer"]](**rate_from_data(options))
