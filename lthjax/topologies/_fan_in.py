"""Constant fan-in: what masks and budgets must be for it."""

from collections.abc import Mapping

import jax
import numpy as np

from lthjax import axes as axes_lib
from lthjax import trees
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.counts import layer_sizes
from lthjax.patterns import count_along
from lthjax.topologies import _moves

Shape = tuple[int, ...]


def faults(
  masks: Mapping[str, jax.Array],
  axes: Mapping[str, Axes],
  needed: Mapping[str, float],
) -> list[str]:
  """Lists layers without a constant fan-in, or with neurons missing."""
  # `needed` has the layers whose neurons may be ablated, those with fewer
  # salient weights than that. Traced masks are not looked at.
  fan_ins = trees.concrete(
    {
      name: count_along(mask, axes[name].summed)
      for name, mask in masks.items()
      if mask.size
    }
  )
  lines = []
  for name, numbers in (fan_ins or {}).items():
    stack = axes[name].stack
    layers = np.moveaxis(numbers, stack, range(len(stack)))
    for index in np.ndindex(layers.shape[: len(stack)]):
      layer = name + ''.join(f'[{i}]' for i in index)
      lines += _faults_of_layer(layer, layers[index].ravel(), needed.get(name))
  return lines


def _faults_of_layer(
  name: str, fan_in: np.ndarray, needed: float | None
) -> list[str]:
  """Returns what is wrong with the fan-ins of one layer, if anything."""
  active = fan_in[fan_in > 0]
  if not active.size:
    return [f'{name} has none alive']
  if active.min() < active.max():
    return [
      f'{name} has fan-ins from {active.min()} to {active.max()}, but neurons'
      ' need the same unless they are ablated'
    ]
  if needed is None and active.size < fan_in.size:
    return [
      f'{name} has {fan_in.size - active.size} of {fan_in.size} neurons without'
      ' a weight, none of which may be ablated'
    ]
  if active.max() < (needed or 0):
    return [
      f'{name} has a fan-in of {active.max()}, less than the `min_salient` of'
      f' {needed}'
    ]
  return []


def check_budgets(
  shapes: Mapping[str, Shape],
  axes: Mapping[str, Axes],
  budgets: Mapping[str, np.ndarray],
  needed: Mapping[str, float],
) -> None:
  """Raises unless every neuron gets the weights that it needs to stay."""
  neurons = {
    name: axes_lib.size(shape, axes[name].outputs)
    for name, shape in shapes.items()
  }
  sizes = layer_sizes(shapes, axes)
  refuse(
    (
      f'{name} has {least} weights for {neurons[name]} neurons; one each is a'
      f' sparsity of {_moves.sparsity_of(neurons[name], sizes[name])}'
      for name, size in sizes.items()
      # An empty leaf has no weights to spread.
      if size and (least := budgets[name].min()) < neurons[name]
    ),
    'A constant fan-in needs at least one weight per neuron, but {}. Lower the'
    ' sparsity, spread it with `densities=`, or leave these layers dense with'
    ' `where=`.',
  )
  fan_ins = {
    name: budgets[name].min() // neurons[name]
    for name, size in sizes.items()
    if size
  }
  refuse(
    (
      f'{name} has a fan-in of {fan_ins[name]}'
      for name, least in needed.items()
      if name in fan_ins and fan_ins[name] < least
    ),
    f'`min_salient` was {max(needed.values(), default=0)}, more weights than a'
    ' neuron has: {}. Lower it, give a share of the fan-in below 1, or lower'
    ' the sparsity.',
  )
