"""Linear layers and flatten."""

from harness import benchmarks

test_linear = benchmarks("linear")
