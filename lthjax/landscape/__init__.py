"""What lies between networks: error barriers, instability, alignment.

A network is whatever ``error(network)`` takes: params, or a tree that holds
more. So batch statistics need no option of their own:

| on the line they are | the network           | ``error``                |
|----------------------|-----------------------|--------------------------|
| recomputed           | params                | calls `batch_statistics` |
| interpolated         | (params, model_state) | uses both                |
| left at some value   | params                | closes over a state      |

Recomputed ones are those of a network that has been trained to that point.
Interpolated ones are not, and can raise a barrier where there is none.
"""

from lthjax.landscape._alignment import Alignment, Spec, align, chain, permute
from lthjax.landscape._barrier import Barrier, error_barrier, interpolate
from lthjax.landscape._instability import (
  Comparison,
  compare,
  cosine,
  distance,
  instability,
)
from lthjax.landscape._statistics import batch_statistics

__all__ = [
  'Alignment',
  'Barrier',
  'Comparison',
  'Spec',
  'align',
  'batch_statistics',
  'chain',
  'compare',
  'cosine',
  'distance',
  'error_barrier',
  'instability',
  'interpolate',
  'permute',
]
