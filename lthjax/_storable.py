"""What a checkpoint can hold: leaves that come back unchanged, and JSON."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import item, refuse


def plain(value: Any, name: str = 'metadata') -> Any:
  """Returns what JSON gives back, or names the part that it cannot hold."""
  if isinstance(value, dict):
    refuse(
      [repr(key) for key in value if not isinstance(key, str)],
      f'{name} has the key {{}}, which JSON would turn into a string. Use'
      ' strings as keys.',
      TypeError,
    )
    return {key: plain(x, f'{name}[{key!r}]') for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [plain(x, f'{name}[{i}]') for i, x in enumerate(value)]
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  value = item(value)
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise TypeError(
    f'{name} is {_checks.describe(value)}, which JSON cannot hold. Put arrays'
    ' into the tree, and numbers, strings, lists and dicts into the metadata.'
  )


def check_leaves(tree: chex.ArrayTree) -> None:
  """Raises unless every leaf comes back unchanged, and under its own name."""
  leaves = trees.prunable(tree)
  if not leaves:
    raise ValueError('A checkpoint needs arrays, but this tree has none.')
  refuse(
    _faults(leaves),
    'This tree would not come back as it is: {}. Rename such leaves, convert'
    ' them to a dtype that JAX keeps, or leave them out.',
  )


def _faults(leaves: dict[str, Any]) -> Iterator[str]:
  """Describes leaves that a checkpoint would change or confuse."""
  dotted: dict[str, str] = {}  # as orbax joins keys
  for name, leaf in leaves.items():
    other = dotted.setdefault(name.replace('/', '.'), name)
    if other != name:
      yield f'{other} and {name} have one name in a file'
    if fault := _fault(leaf) or ('' if np.size(leaf) else 'is empty'):
      yield f'{name or "the array"} {fault}'


def _fault(leaf: Any) -> str:
  """Describes what a conversion to a JAX array would change."""
  if isinstance(leaf, jax.Array):
    return ''
  if isinstance(leaf, bool | int | float | complex):
    return '' if _fits(leaf) else f'is {leaf!r}, which 32 bits cannot hold'
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None or trees.is_abstract(leaf):
    raise TypeError(
      f'A checkpoint holds arrays, but a leaf is a {type(leaf).__name__}. Put'
      ' other values into `metadata`.'
    )
  known = jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, bool)
  # NumPy counts durations as integers; its long floats and masks are its own.
  own = dtype.kind == 'm' or dtype.type in (np.longdouble, np.clongdouble)
  own |= isinstance(leaf, np.ma.MaskedArray)
  if not known or own or not dtype.isnative:
    return f'is {dtype}, of which JAX has no arrays'
  kept = jax.dtypes.canonicalize_dtype(dtype)
  return '' if kept == dtype else f'is {dtype}, which JAX makes {kept}'


def _fits(number: Any) -> bool:
  with contextlib.suppress(OverflowError):
    kept = jnp.asarray(number).item()
    return bool(kept == number or number != number)  # NaN is kept too.
  return False
