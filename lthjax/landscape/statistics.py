"""Batch statistics for networks that no training has visited."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

Apply = Callable[[chex.ArrayTree, chex.ArrayTree, Any], tuple[Any, Any]]


def batch_statistics(
  apply: Apply,
  params: chex.ArrayTree,
  model_state: chex.ArrayTree,
  batches: Any,
) -> chex.ArrayTree:
  """Computes the running statistics of BatchNorm anew, from data.

  Between two trained networks neither's statistics are right, nor their mean:
  activations of averaged weights vary less. Every batch counts alike, and
  nothing is left of the old statistics. A variance is the mean of the batches'
  variances, as in training, so take batches as large as those of training.

  The momentum need not be known: a running average is ``m * old + (1 - m) *
  new``, and two old values tell what ``m`` is. Compiled, the second costs
  nothing, as activations do not depend on it.

  Args:
    apply: ``apply(params, model_state, x) -> (outputs, model_state)`` in
      training mode, such as ``functools.partial(model.apply, train=True)``.
    params: params of the network.
    model_state: any state of the right structure. Its floating point leaves are
      running averages; others stay as they are, and so does what ``apply`` does
      not change.
    batches: tree of arrays with a leading axis of batches, for instance images
      of shape ``(batches, batch, height, width, channels)``.

  Returns:
    The model state of these params. One without floating point leaves is
    returned as it is, without a look at the data.

  Raises:
    ValueError: if there are statistics and no batches, or ``apply`` leaves all
      statistics as they are.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> def apply(params, model_state, x):
    ...   mean = 0.9 * model_state['mean'] + 0.1 * x.mean()
    ...   return x - x.mean(), {'mean': mean}
    >>> batches = jnp.array([[1.0, 3.0], [5.0, 7.0]])
    >>> state = {'mean': jnp.array(100.0)}
    >>> state = lth.landscape.batch_statistics(apply, {}, state, batches)
    >>> state['mean'].round(3)
    Array(4., dtype=float32)

  References:
    Izmailov et al., Averaging Weights Leads to Wider Optima and Better
    Generalization, arXiv:1803.05407, section 3.2. Jordan et al., REPAIR:
    REnormalizing Permuted Activations for Interpolation Repair,
    arXiv:2211.08403, section 3.
  """
  leaves, structure = jax.tree.flatten(model_state)
  floating = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]
  if not floating:
    return model_state
  if not all(len(x) for x in jax.tree.leaves(batches) or [()]):
    raise ValueError(
      'The model has running statistics, but there are no batches to compute'
      ' them from. Give training data in `batches`, with a leading axis of'
      ' batches.'
    )

  def with_statistics(values):
    new = leaves.copy()
    for i, value in zip(floating, values, strict=True):
      new[i] = value
    return structure.unflatten(new)

  def record(values, x):
    new = jax.tree.leaves(apply(params, with_statistics(values), x)[1])
    return [new[i] for i in floating]

  zeros = [jnp.zeros_like(leaves[i]) for i in floating]
  recorded = _recorded(record, zeros, jax.tree.map(lambda x: x[0], batches))

  def add(sums, x):
    fresh = record(zeros, x)  # (1 - m) * new
    # m from an old value of the same size, so that rounding hurts little.
    olds = [jnp.where(f == 0, 1, f) for f in fresh]
    kept = [
      (new - f) / old
      for new, f, old in zip(record(olds, x), fresh, olds, strict=True)
    ]
    return jax.tree.map(jnp.add, sums, (fresh, [1 - m for m in kept])), None

  (sums, weights), _ = jax.lax.scan(add, (zeros, zeros), batches)
  return with_statistics(
    [
      total / weight if is_new else leaves[i]
      for total, weight, is_new, i in zip(
        sums, weights, recorded, floating, strict=True
      )
    ]
  )


def _recorded(record, values, x) -> list[bool]:
  """Tells which statistics do not come out as the very ones that went in."""
  with jax.disable_jit():  # A jitted function hides what it passes on.
    program = jax.make_jaxpr(lambda values: record(values, x))(values).jaxpr
  recorded = [
    new is not old
    for new, old in zip(program.outvars, program.invars, strict=True)
  ]
  if not any(recorded):
    raise ValueError(
      '`apply` returned the running statistics as they were. Give one that'
      ' records them, such as `functools.partial(model.apply, train=True)`.'
    )
  return recorded


def _is_floating(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
