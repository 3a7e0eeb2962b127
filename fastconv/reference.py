"""The naive reference: every name of `fastconv.functional`, same signature, bound to direct loops.

The definitions stand in `fastconv/ops/`, beside the fast versions. They are slow, total and independent: the tests hold
every fast path against them, and `fastconv.vjp` of a name here gives pullbacks that are loops too. To read one:
`inspect.getsource(fastconv.reference.conv2d)`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastconv import functional
from fastconv.ops import OPS
from fastconv.ops.registry import bound

if TYPE_CHECKING:
    from fastconv.functional import *  # noqa: F403


def _naive(name: str, twin: Callable[..., Any]) -> Callable[..., Any]:
    reference, backward = OPS[name].reference, OPS[name].reference_backward
    assert reference is not None and backward is not None, name
    function = bound(twin, reference, backward)
    function.__module__ = __name__
    function.__doc__ = f"`fastconv.functional.{name}` in naive loops.\n\n    {twin.__doc__}"
    function.__signature__ = inspect.signature(twin)  # type: ignore[attr-defined]
    loops = reference.func if isinstance(reference, functools.partial) else reference
    function.__wrapped__ = loops  # type: ignore[attr-defined]  # what inspect.getsource shows
    return function


__all__ = sorted(OPS)  # one's own operations have no naive twin: they are listed later
globals().update({name: _naive(name, getattr(functional, name)) for name in __all__})
