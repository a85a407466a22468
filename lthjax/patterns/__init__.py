"""Patterns: the shapes of weights that may survive.

A pattern works within a layer. What the axes of a kernel count comes from
`lthjax.axes`: a leaf that stacks layers is pruned layer by layer.
"""

from lthjax.counts import along as count_along
from lthjax.patterns._nm import NM
from lthjax.patterns._pattern import Pattern
from lthjax.patterns._tiles import Block, Columns, Rows
from lthjax.patterns._unstructured import Unstructured

__all__ = [
  'NM',
  'Block',
  'Columns',
  'Pattern',
  'Rows',
  'Unstructured',
  'count_along',
]
