"""Masks applied, combined, compared and counted; leaves are matched by name."""

import math
from typing import Any, TypeVar

import chex
import jax.numpy as jnp

from lthjax import _checks, counts, trees

T = TypeVar('T')


def apply(masks: chex.ArrayTree, params: T) -> T:
  """Sets the dead weights to exactly +0.0.

  Args:
    masks: tree of masks. Leaves are matched by name, so that masks from the
      state of an `nnx.Optimizer` fit pure trees as well.
    params: tree of arrays.

  Returns:
    The params; dense and alive entries are the same bits as before.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> lth.masks.apply(masks, {'w': jnp.array([[1.0, jnp.nan]])})
    {'w': Array([[1., 0.]], dtype=float32)}
  """
  named = trees.by_name(masks)
  tree: Any = params
  leaves, structure = trees.flatten(tree)
  # Masks of a state under `optax.partition` are those of a part of the leaves.
  hides = trees.hidden(masks)
  named |= {n: None for n in leaves if n not in named and hides(n)}
  trees.check_tables(named, leaves, 'params')
  _checks.check_masks(named)
  masked = {n: p for n, p in leaves.items() if named[n] is not None}
  if masked:
    _checks.check_arrays(masked, 'params')
  return structure.unflatten(
    # Not multiplied: that would keep -0.0 and NaN.
    p
    if named[name] is None
    else jnp.where(named[name], p, jnp.zeros((), p.dtype))
    for name, p in leaves.items()
  )


def intersect(a: chex.ArrayTree, b: chex.ArrayTree) -> Any:
  """Keeps what is alive in both: ``a & b``.

  Args:
    a: tree of masks, whose structure the result has.
    b: tree of masks that prunes the same leaves.

  Returns:
    Tree of masks.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.intersect(jnp.array([True, True]), jnp.array([True, False]))
    Array([ True, False], dtype=bool)
  """
  return _combine(jnp.logical_and, a, b)


def union(a: chex.ArrayTree, b: chex.ArrayTree) -> Any:
  """Keeps what is alive in either: ``a | b``; see `intersect`.

  Example:
    >>> import numpy as np
    >>> from lthjax import masks
    >>> a, b = ({'w': np.array(x, bool)} for x in ([1, 1, 0], [0, 1, 0]))
    >>> masks.union(a, b)['w'].tolist()
    [True, True, False]
  """
  return _combine(jnp.logical_or, a, b)


def difference(a: chex.ArrayTree, b: chex.ArrayTree) -> Any:
  """Keeps what is alive in ``a`` and dead in ``b``; see `intersect`.

  Example:
    >>> import numpy as np
    >>> from lthjax import masks
    >>> a, b = ({'w': np.array(x, bool)} for x in ([1, 1, 0], [0, 1, 0]))
    >>> masks.difference(a, b)['w'].tolist()
    [True, False, False]
  """
  return _combine(lambda x, y: x & ~y, a, b)


def hamming(a: chex.ArrayTree, b: chex.ArrayTree) -> float:
  """Returns the share of prunable positions at which two masks differ.

  Returns:
    Normalized Hamming distance in [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.hamming(jnp.array([True, True]), jnp.array([True, False]))
    0.5
  """
  return count(_combine(jnp.logical_xor, a, b)) / max(size(a), 1)


def jaccard(a: chex.ArrayTree, b: chex.ArrayTree) -> float:
  """Returns the Jaccard index of two masks: ``|a & b| / |a | b|``.

  Returns:
    A number in [0, 1]; 1 for two masks that keep nothing.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.jaccard(jnp.array([True, True]), jnp.array([True, False]))
    0.5
  """
  # Python integers, exact at any size, unless masks are traced.
  both, either = count(intersect(a, b)), count(union(a, b))
  if trees.is_traced(either):
    return jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)  # pyright: ignore
  return both / either if either else 1.0


def count(masks: chex.ArrayTree) -> int:
  """Counts the alive weights of the prunable leaves.

  Returns:
    An exact Python integer; a traced int32 inside a transformation.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.count({'w': jnp.array([[True, False, True]]), 'b': None})
    2
  """
  return counts.total(alive_by_name(masks), trees.prunable(masks))


def density(masks: chex.ArrayTree) -> float:
  """Returns the alive share of the prunable weights; `None` leaves are out.

  Returns:
    A number in [0, 1]; 1 if there are no weights at all.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.density({'w': jnp.array([[True, False]]), 'b': None})
    0.5
  """
  alive, total = count(masks), size(masks)
  return alive / total if total else 1.0


def alive_by_name(masks: chex.ArrayTree) -> dict[str, Any]:
  """Counts the alive weights of each prunable leaf.

  Returns:
    ``{name: number}``: Python integers, or traced int32 inside a
    transformation.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.alive_by_name({'w': jnp.array([[True, False]]), 'b': None})
    {'w': 1}
  """
  return counts.alive(prunable(masks))


def prunable(masks: chex.ArrayTree) -> dict[str, Any]:
  """Returns the masks that are not `None` by name, if all are bool arrays."""
  leaves = _checks.bool_masks(masks)
  return {name: mask for name, mask in leaves.items() if mask is not None}


def size(masks: chex.ArrayTree) -> int:
  """Counts the prunable weights."""
  if not (leaves := trees.prunable(masks)):
    raise ValueError(
      'These masks have no prunable leaf: every one is None. Choose some with'
      ' `lthjax.masks.full(params, where=...)`.'
    )
  return sum(math.prod(mask.shape) for mask in leaves.values())


def _combine(f, a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Combines masks of the same names, in the structure of the first."""
  left, structure = trees.flatten(a)
  right = trees.by_name(b)
  trees.check_tables(left, right, 'other masks')
  trees.check_tables(right, left, 'other masks')
  _checks.check_masks(left)
  _checks.check_masks(right)
  # By name, so that trees of Flax NNX and pure trees go together.
  return structure.unflatten(
    None if x is None else f(x, right[name]) for name, x in left.items()
  )
