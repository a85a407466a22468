"""Sparsity that depends on the input: activations that a matmul need not read.

A kernel's row is read only for activations that are not zero. `sparsify` puts
zeros there, in any program and without an edit of the model: by a threshold,
which `thresholds` and `teal` calibrate, or by a function such as `abs_top_k`.
`unread` reports the share of rows that is saved. Here they are read all the
same: XLA multiplies with zeros, and a gain in speed needs kernels that skip
rows.
"""

from lthjax.activations._sparsify import sparsify, unread
from lthjax.activations._teal import Teal, teal, thresholds
from lthjax.activations._top_k import abs_top_k

__all__ = ['Teal', 'abs_top_k', 'sparsify', 'teal', 'thresholds', 'unread']
