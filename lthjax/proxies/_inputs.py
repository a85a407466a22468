"""Models and batches as proxies take them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import _checks

Apply = Callable[[chex.ArrayTree, jax.Array], jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]

cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


class Batch(NamedTuple):
  """Inputs, and labels if there are any."""

  x: jax.Array
  labels: jax.Array | None


def as_batch(batch: Any) -> Batch:
  """Returns inputs and labels, or raises unless these are two."""
  if not isinstance(batch, tuple) or len(batch) != 2:
    raise ValueError(
      f'The batch was {_checks.describe(batch)}, but must be a pair of inputs'
      ' and labels: `(x, labels)`, or `(x, None)` for proxies without a loss.'
    )
  x, labels = batch
  _checks.array('inputs', x)
  if jnp.ndim(x) < 2:
    raise ValueError(
      f'The inputs have shape {jnp.shape(x)}, but need a first axis of examples'
      ' and at least one more. Put a single example into a batch: `x[None]`.'
    )
  return Batch(jnp.asarray(x), labels)


def as_labelled(batch: Any) -> tuple[jax.Array, jax.Array]:
  """Returns inputs and labels, or raises if there are no labels."""
  x, labels = as_batch(batch)
  if labels is None:
    raise ValueError(
      'The batch has no labels, but this proxy uses a loss. Give `(x, labels)`,'
      ' or use a proxy without one: `jacob_cov`, `naswot`, `synflow` or `zen`.'
    )
  _checks.array('labels', labels)
  if jnp.shape(labels)[:1] != x.shape[:1]:
    raise ValueError(
      f'The inputs have shape {x.shape}, but labels of shape'
      f' {jnp.shape(labels)}: both need one entry per example.'
    )
  return x, jnp.asarray(labels)


def check_outputs(apply: Apply, params: chex.ArrayTree, x: Any) -> None:
  """Raises unless the model returns one array with one row per example."""
  _checks.function('apply', apply, 'apply(params, x)')
  found = _checks.evaluated('apply(params, x)', apply, params, x)
  good = hasattr(found, 'dtype') and jnp.issubdtype(found.dtype, jnp.floating)
  if good and found.ndim > 1 and found.shape[0] == x.shape[0]:
    return
  raise ValueError(
    f'`apply(params, x)` returned {_checks.describe(found)} for x of shape'
    f' {x.shape}, but must return a single floating-point array with one row'
    ' per example. Drop other results:'
    ' `lambda params, x: model.apply(params, x)[0]`.'
  )


def mean_loss(
  apply: Apply, loss: Loss
) -> Callable[[chex.ArrayTree, tuple[jax.Array, jax.Array]], jax.Array]:
  """Returns the mean loss as a function of params and a batch."""
  _checks.function('loss', loss, 'loss(logits, labels)')

  def of_batch(params, batch):
    x, labels = batch
    return jnp.mean(loss(apply(params, x), labels))

  return of_batch
