"""Tiles of a kernel that survive whole: blocks, inputs and neurons."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _sharding, counts
from lthjax import axes as axes_lib
from lthjax.axes import Axes
from lthjax.patterns import _pattern
from lthjax.selection import keep_largest

Shape = tuple[int, ...]


class _Tiles:
  """Patterns that keep or remove whole tiles of a kernel.

  A tile's score is the sum of its scores: the L1 norm for
  `lthjax.scores.magnitude`. A budget is rounded to whole tiles, and leaves at
  least one unless it is zero.
  """

  @property
  def density(self) -> None:
    """Free: the budget decides."""
    return None

  def tile(self, shape: Shape, axes: Axes) -> Shape:
    """Returns how far a tile of a leaf reaches along each axis."""
    raise NotImplementedError

  def fit(self, axes, leaves):
    """Returns the axes; raises if a leaf is not made of whole tiles."""
    found = axes_lib.resolve(axes, leaves)
    shapes = axes_lib.shapes_of(leaves)
    sizes = {n: self._sizes(x) for n, x in found.items()}
    _pattern.check_sizes(str(self), shapes, sizes)
    _pattern.check_shards(str(self), leaves, sizes)
    return found

  def _sizes(self, axes: Axes) -> dict[Shape, int]:
    """What an axis must be a multiple of."""
    return {axes.inputs[-1:]: 1}

  def select(self, scores, eligible, count, axes):
    """Keeps the tiles with the largest sums of scores."""
    tile = self.tile(scores.shape, axes)
    # In a tile that is partly alive, only alive weights count and survive.
    keep = keep_largest(
      _sums(jnp.where(eligible, scores, 0), tile),
      _tiles_of(count, tile),
      _any(eligible, tile),
      axis=axes.layer,
    )
    return _spread(keep, tile, eligible) & eligible

  def drop(self, scores, mask, count, axes):
    """Keeps the tiles with the largest sums of scores."""
    return self.select(scores, mask, count, axes)

  def fill(self, scores, keep, count, axes):
    """Adds the tiles with the largest sums until there are enough."""
    tile = self.tile(scores.shape, axes)
    # A tile that is kept in part counts as kept, and is completed.
    there = _any(keep, tile)
    missing = _tiles_of(count, tile) - counts.along(there, axes.layer)
    missing = jnp.maximum(missing, 0)
    grown = keep_largest(_sums(scores, tile), missing, ~there, axis=axes.layer)
    return keep | _spread(there | grown, tile, keep)

  def faults(self, masks, axes):
    """Finds tiles that are alive in part, and empty layers."""
    # In part: some entries are alive and some are not.
    parts = {}
    for name, mask in masks.items():
      tile = self.tile(mask.shape, axes[name])
      parts[name] = _any(mask, tile) & _any(~mask, tile)
    lines = [
      f'{name} has {number} tiles that are alive in part'
      for name, number in _pattern.numbers_if_known(parts).items()
      if number
    ]
    return lines + _pattern.empty_layers(masks, axes)


@dataclass(frozen=True)
class Block(_Tiles):
  """Rectangular blocks of weights survive whole.

  Blocks lie on a grid of inputs by neurons, at each place of a convolution's
  window and within a head of attention. A block's score is the sum of its
  scores (the L1 norm for `lthjax.scores.magnitude`); budgets are rounded to
  whole blocks.

  Attributes:
    shape: consecutive inputs and consecutive neurons of a block.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = jnp.array([[1.0, 3.0], [1.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    >>> masks = lth.masks.full(scores)
    >>> pattern = lth.patterns.Block((2, 1))
    >>> lth.prune(scores, masks, sparsity=0.5, pattern=pattern).astype(int)
    Array([[0, 1],
           [0, 1],
           [1, 0],
           [1, 0]], dtype=int32)

  References:
    Narang et al., Block-Sparse Recurrent Neural Networks, arXiv:1711.02782,
    section 3 (there the largest weight of a block stands for it).
  """

  shape: tuple[int, int]

  def __post_init__(self):
    if isinstance(self.shape, tuple | list):
      shape = tuple(map(_pattern.as_int, self.shape))
      object.__setattr__(self, 'shape', shape)

  def fit(self, axes, leaves):
    """Returns the axes; raises if a leaf is not made of whole blocks."""
    shape = self.shape
    if not (isinstance(shape, tuple) and len(shape) == 2) or not (
      _pattern.are_whole(*shape) and min(shape) > 0
    ):
      raise ValueError(
        f'`Block` takes two positive integers, inputs and neurons, but got'
        f' {shape!r}. For four inputs of one neuron use `Block((4, 1))`.'
      )
    return super().fit(axes, leaves)

  def _sizes(self, axes):
    return {axes.inputs[-1:]: self.shape[0], axes.outputs[-1:]: self.shape[1]}

  def tile(self, shape, axes):
    """Reaches along the last axis of inputs and the last of neurons."""
    reach = {axes.inputs[-1]: self.shape[0], axes.outputs[-1]: self.shape[1]}
    return tuple(reach.get(axis, 1) for axis in range(len(shape)))


@dataclass(frozen=True)
class Rows(_Tiles):
  """Inputs survive whole: all weights that read one, in all neurons.

  For a convolution that is an input channel. An input's score is the sum of the
  scores of its weights; budgets are rounded to whole inputs.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = jnp.array([[1.0, 3.0], [4.0, 1.0]])
    >>> masks = lth.masks.full(scores)
    >>> lth.prune(scores, masks, sparsity=0.5, pattern=lth.patterns.Rows())
    Array([[False, False],
           [ True,  True]], dtype=bool)

  References:
    Wen et al., Learning Structured Sparsity in Deep Neural Networks,
    arXiv:1608.03665, section 3.1.
  """

  def tile(self, shape, axes):
    """Reaches over the window and all neurons."""
    whole = (*axes.window, *axes.outputs)
    return tuple(n if axis in whole else 1 for axis, n in enumerate(shape))


@dataclass(frozen=True)
class Columns(_Tiles):
  """Neurons survive whole: all weights that feed one.

  For a convolution that is an output channel, or a filter. A neuron's score is
  the sum of the scores of its weights; budgets are rounded to whole neurons.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = jnp.array([[1.0, 3.0], [4.0, 1.0]])
    >>> masks = lth.masks.full(scores)
    >>> lth.prune(scores, masks, sparsity=0.5, pattern=lth.patterns.Columns())
    Array([[ True, False],
           [ True, False]], dtype=bool)

  References:
    Li et al., Pruning Filters for Efficient ConvNets, arXiv:1608.08710,
    section 3.1.
  """

  def tile(self, shape, axes):
    """Reaches over everything that the layer sums over."""
    return tuple(
      n if axis in axes.summed else 1 for axis, n in enumerate(shape)
    )


def _sums(scores: jax.Array, tile: Shape) -> jax.Array:
  """Sums over tiles, at least in single precision."""
  # A sum of bfloat16 in bfloat16 would tie where scores do not.
  dtype = jnp.promote_types(scores.dtype, jnp.float32)
  return _reduce(
    lambda x, axis, keep: jnp.sum(x, axis, dtype, keepdims=keep), scores, tile
  )


def _any(mask: jax.Array, tile: Shape) -> jax.Array:
  return _reduce(
    lambda x, axis, keep: jnp.any(x, axis, keepdims=keep), mask, tile
  )


def _reduce(
  f: Callable[[jax.Array, int, bool], jax.Array], x: jax.Array, tile: Shape
) -> jax.Array:
  """Reduces every tile to one entry; ``f(x, axis, keepdims)`` an axis."""
  for axis, reach in enumerate(tile):
    if reach == x.shape[axis]:  # One tile: no reshape, so sharding stays.
      x = f(x, axis, True)
    elif reach > 1:
      x = f(_sharding.split(x, axis, reach), axis + 1, False)
  return x


def _spread(x: jax.Array, tile: Shape, like: jax.Array) -> jax.Array:
  """Undoes `_reduce`: gives every entry of a tile its value."""
  for axis, reach in enumerate(tile):
    if 1 < reach < like.shape[axis]:
      each = (*x.shape[: axis + 1], reach, *x.shape[axis + 1 :])
      x = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), each)
      x = x.reshape(*x.shape[:axis], like.shape[axis], *x.shape[axis + 2 :])
  return _sharding.match(jnp.broadcast_to(x, like.shape), like)


def _tiles_of(count: Any, tile: Shape) -> Any:
  """Rounds a number of weights to whole tiles."""
  size = max(math.prod(tile), 1)
  # Known counts stay on the host, where none is too large.
  lib: Any = jnp if isinstance(count, jax.Array) else np
  whole, rest = count // size, count % size
  tiles = whole + (rest >= size - size // 2)
  # A budget of a few weights would otherwise empty a layer of large tiles.
  return lib.maximum(tiles, lib.minimum(count, 1))
