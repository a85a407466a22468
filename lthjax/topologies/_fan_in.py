"""Kernels as inputs by neurons, whatever the order of their axes."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import patterns, trees
from lthjax.topologies import _moves

Shape = tuple[int, ...]


def axes_of(
  given: patterns.Axes | None,
  name: str,
  shape: Shape,
  default: Callable[[str, Shape], int | Shape] = patterns.neuron_axes,
) -> Shape:
  """Returns the axes that count the neurons of one kernel.

  Args:
    given: a number or a tuple, ``{glob: axes}`` over names, a function of name
      and shape, or `None` for the default.
    name: name of the kernel.
    shape: its shape.
    default: function of name and shape, for what is not given.

  Returns:
    Tuple of axes.
  """
  axes = patterns.choose(given, default, name, shape)
  return (axes,) if isinstance(axes, int) else tuple(axes)


def axes_by_name(
  given: patterns.Axes | None,
  shapes: Mapping[str, Shape],
  default: Callable[[str, Shape], int | Shape] = patterns.neuron_axes,
  what: str = 'neuron_axes',
) -> dict[str, Shape]:
  """Returns the axes of all kernels, after a check.

  Args:
    given: see `axes_of`.
    shapes: ``{name: shape}`` of the prunable leaves.
    default: see `axes_of`.
    what: what the axes were given as, for the error.

  Returns:
    ``{name: axes}``.

  Raises:
    ValueError: naming every kernel without such axes, or globs without a leaf.
  """
  if isinstance(given, Mapping):
    trees.first_match(given, shapes, what)
  axes = {
    name: axes_of(given, name, shape, default) for name, shape in shapes.items()
  }
  faults = [
    f'{name} {shape} has no axes {axes[name]}'
    for name, shape in shapes.items()
    if not _are_axes(axes[name], len(shape))
  ]
  if faults:
    raise ValueError(
      f'`{what}` must be one or more axes of every kernel, but'
      f' {"; ".join(faults)}. Give others, by name if need be, as in'
      f' `{what}={{"*/kernel": -1}}`.'
    )
  return axes


def columns(
  x: jax.Array, axes: Shape
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
  """Lays a kernel out with a column for each neuron.

  Args:
    x: array of a kernel's shape.
    axes: those that count its neurons.

  Returns:
    The array as [inputs, neurons], and a function that takes such an array back
    to the shape of the kernel.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.topologies import _fan_in
    >>> x, back = _fan_in.columns(jnp.zeros((8, 2, 5)), (-2, -1))
    >>> x.shape, back(x).shape
    ((8, 10), (8, 2, 5))
  """
  last = [axis % x.ndim for axis in axes]
  order = [i for i in range(x.ndim) if i not in last] + last
  moved = x.transpose(order)

  def back(y):
    return y.reshape(moved.shape).transpose(np.argsort(order))

  return moved.reshape(-1, _number(x.shape, axes)), back


def faults(
  masks: Mapping[str, jax.Array],
  axes: Mapping[str, Shape],
  needed: Mapping[str, float],
) -> list[str]:
  """Tells which masks have no constant fan-in, or lack neurons.

  Args:
    masks: ``{name: mask}``.
    axes: ``{name: axes}``, those that count neurons.
    needed: ``{name: number}`` of the layers whose neurons may be ablated, those
      with fewer salient weights than that. All others keep their neurons.

  Returns:
    A line for every mask that is at fault; none if masks are traced.
  """
  fan_ins = {
    name: jnp.sum(columns(mask, axes[name])[0], axis=0, dtype=jnp.int32)
    for name, mask in masks.items()
  }
  if trees.is_traced(*fan_ins.values()):
    return []
  lines = []
  for name, fan_in in jax.device_get(fan_ins).items():
    active = fan_in[fan_in > 0]
    if not active.size:
      lines.append(f'{name} has none alive')
    elif active.min() < active.max():
      lines.append(
        f'{name} has fan-ins from {active.min()} to {active.max()}, but'
        ' neurons need the same unless they are ablated'
      )
    elif name not in needed and active.size < fan_in.size:
      lines.append(
        f'{name} has {fan_in.size - active.size} of {fan_in.size} neurons'
        ' without a weight, none of which may be ablated'
      )
    elif active.max() < needed.get(name, 0):
      lines.append(
        f'{name} has a fan-in of {active.max()}, less than the `min_salient` of'
        f' {needed[name]}'
      )
  return lines


def check_budgets(
  shapes: Mapping[str, Shape],
  axes: Mapping[str, Shape],
  budgets: Mapping[str, np.ndarray],
  needed: Mapping[str, float],
) -> None:
  """Checks that every neuron gets a weight, and as many as it needs to stay.

  Args:
    shapes: ``{name: shape}`` of the prunable leaves.
    axes: ``{name: axes}``, those that count neurons.
    budgets: ``{name: int32[moves]}``, the most alive weights of each layer.
    needed: see `faults`.

  Raises:
    ValueError: naming every layer that has fewer weights than that.
  """
  neurons = {name: _number(shape, axes[name]) for name, shape in shapes.items()}
  faults = [
    f'{name} has {least} weights for {neurons[name]} neurons; one each is a'
    f' sparsity of {_moves.sparsity_of(neurons[name], math.prod(shape))}'
    for name, shape in shapes.items()
    if (least := budgets[name].min()) < neurons[name]
  ]
  if faults:
    raise ValueError(
      'A constant fan-in needs at least one weight per neuron, but'
      f' {"; ".join(faults)}. Lower the sparsity, spread it with `densities=`,'
      ' or leave these layers dense with `where=`.'
    )
  fan_ins = {name: budgets[name].min() // neurons[name] for name in shapes}
  faults = [
    f'{name} has a fan-in of {fan_ins[name]}'
    for name, least in needed.items()
    if fan_ins[name] < least
  ]
  if faults:
    raise ValueError(
      f'`min_salient` was {max(needed.values())}, more weights than a neuron'
      f' has: {"; ".join(faults)}. Lower it, give a share of the fan-in below'
      ' 1, or lower the sparsity.'
    )


def _number(shape: Shape, axes: Shape) -> int:
  """Counts the neurons."""
  return math.prod(shape[axis] for axis in axes)


def _are_axes(axes: Shape, ndim: int) -> bool:
  real = {axis % ndim for axis in axes if -ndim <= axis < ndim}
  return bool(axes) and len(real) == len(axes)
