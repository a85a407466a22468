"""Selection in all layers at once, which keeps programs small.

A table is ``{name: array}`` of the prunable leaves.
"""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import trees
from lthjax._bisection import Budget, search_all, words
from lthjax._images import order_images
from lthjax._late import Late, now
from lthjax._sums import count_true
from lthjax.axes import Axes, size
from lthjax.patterns import NM, Pattern, Unstructured
from lthjax.selection import keep_each

Table = Mapping[str, jax.Array]
Shape = tuple[int, ...]


def leaves_of(masks: chex.ArrayTree, tree: chex.ArrayTree) -> dict[str, Any]:
  """Returns the table of a tree: the leaves that have a mask."""
  leaves = trees.by_name(tree)
  return {name: leaves[name] for name in trees.prunable(masks)}


def put(masks: chex.ArrayTree, new: Table) -> Any:
  """Returns a tree with other masks."""
  leaves, structure = trees.flatten(masks)
  return structure.unflatten({**leaves, **new}.values())


def magnitudes(table: Table) -> dict[str, Any]:
  """Absolute values, with NaN lowest, so that counts stay exact."""
  return {
    name: x.map(_magnitude) if isinstance(x, Late) else _magnitude(x)
    for name, x in table.items()
  }


def _magnitude(x: jax.Array) -> jax.Array:
  return jnp.where(jnp.isnan(x), -1, jnp.abs(x))


def count(masks: Table, axes: Mapping[str, Axes]) -> dict[str, jax.Array]:
  """Counts the alive weights of each layer, along axes of size one."""
  return {n: count_true(mask, axes[n].layer) for n, mask in masks.items()}


def largest(
  scores: Table,
  counts: Mapping[str, Any],
  eligible: Mapping[str, Any],
  along: Mapping[str, Shape],
) -> dict[str, jax.Array]:
  """Selects the largest scores along some axes, in one loop for all leaves."""
  names = list(eligible)
  if not names:  # Every leaf is dense.
    return {}
  found = keep_each(
    [scores[n] for n in names],
    [counts[n] for n in names],
    [eligible[n] for n in names],
    axes=[along[n] for n in names],
  )
  return dict(zip(names, found, strict=True))


def image(scores: jax.Array, eligible: jax.Array) -> jax.Array:
  """Integers in the order of the magnitudes of scores, for `search`."""
  return order_images([_magnitude(scores)], [eligible])[0]


def image_after(keep: jax.Array, scores: jax.Array) -> jax.Array:
  """The same for all weights, of which those that are kept come first."""
  (images,) = order_images([_magnitude(scores)], None)
  return jnp.where(keep, jnp.iinfo(images.dtype).max, images)


def search(
  images: Table, counts: Mapping[str, Any], along: Mapping[str, Shape]
) -> dict[str, jax.Array]:
  """Selects as `largest` does, by images of the scores."""
  budgets = [
    Budget([x], words(counts[n], size(x.shape, along[n])), along[n])
    for n, x in images.items()
  ]
  found = zip(images, search_all(budgets), strict=True)
  return {name: keep for name, (keep,) in found}


def layers(axes: Mapping[str, Axes]) -> dict[str, Shape]:
  """Returns the axes of one layer of each leaf."""
  return {name: its.layer for name, its in axes.items()}


def select(
  pattern: Pattern,
  scores: Table,
  masks: Table,
  counts: Mapping[str, Any],
  axes: Mapping[str, Axes],
) -> dict[str, jax.Array]:
  """Selects among alive weights as a pattern does."""
  if isinstance(pattern, Unstructured):
    return largest(scores, counts, masks, layers(axes))
  return {
    n: pattern.select(now(scores[n]), m, counts[n], axes[n])
    for n, m in masks.items()
  }


def drop(
  pattern: Pattern,
  scores: Table,
  masks: Table,
  counts: Mapping[str, Any],
  axes: Mapping[str, Axes],
) -> dict[str, jax.Array]:
  """Keeps so many alive weights of each layer, for `fill` to add to."""
  if isinstance(pattern, Unstructured | NM):
    return largest(scores, counts, masks, layers(axes))
  return {
    n: pattern.drop(now(scores[n]), m, counts[n], axes[n])
    for n, m in masks.items()
  }


def fill(
  pattern: Pattern,
  scores: Table,
  keep: Table,
  counts: Mapping[str, Any],
  axes: Mapping[str, Axes],
) -> dict[str, jax.Array]:
  """Adds the best of the others to what is kept, until there are so many."""
  if not isinstance(pattern, Unstructured):
    return {
      n: pattern.fill(now(scores[n]), k, counts[n], axes[n])
      for n, k in keep.items()
    }
  there = count(keep, axes)
  missing = {n: jnp.maximum(counts[n] - there[n], 0) for n in keep}
  return grow(scores, missing, keep, layers(axes))


def grow(
  scores: Table,
  missing: Mapping[str, Any],
  keep: Table,
  along: Mapping[str, Shape],
) -> dict[str, jax.Array]:
  """Adds the largest scores of weights that are not kept."""
  # What was dropped at this move may grow again: eligible is all but `keep`.
  grown = largest(scores, missing, others(scores, keep), along)
  return {n: k | grown[n] for n, k in keep.items()}


def others(scores: Table, keep: Table) -> dict[str, Any]:
  """Returns the weights that are not kept, late where scores are."""
  return {
    n: Late(k, lambda k=k: ~k) if isinstance(scores[n], Late) else ~k
    for n, k in keep.items()
  }
