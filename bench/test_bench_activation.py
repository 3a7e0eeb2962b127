"""Activation functions."""

from harness import benchmarks

test_activation = benchmarks("activation")
