"""Normalisation."""

from harness import benchmarks

test_norm = benchmarks("norm")
