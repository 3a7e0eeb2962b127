"""Losses: PyTorch's, with a reduction over all elements ("mean", "sum") or none.

cross_entropy.py     cross_entropy, nll_loss: the targets are classes, or their probabilities
errors.py            mse_loss, l1_loss: of every element
bce_with_logits.py   bce_with_logits: every element a probability of its own
"""
