"""Similarity of trees of masks, pair by pair."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import numpy as np

from lthjax import trees
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
  check(masks)
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


def check(masks: Mapping[str, chex.ArrayTree]) -> None:
  """Checks that there are two trees or more, with a name each."""
  if not isinstance(masks, Mapping):
    raise ValueError(
      f'Trees of masks to compare were given as a {type(masks).__name__}, but'
      ' each needs a name. Give `{name: masks, other_name: other_masks}`.'
    )
  if len(masks) < 2:
    raise ValueError(
      'Similarity is between two or more trees of masks, but there are'
      f' {len(masks)}: {", ".join(masks) or "none"}. Give'
      ' `{name: masks, other_name: other_masks}`.'
    )


def _jaccard(both: np.ndarray) -> np.ndarray:
  """Turns counts of common weights into indices; the diagonal has all."""
  alive = both.diagonal()
  either = alive[:, None] + alive - both
  return np.where(either > 0, both / np.maximum(either, 1), 1.0)
