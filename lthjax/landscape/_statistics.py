"""Batch statistics, recomputed for networks between trained ones."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.landscape import _pairs

Apply = Callable[[chex.ArrayTree, chex.ArrayTree, Any], tuple[Any, Any]]


def batch_statistics(
  apply: Apply,
  params: chex.ArrayTree,
  model_state: chex.ArrayTree,
  batches: Any,
) -> Any:
  """Recomputes the running statistics of BatchNorm from data.

  Between two trained networks neither network's statistics are right, nor is
  their mean: activations of averaged weights vary less. All batches have equal
  weight; the old statistics are discarded. A variance is the mean of the
  batches' variances, as in training, so use batches of the training size.

  The momentum need not be known: a running average is ``m * old + (1 - m) *
  new``, and two old values determine ``m``. Compiled, the second evaluation is
  free, because activations do not depend on the statistics.

  Args:
    apply: ``apply(params, model_state, x) -> (outputs, model_state)`` in
      training mode, such as ``functools.partial(model.apply, train=True)``.
    params: params of the network.
    model_state: any state of the right structure. Its floating-point leaves are
      running averages; all other leaves, and those that ``apply`` does not
      change, are kept.
    batches: tree of arrays with a leading axis of batches, for instance images
      of shape ``(batches, batch, height, width, channels)``.

  Returns:
    The model state of these params. A state without floating-point leaves is
    returned unchanged; the data is not read.

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
  _check_batches(batches)
  # By shapes alone: nothing is computed yet.
  first = jax.tree.map(lambda x: x[0], batches)
  call = 'apply(params, model_state, batch)'
  found = _checks.evaluated(call, apply, params, model_state, first)
  _check_apply(found, model_state)

  def with_statistics(values):
    new = leaves.copy()
    for i, value in zip(floating, values, strict=True):
      new[i] = value
    return structure.unflatten(new)

  def record(values, x):
    new = jax.tree.leaves(apply(params, with_statistics(values), x)[1])
    return [new[i] for i in floating]

  # Sums over batches need more precision than bfloat16 statistics have.
  zeros = [jnp.zeros_like(_pairs.widened(leaves[i])) for i in floating]
  recorded = _recorded(record, zeros, first)

  def add(sums, x):
    # Two evaluations solve `m * old + (1 - m) * new` for m and new.
    fresh = record(zeros, x)  # (1 - m) * new
    # With an old value of the same size as the new one, m is hardly rounded.
    olds = [jnp.where(f == 0, 1, f) for f in fresh]
    kept = [
      (new - f) / old
      for new, f, old in zip(record(olds, x), fresh, olds, strict=True)
    ]
    seen = fresh, [1 - m for m in kept]
    return jax.tree.map(lambda s, x: s + x.astype(s.dtype), sums, seen), None

  (sums, weights), _ = jax.lax.scan(add, (zeros, zeros), batches)
  return with_statistics(
    [
      (total / weight).astype(jnp.result_type(leaves[i]))
      if is_new
      else leaves[i]
      for total, weight, is_new, i in zip(
        sums, weights, recorded, floating, strict=True
      )
    ]
  )


def _check_batches(batches: Any) -> None:
  """Raises unless batches are arrays of one leading length, at least 1."""
  one_by_one = isinstance(batches, Iterator)
  leaves: list[Any] = [batches] if one_by_one else jax.tree.leaves(batches)
  sizes = {len(x) if getattr(x, 'shape', ()) else 0 for x in leaves} or {0}
  if len(sizes) > 1 or 0 in sizes:
    held = ', '.join(map(_checks.describe, leaves)) or 'no array'
    raise ValueError(
      '`batches` must be a tree of arrays with the same leading axis of'
      f' batches, at least one, but held {held}. Stack batches of equal size,'
      ' as in `jnp.stack(list_of_images)`.'
    )


def _check_apply(returned: Any, model_state: chex.ArrayTree) -> None:
  """Raises unless `apply` returned outputs and a state like the one given."""
  pair = isinstance(returned, tuple | list)
  if not pair or len(returned) != 2:
    what = f'{len(returned)} things' if pair else 'one thing'
    raise ValueError(
      f'`apply` must return `(outputs, model_state)`, but returned {what}. Give'
      ' one that records statistics, such as `functools.partial(model.apply,'
      ' train=True)`.'
    )
  old, new = trees.by_name(model_state), trees.by_name(returned[1])
  faults = [f'{n} is missing' for n in old if n not in new]
  faults += [f'{n} is new' for n in new if n not in old]
  faults += [
    f'{n or "the array"} has shape {_shape(new[n])}, not {_shape(x)}'
    for n, x in old.items()
    if n in new and _shape(new[n]) != _shape(x)
  ]
  if not faults and list(old) != list(new):
    faults = ['its leaves have another order']
  refuse(
    faults,
    '`apply` returned another model state than it was given: {}. Give a'
    ' `model_state` of the same model.',
  )


def _recorded(record, values, x) -> list[bool]:
  """Returns which statistics ``apply`` changes."""
  with jax.disable_jit():  # A jitted function hides what it passes through.
    program = jax.make_jaxpr(lambda values: record(values, x))(values).jaxpr
  recorded = [
    new is not old
    for new, old in zip(program.outvars, program.invars, strict=True)
  ]
  if not any(recorded):
    raise ValueError(
      '`apply` returned the running statistics unchanged. Give one that records'
      ' them, such as `functools.partial(model.apply, train=True)`.'
    )
  return recorded


def _shape(leaf: Any) -> tuple[int, ...] | None:
  return None if leaf is None else jnp.shape(leaf)


def _is_floating(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
