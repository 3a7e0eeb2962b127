"""Convolution without weight sharing."""

from harness import benchmarks

test_locally_connected = benchmarks("locally_connected")
