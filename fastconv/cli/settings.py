"""A run's settings from --set KEY=VALUE and from TOML files, and the file that repeats a run.

Keys are the fields of a recipe (`training.recipes`), with dots into its tables: `epochs`, `optimizer.momentum`,
`optimizer.lr.warmup`, `augment.rotate`, `augment.parts.0.padding`; beside them what `train` takes as options: `data`,
`path`, `size`, `seed`, `validation`, and `lr`, the learning rate or the highest of its schedule. A value is TOML's; a
bare word is a text, and "none" stands for nothing.

A table that says of which kind it is (`optimizer`, `schedule`, `augment`) stands for itself; one that does not changes
the one that is there. A kind alone, `optimizer=Adam`, keeps what both kinds have, and has its own usual learning rate;
an augmentation keeps nothing of another, in which a name means something else.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastconv import augment, models, optim
from fastconv.cli import completion
from fastconv.cli.common import UsageError, one_line
from fastconv.errors import nearest
from fastconv.files import open_regular
from fastconv.optim import schedules
from fastconv.optim.optimizers import OPTIMIZERS
from fastconv.training.metrics import resolve_metrics
from fastconv.training.recipes import RECIPES, Recipe, augmentation_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Settings", "add_settings", "as_toml", "changed", "of_call", "peak", "read", "with_rate"]

MOST_BYTES = 1 << 20  # of a file of settings
DEEPEST = 50  # tables and lists in each other
OF_THE_CALL = ("data", "path", "size", "seed", "validation", "skip_unreadable")
KEYS = tuple(dict.fromkeys([*(field.name for field in dataclasses.fields(Recipe)), *OF_THE_CALL, "lr"]))
KINDS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "optimizer": OPTIMIZERS, "schedule": schedules.SCHEDULES, "augment": augment.AUGMENTS,
}  # fmt: skip
RATES = {"lr": "peak", "peak": "lr"}  # what schedules call the highest rate

Settings = dict[str, Any]  # as a TOML file nests them


def add_settings(parser: argparse._ArgumentGroup) -> None:
    """The options --config and --set."""
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="settings in TOML; a run keeps its own as "
                        "config.toml, which repeats it")  # fmt: skip
    field = parser.add_argument(
        "-S", "--set", action="append", default=[], metavar="KEY=VALUE",
        help="any field of the recipe, e.g. epochs=3, optimizer.momentum=0.8, optimizer=AdamW; again and again",
    )  # fmt: skip
    completion.offer(field, lambda: [f"{key}=" for key in KEYS])


# --- reading ---------------------------------------------------------------------------------------------------------


def of_call(args: argparse.Namespace, parse_size: Callable[[str], Any]) -> None:
    """Read --config and --set: what is no field of a recipe fills the options that were not given, the rest is kept in
    `args.settings`, a list of (owner, settings) in the order in which they count."""
    args.settings = []
    sources = [] if args.config is None else [(str(args.config), read(args.config))]
    sources.append(("--set", of_line(args.set)))
    for owner, settings in reversed(sources):  # the line counts more
        for key in OF_THE_CALL:
            if key in settings:
                value, name = settings.pop(key), {"data": "name", "path": "data"}.get(key, key)
                value = _for_call(owner, key, value, parse_size)
                given = getattr(args, name)
                if given in (None, False):
                    setattr(args, name, value)
                elif owner == "--set" and given != value:
                    raise UsageError(f"--set: {key} is given twice, {given} and {value}: which of them?")
    args.settings = [(owner, settings) for owner, settings in sources if settings]


def _for_call(owner: str, key: str, value: Any, parse_size: Callable[[str], Any]) -> Any:
    """A setting as the option of its name has it."""
    if key == "path":
        return Path(_text(owner, key, value))
    if key == "data" and (not isinstance(value, str) or value not in RECIPES):
        raise UsageError(f"{owner}: data must be one of {', '.join(RECIPES)}, got {value!r}")
    if key == "skip_unreadable" and type(value) is not bool:
        raise UsageError(f"{owner}: skip_unreadable must be true or false, got {value!r}")
    if key == "size":
        try:
            return parse_size("x".join(map(str, value)) if isinstance(value, list) else str(value))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{owner}: size {error}") from None
    whole = type(value) is int and value >= 0
    if key == "seed" and not whole:
        raise UsageError(f"{owner}: seed must be an integer, 0 or more, got {value!r}")
    if key == "validation" and not (whole or (type(value) is float and 0 <= value < 1)):
        raise UsageError(f"{owner}: validation must be a number of images or a share below 1, got {value!r}")
    return value


def read(path: Path) -> Settings:
    """The settings in a TOML file; UsageError for what is none."""
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path}: has more than {MOST_BYTES:,} bytes, which no file of settings has")
    try:
        settings = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no TOML: {one_line(error)}") from None
    _need_shallow(str(path), settings)
    return settings


def of_line(texts: list[str]) -> Settings:
    """The settings that --set gave, in their order; UsageError for a text that is none."""
    found: Settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key.strip()):
            raise UsageError(f"--set: must be KEY=VALUE, e.g. optimizer.momentum=0.8, got {text!r}")
        *way, last = key.strip().split(".")
        place = found
        for name in way:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                inner = place[name] = _as_table(name, inner)
            place = inner
        place[last] = _value(value.strip())
    _need_shallow("--set", found)
    return found


def _need_shallow(owner: str, settings: Settings) -> None:
    """UsageError for tables and lists in each other deeper than DEEPEST."""
    level: list[Any] = [settings]
    for _ in range(DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [value for values in inner for value in values]
    if any(isinstance(each, (dict, list)) for each in level):
        raise UsageError(f"{owner}: tables and lists must be nested at most {DEEPEST} deep")


def _as_table(name: str, value: Any) -> Settings:
    """`optimizer=Adam` before `optimizer.betas=…`."""
    return {KEY_ONLY: value} if isinstance(value, str) and name in KINDS else {}


KEY_ONLY = "\0kind"  # a kind alone, in a table
WORDS = {"True": True, "False": False, "None": "none"}
NUMBER = r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?"  # .9 and 1., which TOML has not


def _value(text: str) -> Any:
    """A value as TOML has it, or a number, True, False or None as Python has them; else a text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        if text in WORDS:
            return WORDS[text]
        return float(text) if re.fullmatch(NUMBER, text, re.ASCII) else text
    return parsed["value"] if parsed.keys() == {"value"} else text


