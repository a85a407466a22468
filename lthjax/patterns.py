"""Patterns: the shapes of weights that may survive.

A pattern works within a layer. What the axes of a kernel count comes from
`lthjax.axes`: a leaf that stacks layers is pruned layer by layer.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp

from lthjax import _sharding, trees
from lthjax import axes as axes_lib
from lthjax.axes import Axes
from lthjax.counts import along as count_along
from lthjax.selection import keep_largest

Shape = tuple[int, ...]
Count = int | jax.Array | None


class Pattern(Protocol):
  """What `lthjax.prune` and the topologies ask of a pattern.

  ``count`` is the number of alive weights of a layer: an integer, or for a leaf
  that stacks layers an array with the axes of a layer of size one.
  """

  @property
  def density(self) -> float | None:
    """The density that the pattern itself fixes, or `None` if it is free."""

  def fit(
    self, axes: Mapping[str, Axes] | None, leaves: chex.ArrayTree
  ) -> dict[str, Axes]:
    """Returns the axes of each leaf; raises naming all that do not fit."""
    ...

  def select(
    self, scores: jax.Array, eligible: jax.Array, count: Count, axes: Axes
  ) -> jax.Array:
    """Selects among the eligible entries of one leaf."""
    ...

  def drop(
    self, scores: jax.Array, mask: jax.Array, count: Count, axes: Axes
  ) -> jax.Array:
    """Keeps ``count`` alive weights of one leaf, for `fill` to add to."""
    ...

  def fill(
    self, scores: jax.Array, keep: jax.Array, count: Count, axes: Axes
  ) -> jax.Array:
    """Adds to the kept entries of one leaf the best of the others."""
    ...

  def faults(
    self, masks: Mapping[str, jax.Array], axes: Mapping[str, Axes]
  ) -> list[str]:
    """Lists the masks that `select` could not have produced."""
    ...


@dataclass(frozen=True)
class Unstructured:
  """Any weight may survive on its own.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores, alive = jnp.array([[3.0, 1.0, 2.0]]), jnp.ones((1, 3), bool)
    >>> axes = lth.axes.Axes(inputs=(0,), outputs=(1,))
    >>> lth.patterns.Unstructured().select(scores, alive, 2, axes)
    Array([[ True, False,  True]], dtype=bool)
  """

  @property
  def density(self) -> None:
    """Free: the budget decides."""
    return None

  def fit(self, axes, leaves):
    """Accepts every leaf; one in doubt counts as a single layer."""
    found = axes_lib.resolve(axes, leaves, strict=False)
    shapes = axes_lib.shapes_of(leaves)
    one = {n: Axes(outputs=tuple(range(len(s)))) for n, s in shapes.items()}
    return one | found

  def select(self, scores, eligible, count, axes):
    """Keeps the ``count`` largest scores of each layer."""
    return keep_largest(scores, count, eligible, axis=axes.layer)

  def drop(self, scores, mask, count, axes):
    """Keeps the ``count`` largest scores of each layer."""
    return self.select(scores, mask, count, axes)

  def fill(self, scores, keep, count, axes):
    """Adds the largest of the other scores until ``count`` are kept."""
    missing = jnp.maximum(count - count_along(keep, axes.layer), 0)
    return keep | keep_largest(scores, missing, ~keep, axis=axes.layer)

  def faults(self, masks, axes):
    """Finds fault with empty layers only."""
    return _empty(masks, axes)


@dataclass(frozen=True)
class NM:
  """At most n of every m consecutive weights survive (N:M sparsity).

  Groups run along an axis that the layer sums over, which is what sparse tensor
  cores need: ``in`` of dense kernels and convolutions, ``head_dim`` of
  attention outputs ``[heads, head_dim, out]``. Where names and shapes do not
  say which axis that is, `lthjax.prune` and the optimizers take ``axes=``.

  Attributes:
    n: how many survive in a group.
    m: how many weights a group has.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = jnp.array([[1.0], [4.0], [3.0], [2.0]])
    >>> masks = lth.masks.full(scores)
    >>> lth.prune(scores, masks, pattern=lth.patterns.NM(2, 4)).ravel()
    Array([False,  True,  True, False], dtype=bool)

  References:
    Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378,
    section 3.
  """

  n: int
  m: int

  @property
  def density(self) -> float:
    """The share n / m that survives."""
    return self.n / max(self.m, 1)

  def fit(self, axes, leaves):
    """Returns the axes; raises if n, m or the size of an axis is off."""
    if not (_whole(self.n, self.m) and 1 <= self.n <= self.m):
      raise ValueError(
        f'N:M sparsity needs 1 <= n <= m, but n is {self.n} and m is'
        f' {self.m}. 2:4 is `NM(2, 4)`.'
      )
    found = axes_lib.resolve(axes, leaves)
    shapes = axes_lib.shapes_of(leaves)
    sizes = {n: {its.inputs[-1:]: self.m} for n, its in found.items()}
    _check_sizes(f'{self.n}:{self.m} sparsity', shapes, sizes)
    return found

  def select(self, scores, eligible, count, axes):
    """Keeps the n (or ``count``) largest scores of each group."""
    count = self.n if count is None else count
    groups, eligible = self._groups(scores, axes), self._groups(eligible, axes)
    keep = keep_largest(groups, count, eligible, axis=axes.inputs[-1] + 1)
    return _sharding.merge(keep, scores)

  def drop(self, scores, mask, count, axes):
    """Keeps the ``count`` largest scores of each layer, in any groups."""
    return keep_largest(scores, count, mask, axis=axes.layer)

  def fill(self, scores, keep, count, axes):
    """Adds the largest of the other scores until every group keeps n."""
    del count
    groups = self._groups(keep, axes)
    axis = axes.inputs[-1] + 1
    missing = jnp.maximum(self.n - count_along(groups, (axis,)), 0)
    grown = keep_largest(
      self._groups(scores, axes), missing, ~groups, axis=axis
    )
    return _sharding.merge(groups | grown, scores)

  def faults(self, masks, axes):
    """Finds the groups that do not keep n."""
    off = {}
    for name, mask in masks.items():
      alive = count_along(
        self._groups(mask, axes[name]), (axes[name].inputs[-1] + 1,)
      )
      off[name] = alive != self.n
    return [
      f'{name} has {number} groups of {self.m} on axis {axes[name].inputs[-1]}'
      f' without exactly {self.n} alive'
      for name, number in _numbers_if_known(off).items()
      if number
    ]

  def _groups(self, x: jax.Array, axes: Axes) -> jax.Array:
    """Splits the axis of the groups, so that they run along the next one."""
    return _sharding.split(x, axes.inputs[-1], self.m)


class _Tiles:
  """Patterns that keep or remove whole tiles of a kernel.

  A tile's score is the sum of the scores in it: its L1 norm for
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
    _check_sizes(
      str(self), shapes, {n: self._sizes(x) for n, x in found.items()}
    )
    return found

  def _sizes(self, axes: Axes) -> dict[Shape, int]:
    """What an axis must be a multiple of."""
    return {axes.inputs[-1:]: 1}

  def select(self, scores, eligible, count, axes):
    """Keeps the tiles with the largest sums of scores."""
    tile = self.tile(scores.shape, axes)
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
    there = _any(keep, tile)
    missing = _tiles_of(count, tile) - count_along(there, axes.layer)
    missing = jnp.maximum(missing, 0)
    grown = keep_largest(_sums(scores, tile), missing, ~there, axis=axes.layer)
    return keep | _spread(there | grown, tile, keep)

  def faults(self, masks, axes):
    """Finds tiles that are alive in part, and empty layers."""
    parts = {}
    for name, mask in masks.items():
      tile = self.tile(mask.shape, axes[name])
      parts[name] = _any(mask, tile) & _any(~mask, tile)
    lines = [
      f'{name} has {number} tiles that are alive in part'
      for name, number in _numbers_if_known(parts).items()
      if number
    ]
    return lines + _empty(masks, axes)


