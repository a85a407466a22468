"""Two networks, leaf by leaf: differences, checks and maps."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse


def check_alike(a: chex.ArrayTree, b: chex.ArrayTree) -> dict[str, Any]:
  """Returns the leaves of the second; raises unless both have the same."""
  refuse(
    differences(a, b),
    'The two networks differ: {}. Interpolation needs two networks of the same'
    ' structure: give two of one model, without leaves that are not'
    ' floating-point arrays.',
  )
  return trees.by_name(b)


def differences(a: chex.ArrayTree, b: chex.ArrayTree) -> list[str]:
  """Lists the leaves that keep two networks from being interpolated."""
  first, second = _arrays(a, 'params_a'), _arrays(b, 'params_b')
  faults = [f'{n} is in the first only' for n in first if n not in second]
  faults += [f'{n} is in the second only' for n in second if n not in first]
  both = [name for name in first if name in second]
  return faults + [
    f'{name or "the array"} {fault}'
    for name in both
    if (fault := _difference(first[name], second[name]))
  ]


def _difference(x: Any, y: Any) -> str:
  """Describes why two leaves cannot be interpolated, if they cannot."""
  if x is None or y is None:
    return '' if x is y else 'is None in one of them'
  types = [jnp.result_type(leaf) for leaf in (x, y)]
  if jnp.shape(x) != jnp.shape(y):
    return f'has shapes {jnp.shape(x)} and {jnp.shape(y)}'
  if not jnp.issubdtype(types[0], jnp.inexact):
    return f'has dtype {types[0]}, not floating'
  return '' if types[0] == types[1] else f'has dtypes {types[0]} and {types[1]}'


def _arrays(network: chex.ArrayTree, what: str) -> dict[str, Any]:
  """Returns the leaves by name: arrays, Python floats or `None`."""
  leaves = trees.by_name(network)
  # Python floats are scalar leaves, but a bare one is not a network.
  as_arrays = {
    name: np.asarray(x) if name and isinstance(x, float) else x
    for name, x in leaves.items()
  }
  _checks.check_arrays(as_arrays, what)
  return leaves


def widened(x: Any) -> jax.Array:
  """Returns a leaf in at least single precision, for sums and differences."""
  return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def map_pair(f, a: chex.ArrayTree, b: chex.ArrayTree) -> Any:
  """Maps ``f(x, y)`` over the leaves of two networks, matched by name."""
  others = check_alike(a, b)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: f(x, others[trees.path_name(path)]), a
  )
