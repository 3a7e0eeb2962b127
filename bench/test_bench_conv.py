"""Convolution, forward and backward."""

from harness import benchmarks

test_conv = benchmarks("conv")
