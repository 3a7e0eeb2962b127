"""The convolutions' kernels: a module for each algorithm of `fastconv.engine`, and locally connected layers'."""
