"""What a Trainer does with callbacks: functions among them, and their states in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv.callbacks import Callback
from fastconv.training.history import Record, plain

__all__ = ["Function", "arrays_apart", "callback_data", "callback_from_data"]


class Function(Callback):
    """A function that is called after every epoch."""

    def __init__(self, function: Any) -> None:
        if isinstance(function, type) and issubclass(function, Callback):
            name = function.__name__
            raise TypeError(f"fit: a callback must be an object, got the class {name}; write {name}(…)")
        if not callable(function):
            raise TypeError(f"fit: a callback must be a function or a fastconv.callbacks.Callback, got {function!r}")
        self.function = function

    def on_epoch_end(self, trainer: Any, record: Record) -> Any:
        return self.function(trainer, record)


def callback_data(callback: Callback) -> dict[str, Any]:
    return {"callback": type(callback).__name__, "state": callback.state_dict()}


def arrays_apart(owner: str, state: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A callback's state as data, and the arrays in it by their places; ValueError for what is neither."""
    data: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, list[str] | None] = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.ndim:
            names[name], arrays[name] = None, value
        elif isinstance(value, Mapping) and value and all(isinstance(each, np.ndarray) for each in value.values()):
            names[name] = list(value)
            arrays.update((f"{name}.{key}", each) for key, each in value.items())
        else:
            data[name] = plain(value)
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"save: {owner}.state_dict must hold data and arrays: {error}") from None
    return {"state": data, "arrays": names}, arrays


def callback_from_data(place: int, data: dict[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `arrays_apart` took apart."""
    found = parts["callbacks"]
    state = dict(data["state"])
    for name, keys in data["arrays"].items():
        inner = f"{place}.{name}"
        state[name] = found[inner] if keys is None else {key: found[f"{inner}.{key}"] for key in keys}
    return {"callback": str(data["callback"]), "state": state}
