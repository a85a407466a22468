"""Symmetric integer grids: zero is on them."""

import jax
import jax.numpy as jnp


def scales(
  kernel: jax.Array, alive: jax.Array, bits: int, group: int
) -> jax.Array:
  """Returns the scale of each weight: by output, for int4 also by group."""
  depth, width = kernel.shape
  size = jnp.where(alive, jnp.abs(kernel), 0.0)
  group = min(group, depth) if bits == 4 else depth
  more = -depth % group
  groups = jnp.pad(size, ((0, more), (0, 0))).reshape(-1, group, width)
  largest = groups.max(1, keepdims=True)
  found = jnp.where(largest > 0, largest / _top(bits), 1.0)
  return jnp.broadcast_to(found, groups.shape).reshape(-1, width)[:depth]


def rounded(x: jax.Array, scale: jax.Array, bits: int) -> jax.Array:
  """Rounds to the nearest integer times the scale."""
  return jnp.clip(jnp.round(x / scale), -_top(bits), _top(bits)) * scale


def _top(bits: int) -> int:
  return 2 ** (bits - 1) - 1
