"""Axes that meet: in elementwise work, in contractions, in reductions."""

import jax.numpy as jnp

from lthjax.program._axis_types import (
  Rule,
  Type,
  Value,
  fresh,
  pin,
  pin_all,
  product,
  same,
  shape,
  tie,
  unify,
)


def elementwise(walk, eqn, values, path):
  """Axes that meet are the same; scalars and axes of size 1 meet nothing."""
  (out,) = eqn.outvars
  arrays = [v for v in values if len(v.axes) == len(shape(out))]
  apart = not walk.sums and eqn.primitive.name in ('add', 'add_any')
  apart = apart and len(arrays) > 1 and all(v.data for v in arrays)
  axes = []
  for i, size in enumerate(shape(out)):
    meeting = [v.axes[i] for v in arrays if v.axes[i].size == size]
    if apart:
      for t in meeting:
        pin(t, 'summed')
      axes.append(Type(size, ['summed']))
      continue
    for other in meeting[1:]:
      unify(meeting[0], other)
    axes.append(meeting[0] if meeting else Type(size))
  places = [v.place for v in values if v.place is not None]
  if eqn.primitive.name in ('eq', 'ne'):
    if len(places) == 2:  # As in a one-hot code of `top_k`.
      tie(*places)
    places = []
  keeps = jnp.issubdtype(out.aval.dtype, jnp.integer) and places
  return [Value(tuple(axes), places[0] if keeps else None)]


def each(walk, eqn, values, path):
  """Every output is like the input at its place."""
  return values


def dot_general(walk, eqn, values, path):
  """Contracted and batch axes are the same; outputs inherit the others."""
  x, y = (value.axes for value in values)
  (cx, cy), (bx, by) = eqn.params['dimension_numbers']
  for i, j in (*zip(cx, cy, strict=True), *zip(bx, by, strict=True)):
    unify(x[i], y[j])
  if all(value.data for value in values):
    walk.paired.extend(x[i] for i in cx)
  batch = [x[i] for i in bx]
  left = [t for i, t in enumerate(x) if i not in (*cx, *bx)]
  right = [t for i, t in enumerate(y) if i not in (*cy, *by)]
  return [Value((*batch, *left, *right))]


def ragged_dot(walk, eqn, values, path):
  """Rows in groups, each with a matrix of its own."""
  dims = eqn.params['ragged_dot_dimension_numbers']
  (cx, cy), (bx, by) = dims.dot_dimension_numbers
  groups, ragged = dims.rhs_group_dimensions, dims.lhs_ragged_dimensions
  x, y, sizes = (value.axes for value in values)
  if not groups or set(ragged) & {*cx, *bx}:
    return unknown(walk, eqn, values, path)
  for i, j in (*zip(cx, cy, strict=True), *zip(bx, by, strict=True)):
    unify(x[i], y[j])
  unify(y[groups[0]], sizes[-1])
  pin(y[groups[0]], 'ragged')
  pin(x[ragged[0]], 'ragged')
  left = [t for i, t in enumerate(x) if i not in (*cx, *bx)]
  right = [t for i, t in enumerate(y) if i not in (*cy, *by, *groups)]
  return [Value((*(x[i] for i in bx), *left, *right))]


