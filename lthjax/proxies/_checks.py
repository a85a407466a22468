"""Checks of models and batches that proxies share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

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
    what = f'a {type(batch).__name__}'
    if isinstance(batch, tuple):
      what += f' of {len(batch)}'
    raise ValueError(
      f'The batch was {what}, but must be a pair of inputs and labels. Give'
      ' `(x, labels)`, or `(x, None)` to proxies that need no labels.'
    )
  x, labels = batch
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
      'The batch has no labels, but this proxy uses the gradient of a loss.'
      ' Give `(x, labels)`, or use a proxy that needs none: `jacob_cov`,'
      ' `naswot`, `synflow` or `zen`.'
    )
  if jnp.shape(labels)[:1] != x.shape[:1]:
    raise ValueError(
      f'There are inputs of shape {x.shape} but labels of shape'
      f' {jnp.shape(labels)}: both need the same first axis, one entry per'
      ' example.'
    )
  return x, jnp.asarray(labels)


def check_outputs(apply: Apply, params: chex.ArrayTree, x: Any) -> None:
  """Raises unless the model returns one array with one row per example."""
  found = jax.eval_shape(apply, params, x)
  good = hasattr(found, 'dtype') and jnp.issubdtype(found.dtype, jnp.floating)
  if good and found.ndim > 1 and found.shape[0] == x.shape[0]:
    return
  what = f'a {type(found).__name__}'
  if hasattr(found, 'dtype'):
    what = f'{found.dtype} of shape {found.shape}'
  raise ValueError(
    f'`apply(params, x)` returned {what} for x of shape {x.shape}, but must'
    ' return a single floating-point array with one row per example. Drop'
    ' other results: `lambda params, x: model.apply(params, x)[0]`.'
  )


def mean_loss(
  apply: Apply, loss: Loss
) -> Callable[[chex.ArrayTree, tuple[jax.Array, jax.Array]], jax.Array]:
  """Makes the loss of a batch from that of logits and labels."""

  def of_batch(params, batch):
    x, labels = batch
    return jnp.mean(loss(apply(params, x), labels))

  return of_batch
