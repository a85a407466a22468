"""Density by layer, and neurons that are cut off."""

from typing import Any, NamedTuple

import chex

from lthjax import patterns
from lthjax.report import _leaves
from lthjax.topologies import _fan_in


class Layer(NamedTuple):
  """What masks keep of one leaf.

  Attributes:
    name: name of the leaf.
    shape: its shape; `None` where the leaf is dense and has no mask.
    alive: number of alive weights; 0 without a mask.
    total: number of weights; 0 without a mask.
    dead_inputs: inputs that no weight reads; `None` of leaves that are no
      kernels, with fewer than two dimensions or no mask.
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
  input_axes: patterns.Axes | None = None,
  neuron_axes: patterns.Axes | None = None,
) -> tuple[Layer, ...]:
  """Counts what is alive in each leaf of one run, and which neurons are dead.

  An output of a kernel, a neuron or a channel, is dead where no alive weight
  feeds it: it has no fan-in, and its value is that of its bias. An input is
  dead where no alive weight reads it. What one layer leaves unread may be alive
  as an output of the layer before, whose weights are then of no use.

  Args:
    masks: tree of masks of one run, not traced. Of several seeds side by side
      take one with ``jax.tree.map(lambda m: m[0], masks)``.
    input_axes: the axes that count the inputs of a kernel, if they are not
      those of Flax's layouts (see `lthjax.patterns.contraction_axis`): a number
      or a tuple, ``{glob: axes}`` over names, or a function of name and shape.
      Of an attention output ``[heads, head_dim, out]`` they are ``(0, 1)``.
    neuron_axes: the axes that count its outputs, likewise (see
      `lthjax.patterns.neuron_axes`). Of a scanned layer ``[layers, in, out]``
      they are ``(0, -1)``, and its inputs ``(0, 1)``.

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
  outputs = _fan_in.axes_by_name(neuron_axes, shapes)
  inputs = _fan_in.axes_by_name(
    input_axes, shapes, patterns.contraction_axis, 'input_axes'
  )
  found = []
  for name, mask in leaves.items():
    if mask is None:
      found.append(Layer(name))
      continue
    layer = Layer(name, mask.shape, int(mask.sum()), mask.size)
    if name in shapes:
      units = (_dead(mask, axes[name]) for axes in (inputs, outputs))
      layer = Layer(*layer[:4], *(n for pair in units for n in pair))
    found.append(layer)
  return tuple(found)


def _dead(mask: Any, axes: tuple[int, ...]) -> tuple[int, int]:
  """Counts the units on some axes without an alive weight, and all of them."""
  alive = _fan_in.columns(mask, axes)[0].any(axis=0)
  return int((~alive).sum()), alive.size
