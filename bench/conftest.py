"""`pytest bench --benchmark-only` times; `pytest bench` runs every benchmark once (pyproject.toml disables timing)."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Asked for timings, time: pyproject's --benchmark-disable is an error beside --benchmark-only."""
    if getattr(config.option, "benchmark_only", False):
        config.option.benchmark_disable = False
