"""Normalisation: subtract a mean, divide by a standard deviation, scale and shift.

channels.py   batch_norm, instance_norm, group_norm: mean and variance belong to channels
layer.py      layer_norm: they belong to rows of elements
response.py   local_response_norm: what divides is a sum over neighbouring channels
"""
