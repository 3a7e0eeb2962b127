"""Transposed convolution."""

from harness import benchmarks

test_conv_transpose = benchmarks("conv_transpose")
