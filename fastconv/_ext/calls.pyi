from collections.abc import Callable
from typing import Any

class Memoised:
    __wrapped__: Callable[..., Any]
    def __init__(
        self, function: Callable[..., Any], names: tuple[str, ...], door: Callable[..., list[Any]], most: int
    ) -> None: ...
    def __call__(self, op: str, /, *call: Any) -> tuple[Any, ...]: ...
    def cache_clear(self) -> None: ...
