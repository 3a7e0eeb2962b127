"""Max and average pooling."""

from harness import benchmarks

test_pool = benchmarks("pool")
