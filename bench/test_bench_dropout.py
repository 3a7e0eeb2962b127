"""Dropout."""

from harness import benchmarks

test_dropout = benchmarks("dropout")
