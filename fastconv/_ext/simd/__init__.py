"""The CPU's vectors, and what the kernels' headers share of them."""
