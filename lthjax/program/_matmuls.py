"""Matmuls, convolutions and lookups, and the leaves in them."""

import math

import jax.extend.core as jex

from lthjax.program._interpreter import Path
from lthjax.program._walk import Values, Walk, shape


def dot(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A matmul."""
  contracted, batch = eqn.params['dimension_numbers']
  depth = math.prod(shape(eqn.invars[0])[axis] for axis in contracted[0])
  size = math.prod(shape(eqn.outvars[0]))
  roles = [
    {'contracted': c, 'batch': b}
    for c, b in zip(contracted, batch, strict=True)
  ]
  return _multiply(walk, eqn, values, path, size * depth, roles)


def ragged(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A matmul in which each group of rows has its own kernel."""
  numbers = eqn.params['ragged_dot_dimension_numbers']
  contracted, batch = numbers.dot_dimension_numbers
  groups = tuple(numbers.rhs_group_dimensions)
  lhs, rhs = shape(eqn.invars[0]), shape(eqn.invars[1])
  met = {*contracted[1], *batch[1], *groups}
  new = math.prod(n for axis, n in enumerate(rhs) if axis not in met)
  if values[0] and not values[0].derived:
    return walk.lose(eqn, values[:1], ' as its rows')
  if values[1] and not groups:
    return walk.lose(eqn, values[1:2], ' without groups of its own')
  kernel = {'contracted': contracted[1], 'batch': (*batch[1], *groups)}
  return _multiply(
    walk, eqn, values[:2], path, math.prod(lhs) * new, [{}, kernel]
  )


def conv(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A convolution: grouped, strided, dilated or transposed."""
  image, kernel, out = map(shape, (*eqn.invars, *eqn.outvars))
  spec, dilation = eqn.params['dimension_numbers'], eqn.params['lhs_dilation']
  # Multiply-adds: the entries of a filter, for each filter, example and place.
  number = math.prod(kernel[axis] for axis in spec.rhs_spec[1:])
  number *= out[spec.out_spec[0]] * out[spec.out_spec[1]]
  # Where the image is dilated, zeros between its pixels do not count.
  axes = zip(spec.lhs_spec[2:], spec.out_spec[2:], dilation, strict=True)
  number *= math.prod(out[o] if d == 1 else image[i] for i, o, d in axes)
  if values[0] and not values[0].derived:
    return walk.lose(eqn, values[:1], ' as its image')
  roles = {
    'contracted': spec.rhs_spec[1:],
    'window': spec.rhs_spec[2:],
    'groups': eqn.params['feature_group_count']
    * eqn.params['batch_group_count'],
  }
  return _multiply(walk, eqn, values, path, number, [{}, roles])


def _multiply(walk, eqn, values, path, multiply_adds, roles) -> Values:
  """Attributes a product to its kernel."""
  # One kernel is a use of it, none a product of activations; two are a fault.
  weights = [w for w in values if w]
  kernels = [side for side, w in enumerate(values) if w and not w.derived]
  if len(kernels) == 1:
    (side,) = kernels
    axes = {k: tuple(v) if k != 'groups' else v for k, v in roles[side].items()}
    met = (*axes['contracted'], *axes.get('batch', ()))
    free = (i for i in range(len(shape(eqn.invars[side]))) if i not in met)
    axes |= {'operand': side, 'free': tuple(free)}
    walk.use(eqn, path, multiply_adds, values[side], **axes)
  elif not weights:
    walk.use(eqn, path, multiply_adds)
  else:
    names = ' and '.join((values[side] or weights[0]).name for side in kernels)
    if not kernels:
      names = ' and '.join(w.name for w in weights)
      names = f'rows or sums of {names}, as kernels,'
    walk.faults.append(f'{names} meet in `{eqn.primitive.name}`')
  return [None]


def lookup(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Rows of a table, such as an embedding."""
  table, indices = values
  if not table or indices:
    return walk.lose(eqn, values)
  walk.use(eqn, path, 0, table, operand=0)
  return [table._replace(derived=True)]


MATMULS = {
  'conv_general_dilated': conv,
  'dot_general': dot,
  'ragged_dot_general': ragged,
}
