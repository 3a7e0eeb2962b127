"""Pooling by a function of the windows."""

from harness import benchmarks

test_function_pool = benchmarks("function_pool")
