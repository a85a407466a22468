"""Masks of the weights that may train, with one exact budget for all leaves."""

import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, counts, scores, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.selection import check_floating, keep_largest


def largest(
  scores: chex.ArrayTree, masks: chex.ArrayTree, *, sparsity: float
) -> Any:
  """Keeps the highest scores of all leaves together.

  Unlike `lthjax.prune`, what is left out is not removed but frozen, so that a
  leaf may lose all of its weights.

  Args:
    scores: tree of floating-point arrays like the masks.
    masks: tree of masks to choose from: ``lthjax.masks.full(params)``, or the
      `complement` of what earlier tasks have taken.
    sparsity: share of all weights of these leaves that stays frozen, in [0, 1).

  Returns:
    Tree of masks, a subset of those given. Ties go to the lowest index, in the
    earliest leaf.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = {'a': jnp.array([3.0, 1.0]), 'b': jnp.array([3.0, 4.0])}
    >>> masks = lth.masks.full(scores, where=lambda name, leaf: True)
    >>> lth.lota.largest(scores, masks, sparsity=0.5)['a'].tolist()
    [True, False]
  """
  alive = _checks.bool_masks(masks)
  trees.check_like(masks, scores, 'scores')
  eligible = {name: m for name, m in alive.items() if m is not None}
  values = trees.by_name(scores)
  values = {name: values[name] for name in eligible}
  check_floating(values)
  if any(trees.is_abstract(x) for x in values.values()):
    _checks.check_arrays(values, 'scores')
  sparsity = _checks.share('sparsity', sparsity)
  _refuse_nan(values, eligible)
  count = _count(masks, eligible, sparsity)
  kept = keep_largest(values, count, eligible)
  structure = trees.flatten(masks)[1]
  return structure.unflatten((alive | kept).values())


def calibrated(
  base: chex.ArrayTree,
  tuned: chex.ArrayTree,
  masks: chex.ArrayTree,
  *,
  sparsity: float,
) -> Any:
  """Keeps the weights that fine-tuning has moved farthest.

  Weights are compared in float32: keep masters in float32, as in bfloat16 most
  small updates are lost. There is a warning if fewer weights have moved than
  are kept.

  Args:
    base: params before fine-tuning.
    tuned: params after it.
    masks: as for `largest`.
    sparsity: share of all weights of these leaves that stays frozen: 0.9 or
      0.99 in the paper.

  Returns:
    Tree of masks, a subset of those given.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> base = {'w': jnp.zeros((2, 4))}
    >>> tuned = {'w': jnp.array([[0.5, -0.5, 0.5, 0], [0, 0, 0.1, -0.9]])}
    >>> masks = lth.masks.full(base)
    >>> lth.lota.calibrated(base, tuned, masks, sparsity=0.75)['w'].tolist()
    [[True, False, False, False], [False, False, False, True]]

  References:
    Panda et al., arXiv:2406.16797, algorithm 1 (calibration).
  """
  moved = scores.movement(_masters(tuned), _masters(base))
  kept = largest(moved, masks, sparsity=sparsity)
  _warn_still(moved, masks, kept)
  return kept


def complement(*taken: chex.ArrayTree) -> Any:
  """Returns masks of the weights that no earlier task has taken.

  Args:
    *taken: trees of masks, one for each earlier task.

  Returns:
    Tree of masks.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> first, second = jnp.array([True, False]), jnp.array([False, False])
    >>> lth.lota.complement(first, second)
    Array([False,  True], dtype=bool)
  """
  if not taken:
    raise TypeError(
      '`complement` was given no masks, but needs those of one task or more.'
    )
  union = taken[0]
  for masks in taken[1:]:
    union = masks_lib.union(union, masks)
  _checks.bool_masks(union)
  return jax.tree.map(jnp.logical_not, union)


def _masters(params: chex.ArrayTree) -> Any:
  """Casts to float32 at least."""
  leaves, structure = trees.flatten(params)
  _checks.check_arrays(leaves, 'params')
  return structure.unflatten(
    x if _is_other(x) else x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for x in leaves.values()
  )


def _is_other(x: Any) -> bool:
  """Whether there is nothing to compare, as of random keys, or no way to."""
  return (
    x is None or not jnp.issubdtype(x.dtype, jnp.number) or x.dtype.itemsize < 2
  )


def _count(masks: Any, eligible: dict[str, Any], sparsity: float) -> int:
  """Counts what is kept, of which there must be enough."""
  total = sum(m.size for m in eligible.values())
  if not total:
    masks_lib.density(masks)  # Says that there are no leaves.
  removed = counts.share_of(
    total, *counts.exact(sparsity).as_integer_ratio(), 'nearest'
  )
  count = total - removed
  if not count:
    raise ValueError(
      f'A sparsity of {sparsity} keeps none of {total:,} weights. Lower it.'
    )
  free = counts.total(counts.alive(eligible), eligible)
  if not trees.is_traced(free) and free < count:
    raise ValueError(
      f'A sparsity of {sparsity} keeps {count:,} of {total:,} weights, but the'
      f' masks leave only {free:,} to choose from. Raise `sparsity`, or give'
      ' masks that keep more: earlier tasks may have taken the others.'
    )
  return count


def _refuse_nan(values: dict[str, Any], eligible: dict[str, Any]) -> None:
  found = trees.concrete(
    {n: jnp.any(jnp.isnan(x) & eligible[n]) for n, x in values.items()}
  )
  refuse(
    [name or 'the array' for name, nan in (found or {}).items() if nan],
    'Scores are NaN in {}, and masks by them would be arbitrary. Did training'
    ' diverge? Lower the learning rate.',
  )


def _warn_still(moved: Any, masks: Any, kept: Any) -> None:
  """Warns if weights are kept that did not move."""
  values, before = trees.by_name(moved), trees.by_name(masks)
  known = trees.concrete(
    {
      n: jnp.sum(m & (values[n] == 0), dtype=jnp.int32)
      for n, m in trees.prunable(kept).items()
    }
  )
  if known is None or not (still := sum(int(x) for x in known.values())):
    return
  total = sum(m.size for m in before.values() if m is not None)
  warnings.warn(
    f'Fine-tuning moved fewer weights than are kept: {still:,} of those kept'
    f' have not moved, of {total:,} in all. They are those of the lowest index.'
    ' Train longer, keep masters in float32, or raise `sparsity`.',
    stacklevel=3,
  )
