"""Pooling over one, two or three spatial axes.

windows.py    what all of them share: which windows there are, and their plan for the kernels
maximum.py average.py lp.py     the maximum, the average and the p-norm of sliding windows
adaptive.py   the average and the maximum of as many windows as outputs are asked for
function.py   a function of one's own of sliding windows
unpool.py     maxima back to where they were found
"""
