"""Layers: configuration and parameters, nothing per call. `base.py` says what a layer is."""

from typing import TYPE_CHECKING

from fastconv.layers import activation, containers, conv, graph, norm, padding, pool, shape
from fastconv.layers.activation import *  # noqa: F403
from fastconv.layers.base import LAYERS as LAYERS
from fastconv.layers.base import Context as Context
from fastconv.layers.base import Layer as Layer
from fastconv.layers.base import from_config as from_config
from fastconv.layers.containers import *  # noqa: F403
from fastconv.layers.conv import *  # noqa: F403
from fastconv.layers.graph import *  # noqa: F403
from fastconv.layers.norm import *  # noqa: F403
from fastconv.layers.padding import *  # noqa: F403
from fastconv.layers.pool import *  # noqa: F403
from fastconv.layers.shape import *  # noqa: F403

if not TYPE_CHECKING:  # type checkers go by the imports: they cannot read a list that is put together
    __all__ = ["LAYERS", "Context", "Layer", "from_config"]
    __all__ += activation.__all__ + containers.__all__ + conv.__all__ + graph.__all__ + norm.__all__
    __all__ += padding.__all__ + pool.__all__ + shape.__all__
