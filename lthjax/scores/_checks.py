"""Checks of the losses, models and batches that criteria take."""

from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees


def check_params(params: chex.ArrayTree) -> None:
  """Raises unless gradients can be taken by all params."""
  leaves = _checks.arrays(params, 'params')
  wrong = [
    f'{name or "it"} is {_checks.describe(x)}'
    for name, x in leaves.items()
    if x is not None and not jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  if wrong:
    raise TypeError(
      f'`params` must be floating point, as gradients need it, but'
      f' {"; ".join(wrong)}. Leave such leaves out, and let the loss close over'
      ' them.'
    )


def check_loss(
  loss: Callable[..., Any],
  params: chex.ArrayTree,
  batch: Any,
  **options: Any,
) -> None:
  """Raises unless the loss of the batch is a scalar; computes nothing."""
  _checks.function('loss', loss, 'loss(params, batch)')
  try:
    found = jax.eval_shape(loss, params, batch, **options)
  except Exception as error:
    given = ''.join(f', {name}=...' for name in options)
    raise ValueError(
      f'`loss(params, batch{given})` failed on a batch of {describe(batch)},'
      f' with {type(error).__name__}: {error}. Pass batches with all that the'
      ' loss reads, labels included, and a loss that takes these arguments.'
    ) from error
  if not _is_floating(found) or found.shape != ():
    raise ValueError(
      f'`loss(params, batch)` returned {describe(found)}, but must return one'
      ' floating-point scalar. Take the mean over the examples, and drop any'
      ' other outputs: `lambda *args: loss(*args)[0]`.'
    )


def check_outputs(
  apply: Callable[..., Any], params: chex.ArrayTree, x: jax.ShapeDtypeStruct
) -> None:
  """Raises unless the model takes ``x`` and returns an array; computes none."""
  _checks.function('apply', apply, 'apply(params, x)')
  try:
    found = jax.eval_shape(apply, params, x)
  except Exception as error:
    raise ValueError(
      f'`apply(params, x)` failed on x of shape {x.shape}, with'
      f' {type(error).__name__}: {error}. `input_shape` was {x.shape[1:]}, but'
      ' must be the shape of one example, without the batch axis.'
    ) from error
  if not _is_floating(found):
    raise ValueError(
      f'`apply(params, x)` returned {describe(found)}, but must return a single'
      ' floating-point array. Select one: `lambda params, x:'
      ' model.apply(params, model_state, x)[0]`.'
    )


def check_finite(scores: chex.ArrayTree, what: str) -> chex.ArrayTree:
  """Returns the scores, or raises naming leaves that hold NaN or infinity."""
  bad = {
    name: jnp.sum(~jnp.isfinite(x), dtype=jnp.int32)
    for name, x in trees.by_name(scores).items()
    if x is not None
  }
  if (known := trees.concrete(bad)) is None:
    return scores
  if found := [f'{n} ({x})' for n, x in known.items() if x]:
    raise ValueError(
      f'{what} scores are not finite in {", ".join(found)}. Look at the params,'
      ' the inputs and the loss there: an example or weight is NaN or too'
      ' large, or the batch is empty.'
    )
  return scores


def as_batches(batches: Iterable[Any]) -> list[Any]:
  """Returns the batches as a list, or raises if they are a single one."""
  single = isinstance(batches, dict) or hasattr(batches, '_fields')
  if single or hasattr(batches, 'dtype'):
    raise ValueError(
      f'`batches` was one batch of {describe(batches)}, but must be a sequence'
      ' of batches. Put it into a list: `[batch]`.'
    )
  if not isinstance(batches, Iterable):
    raise TypeError(
      f'`batches` was {_checks.describe(batches)}, but must be a sequence of'
      ' batches.'
    )
  if not (found := list(batches)):
    raise ValueError('`batches` was empty, but at least one batch is needed.')
  return found


def check_not_empty(batch: Any) -> None:
  """Raises if the first axis of all arrays has length zero."""
  if _lengths(batch) == {0}:
    raise ValueError(
      f'A batch of {describe(batch)} has no examples, but at least one is'
      ' needed. Leave empty batches out.'
    )


def examples(batch: Any) -> int:
  """Counts the examples: the length of the first axis of the arrays."""
  check_not_empty(batch)
  sizes = _lengths(batch)
  if len(sizes) != 1:
    raise ValueError(
      f'The number of examples in a batch of {describe(batch)} is ambiguous:'
      ' the first axis of all its arrays must have the same length. Move other'
      ' arrays out of the batch.'
    )
  return sizes.pop()


def describe(tree: Any) -> str:
  """Names the leaves of a tree with their dtypes and shapes."""

  def spell(name, x):
    kind = type(x).__name__
    if hasattr(x, 'dtype'):
      kind = f'{x.dtype}[{", ".join(map(str, x.shape))}]'
    return f'{name}: {kind}' if name else kind

  leaves = [spell(name, x) for name, x in trees.by_name(tree).items()]
  return ', '.join(leaves) or f'an empty {type(tree).__name__}'


def _lengths(batch: Any) -> set[int]:
  return {np.shape(x)[0] for x in jax.tree.leaves(batch) if np.ndim(x)}


def _is_floating(x: Any) -> bool:
  return isinstance(x, jax.ShapeDtypeStruct) and jnp.issubdtype(
    x.dtype, jnp.floating
  )
