"""Layers: configuration and parameters, nothing per call. `base.py` says what a layer is."""

from fastconv.layers import activation, containers, conv, norm, pool
from fastconv.layers.activation import *  # noqa: F403
from fastconv.layers.base import LAYERS, Context, Layer, from_config
from fastconv.layers.containers import *  # noqa: F403
from fastconv.layers.conv import *  # noqa: F403
from fastconv.layers.norm import *  # noqa: F403
from fastconv.layers.pool import *  # noqa: F403

__all__ = ["LAYERS", "Context", "Layer", "from_config"]
__all__ += activation.__all__ + containers.__all__ + conv.__all__ + norm.__all__ + pool.__all__
