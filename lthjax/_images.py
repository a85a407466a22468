"""Integers in the order of floats, which selection compares."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def order_images(
  scores: list[jax.Array], eligible: list[jax.Array] | None
) -> list[jax.Array]:
  """Signed integers in the order of the floats; invalid entries come last."""
  dtypes = {x.dtype for x in scores}
  if len(dtypes) > 1 or jnp.finfo(scores[0].dtype).bits < 8:
    # Weak types count as well: ones in bfloat16 are below a float32 of 1.001.
    dtype = functools.reduce(jnp.promote_types, map(_at_least_16_bits, dtypes))
  else:
    (dtype,) = dtypes
  images = []
  for i, x in enumerate(scores):
    valid = ~jnp.isnan(x)
    if eligible is not None:
      valid &= eligible[i]
    images.append(_order_image(x.astype(dtype), valid))
  return images


def _at_least_16_bits(dtype: Any) -> Any:
  """A type that holds all numbers of this one and can be promoted."""
  if dtype == jnp.float8_e8m0fnu:
    return jnp.float32
  return dtype if jnp.finfo(dtype).bits >= 16 else jnp.bfloat16


def _order_image(x: jax.Array, valid: jax.Array) -> jax.Array:
  bits = jnp.finfo(x.dtype).bits
  if x.dtype == jnp.float8_e8m0fnu:  # powers of two, without a sign
    image = jax.lax.bitcast_convert_type(x, jnp.uint8).astype(jnp.int16)
    return jnp.where(valid, image, jnp.iinfo(jnp.int16).min)
  dtype = jnp.dtype(f'int{bits}')
  low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
  image = jax.lax.bitcast_convert_type(x, dtype)
  # -0.0 maps to 0 and ties with 0.0. Do not test for zero here: LLVM makes that
  # a test on floats, for which denormals are zero too.
  image = jnp.where(image < 0, -(image & high), image)
  return jnp.where(valid, image, low)  # -inf maps above the lowest integer
