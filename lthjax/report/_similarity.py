"""How much trees of masks have in common, pair by pair."""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import numpy as np

from lthjax import trees
from lthjax.report import _leaves


class Similarity(NamedTuple):
  """Jaccard indices of trees of masks, pair by pair.

  Attributes:
    names: of the n trees.
    total: float64[n, n], over all prunable leaves.
    layers: ``{name: float64[n, n]}`` of each prunable leaf.
  """

  names: tuple[str, ...]
  total: np.ndarray
  layers: dict[str, np.ndarray]


def similarity(masks: Mapping[str, chex.ArrayTree]) -> Similarity:
  """Compares all pairs of trees of masks.

  Args:
    masks: ``{name: tree of masks}`` of two or more that prune the same leaves,
      not traced.

  Returns:
    Their indices ``|a & b| / |a | b|``, as `lthjax.masks.jaccard` gives them:
    1 for two masks that keep nothing.

  Raises:
    ValueError: if they have no names, there are fewer than two trees, or they
      differ in structure or shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = jnp.array([[True, True]]), jnp.array([[True, False]])
    >>> lth.report.similarity({'a': {'w': a}, 'b': {'w': b}}).total
    array([[1. , 0.5],
           [0.5, 1. ]])
  """
  if not isinstance(masks, Mapping):
    raise ValueError(
      f'Trees of masks to compare were given as a {type(masks).__name__}, but'
      ' each needs a name. Give `{name: masks, other_name: other_masks}`.'
    )
  if len(masks) < 2:
    raise ValueError(
      'Similarity are between two or more trees of masks, but there are'
      f' {len(masks)}: {", ".join(masks) or "none"}. Give'
      ' `{name: masks, other_name: other_masks}`.'
    )
  first, *others = masks.items()
  for name, other in others:
    trees.check_like(first[1], other, f'masks {name!r}')
    trees.check_like(other, first[1], f'masks {first[0]!r}')
  leaves = [_leaves.arrays(tree) for tree in masks.values()]
  both = {
    name: np.array(
      [[np.sum(x[name] & y[name]) for x in leaves] for y in leaves]
    )
    for name, mask in leaves[0].items()
    if mask is not None
  }
  return Similarity(
    tuple(masks),
    _jaccard(np.sum(list(both.values()), axis=0)),
    {name: _jaccard(counts) for name, counts in both.items()},
  )


def _jaccard(both: np.ndarray) -> np.ndarray:
  """Turns numbers of common weights into indices; the diagonal has them all."""
  alive = both.diagonal()
  either = alive[:, None] + alive - both
  return np.where(either > 0, both / np.maximum(either, 1), 1.0)