def conv(walk, eqn, values, path):
  """Channels are products with the number of groups; windows are pinned."""
  image, kernel = (value.axes for value in values)
  (out,), p = eqn.outvars, eqn.params
  if p['batch_group_count'] != 1:
    return unknown(walk, eqn, values, path)
  # Input channels are groups x kernel inputs, filters are groups x the rest.
  spec, groups = p['dimension_numbers'], Type(p['feature_group_count'])
  channels, filters = spec.lhs_spec[1], spec.rhs_spec[0]
  unify(image[channels], product([groups, kernel[spec.rhs_spec[1]]]))
  if all(value.data for value in values):
    walk.paired.append(image[channels])
  rest = Type(kernel[filters].size // groups.size)
  unify(kernel[filters], product([groups, rest]))
  for value, axes in ((image, spec.lhs_spec), (kernel, spec.rhs_spec)):
    for axis in axes[2:]:
      pin(value[axis], 'window')
  axes = list(fresh(shape(out), 'window'))
  axes[spec.out_spec[0]] = image[spec.lhs_spec[0]]
  axes[spec.out_spec[1]] = kernel[filters]
  return [Value(tuple(axes))]


def reduce_window(walk, eqn, values, path):
  """Pooling: axes with a window are pinned."""
  p = eqn.params
  windows = p['window_dimensions']
  strides = p.get('window_strides') or (1,) * len(windows)
  outs = []
  for value, var in zip(values, eqn.outvars, strict=False):
    axes = list(fresh(shape(var), 'window'))
    for i, axis in enumerate(value.axes):
      if windows[i] == strides[i] == 1 and axes[i].size == axis.size:
        axes[i] = axis
      else:
        pin(axis, 'window')
    outs.append(Value(tuple(axes)))
  return outs


def reduce(walk, eqn, values, path):
  """Reduced axes may be permuted, but their size matters."""
  p, arrays = eqn.params, values[: len(eqn.outvars)]
  gone = p['axes'] if 'axes' in p else p['dimensions']
  same(arrays)
  for i in gone:
    pin(arrays[0].axes[i], 'reduced')
  axes = tuple(t for i, t in enumerate(arrays[0].axes) if i not in gone)
  return [Value(axes) for _ in eqn.outvars]


def argreduce(walk, eqn, values, path):
  """The results are positions along the reduced axis."""
  (axis,) = eqn.params['axes']
  pin(values[0].axes[axis], 'sorted')
  axes = values[0].axes[:axis] + values[0].axes[axis + 1 :]
  return [Value(axes, values[0].axes[axis])]


def cumulate(walk, eqn, values, path):
  """The order of positions matters; `reduce` is for sums without one."""
  pin(values[0].axes[eqn.params['axis']], 'ordered')
  return [Value(values[0].axes)]


def sort(walk, eqn, values, path):
  """Positions along an axis that is sorted with others come out in order."""
  same(values)
  axis, axes = eqn.params['dimension'], list(values[0].axes)
  pin(axes[axis], 'sorted')
  axes[axis] = Type(axes[axis].size, ['sorted'])
  return [Value(tuple(axes), value.place) for value in values]


def top_k(walk, eqn, values, path):
  """Values and their positions along the sorted axis."""
  axes = list(values[0].axes)
  axis = eqn.params.get('axis', -1) % len(axes)
  place = axes[axis]
  axes[axis] = Type(shape(eqn.outvars[0])[axis], ['sorted'])
  pin(place, 'sorted')
  return [Value(tuple(axes)), Value(tuple(axes), place)]


def unknown(walk, eqn, values, path):
  """A primitive without a rule: all that reaches it is pinned by its name."""
  name = eqn.primitive.name
  for value in values if eqn.outvars else ():
    pin_all(value, name)
  return [Value(fresh(shape(var), name)) for var in eqn.outvars]


_ELEMENTWISE = (
  'abs', 'acos', 'acosh', 'add', 'add_any', 'and', 'asin', 'asinh', 'atan',
  'atan2', 'atanh', 'bessel_i0e', 'bessel_i1e', 'cbrt', 'ceil', 'clamp',
  'clz', 'conj', 'convert_element_type', 'copy', 'copy_p', 'cos', 'cosh',
  'digamma', 'div', 'eq', 'erf', 'erf_inv', 'erfc', 'exp', 'exp2', 'expm1',
  'floor', 'ge', 'gt', 'igamma', 'igammac', 'imag', 'integer_pow',
  'is_finite', 'le', 'lgamma', 'log', 'log1p', 'logistic', 'lt', 'max', 'min',
  'mul', 'name', 'ne', 'neg', 'nextafter', 'not', 'or', 'population_count',
  'pow', 'real', 'reduce_precision', 'rem', 'reshard', 'round', 'rsqrt',
  'select_n', 'sharding_constraint', 'shift_left', 'shift_right_arithmetic',
  'shift_right_logical', 'sign', 'sin', 'sinh', 'sqrt', 'square',
  'stop_gradient', 'sub', 'tan', 'tanh', 'xor', 'zeta',
)  # fmt: skip
_REDUCTIONS = (
  'reduce', 'reduce_and', 'reduce_max', 'reduce_min', 'reduce_or',
  'reduce_prod', 'reduce_sum', 'reduce_xor',
)  # fmt: skip
_CUMULATIVE = ('cumlogsumexp', 'cummax', 'cummin', 'cumprod', 'cumsum')
_WINDOWS = (
  'reduce_window', 'reduce_window_max', 'reduce_window_min',
  'reduce_window_sum',
)  # fmt: skip

RULES: dict[str, Rule] = {
  'argmax': argreduce,
  'argmin': argreduce,
  'conv_general_dilated': conv,
  'device_put': each,
  'dot_general': dot_general,
  'optimization_barrier': each,
  'pvary': each,
  'ragged_dot_general': ragged_dot,
  'sort': sort,
  'top_k': top_k,
  **dict.fromkeys(_CUMULATIVE, cumulate),
  **dict.fromkeys(_ELEMENTWISE, elementwise),
  **dict.fromkeys(_REDUCTIONS, reduce),
  **dict.fromkeys(_WINDOWS, reduce_window),
}
