"""Masks as NumPy arrays."""

from typing import Any

import chex
import numpy as np

from lthjax import _checks, _table, trees
from lthjax._errors import refuse


def arrays(masks: chex.ArrayTree, what: str = 'masks') -> dict[str, Any]:
  """Returns NumPy masks and `None` by name, checked once for all tables."""
  leaves = _checks.bool_masks(masks, what)
  prunable = {n: x for n, x in leaves.items() if x is not None}
  if not prunable:
    raise ValueError(
      f'There is nothing to report: every leaf of `{what}` is None. Choose'
      ' prunable leaves with `lthjax.masks.full(params, where=...)`.'
    )
  refuse(
    (label(n) for n, x in prunable.items() if not np.size(x)),
    'Masks hold no weights in {}, so they have no density. Leave these leaves'
    ' out, or set their masks to None.',
  )
  known = trees.concrete(prunable)
  if known is None:
    raise ValueError(
      'The masks were traced, but a report needs their values. Call it outside'
      ' of `jax.jit`, `jax.vmap` and the like.'
    )
  return {name: known.get(name) for name in leaves}


def label(name: str) -> str:
  """Returns what to call a leaf; a tree that is one array has no name."""
  # Control characters, which could reach a terminal, are spelled out.
  return _table.printable(name) or 'the array'
