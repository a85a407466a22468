"""Errors that name everything that is wrong at once, and values in them."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

# A name, perhaps with a remark in parentheses.
_NAME = re.compile(r'\S+( \(.*\))?')


def refuse(
  faults: Iterable[str], sentence: str, error: type[Exception] = ValueError
) -> None:
  """Raises if there are faults; all of them replace ``{}`` in the sentence.

  Names are joined by commas, clauses by semicolons. The empty name, that of a
  tree that is a single array, reads "the array".
  """
  if found := list(faults):
    names = all(not fault or _NAME.fullmatch(fault) for fault in found)
    listed = (', ' if names else '; ').join(x or 'the array' for x in found)
    raise error(sentence.replace('{}', listed, 1))


def differences(
  there: Mapping[str, Any], here: Mapping[str, Any], where: str = 'here'
) -> list[str]:
  """Describes the entries in which two tables differ, in order of names."""
  return [
    f'{name or "the array"}: {there.get(name, "nothing")} there,'
    f' {here.get(name, "nothing")} {where}'
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name)
  ]


def describe(x: Any) -> str:
  """Names the type of a value, with dtype and shape where it has them."""
  if hasattr(x, 'dtype') and hasattr(x, 'shape'):
    return f'{x.dtype}[{", ".join(map(str, x.shape))}]'
  kind = type(x).__name__
  return f'{"an" if kind[0] in "aeiouAEIOU" else "a"} {kind}'


def item(x: Any) -> Any:
  """Returns a scalar of NumPy or JAX as Python's; anything else as it is."""
  scalar = getattr(x, 'shape', None) == () and hasattr(x, 'item')
  # Keys have no items, and NumPy makes integers of some durations.
  if not scalar or not isinstance(x.dtype, np.dtype) or x.dtype.kind in 'mM':
    return x
  return x.item()


def spell(x: Any) -> str:
  """Returns the value as Python spells it, or its type where that is long."""
  if hasattr(x, 'dtype') and np.shape(x):
    return describe(x)
  text = repr(x)
  return text if len(text) <= 60 else describe(x)


def evaluated(call: str, f: Any, *args: Any) -> Any:
  """Returns the shapes that a function returns, where it takes arguments."""
  try:
    return jax.eval_shape(f, *args)
  except Exception as error:
    given = ', '.join(map(describe, jax.tree.leaves(args[1:])))
    raise ValueError(
      f'`{call}` failed on {given or "no arrays"}, with {type(error).__name__}:'
      f' {error}. Pass what the function takes.'
    ) from error


def takes(f: Any, *args: Any) -> bool:
  """Returns whether a function can be called like this, as far as it says."""
  try:
    inspect.signature(f).bind(*args)
  except TypeError:
    return False
  except ValueError:  # Some callables do not say.
    pass
  return True


def nothing(leaves: Mapping[str, Any]) -> str:
  """Says why leaves hold nothing."""
  return 'it was None' if list(leaves) == [''] else 'it has no array'


def percent(value: float) -> str:
  """A hint, if a share looks like a percentage."""
  return f'. Give {value:g} % as {value / 100:g}' if 1 < value < 100 else ''
