"""The loss landscape between networks: barriers, instability, alignment.

A network is whatever ``error(network)`` takes: params, or a tree that contains
them. Batch statistics therefore need no option of their own:

| statistics on the line | network               | ``error``                |
|------------------------|-----------------------|--------------------------|
| recomputed             | params                | calls `batch_statistics` |
| interpolated           | (params, model_state) | uses both                |
| fixed                  | params                | closes over a state      |

Recomputed statistics are those of a network trained to that point. Interpolated
ones are not, and can raise a barrier where there is none.
"""

from lthjax.landscape._alignment import Alignment, align
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
  'align',
  'batch_statistics',
  'compare',
  'cosine',
  'distance',
  'error_barrier',
  'instability',
  'interpolate',
]
