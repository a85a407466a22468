"""The interface of patterns, and helpers that they share."""

import operator
from collections.abc import Mapping
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _layout, _sharding, counts, trees
from lthjax._errors import refuse
from lthjax.axes import Axes

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


def numbers_if_known(tests: Mapping[str, jax.Array]) -> dict[str, int]:
  """Counts what is true in each array; nothing if any is traced."""
  if trees.is_traced(*tests.values()):
    return {}
  numbers = trees.concrete(counts.alive(tests)) or {}
  return {n: int(x) for n, x in numbers.items()}


def empty_layers(
  masks: Mapping[str, jax.Array], axes: Mapping[str, Axes]
) -> list[str]:
  """Lists the leaves with layers that keep nothing."""
  empty = {
    name: ~jnp.any(mask, axis=axes[name].layer)
    for name, mask in masks.items()
    if mask.size  # A leaf without weights has none to keep.
  }
  return [
    f'{name} has {_of_layers(number, empty[name].size)}none alive'
    for name, number in numbers_if_known(empty).items()
    if number
  ]


def _of_layers(number: int, layers: int) -> str:
  return f'{number} of {layers} layers with ' if layers > 1 else ''


def as_int(x: Any) -> Any:
  """Makes a Python integer of one of NumPy or JAX, so that it has a hash."""
  try:
    return x if isinstance(x, bool) else operator.index(x)
  except TypeError:  # `fit` refuses it.
    return x


def are_whole(*numbers: Any) -> bool:
  return all(type(n) is int for n in numbers)


def check_sizes(
  what: str,
  shapes: Mapping[str, Shape],
  sizes: Mapping[str, Mapping[Shape, int]],
) -> None:
  """Raises if axes are missing, or not multiples of what they must be."""
  faults = []
  for name, needed in sizes.items():
    leaf = f'{name or "the array"} {shapes[name]} has'
    for axis, number in needed.items():
      if not axis:
        faults.append(f'{leaf} no axis of inputs')
      elif (size := shapes[name][axis[0]]) % number:
        faults.append(
          f'{leaf} {size} on axis {axis[0]}, not a multiple of {number}'
        )
  refuse(
    faults,
    f'{what} does not fit: {{}}. Leave these leaves dense with'
    ' `lthjax.masks.full(params, where=...)`, or correct their axes with'
    ' `axes=`.',
  )


def check_shards(
  what: str,
  leaves: chex.ArrayTree,
  sizes: Mapping[str, Mapping[Shape, int]],
) -> None:
  """Raises if a group of weights along an axis is on several devices."""
  table: Any = leaves if _layout.is_flat(leaves) else trees.by_name(leaves)
  if any(_layout.is_shape(x) for x in table.values()):
    return  # Shapes lie nowhere.
  faults = []
  for name, needed in sizes.items():
    for axis, number in needed.items():
      over, devices = _sharding.along(table[name], *axis[:1])
      size = np.shape(table[name])[axis[0]]
      if number > 1 and devices > 1 and size % (number * devices):
        faults.append(
          f'{name or "the array"} has {size} on axis {axis[0]}, spread over'
          f' the {devices} devices of mesh axis {" and ".join(over)}'
        )
  refuse(
    faults,
    f'{what} needs groups that lie on one device each: {{}}. Shard another'
    ' axis, or over fewer devices.',
  )
