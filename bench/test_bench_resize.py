"""Interpolation."""

from harness import benchmarks

test_resize = benchmarks("resize")
