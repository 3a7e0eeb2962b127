"""What this process may use of the machine, and the thread team that runs on it.

threads   how many, and the team's size      blas     one thread of it inside ours       simd   which vectors
memory    the workspace limit, allocation    cgroup   a container's CPUs and memory      config  show_config
"""

from fastconv.machine import blas as blas  # first: it is loaded in an environment of its own
from fastconv.machine.threads import threadpool_controller

__all__ = ["threadpool_controller"]
