"""Similarity of trees of masks, pair by pair."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import numpy as np

from lthjax import _checks, trees
from lthjax.report import _leaves


class Similarity(NamedTuple):
  """Jaccard indices of trees of masks, pair by pair.

  Attributes:
    names: names of the n trees.
    total: float64[n, n], over all prunable leaves.
    layers: ``{name: float64[n, n]}`` of each prunable leaf.
  """

  names: tuple[str, ...]
  total: np.ndarray
  layers: dict[str, np.ndarray]


def similarity(masks: Mapping[str, chex.ArrayTree]) -> Similarity:
  """Computes the Jaccard index of every pair of trees of masks.

  Args:
    masks: ``{name: tree of masks}`` of two or more trees that prune the same
      leaves, not traced.

  Returns:
    The indices ``|a & b| / |a | b|``, as in `lthjax.masks.jaccard`: 1 for two
    masks that keep nothing.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = jnp.array([[True, True]]), jnp.array([[True, False]])
    >>> lth.report.similarity({'a': {'w': a}, 'b': {'w': b}}).total
    array([[1. , 0.5],
           [0.5, 1. ]])
  """
  check('masks', masks)
  return similarity_of(
    {name: _leaves.arrays(tree, name) for name, tree in masks.items()}
  )


def similarity_of(
  found: Mapping[str, Mapping[str, Any]],
  like: Mapping[str, Any] | None = None,
) -> Similarity:
  """Does the same for NumPy masks by name, which must be like others."""
  first, *others = found.items()
  if like is not None:
    trees.check_tables(like, first[1], f'compared masks {first[0]!r}')
    trees.check_tables(first[1], like, '`masks`')
  for name, other in others:
    trees.check_tables(first[1], other, f'masks {name!r}')
    trees.check_tables(other, first[1], f'masks {first[0]!r}')
  leaves = list(found.values())
  both = {
    name: np.array(
      [[np.sum(x[name] & y[name]) for x in leaves] for y in leaves]
    )
    for name, mask in leaves[0].items()
    if mask is not None
  }
  return Similarity(
    tuple(found),
    _jaccard(np.sum(list(both.values()), axis=0)),
    {name: _jaccard(counts) for name, counts in both.items()},
  )


def check(name: str, masks: Mapping[str, chex.ArrayTree]) -> None:
  """Checks that there are two trees or more, with a name each."""
  example = '{"imp": masks, "snip": other_masks}'
  _checks.mapping(name, masks, f'names to trees of masks, as {example}')
  _checks.at_least(f'len({name})', len(masks), 2)


def _jaccard(both: np.ndarray) -> np.ndarray:
  """Turns counts of common weights into indices."""
  alive = both.diagonal()
  # |a or b| = |a| + |b| - |a and b|; the diagonal has |a|.
  either = alive[:, None] + alive - both
  return np.where(either > 0, both / np.maximum(either, 1), 1.0)