# --- what is changed -------------------------------------------------------------------------------------------------


def changed(recipe: Recipe, settings: Settings, owner: str) -> Recipe:
    """The recipe with the settings that are its fields; UsageError for unknown keys and for values of other types.

    owner   where the settings are from, for messages
    """
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "lr":
            continue
        if key not in fields:
            raise UsageError(f"{owner}: no setting is called {key!r}; there are {', '.join(KEYS)}{nearest(key, KEYS)}")
        values[key] = _field(owner, key, value, getattr(recipe, key))
    new = dataclasses.replace(recipe, **values)
    if "lr" in settings:
        rate = _number(owner, "lr", settings["lr"])
        new = dataclasses.replace(new, optimizer=with_rate(new.optimizer, rate))
    return _proven(owner, new)


def with_rate(optimizer: dict[str, Any], rate: float) -> dict[str, Any]:
    """An optimiser's data with this learning rate, the highest of its schedule."""
    lr = optimizer["lr"]
    return {**optimizer, "lr": {**lr, peak(lr): rate} if isinstance(lr, dict) else rate}


def peak(schedule: dict[str, Any]) -> str:
    """The name of a schedule's highest rate."""
    return "peak" if "peak" in schedule else "lr"


def _field(owner: str, key: str, value: Any, before: Any) -> Any:
    if key in ("optimizer", "augment"):
        if value == "none" and key == "augment":
            return None
        words = ",".join(map(str, value)) if isinstance(value, list) else value
        if key == "augment" and isinstance(words, str) and words not in augment.AUGMENTS:
            try:
                return augmentation_of(words)
            except ValueError as error:
                raise UsageError(f"{owner}: augment: {error}") from None
        return _table(owner, key, key, value, before)
    optional = OPTIONAL.get(key)
    if optional is not None:
        return None if value == "none" else optional(owner, key, value)
    return CHECKS[key](owner, key, value)


def _table(owner: str, path: str, kind: str, value: Any, before: Any) -> dict[str, Any]:
    """A table that names its kind, of which the one before may be changed."""
    there = KINDS[kind]
    if isinstance(value, str):
        value = {KEY_ONLY: value}
    if not isinstance(value, dict):
        raise UsageError(f"{owner}: {path} must be a table or one of {', '.join(there)}, got {value!r}")
    alone = value.get(KEY_ONLY)
    named = value.get(kind, alone)
    if named is None and not isinstance(before, dict):
        raise UsageError(f"{owner}: {path} says not what it is: {path}.{kind} must be one of {', '.join(there)}")
    name = before[kind] if named is None else named
    if not isinstance(name, str) or name not in there:
        close = nearest(name, there) if isinstance(name, str) else ""
        raise UsageError(f"{owner}: {path}.{kind} must be one of {', '.join(there)}, got {name!r}{close}")
    known = _arguments(there[name])
    whole = kind in value and alone is None and not owner.startswith("--")
    if whole or not isinstance(before, dict):
        start = {}
    elif before[kind] == name:
        start = dict(before)
    else:
        start = _carried(kind, before, there[name], known)
    start[kind] = name
    for inner, each in value.items():
        if inner in (kind, KEY_ONLY):
            continue
        full = f"{path}.{inner}"
        if inner not in known:
            names = [kind, *known]
            raise UsageError(
                f"{owner}: no setting is called {full!r}; {name} has {', '.join(names)}{nearest(inner, names)}"
            )
        start[inner] = _inner(owner, full, inner, each, start.get(inner))
    return start


