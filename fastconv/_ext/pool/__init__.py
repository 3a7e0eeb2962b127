"""Pooling's kernels."""
