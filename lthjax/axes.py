"""Axes of kernels: layers, inputs and neurons, whatever their order.

Flax lays a dense kernel out as ``[in, out]``, a convolution as
``[height, width, in, out]`` and the output of an attention layer as
``[heads, head_dim, out]``; PyTorch and Equinox have ``[out, in]``; a scanned
layer has one more axis. Patterns, budgets and reports take ``axes=``, a mapping
from names or globs to `Axes`, and go by `by_layout` for all other leaves.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import numpy as np

from lthjax import _checks, _layout, trees
from lthjax._errors import refuse
from lthjax._layout import Axes as Axes
from lthjax._layout import shapes_of as shapes_of
from lthjax.program._from_program import from_program as from_program

Shape = tuple[int, ...]


def fan_in(shape: Shape, axes: Axes) -> int:
  """Counts the inputs of a neuron.

  Args:
    shape: shape of the kernel.
    axes: its axes.

  Returns:
    The number of weights that feed one neuron.

  Example:
    >>> from lthjax import axes
    >>> axes.fan_in((3, 3, 16, 32), axes.Axes((), (0, 1), (2,), (3,)))
    144
  """
  _check_fit(axes, shape)
  return size(shape, axes.summed)


def size(shape: Shape, along: Shape) -> int:
  """Counts the entries of a slice along some axes."""
  return math.prod(shape[axis] for axis in along)


def columns(
  x: jax.Array, axes: Axes
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
  """Views a kernel as layers of inputs by neurons.

  Merging axes can move data between devices. Where kernels may be sharded, sum
  and select along ``axes.summed``, ``axes.outputs`` or ``axes.layer`` instead.

  Args:
    x: array of the kernel's shape.
    axes: its axes.

  Returns:
    The array as ``[stack, inputs, neurons]``, and a function that takes such an
    array back to the kernel's shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import axes
    >>> query = axes.Axes(inputs=(0,), outputs=(1, 2))
    >>> view, back = axes.columns(jnp.zeros((8, 2, 5)), query)
    >>> view.shape, back(view).shape
    ((1, 8, 10), (8, 2, 5))
  """
  _check_fit(axes, x)
  # Of several layers, windows or heads, the first axis varies slowest.
  groups = (axes.stack, axes.summed, axes.outputs)
  order = [axis for group in groups for axis in group]
  moved = x.transpose(order)

  def back(y):
    return y.reshape(moved.shape).transpose(np.argsort(order))

  return moved.reshape([size(x.shape, group) for group in groups]), back


def by_layout(
  params: chex.ArrayTree | Mapping[str, Shape],
  *,
  stacked: Mapping[str, int | Shape] | None = None,
) -> dict[str, Axes]:
  """Reads axes off the names and shapes of leaves.

  A leaf is stacked if Flax's metadata says so, or if it is in a container such
  as ``layers`` or ``blocks`` that has no numbered parts and all of whose leaves
  start with an axis of the same size. Leaves that can be read in two ways are
  left out.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`, or ``{name: shape}``.
    stacked: ``{glob: axis}`` or ``{glob: axes}``, the axes that count layers,
      such as ``{'blocks/*': 0}``; the first match wins.

  Returns:
    ``{name: Axes}`` of the leaves that can be read in one way.

  Example:
    >>> from lthjax import axes
    >>> axes.by_layout({'layers/kernel': (12, 64, 32)})
    {'layers/kernel': Axes(stack=(0,), window=(), inputs=(1,), outputs=(2,))}
    >>> found = axes.by_layout({'attention/query/kernel': (64, 4, 16)})
    >>> found['attention/query/kernel'].outputs
    (1, 2)
    >>> axes.by_layout({'w': (4, 8, 8)})
    {}
  """
  ways = _readings(params, _layout.shapes_of(params), stacked)
  return {name: found[0] for name, found in ways.items() if len(found) == 1}


def resolve(
  axes: Mapping[str, Axes] | None,
  leaves: chex.ArrayTree | Mapping[str, Shape],
  *,
  strict: bool = True,
) -> dict[str, Axes]:
  """Finds the axes of every leaf: those given, and others by layout.

  Args:
    axes: ``{name or glob: Axes}``, where an exact name goes before the first
      glob that matches; `None` for the layout alone.
    leaves: tree of arrays, in which `None` is left out, or ``{name: shape}``.
    strict: whether to refuse leaves that can be read in two ways. Otherwise
      they are left out.

  Returns:
    ``{name: Axes}``, without negative axes.

  Example:
    >>> from lthjax import axes
    >>> given = {'w*': axes.Axes(inputs=(1,), outputs=(0,))}
    >>> axes.resolve(given, {'w1': (4, 8), 'v': (4, 8)})['w1'].inputs
    (1,)
  """
  shapes = _layout.shapes_of(leaves)
  given = _given(axes, shapes)
  if len(given) == len(shapes):
    return {name: given[name] for name in shapes}
  found = {n: [x] for n, x in given.items()}
  found = _readings(leaves, shapes, None) | found
  unsure = [
    f'{name or "the array"} {shapes[name]}'
    for name, ways in found.items()
    if len(ways) != 1
  ]
  refuse(
    unsure if strict else (),
    'Names and shapes do not say which axes are inputs, neurons or a stack of'
    ' layers in {}. Ask the program with'
    ' `axes=lth.axes.from_program(apply, params, inputs)`; or say what is'
    ' stacked with `axes=lth.axes.by_layout(params, stacked={"blocks/*": 0})`;'
    ' or give the axes, as in `axes={"*/kernel": lth.axes.Axes(stack=(0,),'
    ' inputs=(1,), outputs=(2,))}`.',
  )
  return {name: ways[0] for name, ways in found.items() if len(ways) == 1}


def stacks(
  axes: Mapping[str, Axes] | None,
  leaves: chex.ArrayTree | Mapping[str, Shape],
) -> dict[str, Shape]:
  """Returns the axes that count layers in each leaf; none if in doubt."""
  found = resolve(axes, leaves, strict=False)
  return {
    name: found[name].stack if name in found else ()
    for name in _layout.shapes_of(leaves)
  }


def _readings(
  tree: Any,
  shapes: Mapping[str, Shape],
  stacked: Mapping[str, int | Shape] | None,
) -> dict[str, list[Axes]]:
  """Reads all leaves, with the stacks that the caller or Flax knows of."""
  known = _layout.stacks_in_metadata(tree)
  stacked = {} if stacked is None else stacked
  _checks.mapping('stacked', stacked, 'globs to axes, as {"blocks/*": 0}')
  faults = []
  for name, glob in trees.first_match(stacked, shapes, 'stacked').items():
    axes, rank = stacked[glob], len(shapes[name])
    axes = axes if isinstance(axes, tuple) else (axes,)
    if all(type(axis) is int and -rank <= axis < rank for axis in axes):
      known[name] = tuple(axis % rank for axis in axes)
    else:
      faults.append(f'{name} {shapes[name]} has no axis {axes}')
  refuse(
    faults,
    '`stacked` must name axes that the leaves have, but {}. Narrow the glob, as'
    ' in `stacked={"blocks/*/kernel": 0}`.',
  )
  return _layout.readings(shapes, known)


def _check_fit(axes: Axes, x: Any) -> None:
  """Raises unless axes are those of an array, or of a shape."""
  shapes = _layout.shapes_of({'x': x})
  if list(shapes) != ['x']:
    raise TypeError(f'An array or its shape is needed, but got {x!r}.')
  _given({'x': axes}, shapes)


def _given(
  axes: Mapping[str, Axes] | None, shapes: Mapping[str, Shape]
) -> dict[str, Axes]:
  """Looks up the axes of the caller, and checks them."""
  if axes is None:
    return {}
  example = '{"fc/*": lth.axes.Axes(inputs=(0,), outputs=(1,))}'
  _checks.mapping('axes', axes, f'names or globs to axes, as {example}')
  # Exact names may be those of leaves that are never pruned, but a glob that
  # matches nothing is a mistake. A name with a bracket is still a name.
  globs = [
    key
    for key in map(str, axes)
    if key not in shapes and re.search(r'[*?[]', key)
  ]
  match = trees.first_match(globs, shapes, 'axes')
  match |= {name: name for name in shapes if name in axes}
  found, faults = {}, []
  for name, key in match.items():
    found[name] = _normalized(axes[key], len(shapes[name]))
    if found[name] is None:
      faults.append(f'{name or "the array"} {shapes[name]} has {axes[key]}')
  refuse(
    faults,
    '`axes` must have each axis of a leaf once, but {}. The axes of a dense'
    ' kernel are `lth.axes.Axes(inputs=(0,), outputs=(1,))`.',
  )
  for key, value in axes.items():
    if not isinstance(value, Axes):
      raise _checks.wrong_type(f'axes[{key!r}]', value, 'be `lthjax.axes.Axes`')
  return found


def _normalized(axes: Any, rank: int) -> Axes | None:
  """Makes tuples of non-negative numbers; `None` if they do not fit."""
  if not isinstance(axes, Axes):
    return None
  if all(type(group) is tuple for group in axes):  # as most are
    every = [axis for group in axes for axis in group]
    plain = all(type(axis) is int for axis in every)
    if plain and sorted(every) == list(range(rank)):
      return axes
  try:
    groups = [
      [operator.index(axis) for axis in np.atleast_1d(group)] for group in axes
    ]
  except TypeError:
    return None
  every = [axis for group in groups for axis in group]
  if not all(-rank <= axis < rank for axis in every):
    return None
  if sorted(axis % rank for axis in every) != list(range(rank)):
    return None
  return Axes(*(tuple(axis % rank for axis in group) for group in groups))
