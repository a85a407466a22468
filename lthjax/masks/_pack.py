"""Masks packed into one bit per weight."""

import math
from typing import Any

import chex
import jax
import numpy as np

from lthjax import _checks, _sharding, trees
from lthjax.masks import _algebra, _where


def pack(masks: chex.ArrayTree) -> Any:
  """Packs masks into one bit per weight.

  Args:
    masks: tree of masks.

  Returns:
    The same tree with one-dimensional uint8 arrays of ``ceil(size / 8)``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.pack(jnp.array([[True, False, True]]))
    Array([160], dtype=uint8)
  """
  _algebra.prunable(masks)
  return trees.map_alive(lambda _, mask: _sharding.pack_bits(mask), masks)


def unpack(packed: chex.ArrayTree, like: chex.ArrayTree) -> Any:
  """Restores packed masks.

  Args:
    packed: what `pack` returned.
    like: params, masks or `jax.ShapeDtypeStruct` of the original shapes, whose
      sharding the masks get.

  Returns:
    Tree of masks.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.unpack(jnp.array([160], jnp.uint8), like=jnp.zeros((1, 3)))
    Array([[ True, False,  True]], dtype=bool)
  """
  _checks.arrays(packed, 'packed')
  shapes = {n: x for n, x in trees.by_name(like).items() if _where.is_array(x)}

  def restore(name: str, bits: jax.Array) -> jax.Array:
    shape = getattr(shapes.get(name), 'shape', None)
    # Eight weights per byte, rounded up.
    number = -(-math.prod(shape) // 8) if shape is not None else -1
    if bits.dtype != np.uint8 or bits.shape != (number,):
      raise ValueError(
        f'{name or "The mask"} is packed in {_checks.describe(bits)}, which'
        f' does not fit the shape {shape} in `like`. Give the params of these'
        ' masks.'
      )
    return _sharding.unpack_bits(bits, shapes[name])

  return trees.map_alive(restore, packed)
