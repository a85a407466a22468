"""Masks as NumPy arrays."""

from typing import Any

import chex
import jax

from lthjax import masks as masks_lib
from lthjax import trees


def arrays(masks: chex.ArrayTree) -> dict[str, Any]:
  """Returns NumPy masks and `None` by name, after a check."""
  trees.check_like(masks, masks, 'params')
  leaves = {n: x for n, x in trees.by_name(masks).items() if x is not None}
  if trees.is_traced(*leaves.values()):
    raise ValueError(
      'The masks were traced, but a report counts on the host and needs their'
      ' values. Call it outside of `jax.jit`, `jax.vmap` and the like.'
    )
  if empty := [n for n, x in leaves.items() if not x.size]:
    raise ValueError(
      f'Masks hold no weights in {", ".join(map(label, empty))}, so that they'
      ' have no density. Leave these leaves out, or set their masks to None.'
    )
  masks_lib.density(masks)  # Raises where there is no mask.
  return jax.device_get(trees.by_name(masks))


def label(name: str) -> str:
  """What to call a leaf; a tree that is one array has a leaf without name."""
  return name or 'the array'
