"""Density by layer, and neurons that are cut off."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex

from lthjax import axes as axes_lib
from lthjax.axes import Axes
from lthjax.report import _leaves


class Layer(NamedTuple):
  """What masks keep of one leaf.

  Attributes:
    name: name of the leaf.
    shape: its shape; `None` where the leaf is dense and has no mask.
    alive: number of alive weights; 0 without a mask.
    total: number of weights; 0 without a mask.
    dead_inputs: inputs that no weight reads, those of all layers of a stack
      together; `None` for leaves without a mask, with fewer than two
      dimensions, or whose axes are not certain.
    inputs: number of inputs, or `None`.
    dead_outputs: neurons or channels that no weight feeds, or `None`.
    outputs: number of neurons or channels, or `None`.
  """

  name: str
  shape: tuple[int, ...] | None = None
  alive: int = 0
  total: int = 0
  dead_inputs: int | None = None
  inputs: int | None = None
  dead_outputs: int | None = None
  outputs: int | None = None

  @property
  def density(self) -> float:
    """The alive share of the weights; 1 without a mask."""
    return self.alive / self.total if self.total else 1.0


def layers(
  masks: chex.ArrayTree,
  *,
  axes: Mapping[str, Axes] | None = None,
) -> tuple[Layer, ...]:
  """Counts what is alive in each leaf of one run, and which neurons are dead.

  An output of a kernel, a neuron or a channel, is dead where no alive weight
  feeds it: it has no fan-in, and its value is that of its bias. An input is
  dead where no alive weight reads it. What one layer leaves unread may be alive
  as an output of the layer before, whose weights are then of no use.

  Args:
    masks: tree of masks of one run, not traced. Of several seeds side by side
      take one with ``jax.tree.map(lambda m: m[0], masks)``.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs, neurons or a stack of layers.

  Returns:
    One `Layer` a leaf, those without a mask included, in the order of the tree.

  Raises:
    ValueError: if there is no mask, a leaf is no mask, traced or empty, or axes
      do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'kernel': jnp.array([[True, False], [False, False]])}
    >>> (layer,) = lth.report.layers(masks)
    >>> layer.density, layer.dead_inputs, layer.dead_outputs
    (0.25, 1, 1)
  """
  leaves = _leaves.arrays(masks)
  shapes = {
    name: mask.shape
    for name, mask in leaves.items()
    if mask is not None and mask.ndim > 1
  }
  known = axes_lib.resolve(axes, shapes, strict=False)
  found = []
  for name, mask in leaves.items():
    if mask is None:
      found.append(Layer(name))
      continue
    layer = Layer(name, mask.shape, int(mask.sum()), mask.size)
    if name in known:
      its = known[name]
      pairs = [
        _dead(mask, (*its.window, *its.outputs)),
        _dead(mask, its.summed),
      ]
      layer = Layer(*layer[:4], *(n for pair in pairs for n in pair))
    found.append(layer)
  return tuple(found)


def _dead(mask: Any, along: tuple[int, ...]) -> tuple[int, int]:
  """Counts the units without an alive weight along axes, and all units."""
  alive = mask.any(axis=along)
  return int((~alive).sum()), alive.size
