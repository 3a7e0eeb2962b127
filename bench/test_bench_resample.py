"""Downsampling and upsampling."""

from harness import benchmarks

test_resample = benchmarks("resample")