def _inner(owner: str, path: str, name: str, value: Any, before: Any) -> Any:
    """An entry of such a table: a schedule, a list of augmentations or groups, or a plain value."""
    if name == "lr" and (isinstance(value, dict) or str(value) in schedules.SCHEDULES):
        schedule = before if isinstance(before, dict) else {"schedule": "Constant", "lr": before}
        return _table(owner, path, "schedule", value, schedule if before is not None else None)
    if name == "parts" and isinstance(value, list):
        return [_table(owner, f"{path}.{at}", "augment", each, None) for at, each in enumerate(value)]
    if isinstance(before, list) and isinstance(value, dict):
        entries = list(before)
        for at, each in value.items():
            if not re.fullmatch("[0-9]{1,9}", at) or int(at) >= len(entries):
                raise UsageError(f"{owner}: {path} has {len(entries)} entries, counted from 0; {path}.{at} is none")
            here = f"{path}.{at}"
            if name != "parts" and not isinstance(each, dict):
                raise UsageError(f"{owner}: {here} must be a table, got {each!r}")
            entries[int(at)] = (
                _table(owner, here, "augment", each, entries[int(at)])
                if name == "parts"
                else {**entries[int(at)], **each}
            )
        return entries
    return None if value == "none" else value


def _carried(kind: str, before: dict[str, Any], new: Callable[..., Any], known: list[str]) -> dict[str, Any]:
    """What of a table goes with another kind: what both have, and of an optimiser the rate in its schedule; of an
    augmentation nothing."""
    if kind == "augment":
        return {}
    start = {name: value for name, value in before.items() if name in known}
    if kind == "schedule":
        own = peak(before)
        start.update({RATES[own]: before[own]} if own not in known else {})
    if kind == "optimizer":
        usual = inspect.signature(new).parameters["lr"].default
        if usual is not inspect.Parameter.empty:
            start = with_rate(start, usual)
    return start


def _arguments(made: Callable[..., Any]) -> list[str]:
    """What a kind has, `Compose`'s *parts among it."""
    kinds = (inspect.Parameter.VAR_KEYWORD,)
    return [name for name, each in inspect.signature(made).parameters.items() if each.kind not in kinds]


def _proven(owner: str, recipe: Recipe) -> Recipe:
    """The recipe, of which all can be made that it says."""
    try:
        optim.from_config(recipe.optimizer)
        if recipe.augment is not None:
            augment.from_config(recipe.augment)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{owner}: {one_line(error)}") from None
    return recipe


# --- types -----------------------------------------------------------------------------------------------------------


def _text(owner: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{owner}: {key} must be a text, got {value!r}")
    return value


def _net(owner: str, key: str, value: Any) -> str:
    name = _text(owner, key, value).replace("-", "_")
    if name not in models.MODELS:
        raise UsageError(
            f"{owner}: no net is called {value!r}; there are {', '.join(models.MODELS)}{nearest(name, models.MODELS)}"
        )
    return name


def _texts(owner: str, key: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{owner}: {key} must be a text or a list of texts, got {value!r}")
    return tuple(value)


def _metrics(owner: str, key: str, value: Any) -> tuple[str, ...]:
    names = _texts(owner, key, value)
    try:
        resolve_metrics(names)
    except ValueError as error:
        raise UsageError(f"{owner}: {error}") from None
    return names


def _count(owner: str, key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(f"{owner}: {key} must be a positive integer, got {value!r}")
    return value


def _number(owner: str, key: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UsageError(f"{owner}: {key} must be a positive number, got {value!r}")
    return float(value)


def _share(owner: str, key: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise UsageError(f"{owner}: {key} must be a number from 0 to 1, 1 left out, got {value!r}")
    return float(value)


def _classes(owner: str, key: str, value: Any) -> Any:
    if value == "balanced":
        return value
    if not isinstance(value, dict) or not all(
        type(each) in (int, float) and 0 <= each < math.inf for each in value.values()
    ):
        raise UsageError(
            f"{owner}: {key} must be 'balanced' or a table of numbers by the classes' names, got {value!r}"
        )
    return {name: float(each) for name, each in value.items()}


CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    "net": _net, "epochs": _count, "batch_size": _count, "label_smoothing": _share, "validation": _share,
    "accumulate": _count, "freeze": _texts, "metrics": _metrics,
}  # fmt: skip
OPTIONAL: dict[str, Callable[[str, str, Any], Any]] = {
    "weights": _text, "head_lr": _number, "patience": _count, "class_weight": _classes, "average": _share,
}  # fmt: skip


# --- writing ---------------------------------------------------------------------------------------------------------


def as_toml(settings: Settings, heading: str) -> str:
    """Settings as the text of a TOML file; what is None is left out."""
    return f"# {heading}\n" + "".join(f"{line}\n" for line in _lines(settings, ()))


def _lines(table: Settings, way: tuple[str, ...]) -> list[str]:
    lines = [
        f"{_name(key)} = {_written(value)}"
        for key, value in table.items()
        if not isinstance(value, dict) and value is not None
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            inner = (*way, key)
            lines += ["", f"[{'.'.join(map(_name, inner))}]", *_lines(value, inner)]
    return lines


def _name(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _written(key)


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_name(key)} = {_written(each)}" for key, each in value.items() if each is not None) + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
