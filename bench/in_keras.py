"""The nets of bench/nets.py in Keras on TensorFlow's CPU build, channels last: `nets.py` runs it where it is installed.

    pip install tensorflow-cpu

A step and inference are compiled graphs (`tf.function`), with and without XLA. TensorFlow's threads are set once a
process: there is a worker for each thread count.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import peers


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("tensorflow", "keras"))


class Workers:
    """A worker a thread count, asked as one: `threads` says which one runs."""

    def __init__(self, threads: Sequence[int], script: Sequence[str]) -> None:
        self._all = {count: peers.Worker("keras", count, [*script, "--threads", str(count)]) for count in threads}
        self._running = self._all[threads[0]]

    def ask(self, command: str, argument: Any) -> Any:
        if command == "prepare":
            answers = [worker.ask(command, argument) for worker in self._all.values()]
            return answers[0]
        if command == "threads":
            self._running = self._all[argument]
            return None
        return self._running.ask(command, argument)

    def close(self) -> None:
        for worker in self._all.values():
            worker.close()


def set_threads(count: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def calls_of(net: Any, images: np.ndarray, classes: np.ndarray, rate: float, momentum: float) -> Any:
    """The output of fastconv's net in inference as Keras has it, and the calls by variant."""
    import tensorflow as tf

    given = tf.constant(np.moveaxis(images, 1, -1))
    target = tf.constant(classes)
    found = {}
    for name, compiled in (("Keras", False), ("Keras, XLA", True)):
        twin = model(net, images.shape[1:])
        optimizer = tf.keras.optimizers.SGD(rate, momentum=momentum)
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        step, inference = compiled_calls(twin, optimizer, loss, compiled)
        found[name] = {"step": _call(step, given, target), "inference": _call(inference, given)}
    return found["Keras"]["inference"]().numpy(), found


