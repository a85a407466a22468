"""Arrays that are created or split in the sharding of others."""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lthjax import trees


def in_type(x: jax.Array) -> NamedSharding | None:
  """Returns the sharding that is part of an array's type, if it has one."""
  if isinstance(x, jax.ShapeDtypeStruct):
    return None
  sharding = getattr(jax.typeof(x), 'sharding', None)
  if not isinstance(sharding, NamedSharding) or not any(sharding.spec):
    return None
  return sharding


def may_be_sharded(x: jax.Array) -> bool:
  """Whether an array lies on a mesh that the program does not split by hand."""
  mesh = jax.typeof(x).sharding.mesh
  return not mesh.empty and any(
    kind != AxisType.Manual for kind in mesh.axis_types
  )


def is_explicit(x: jax.Array) -> bool:
  """Whether the type of an array on a mesh says where all of it lies."""
  mesh = jax.typeof(x).sharding.mesh
  return not mesh.empty and all(
    kind == AxisType.Explicit for kind in mesh.axis_types
  )


def devices(x: jax.Array) -> int:
  """Over how many devices the type of an array spreads it."""
  sharding = in_type(x)
  return 1 if sharding is None else _devices(sharding, _names(sharding.spec))


def along(x: Any, axis: int) -> tuple[tuple[str, ...], int]:
  """Mesh axes that an axis of an array is spread over, and their devices."""
  sharding = None if trees.is_traced(x) else getattr(x, 'sharding', None)
  if not isinstance(sharding, NamedSharding):
    sharding = in_type(x)
  if sharding is None or axis >= len(sharding.spec):
    return (), 1
  names = _names(sharding.spec[axis : axis + 1])
  return names, _devices(sharding, names)


def positions(like: jax.Array, axis: int) -> jax.Array:
  """Numbers the entries of an axis; all other axes have size one."""
  shape = tuple(n if a == axis else 1 for a, n in enumerate(like.shape))
  if (sharding := in_type(like)) is not None:
    spec = [part if a == axis else None for a, part in enumerate(sharding.spec)]
    sharding = _named(sharding, spec)
  return jax.lax.broadcasted_iota(jnp.int32, shape, axis, out_sharding=sharding)


def split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Splits an axis into groups of a size; no group is on several devices."""
  number = x.shape[axis] // size
  shape = (*x.shape[:axis], number, size, *x.shape[axis + 1 :])
  if (sharding := in_type(x)) is None:
    return x.reshape(shape)
  names = sharding.spec[axis] or ()
  names = names if isinstance(names, tuple) else (names,)
  # Mesh axes whose devices would share a group are gathered.
  while number % _devices(sharding, names):
    names = names[:-1]
  spec = [*sharding.spec]
  spec[axis : axis + 1] = [names or None, None]
  return jnp.reshape(x, shape, out_sharding=_named(sharding, spec))


def merge(x: jax.Array, like: jax.Array) -> jax.Array:
  """Undoes `split` of an array like another."""
  return jnp.reshape(x, like.shape, out_sharding=in_type(like))


def match(x: jax.Array, like: jax.Array) -> jax.Array:
  """Puts an array where another one is, as far as that is known."""
  if trees.is_traced(x, like):
    # Explicit shardings are in types, even while JAX traces; others are not.
    sharding = in_type(like)
    return x if sharding is None else jax.sharding.reshard(x, sharding)
  place = getattr(like, 'sharding', None)
  if place is None or len(place.device_set) == 1:
    return x
  return jax.device_put(x, place)


def copy_into(like: chex.ArrayTree, tree: chex.ArrayTree) -> Any:
  """Copies leaves as `trees.copy_into`, to where those of another are."""
  copies = trees.copy_into(like, tree)
  return trees.map_alive(lambda _, x, to: match(x, to), copies, like)


def pack_bits(x: jax.Array) -> jax.Array:
  """Packs bools in row-major order, on all their devices if bytes fit there."""
  if (sharding := in_type(x)) is None:
    return jnp.packbits(x.reshape(-1))
  names = _names(sharding.spec)
  # Packed in place if every device has whole bytes; otherwise gathered first.
  fits = x.size % (8 * _devices(sharding, names)) == 0
  flat = _named(sharding, [names if fits else None])
  x = jnp.reshape(x, (-1,), out_sharding=flat)
  if not fits:
    return jnp.packbits(x)
  return jnp.packbits(x.reshape(-1, 8), axis=1).reshape(-1)


def unpack_bits(packed: jax.Array, like: Any) -> jax.Array:
  """Undoes `pack_bits`, in the shape and sharding of an array or its shape."""
  size = math.prod(like.shape)
  if in_type(packed) is None:
    bits = jnp.unpackbits(packed, count=size)
  else:  # Then there are whole bytes only.
    bits = jnp.unpackbits(packed[:, None], axis=1).reshape(-1)
  mask = jnp.reshape(bits, like.shape, out_sharding=in_type(like)).astype(bool)
  sharding = getattr(like, 'sharding', None)
  if trees.is_traced(mask, like) or sharding is None:
    return mask
  return jax.device_put(mask, sharding)


def whole(x: jax.Array) -> jax.Array:
  """Gathers an array whose type has a sharding, so that it can be sorted."""
  sharding = in_type(x)
  return (
    x if sharding is None else jax.sharding.reshard(x, _named(sharding, []))
  )


def uniform(key: chex.PRNGKey, like: jax.Array) -> jax.Array:
  """Draws float32 in [0, 1) in the shape and sharding of an array."""
  return draw(jax.random.uniform, key, like, jnp.float32)


def draw(
  sample: Callable[..., jax.Array],
  key: chex.PRNGKey,
  like: jax.Array,
  dtype: Any,
) -> jax.Array:
  """Draws by ``sample(key, shape, dtype)`` in an array's shape and sharding."""
  dtype = jnp.dtype(dtype)
  # With `jax_threefry_partitionable`, numbers do not depend on the sharding.
  if trees.is_traced(like):
    return sample(key, like.shape, dtype, out_sharding=in_type(like))
  if not isinstance(like, jax.Array) or len(like.sharding.device_set) == 1:
    return sample(key, like.shape, dtype)
  return _in_place(sample, like.shape, dtype, like.sharding)(key)


@functools.cache
def _in_place(sample, shape, dtype, sharding):
  """Draws where the numbers belong, so that no device holds all of them."""
  return jax.jit(lambda key: sample(key, shape, dtype), out_shardings=sharding)


def _names(spec: Any) -> tuple[str, ...]:
  """The mesh axes of a part of a sharding's spec."""
  parts = (p if isinstance(p, tuple) else (p,) for p in spec)
  return tuple(name for part in parts for name in part if name is not None)


def _devices(sharding: NamedSharding, names: tuple[str, ...]) -> int:
  return math.prod(sharding.mesh.shape[name] for name in names)


def _named(sharding: NamedSharding, spec: list) -> NamedSharding:
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))
