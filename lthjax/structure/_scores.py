"""What the units of groups are worth."""

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.structure._groups import (
  Groups,
  check_fit,
  stack_axes,
  stack_shape,
)


def norm(params: chex.ArrayTree, groups: Groups) -> dict[str, jax.Array]:
  """Scores units by the norm of all of their weights.

  Args:
    params: tree of arrays.
    groups: which axes move together.

  Returns:
    ``{group: scores}`` in float32: the L2 norm, over all members of the group,
    of the weights at each index; ``[*stack, size]`` where the group `varies`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'in': jnp.array([[3.0, 0.0]]),
    ...   'out': jnp.array([[4.0], [2.0]]),
    ... }
    >>> groups = lth.structure.by_axes(
    ...   params, {'in': (None, 'units'), 'out': ('units', None)}
    ... )
    >>> lth.structure.norm(params, groups)['units']
    Array([5., 2.], dtype=float32)
  """
  _checks.arrays(params)
  leaves, scores = check_fit(groups, params), {}
  for name, group in groups.items():
    total = jnp.zeros((*stack_shape(groups, name), group.size), jnp.float32)
    for member in group.members:
      if leaves[member.leaf] is None:
        continue
      # In float32: squares of float16 overflow at 256.
      x = jnp.square(jnp.asarray(leaves[member.leaf], jnp.float32))
      ends = (*stack_axes(groups, name, member.leaf), member.axis)
      x = jnp.moveaxis(x, ends, range(len(ends)))
      x = x.sum(axis=range(len(ends), x.ndim))
      total += jnp.take(x, member.places, axis=-1).sum(axis=-1)
    scores[name] = jnp.sqrt(total)
  return scores
