"""Adaptive pooling."""

from harness import benchmarks

test_adaptive_pool = benchmarks("adaptive_pool")
