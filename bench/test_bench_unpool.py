"""Max-unpooling."""

from harness import benchmarks

test_unpool = benchmarks("unpool")
