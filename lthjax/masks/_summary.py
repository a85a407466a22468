"""Masks as a table."""

from collections.abc import Mapping
from typing import Any

import chex
import numpy as np

from lthjax import _table, counts, trees
from lthjax import axes as axes_lib
from lthjax.axes import Axes
from lthjax.masks import _algebra


def summary(
  masks: chex.ArrayTree, *, axes: Mapping[str, Axes] | None = None
) -> str:
  """Describes masks as a table with one line per leaf and a total.

  Where layers of a stack differ, their lowest and highest density follow. Below
  are the leaves in which a layer has lost all of its weights.

  Args:
    masks: tree of masks, not traced.
    axes: ``{name or glob: lthjax.axes.Axes}`` of leaves that stack layers.

  Returns:
    Text of several lines.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> print(lth.masks.summary({'w': jnp.array([[True, False]]), 'b': None}))
    leaf    shape  alive  density
    b       dense
    w      (1, 2)      1  50.00 %
    total       2      1  50.00 %
  """
  alive, stacks = _algebra.alive_by_name(masks), axes_lib.stacks(axes, masks)
  rows, empty = [], []
  for name, mask in trees.by_name(masks).items():
    if mask is None:
      rows.append((name, 'dense', '', ''))
      continue
    share = _percent(alive[name], mask.size)
    layers = _alive_by_layer(name, mask, stacks[name])
    if len(set(layers)) > 1:  # Layers of a stack differ.
      ends = (_percent(n, mask.size // len(layers)) for n in sorted(layers))
      least, *_, most = ends
      share += f' ({least[:-2]} to {most[:-2]})'
    rows.append((name, str(mask.shape), alive[name], share))
    if mask.size and not all(layers):
      number = f' ({layers.count(0)} of {len(layers)} layers)'
      empty.append((name or 'the array') + number * (len(layers) > 1))
  total, size = sum(alive.values()), _algebra.size(masks)
  rows.append(('total', f'{size:,}', total, _percent(total, size)))
  text = _table.write(('leaf', 'shape', 'alive', 'density'), rows)
  return text + f'\nempty: {", ".join(empty)}' * bool(empty)


def _alive_by_layer(name: str, mask: Any, stack: tuple[int, ...]) -> list[int]:
  """Counts the alive weights of each layer in a leaf."""
  layer = tuple(axis for axis in range(mask.ndim) if axis not in stack)
  alive = counts.alive({name: mask}, {name: Axes(stack, outputs=layer)})
  return np.ravel(alive[name]).tolist()


def _percent(alive: int, size: int) -> str:
  return f'{100 * alive / size:.2f} %' if size else '–'
