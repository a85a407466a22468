"""Sums of bools, in blocks so that no backend stores wider ones."""

import math

import jax
import jax.numpy as jnp

from lthjax import _sharding


def count_true(test: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
  """Sums bools, in blocks so small that XLA does not store wider ones."""
  keep = axes is not None
  axes = tuple(range(test.ndim)) if axes is None else axes
  shape = tuple(1 if a in axes else n for a, n in enumerate(test.shape))
  if _sharding.may_be_sharded(test):  # Anything but a scalar would be sent.
    return _count_sharded(test, axes, keep)
  if rows := _rows(test.shape, axes):
    first, last = axes[0], axes[-1]
    test = test.reshape(*shape[:first], *rows, *shape[last + 1 :])
    part = jnp.sum(test, first + 1, jnp.int8)
    wide = jnp.int16 if math.prod(rows) < 2**15 else jnp.int32
    whole = jnp.sum(part, first, wide).astype(jnp.int32)
    return whole.reshape(shape if keep else ())
  block = _block(test.shape, axes)
  if not block:
    lead, length = 0, 1
    while (
      lead < len(axes) and (length := length * test.shape[axes[lead]]) < 2**15
    ):
      lead += 1
    part = jnp.sum(test, axes[:lead], jnp.int16, keepdims=True)
    return jnp.sum(part, axes, jnp.int32, keepdims=keep)
  first, lead = axes[0], len(test.shape[: axes[0]])
  test = test.reshape(*test.shape[:first], *block)
  # A block has at most 32 entries, which XLA sums as they are made. It widens
  # their sums in the same loop, and int32 would make that twice as long.
  part = jnp.sum(test, lead + 2, jnp.int8)
  part = jnp.sum(part, lead + 1, jnp.int16)
  whole = jnp.sum(part, (lead, lead + 1), jnp.int32)
  return whole.reshape(shape if keep else ())


def _count_sharded(
  test: jax.Array, axes: tuple[int, ...], keep: bool
) -> jax.Array:
  """Sums bools, in blocks that lie on one device where types say so."""
  if not axes or _sharding.in_type(test) is None:
    return jnp.sum(test, axes, jnp.int32, keepdims=keep)
  axis = max(axes)
  length = test.shape[axis] // _sharding.along(test, axis)[1]
  entries = max((n for n in range(8, 33) if length % n == 0), default=0)
  if not length or not entries:
    return jnp.sum(test, axes, jnp.int32, keepdims=keep)
  columns = max(n for n in range(1, 65) if length // entries % n == 0)
  test = _sharding.split(test, axis, entries * columns)
  test = _sharding.split(test, axis + 1, columns)
  part = jnp.sum(test, axis + 1, jnp.int8)
  whole = jnp.sum(part, (*axes, axis + 1), jnp.int32, keepdims=keep)
  return jnp.squeeze(whole, axis + 1) if keep else whole


def _rows(
  shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, int] | None:
  """Splits neighboring axes, not the last ones, into ``(blocks, entries)``."""
  if not axes or axes[-1] + 1 == len(shape):
    return None
  if axes != tuple(range(axes[0], axes[-1] + 1)):
    return None
  size = math.prod(shape[a] for a in axes)
  # XLA would fuse a sum of at most 32 blocks with those of their entries, and
  # run down all rows for one column after the other.
  fits = [n for n in range(2, 17) if size % n == 0 and size // n > 32]
  return (size // fits[-1], fits[-1]) if fits else None


def _block(
  shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, ...] | None:
  """Splits the last axes into ``(parts, blocks, entries, columns)``."""
  if not axes or axes != tuple(range(len(shape) - len(axes), len(shape))):
    return None
  size, width = math.prod(shape[a] for a in axes), 1
  for a in reversed(axes):  # A row may be of a few axes.
    width *= shape[a] if width < 8 else 1
  if not size:
    return None
  # In blocks within a row, nothing is divided to find where an entry lies,
  # which takes longer than all else. Loops over more than 16 entries become
  # loops over vectors of entries, which are slower than over those of columns.
  within = [
    (entries, columns)
    for entries in range(8, 17)
    for columns in range(8, 33)
    if width % (entries * columns) == 0
  ]
  if within:
    entries, columns = max(
      within, key=lambda x: (x[1] % 16 == 0, x[1] % 8 == 0, x[0] * x[1], x)
    )
  elif width >= 8 and _divisor(size // width, 8, 16):
    entries, columns = _divisor(size // width, 8, 16), width
  else:
    entries = _divisor(size, 8, 32)
    if not entries:
      return None
    columns = _divisor(size // entries, 1, 64)
  size //= entries * columns
  # As many as fit an int16; XLA would fuse sums of at most 32, as above.
  blocks = _divisor(size, 33, 1023) or 1
  return size // blocks, blocks, entries, columns


def _divisor(size: int, least: int, most: int) -> int:
  """The largest divisor in a range; 0 if there is none."""
  return max((n for n in range(least, most + 1) if size % n == 0), default=0)
