"""Losses."""

from harness import benchmarks

test_loss = benchmarks("loss")
