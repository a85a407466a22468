"""Checks of probabilities, labels and groups."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees

# Sums of probabilities in half precision are this far from one.
_TOLERANCE = {2: 2e-2}


def probabilities(x: Any, name: str = 'probabilities') -> np.ndarray:
  """Returns probabilities ``[..., examples, classes]`` in double precision."""
  found = _concrete(name, x)
  if not jnp.issubdtype(found.dtype, jnp.floating) or found.ndim < 2:
    wanted = 'be an array of floats, [..., examples, classes]'
    raise _checks.wrong_type(name, x, wanted)
  if 0 in found.shape:
    wanted = 'have at least one example and one class'
    raise _checks.wrong_value(name, x, wanted)
  exact = found.astype(np.float64)
  sums = exact.sum(-1)
  wrong = ~(np.abs(sums - 1) <= _TOLERANCE.get(found.dtype.itemsize, 1e-3))
  wrong |= (exact < 0).any(-1)
  if wrong.any():
    place = tuple(np.argwhere(wrong)[0].tolist())
    row = np.array2string(exact[place][:4], precision=3)
    raise ValueError(
      f'`{name}` must be probabilities over the last axis, which are not'
      f' negative and sum to one, but those of {wrong.sum():,} of'
      f' {wrong.size:,} examples do not: {name}{list(place)} is {row} and sums'
      f' to {sums[place]:.4g}. For logits, use `jax.nn.softmax(logits)`.'
    )
  return exact


def smallest(x: Any) -> float:
  """The precision of probabilities: what stands for a probability of zero."""
  return float(jnp.finfo(x.dtype).eps)


def labels(
  x: Any, like: np.ndarray | None = None, name: str = 'labels'
) -> np.ndarray:
  """Returns labels ``[examples]``, one for each row of probabilities."""
  found = _concrete(name, x)
  if not jnp.issubdtype(found.dtype, jnp.integer) or found.ndim != 1:
    raise _checks.wrong_type(name, x, 'be an array of integers, [examples]')
  if like is not None:
    examples, classes = like.shape[-2:]
    same_length(name, len(found), examples, 'Give each of them one label.')
    if found.min() < 0 or found.max() >= classes:
      raise ValueError(
        f'`{name}` had classes from {found.min()} to {found.max()}, but there'
        f' are probabilities of {classes}, counted from 0.'
      )
  return found.astype(np.int64)


def groups(x: Any, examples: int, name: str = 'groups') -> np.ndarray:
  """Returns groups ``[examples]``, which are integers, bools or strings."""
  if isinstance(x, list | tuple):
    kinds = {type(item) for item in x}
    found = np.asarray(x) if len(kinds) == 1 and kinds <= {int, str} else None
  else:
    key = jnp.issubdtype(getattr(x, 'dtype', bool), jax.dtypes.prng_key)
    arrays = isinstance(x, jax.Array | np.ndarray) and not key
    found = _concrete(name, x, any_kind=True) if arrays else None
  if found is None or found.ndim != 1 or found.dtype.kind not in 'biuU':
    raise _checks.wrong_type(
      name, x, 'be integers, bools or strings, one for each example'
    )
  same_length(name, len(found), examples, 'Give each of them one group.')
  return found


def alike(a: np.ndarray, b: np.ndarray, names: tuple[str, str]) -> None:
  """Raises unless two networks were asked about the same examples."""
  if a.shape[-2:] != b.shape[-2:]:
    raise ValueError(
      f'`{names[0]}` and `{names[1]}` have {_size(a)} and {_size(b)}, but must'
      ' be about the same examples and classes. Evaluate both networks on the'
      ' same data.'
    )


def same_length(name: str, length: int, examples: int, remedy: str) -> None:
  if length != examples:
    raise ValueError(
      f'`{name}` has {length:,} entries, but there are {examples:,} examples.'
      f' {remedy}'
    )


def over_seeds(function: Callable[[np.ndarray], Any], x: np.ndarray) -> Any:
  """Calls a function on each ``[examples, classes]``; keeps axes in front."""
  each = [function(one) for one in x.reshape(-1, *x.shape[-2:])]
  return np.reshape(each, (*x.shape[:-2], *np.shape(each[0])))[()]


def severities(x: Sequence[int]) -> tuple[int, ...]:
  found = _checks.integers('severities', x)
  if (
    not found
    or sorted(set(found)) != list(found)
    or not set(found) <= set(range(1, 6))
  ):
    raise _checks.wrong_value(
      'severities', x, 'be one or more of 1 to 5, in order'
    )
  return found


def _concrete(name: str, x: Any, *, any_kind: bool = False) -> np.ndarray:
  if trees.is_traced(x):
    raise TypeError(
      f'`{name}` is traced, but evaluation takes place on the host: call it'
      ' outside of `jax.jit` and `jax.vmap`.'
    )
  if not any_kind:
    _checks.array(name, x)
  if trees.is_abstract(x):
    raise _checks.wrong_type(name, x, 'be an array with values')
  return np.asarray(x)


def _size(x: np.ndarray) -> str:
  return f'{x.shape[-2]:,} examples of {x.shape[-1]} classes'
