"""The axes of each leaf that count layers, known at `init` and every move.

Flax's metadata and leaves that are never pruned may say more at `init` than
masks alone do at a move. What would be lost is kept in the state, in the shapes
of arrays, because it has to be static.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from lthjax import _layout
from lthjax import axes as axes_lib
from lthjax.axes import Axes

Given = Mapping[str, Axes] | None


def remember(
  axes: Given, params: chex.ArrayTree, masks: chex.ArrayTree
) -> tuple[dict[str, Axes], dict[str, jax.Array]]:
  """Returns the axes of prunable leaves, and what masks alone do not say."""
  shapes = _layout.shapes_of(masks)
  found = axes_lib.resolve(axes, params, strict=False)
  found = {name: found[name] for name in shapes if name in found}
  alone = axes_lib.resolve(axes, shapes, strict=False)
  stacks = {}
  for name, its in found.items():
    if name not in alone or alone[name].stack != its.stack:
      # For `recall`: of size 2 where an axis counts layers.
      size = [2 if i in its.stack else 1 for i in range(len(shapes[name]))]
      stacks[name] = jnp.zeros(size, jnp.int8)
  return found, stacks


def recall(
  axes: Given, stacks: Mapping[str, jax.Array], masks: chex.ArrayTree
) -> dict[str, Axes]:
  """Returns the axes of prunable leaves as `remember` did."""
  shapes = _layout.shapes_of(masks)
  known = {
    name: tuple(i for i, n in enumerate(x.shape) if n == 2)
    for name, x in stacks.items()
  }
  found = axes_lib.resolve(axes, shapes, strict=False)
  for name in known:
    found.pop(name, None)
  unsure = {name: shapes[name] for name in known}
  return found | axes_lib.by_layout(unsure, stacked=known)
