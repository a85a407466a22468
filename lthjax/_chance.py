"""Random numbers that XLA can make where they are read, and need not store."""

import math

import chex
import jax
import jax.numpy as jnp

from lthjax import _sharding, trees

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def uniform(key: chex.PRNGKey, like: jax.Array) -> jax.Array:
  """Draws the bits of `jax.random.uniform` in the shape of an array.

  On a CPU, JAX runs Threefry as a loop over arrays, which takes four times the
  memory of the numbers. Written as operations on single entries, it fuses with
  elementwise work that reads the numbers, which may then be drawn once more
  instead of kept.
  """
  single = trees.is_traced(like) and not _sharding.may_be_sharded(like)
  if single and _is_threefry(key) and like.size < 2**32:
    bits = _threefry(jax.random.key_data(key), like.shape)
    # The 23 upper bits are the fraction of a number in [1, 2).
    bits = (bits >> 9) | jnp.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - 1
  return _sharding.uniform(key, like)


def _is_threefry(key: chex.PRNGKey) -> bool:
  """Whether the bits of an entry depend on the key and its index alone."""
  if not getattr(jax.config, 'jax_threefry_partitionable', True):
    return False
  return str(jax.random.key_impl(key)) == 'threefry2x32'


def _threefry(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Encrypts the flat index of each entry by Threefry-2x32 of 20 rounds.

  Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
  """
  keys = key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY)
  x = jnp.full(shape, keys[0])  # The upper word of the index is zero.
  y = _index(shape) + keys[1]
  for i in range(5):
    for bits in _ROTATIONS[i % 2]:
      x += y
      y = x ^ ((y << bits) | (y >> (32 - bits)))
    x += keys[(i + 1) % 3]
    y += keys[(i + 2) % 3] + jnp.uint32(i + 1)
  return x ^ y


def _index(shape: tuple[int, ...]) -> jax.Array:
  """The flat index of each entry."""
  index = jnp.zeros(shape, jnp.uint32)
  for axis in range(len(shape)):
    stride = jnp.uint32(math.prod(shape[axis + 1 :]))
    index += stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
  return index
