"""Checks of the losses, models and batches that criteria take."""

from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse


def check_params(params: chex.ArrayTree) -> None:
  """Raises unless gradients can be taken by all params."""
  leaves = _checks.arrays(params, 'params')
  refuse(
    [
      f'{name or "it"} is {_checks.describe(x)}'
      for name, x in leaves.items()
      if x is not None and not jnp.issubdtype(x.dtype, jnp.inexact)
    ],
    '`params` must be floating point, as gradients need it, but {}. Leave such'
    ' leaves out, and let the loss close over them.',
    TypeError,
  )


def check_loss(
  loss: Callable[..., Any],
  params: chex.ArrayTree,
  batch: Any,
  **options: Any,
) -> None:
  """Raises unless the loss of the batch is a scalar; computes nothing."""
  _checks.function('loss', loss, 'loss(params, batch)')
  given = ''.join(f', {name}=...' for name in options)
  found = _outputs(
    loss,
    params,
    batch,
    options=options,
    call=f'loss(params, batch{given})` failed on a batch of {describe(batch)}',
    remedy='Pass batches with all that the loss reads, labels included, and a'
    ' loss that takes these arguments.',
  )
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
  found = _outputs(
    apply,
    params,
    x,
    call=f'apply(params, x)` failed on x of shape {x.shape}',
    remedy=f'`input_shape` was {x.shape[1:]}, but must be the shape of one'
    ' example, without the batch axis.',
  )
  if not _is_floating(found):
    raise ValueError(
      f'`apply(params, x)` returned {describe(found)}, but must return a single'
      ' floating-point array. Select one: `lambda params, x:'
      ' model.apply(params, model_state, x)[0]`.'
    )


def _outputs(
  f: Callable[..., Any],
  *args: Any,
  options: dict[str, Any] | None = None,
  call: str,
  remedy: str,
) -> Any:
  """Returns the shapes that a function returns, or says how it failed."""
  try:  # JAX remembers the function: a new partial would be traced again.
    return jax.eval_shape(f, *args, **(options or {}))
  except Exception as error:
    kind = type(error).__name__
    raise ValueError(f'`{call}, with {kind}: {error}. {remedy}') from error


def check_finite(scores: chex.ArrayTree, what: str) -> Any:
  """Returns the scores, or raises naming leaves that hold NaN or infinity."""
  # Only one number per leaf goes to the host.
  bad = {
    name: jnp.sum(~jnp.isfinite(x), dtype=jnp.int32)
    for name, x in trees.by_name(scores).items()
    if x is not None
  }
  refuse(
    [f'{n} ({x})' for n, x in (trees.concrete(bad) or {}).items() if x],
    f'{what} scores are not finite in {{}}. Look at the params, the inputs and'
    ' the loss there: an example or weight is NaN or too large, or the batch is'
    ' empty.',
  )
  return scores


def losses(
  loss: Callable[..., Any],
  params: chex.ArrayTree,
  batches: Iterable[Any],
  **options: Any,
) -> list[Any]:
  """Returns the batches as a list, if the loss of each has gradients."""
  check_params(params)
  found = as_batches(batches)
  for batch in found:
    check_loss(loss, params, batch, **options)
  return found


def as_batches(batches: Iterable[Any]) -> list[Any]:
  """Returns the batches as a list, or raises if they are a single one."""
  single = isinstance(batches, dict) or hasattr(batches, '_fields')
  if single or hasattr(batches, 'dtype'):
    raise ValueError(
      f'`batches` was one batch of {describe(batches)}, but must be a sequence'
      ' of batches. Put it into a list: `[batch]`.'
    )
  if not isinstance(batches, Iterable):
    raise _checks.wrong_type('batches', batches, 'be a sequence of batches')
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

  def kind(x):
    return _checks.describe(x) if hasattr(x, 'dtype') else type(x).__name__

  leaves = [
    f'{name}: {kind(x)}' if name else kind(x)
    for name, x in trees.by_name(tree).items()
  ]
  return ', '.join(leaves) or f'an empty {type(tree).__name__}'


def _lengths(batch: Any) -> set[int]:
  return {np.shape(x)[0] for x in jax.tree.leaves(batch) if np.ndim(x)}


def _is_floating(x: Any) -> bool:
  return trees.is_abstract(x) and jnp.issubdtype(x.dtype, jnp.floating)