@dataclass(frozen=True)
class Block(_Tiles):
  """Rectangular blocks of weights survive whole.

  Blocks lie on a grid of inputs by neurons, at each place of a convolution's
  window and within a head of attention. A block's score is the sum of its
  scores, so its L1 norm for `lthjax.scores.magnitude`; budgets are rounded to
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

  def fit(self, axes, leaves):
    """Returns the axes; raises if a leaf is not made of whole blocks."""
    shape = self.shape
    if not (isinstance(shape, tuple | list) and len(shape) == 2) or not (
      _whole(*shape) and min(shape) > 0
    ):
      raise ValueError(
        f'`Block` takes two positive integers, inputs and neurons, but got'
        f' {shape!r}. Four inputs of one neuron are `Block((4, 1))`.'
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


# ---- Tiles


def _sums(scores: jax.Array, tile: Shape) -> jax.Array:
  """Sums over tiles, at least in single precision."""
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
    if reach == x.shape[axis]:
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
      x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
  return _sharding.match(jnp.broadcast_to(x, like.shape), like)


def _tiles_of(count: Any, tile: Shape) -> Any:
  """Rounds a number of weights to tiles, but to one at least if there are."""
  size = max(math.prod(tile), 1)
  return jnp.maximum((count + size // 2) // size, jnp.minimum(count, 1))


# ---- Counts and checks


def _numbers_if_known(tests: Mapping[str, jax.Array]) -> dict[str, int]:
  """Counts what is true in each array; nothing if any is traced."""
  counts = {n: jnp.sum(x, dtype=jnp.int32) for n, x in tests.items()}
  return {n: int(x) for n, x in (trees.concrete(counts) or {}).items()}


def _empty(
  masks: Mapping[str, jax.Array], axes: Mapping[str, Axes]
) -> list[str]:
  """Lists the leaves with layers that keep nothing."""
  empty = {
    name: ~jnp.any(mask, axis=axes[name].layer) for name, mask in masks.items()
  }
  return [
    f'{name} has {_of_layers(number, empty[name].size)}none alive'
    for name, number in _numbers_if_known(empty).items()
    if number
  ]


def _of_layers(number: int, layers: int) -> str:
  return f'{number} of {layers} layers with ' if layers > 1 else ''


def _whole(*numbers: Any) -> bool:
  return all(type(n) is int for n in numbers)


def _check_sizes(
  what: str,
  shapes: Mapping[str, Shape],
  sizes: Mapping[str, Mapping[Shape, int]],
) -> None:
  """Raises if axes are missing, or not multiples of what they must be."""
  faults = []
  for name, needed in sizes.items():
    leaf = f'{name or "the array"} {shapes[name]}'
    for axis, number in needed.items():
      if not axis:
        faults.append(f'{leaf} has no axis of inputs')
      elif shapes[name][axis[0]] % number:
        size = shapes[name][axis[0]]
        faults.append(
          f'{leaf} has {size} on axis {axis[0]}, not a multiple of {number}'
        )
  if faults:
    raise ValueError(
      f'{what} does not fit: {"; ".join(faults)}. Leave these leaves dense with'
      ' `lthjax.masks.full(params, where=...)`, or correct their axes with'
      ' `axes=`.'
    )
