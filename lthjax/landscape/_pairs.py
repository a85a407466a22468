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
  for name in first:
    if name not in second:
      continue
    x, y = first[name], second[name]
    name = name or 'the array'
    if (x is None) != (y is None):
      faults.append(f'{name} is None in one of them')
    elif x is None:
      continue
    elif jnp.shape(x) != jnp.shape(y):
      faults.append(f'{name} has shapes {jnp.shape(x)} and {jnp.shape(y)}')
    elif not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
      faults.append(f'{name} has dtype {jnp.result_type(x)}, not floating')
    elif jnp.result_type(x) != jnp.result_type(y):
      faults.append(
        f'{name} has dtypes {jnp.result_type(x)} and {jnp.result_type(y)}'
      )
  return faults


def _arrays(network: chex.ArrayTree, what: str) -> dict[str, Any]:
  """Returns the leaves by name: arrays, Python floats or `None`."""
  leaves = trees.by_name(network)
  as_arrays = {
    name: np.asarray(x) if name and isinstance(x, float) else x
    for name, x in leaves.items()
  }
  _checks.check_arrays(as_arrays, what)
  return leaves


def widened(x: Any) -> jax.Array:
  """Returns a leaf in at least single precision, for sums and differences."""
  return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def map_pair(f, a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Maps ``f(x, y)`` over the leaves of two networks, matched by name."""
  others = check_alike(a, b)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: f(x, others[trees.path_name(path)]), a
  )
