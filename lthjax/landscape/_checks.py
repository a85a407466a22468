"""What two networks must have in common."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import trees


def check_alike(a: chex.ArrayTree, b: chex.ArrayTree) -> dict[str, Any]:
  """Raises unless two networks have the same leaves; returns the second's."""
  if faults := differences(a, b):
    raise ValueError(
      f'The two networks differ: {"; ".join(faults)}. There are weights between'
      ' networks of one structure only: give two of the same model, and leave'
      ' out what is no array of floating point numbers.'
    )
  return trees.by_name(b)


def differences(a: chex.ArrayTree, b: chex.ArrayTree) -> list[str]:
  """Tells what keeps two networks from being on one line."""
  first, second = trees.by_name(a), trees.by_name(b)
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
      faults.append(f'{name} is of dtype {jnp.result_type(x)}, not floating')
    elif jnp.result_type(x) != jnp.result_type(y):
      faults.append(
        f'{name} has dtypes {jnp.result_type(x)} and {jnp.result_type(y)}'
      )
  return faults


def widened(x: Any) -> jax.Array:
  """A leaf in single precision at least, to be summed or subtracted."""
  return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def map_pair(f, a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Maps ``f(x, y)`` over the leaves of two networks, matched by name."""
  others = check_alike(a, b)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: f(x, others[trees.path_name(path)]), a
  )
