"""What the units of groups are worth."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.structure._activations import Activations, check_seen
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
  leaves = check_fit(groups, params)
  # In float32: squares of float16 overflow at 256.
  squares = {
    name: None if x is None else jnp.square(jnp.asarray(x, jnp.float32))
    for name, x in leaves.items()
  }
  return {name: jnp.sqrt(x) for name, x in _sums(squares, groups).items()}


def taylor(
  params: chex.ArrayTree, grads: chex.ArrayTree, groups: Groups
) -> dict[str, jax.Array]:
  """Scores units by the change of the loss without them, to first order.

  Args:
    params: tree of arrays.
    grads: gradients of the loss, a tree like the params.
    groups: which axes move together.

  Returns:
    ``{group: scores}`` in float32, as `norm`: the absolute value of the sum of
    ``weight * gradient`` over all members of the group.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.array([[3.0, 1.0]]), 'out': jnp.ones((2, 1))}
    >>> grads = {'in': jnp.array([[1.0, 1.0]]), 'out': -jnp.ones((2, 1))}
    >>> groups = lth.structure.by_axes(
    ...   params, {'in': (None, 'units'), 'out': ('units', None)}
    ... )
    >>> lth.structure.taylor(params, grads, groups)['units']
    Array([2., 0.], dtype=float32)

  References:
    Molchanov et al., Importance Estimation for Neural Network Pruning,
    arXiv:1906.10771, equation 8, without the square.
  """
  _checks.arrays(params)
  _checks.arrays(grads, 'grads')
  leaves, slopes = check_fit(groups, params), trees.by_name(grads)
  refuse(
    [
      f'{name} of shape {jnp.shape(x)}'
      for name, x in leaves.items()
      if x is not None and jnp.shape(slopes.get(name, 0)) != jnp.shape(x)
    ],
    '`grads` must have the structure and shapes of the params, but do not fit'
    ' {}. Take them from `jax.grad` of the loss.',
  )
  products = {
    name: None
    if x is None
    else jnp.asarray(x, jnp.float32) * jnp.asarray(slopes[name], jnp.float32)
    for name, x in leaves.items()
  }
  return {name: jnp.abs(x) for name, x in _sums(products, groups).items()}


def minitron(seen: Activations) -> dict[str, jax.Array]:
  """Scores units by the size of their activations.

  The mean of absolute values over the tokens of each example, then the L2 norm
  over examples, and over the inputs that belong to a unit, such as the features
  of a head. Units that several kernels read have the norm over these.

  Args:
    seen: from `lthjax.structure.activations`.

  Returns:
    ``{group: scores}`` in float32, ``[size]`` or ``[*stack, size]``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> x = jnp.array([[[1.0, -2.0], [3.0, 4.0]], [[0.0, 1.0], [-2.0, 1.0]]])
    >>> params = {'in': jnp.eye(2), 'out': jnp.ones((2, 1))}
    >>> def apply(params, x):
    ...   return x @ params['in'] @ params['out']
    >>> seen = lth.structure.activations(apply, params, x)
    >>> lth.structure.minitron(seen)['in[1]']
    Array([2.236068 , 3.1622777], dtype=float32)

  References:
    Muralidharan et al., Compact Language Models via Pruning and Knowledge
    Distillation, arXiv:2407.14679, section 2.2, with the norms of the authors'
    code.
  """
  check_seen(seen)
  return {
    name: jnp.asarray(np.sqrt(total), jnp.float32)
    for name, total in _read(
      seen, lambda reader, moments: np.asarray(moments.examples, np.float64)
    ).items()
  }


def flap(params: chex.ArrayTree, seen: Activations) -> dict[str, jax.Array]:
  """Scores units by how much what they add to the next layer fluctuates.

  The variance of an activation over tokens times the squared norm of the
  weights that read it, summed over all inputs that belong to the unit. What a
  removed unit adds on average can go into the biases: see `compensate`.

  Args:
    params: tree of arrays.
    seen: from `lthjax.structure.activations`.

  Returns:
    ``{group: scores}`` in float32, ``[size]`` or ``[*stack, size]``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> x = jnp.array([[1.0, 0.0], [3.0, 2.0], [5.0, 1.0]])
    >>> params = {'in': jnp.eye(2), 'out': jnp.array([[1.0, 2.0], [3.0, 0.0]])}
    >>> def apply(params, x):
    ...   return x @ params['in'] @ params['out']
    >>> seen = lth.structure.activations(apply, params, x)
    >>> lth.structure.flap(params, seen)['in[1]']
    Array([20.,  9.], dtype=float32)

  References:
    An et al., Fluctuation-based Adaptive Structured Pruning for Large Language
    Models, arXiv:2312.11983, equation 5. The variance is that of the sample; in
    the authors' code it drops the first batch.
  """
  check_seen(seen)
  _checks.arrays(params)
  leaves = check_fit(seen.groups, params)

  def fluctuation(reader, moments):
    lift = moments.squares.ndim - moments.tokens.ndim
    count = np.asarray(moments.tokens, np.float64)
    count = count.reshape(count.shape + (1,) * lift)
    variance = np.asarray(moments.squares) / np.maximum(count - 1, 1)
    return variance * np.square(reader.kernel(leaves[reader.use.name])).sum(-1)

  return {
    name: jnp.asarray(total, jnp.float32)
    for name, total in _read(seen, fluctuation).items()
  }


def _sums(leaves: Mapping[str, Any], groups: Groups) -> dict[str, jax.Array]:
  """Sums the entries of leaves by unit, ``[*stack, size]``."""
  found = {}
  for name, group in groups.items():
    total = jnp.zeros((*stack_shape(groups, name), group.size), jnp.float32)
    for member in group.members:
      x = leaves[member.leaf]
      if x is None:
        continue
      ends = (*stack_axes(groups, name, member.leaf), member.axis)
      x = jnp.moveaxis(x, ends, range(len(ends)))
      x = x.sum(axis=range(len(ends), x.ndim))
      total += jnp.take(x, member.places, axis=-1).sum(axis=-1)
    found[name] = total
  return found


def _read(seen: Activations, statistic: Any) -> dict[str, np.ndarray]:
  """Sums a statistic of inputs by unit, over all readers of a group."""
  found = {}
  for name, readers in seen.readers.items():
    size = seen.groups[name].size
    found[name] = sum(
      reader.by_unit(statistic(reader, seen.moments[reader.use.path]), size)
      for reader in readers
    )
  return found
