"""Arrays that are computed where they are needed.

What goes into a branch of a program is in memory as a whole; what the branch
computes from arrays that are there anyway is there for as long as it is read.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


class Late:
  """An array that is computed where it is needed, inside a branch.

  Attributes:
    like: an array of the same shape and placement.
    make: computes it, or several arrays like it.
    cheap: whether it may be computed several times.
    true: what XLA does not know to be true.
    dtype: type of what is computed; that of ``like`` if it is not given.
  """

  def __init__(
    self,
    like: Any,
    make: Callable[[], Any],
    *,
    cheap: bool = False,
    true: Any = None,
    dtype: Any = None,
  ):
    self.like, self.make, self.cheap, self.true = like, make, cheap, true
    self.shape, self.size, self.ndim = like.shape, like.size, like.ndim
    self.dtype = dtype or like.dtype

  def map(self, f: Callable[[jax.Array], jax.Array]) -> 'Late':
    """Applies a function that keeps the shape, late as well."""
    dtype = jax.eval_shape(f, jax.ShapeDtypeStruct(self.shape, self.dtype))
    return Late(
      self.like,
      lambda: f(self.make()),
      cheap=self.cheap,
      true=self.true,
      dtype=dtype.dtype,
    )


def like(x: Any) -> Any:
  """Returns an array of the same shape and placement."""
  return x.like if isinstance(x, Late) else x


def now(x: Any) -> Any:
  """Computes an array that is late."""
  return x.make() if isinstance(x, Late) else x


def alike(x: Any, array: jax.Array) -> Any:
  """Returns an array, for `apart` if another one is late."""
  return (
    Late(array, lambda: array, true=x.true) if isinstance(x, Late) else array
  )


def apart(f: Callable[[jax.Array], jax.Array], x: Any) -> jax.Array:
  """Calls ``f(x)``; if an array is late, in a branch of its own.

  XLA then keeps nothing but the result, even if the array is needed again.
  """
  if not isinstance(x, Late) or x.true is None:
    return f(now(x))

  def make():
    return f(x.make())

  result = jax.eval_shape(make)
  return jax.lax.cond(
    x.true, make, lambda: jnp.zeros(result.shape, result.dtype)
  )
