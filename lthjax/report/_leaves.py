"""Masks as NumPy arrays."""

from typing import Any

import chex
import jax

from lthjax import masks as masks_lib
from lthjax import trees


def arrays(masks: chex.ArrayTree) -> dict[str, Any]:
  """Returns NumPy masks and `None` by name, after a check."""
  trees.check_like(masks, masks, 'params')
  masks_lib.density(masks)  # Raises where there is no mask.
  return jax.device_get(trees.by_name(masks))


def label(name: str) -> str:
  """What to call a leaf; a tree that is one array has a leaf without name."""
  return name or 'the array'
