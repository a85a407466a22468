"""Masks: trees that say which weights are alive, and their algebra.

A tree of masks has the structure of the params. A leaf is a bool array of the
parameter's shape, true where the weight is alive, or `None` where the parameter
is dense and never pruned. Masks are data: pass them to jitted functions as
arguments, so that a new mask does not compile again.
"""

from lthjax.masks._algebra import (
  alive_by_name,
  apply,
  count,
  density,
  difference,
  hamming,
  intersect,
  jaccard,
  union,
)
from lthjax.masks._pack import pack, unpack
from lthjax.masks._shuffle import shuffle
from lthjax.masks._summary import summary
from lthjax.masks._where import Where, full, kernels, scales

__all__ = [
  'Where',
  'alive_by_name',
  'apply',
  'count',
  'density',
  'difference',
  'full',
  'hamming',
  'intersect',
  'jaccard',
  'kernels',
  'pack',
  'scales',
  'shuffle',
  'summary',
  'union',
  'unpack',
]
