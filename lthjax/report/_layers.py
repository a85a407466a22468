"""Density by layer, and dead neurons."""

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
    dead_inputs: number of inputs that no weight reads, over all layers of a
      stack; `None` for leaves without a mask, with fewer than two dimensions,
      or whose axes are not certain.
    inputs: number of inputs, or `None`.
    dead_outputs: number of neurons or channels that no weight feeds, or `None`.
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
  """Counts alive weights and dead neurons in each leaf of one run.

  An output of a kernel, a neuron or a channel, is dead if no alive weight feeds
  it: its value is its bias. An input is dead if no alive weight reads it.
  Outputs of one layer that the next one leaves unread are not dead, but their
  weights are useless. Each layer of a stack has neurons of its own.

  Args:
    masks: tree of masks of one run, not traced. For replicated runs, select one
      with ``jax.tree.map(lambda m: m[0], masks)``.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose axes names and
      shapes do not determine.

  Returns:
    One `Layer` per leaf, dense leaves included, in the order of the tree.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'kernel': jnp.array([[True, False], [False, False]])}
    >>> (layer,) = lth.report.layers(masks)
    >>> layer.density, layer.dead_inputs, layer.dead_outputs
    (0.25, 1, 1)
  """
  return layers_of(_leaves.arrays(masks), axes)


def layers_of(
  leaves: Mapping[str, Any], axes: Mapping[str, Axes] | None
) -> tuple[Layer, ...]:
  """Does the same for NumPy masks by name."""
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
      # Inputs along the window and neurons, neurons along what is summed.
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
