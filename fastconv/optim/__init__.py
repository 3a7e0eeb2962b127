"""Optimisers and learning-rate schedules.

    optimizer = SGD(OneCycle(0.1), momentum=0.9, nesterov=True, groups=[{"ndim": 1, "weight_decay": 0}])
    optimizer.step(net.parameters(), gradients)

The update rules and the meaning of the arguments are torch.optim's. An optimiser is data: `config` gives its arguments,
`state_dict` its memory, and both fit a file. A schedule is a pure function of the step number.

What an optimiser remembers and what it takes from a parameter is 0 where it would be smaller than the type's smallest
normal number (1.2e-38 in float32): averages of zero gradients reach zero, and no step is slow with denormal numbers.
This is arithmetic, the same at any number of threads; the processor's flushing is never switched on, and functions,
layers and parameters keep denormal numbers.

Parameter groups are data too: each is a dict with `match` (a name pattern in the sense of fnmatch, or a list of them;
default "*"), or `ndim` (the number of axes: 1 for biases and norms), or both, and the options that hold for those
parameters in place of the optimiser's. The first group that fits a parameter is the one that counts.
"""

from fastconv.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, from_config, global_norm
from fastconv.optim.schedules import Constant, Cosine, Exponential, Linear, OneCycle, Schedule, Step

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "Optimizer",
    "Constant",
    "Cosine",
    "Exponential",
    "Linear",
    "OneCycle",
    "Schedule",
    "Step",
    "from_config",
    "global_norm",
]