def _call(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def compiled_calls(twin: Any, optimizer: Any, loss: Any, compiled: bool) -> tuple[Any, Any]:
    import tensorflow as tf

    optimizer.build(twin.trainable_variables)

    @tf.function(jit_compile=compiled)
    def step(x: Any, target: Any) -> Any:
        with tf.GradientTape() as record:
            value = loss(target, twin(x, training=True))
        optimizer.apply(record.gradient(value, twin.trainable_variables), twin.trainable_variables)
        return value

    @tf.function(jit_compile=compiled)
    def inference(x: Any) -> Any:
        return twin(x, training=False)

    return step, inference


def model(net: Any, item: Sequence[int]) -> Any:
    """The Keras model of fastconv's net, with its weights and statistics. item: (C, *spatial)"""
    import keras

    x = keras.Input((*item[1:], item[0]))
    return keras.Model(x, _Reading(net).layer(net.config(), "", x))


class _Reading:
    """Layers by their configurations, with arrays by their names in the net's state_dict."""

    def __init__(self, net: Any) -> None:
        self.arrays = {name: np.asarray(array) for name, array in net.state_dict().items()}
        self.flattened: tuple[int, ...] | None = None  # (*spatial, C) of what a linear layer's input was

    def layer(self, config: Any, at: str, x: Any) -> Any:
        return getattr(self, config["layer"].rstrip("123d").lower())(config, at, x)

    def sequential(self, config: Any, at: str, x: Any) -> Any:
        layers = config["layers"]
        named = layers[0]["items"] if layers and "items" in layers[0] else enumerate(layers)
        for name, each in named:
            x = self.layer(each, f"{at}{name}.", x)
        return x

    def residual(self, config: Any, at: str, x: Any) -> Any:
        import keras

        shortcut = config.get("shortcut")
        beside = x if shortcut is None else self.layer(shortcut, f"{at}shortcut.", x)
        return keras.layers.Add()([self.layer(config["body"], f"{at}body.", x), beside])

    def graph(self, config: Any, at: str, x: Any) -> Any:
        import keras

        values = {"input": x}
        for name, (what, *sources) in config["nodes"]["items"]:
            inputs = [values[source] for source in sources]
            if isinstance(what, dict):
                values[name] = self.layer(what, f"{at}{name}.", *inputs)
            elif what == "add":
                values[name] = keras.layers.Add()(inputs)
            else:
                values[name] = self.layer({"layer": what}, at, *inputs)
        return values[config.get("output") or name]

    def conv(self, config: Any, at: str, x: Any) -> Any:
        import keras

        rank, filters = len(x.shape) - 2, config["out_channels"]
        kernel, stride, padding = (
            _each(config.get(name, default), rank)
            for name, default in (("kernel_size", 1), ("stride", 1), ("padding", 0))
        )
        options = {"strides": stride, "use_bias": config.get("bias", True)}
        if stride == (1,) * rank and all(2 * before == taps - 1 for before, taps in zip(padding, kernel, strict=True)):
            options["padding"] = "same"
        else:  # "same" of a stride would begin elsewhere
            x = self._padded(x, padding)
        w = np.moveaxis(self.arrays[f"{at}weight"], (0, 1), (-1, -2))  # (*kernel, C / groups, K)
        if config.get("groups", 1) == 1:
            made = getattr(keras.layers, f"Conv{rank}D")(filters, kernel, **options)
        elif config["groups"] == config["in_channels"] == filters:
            made, w = keras.layers.DepthwiseConv2D(kernel, **options), np.swapaxes(w, -1, -2)
        else:
            raise SystemExit(f"nets: in Keras there is no layer for {config}")
        return self._filled(made, x, w, at)

    def batchnorm(self, config: Any, at: str, x: Any) -> Any:
        import keras

        made = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        y = made(x)
        made.set_weights([self.arrays[at + name] for name in ("weight", "bias", "running_mean", "running_var")])
        return y

    def linear(self, config: Any, at: str, x: Any) -> Any:
        import keras

        w = self.arrays[f"{at}weight"]
        if self.flattened is not None:  # ours are flattened with the channels first
            *spatial, channels = self.flattened
            w = np.moveaxis(w.reshape(len(w), channels, *spatial), 1, -1).reshape(len(w), -1)
            self.flattened = None
        return self._filled(keras.layers.Dense(len(w)), x, w.T, at)

    def _filled(self, made: Any, x: Any, w: np.ndarray, at: str) -> Any:
        y = made(x)
        made.set_weights([w, *([self.arrays[f"{at}bias"]] if f"{at}bias" in self.arrays else [])])
        return y

    def relu(self, config: Any, at: str, x: Any) -> Any:
        import keras

        return keras.layers.ReLU()(x)

    def dropout(self, config: Any, at: str, x: Any) -> Any:
        import keras

        return keras.layers.Dropout(config.get("p", 0.5))(x)

    def flatten(self, config: Any, at: str, x: Any) -> Any:
        import keras

        self.flattened = tuple(x.shape[1:])
        return keras.layers.Flatten()(x)

    def maxpool(self, config: Any, at: str, x: Any) -> Any:
        import keras

        rank = len(x.shape) - 2
        window = _each(config["kernel_size"], rank)
        x = self._padded(x, _each(config.get("padding", 0), rank))  # which no maximum after a ReLU is below
        return getattr(keras.layers, f"MaxPooling{rank}D")(window, config.get("stride") or window)(x)

    def adaptiveavgpool(self, config: Any, at: str, x: Any) -> Any:
        import keras

        rank = len(x.shape) - 2
        if _each(config["output_size"], rank) == x.shape[1:-1]:
            return x
        return getattr(keras.layers, f"GlobalAveragePooling{rank}D")(keepdims=True)(x)

    def _padded(self, x: Any, padding: tuple[int, ...]) -> Any:
        import keras

        made = getattr(keras.layers, f"ZeroPadding{len(padding)}D")
        return made(padding if len(padding) > 1 else padding[0])(x) if any(padding) else x


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)
