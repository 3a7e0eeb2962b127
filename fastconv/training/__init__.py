"""Training: the loss and its gradients (`step`), checkpoints, and the loop around them (`Trainer`)."""
