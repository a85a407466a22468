"""A walk over a program that gives every axis of every value a type.

Axes that meet in elementwise work or are contracted with each other have the
same type, see `_axis_types`. One pass suffices: the body of a loop is walked
once, and then its carries are unified.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import trees
from lthjax.program import _axis_types as types
from lthjax.program._axis_types import Type
from lthjax.program._interpreter import (
  CALLS,
  Path,
  inside,
  interpret,
  loop_parts,
  trace,
)


class Value(NamedTuple):
  """What is known of a value of the program.

  Attributes:
    axes: the types of its axes.
    place: the axis along which its entries, integers, are positions; for an
      array of index vectors, one for each column.
    data: whether it depends on more than the params.
  """

  axes: tuple[Type, ...]
  place: Type | tuple[Type | None, ...] | None = None
  data: bool = False


Values = Sequence[Value]
Rule = Callable[['Walk', jex.JaxprEqn, Values, Path], Values]


class Walk(NamedTuple):
  """A walk over a program.

  Attributes:
    sums: whether the two sides of a sum of activations are the same axes.
    loops: the types of the loops around.
    seen: ``(axes, loops)`` of every value.
  """

  sums: bool
  loops: tuple[Type, ...]
  seen: list[tuple[tuple[Type, ...], tuple[Type, ...]]]

  def __call__(self, program: Any, values: Values, path: Path) -> list[Value]:
    """Returns what is known of the results of a program."""
    for value in values:
      self.seen.append((value.axes, self.loops))
    return interpret(program, values, self.step, _constant, path)

  def step(self, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
    """Returns what is known of the outputs of an equation."""
    data = any(value.data for value in values)
    outs = RULES.get(eqn.primitive.name, unknown)(self, eqn, values, path)
    self.seen.extend((out.axes, self.loops) for out in outs)
    return [out._replace(data=out.data or data) for out in outs]


class TypedAxes(NamedTuple):
  """The types of the axes of all leaves.

  Attributes:
    leaves: ``{name: type of each axis}``.
    around: for each atom, by `id`, the atoms that are there wherever it is: on
      another axis, or as a loop around.
  """

  leaves: dict[str, tuple[Type, ...]]
  around: dict[int, set[int]]


def typed_axes(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  sums: bool = True,
) -> TypedAxes:
  """Finds the types of the axes of leaves in ``apply(params, *args)``."""
  closed, _ = trace(apply, params, *args)
  named = jax.tree_util.tree_leaves_with_path(params)
  leaves = {
    trees.path_name(path): Value(_fresh(jnp.shape(x))) for path, x in named
  }
  given = [
    Value(_fresh(jnp.shape(x), 'input'), data=True)
    for x in jax.tree.leaves(args)
  ]
  walk = Walk(sums, (), [])
  outs = walk(closed, [*leaves.values(), *given], ())
  for out in outs:
    _pin(out, 'output')
  return TypedAxes({n: v.axes for n, v in leaves.items()}, _around(walk.seen))


def _around(seen) -> dict[int, set[int]]:
  around: dict[int, set[int]] = {}
  for axes, loops in seen:
    here = {id(atom) for t in (*axes, *loops) for atom in types.atoms(t)}
    for t in axes:
      for atom in types.atoms(t):
        around[id(atom)] = around.get(id(atom), here) & here
  return around


def _fresh(shape: Sequence[int], *pins: str) -> tuple[Type, ...]:
  return tuple(Type(size, pins) for size in shape)


def _constant(value: Any) -> Value:
  shape = jnp.shape(value)
  return Value(_fresh(shape, 'constant'), data=bool(shape))


def _tie(a: Any, b: Any) -> None:
  """Unifies the axes along which equal integers are positions."""
  if isinstance(a, Type) and isinstance(b, Type) and a.size == b.size:
    types.unify(a, b)


def _pin(value: Value, *pins: str) -> None:
  for axis in value.axes:
    types.pin(axis, *pins)


def _shape(atom: Any) -> tuple[int, ...]:
  return getattr(atom.aval, 'shape', ())


def _same(values: Values) -> None:
  """Unifies values of one shape, axis by axis."""
  first, *others = values
  for value in others:
    for a, b in zip(first.axes, value.axes, strict=True):
      types.unify(a, b)


def unknown(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """A primitive without a rule: all that reaches it is pinned by its name."""
  name = eqn.primitive.name
  for value in values if eqn.outvars else ():
    _pin(value, name)
  return [Value(_fresh(_shape(var), name)) for var in eqn.outvars]


def elementwise(walk, eqn, values, path):
  """Axes that meet are the same; scalars and axes of size 1 meet nothing."""
  (out,) = eqn.outvars
  arrays = [v for v in values if len(v.axes) == len(_shape(out))]
  apart = not walk.sums and eqn.primitive.name in ('add', 'add_any')
  apart = apart and len(arrays) > 1 and all(v.data for v in arrays)
  axes = []
  for i, size in enumerate(_shape(out)):
    meeting = [v.axes[i] for v in arrays if v.axes[i].size == size]
    if apart:
      for t in meeting:
        types.pin(t, 'summed')
      axes.append(Type(size, ['summed']))
      continue
    for other in meeting[1:]:
      types.unify(meeting[0], other)
    axes.append(meeting[0] if meeting else Type(size))
  places = [v.place for v in values if v.place is not None]
  if eqn.primitive.name in ('eq', 'ne'):
    if len(places) == 2:
      _tie(*places)
    places = []
  keeps = jnp.issubdtype(out.aval.dtype, jnp.integer) and places
  return [Value(tuple(axes), places[0] if keeps else None)]


def each(walk, eqn, values, path):
  """Every output is like the input at its place."""
  return values


def call(walk, eqn, values, path):
  """A function called once."""
  ((here, program),) = inside(eqn, path)
  return walk(program, values, here)


def dot_general(walk, eqn, values, path):
  """Contracted and batch axes are the same; outputs inherit the others."""
  x, y = (value.axes for value in values)
  (cx, cy), (bx, by) = eqn.params['dimension_numbers']
  for i, j in (*zip(cx, cy, strict=True), *zip(bx, by, strict=True)):
    types.unify(x[i], y[j])
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
    types.unify(x[i], y[j])
  types.unify(y[groups[0]], sizes[-1])
  types.pin(y[groups[0]], 'ragged')
  types.pin(x[ragged[0]], 'ragged')
  left = [t for i, t in enumerate(x) if i not in (*cx, *bx)]
  right = [t for i, t in enumerate(y) if i not in (*cy, *by, *groups)]
  return [Value((*(x[i] for i in bx), *left, *right))]


def conv(walk, eqn, values, path):
  """Channels are products with the number of groups; windows are pinned."""
  image, kernel = (value.axes for value in values)
  (out,), p = eqn.outvars, eqn.params
  if p['batch_group_count'] != 1:
    return unknown(walk, eqn, values, path)
  spec, groups = p['dimension_numbers'], Type(p['feature_group_count'])
  channels, filters = spec.lhs_spec[1], spec.rhs_spec[0]
  types.unify(
    image[channels], types.product([groups, kernel[spec.rhs_spec[1]]])
  )
  rest = Type(kernel[filters].size // groups.size)
  types.unify(kernel[filters], types.product([groups, rest]))
  for value, axes in ((image, spec.lhs_spec), (kernel, spec.rhs_spec)):
    for axis in axes[2:]:
      types.pin(value[axis], 'window')
  axes = list(_fresh(_shape(out), 'window'))
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
    axes = list(_fresh(_shape(var), 'window'))
    for i, axis in enumerate(value.axes):
      if windows[i] == strides[i] == 1 and axes[i].size == axis.size:
        axes[i] = axis
      else:
        types.pin(axis, 'window')
    outs.append(Value(tuple(axes)))
  return outs


def reshape(walk, eqn, values, path):
  """Blocks of axes with the same number of entries are one product."""
  value, *_ = values
  shape = _shape(eqn.outvars[0])
  if 0 in shape or eqn.params.get('dimensions') is not None:
    return unknown(walk, eqn, values, path)
  old = [t for t in value.axes if t.size != 1]
  axes = list(_fresh(shape))
  new = [i for i, t in enumerate(axes) if t.size != 1]
  while old:
    ins, outs = [old.pop(0)], [new.pop(0)]
    while (size := _size(ins)) != (wanted := _size([axes[i] for i in outs])):
      if size < wanted:
        ins.append(old.pop(0))
      else:
        outs.append(new.pop(0))
    if len(outs) == 1:
      axes[outs[0]] = types.product(ins)
    else:
      whole = types.product([axes[i] for i in outs])
      types.unify(types.product(ins), whole)
  place = value.place if isinstance(value.place, Type) else None
  return [Value(tuple(axes), place)]


def _size(parts: Sequence[Type]) -> int:
  return math.prod(t.size for t in parts)


def broadcast(walk, eqn, values, path):
  """New axes are atoms."""
  value, *_ = values
  axes = list(_fresh(eqn.params['shape']))
  pairs = zip(eqn.params['broadcast_dimensions'], value.axes, strict=True)
  for i, axis in pairs:
    if axes[i].size == axis.size:
      axes[i] = axis
  return [Value(tuple(axes), value.place)]


def transpose(walk, eqn, values, path):
  """Axes in another order."""
  (value,) = values
  axes = tuple(value.axes[i] for i in eqn.params['permutation'])
  return [Value(axes, value.place)]


def squeeze(walk, eqn, values, path):
  """Axes of size 1 go."""
  value, gone = values[0], eqn.params['dimensions']
  axes = tuple(t for i, t in enumerate(value.axes) if i not in gone)
  return [Value(axes, value.place)]


def expand_dims(walk, eqn, values, path):
  """Axes of size 1 come."""
  axes = list(values[0].axes)
  for i in sorted(eqn.params['dimensions']):
    axes.insert(i, Type(1))
  return [Value(tuple(axes), values[0].place)]


def slices(walk, eqn, values, path):
  """A part of an axis is a term of a sum, or the first factor of a product."""
  value, p = values[0], eqn.params
  strides = p['strides'] or (1,) * len(value.axes)
  axes = [
    _slice(*each)
    for each in zip(
      value.axes, p['start_indices'], p['limit_indices'], strides, strict=True
    )
  ]
  return [Value(tuple(axes), value.place)]


def _slice(t: Type, start: int, stop: int, stride: int) -> Type:
  size = len(range(start, stop, stride))
  if size == t.size:
    return t
  if stride > 1 and start < stride and size * stride == t.size:
    # Every second position, as in interleaved rotary embeddings.
    first, last = Type(size), Type(stride, ['indexed'])
    types.unify(t, types.product([first, last]))
    return first
  if stride == 1 and size:
    pieces = types.cut(t, [start, stop])
    if pieces is not None:
      return pieces[1 if start else 0]
  types.pin(t, 'sliced')
  return Type(size, ['sliced'])


def split(walk, eqn, values, path):
  """The pieces of an axis are the terms of a sum."""
  (value,), axis, outs, start = values, eqn.params['axis'], [], 0
  for size in eqn.params['sizes']:
    axes = list(value.axes)
    axes[axis] = _slice(axes[axis], start, start + size, 1)
    start += size
    outs.append(Value(tuple(axes), value.place))
  return outs


def concatenate(walk, eqn, values, path):
  """Terms are joined to a sum."""
  axis = eqn.params['dimension']
  others = [Value(v.axes[:axis] + v.axes[axis + 1 :]) for v in values]
  _same(others)
  axes = list(values[0].axes)
  axes[axis] = types.total([v.axes[axis] for v in values])
  vectors = axis == len(axes) - 1 and all(
    v.axes[axis].size == 1 for v in values
  )
  columns = tuple(
    v.place if isinstance(v.place, Type) else None for v in values
  )
  return [Value(tuple(axes), columns if vectors else None)]


def stack(walk, eqn, values, path):
  """Values side by side along a new axis."""
  _same(values)
  axes = list(values[0].axes)
  axes.insert(eqn.params['axis'], Type(len(values), ['parts']))
  return [Value(tuple(axes))]


def unstack(walk, eqn, values, path):
  """All slices of an axis, one by one."""
  (value,), axis = values, eqn.params['axis']
  types.pin(value.axes[axis], 'indexed')
  axes = value.axes[:axis] + value.axes[axis + 1 :]
  return [Value(axes, value.place) for _ in eqn.outvars]


def pad(walk, eqn, values, path):
  """What pads is a term of a sum, of a size that the program fixes."""
  axes = []
  for t, (low, high, interior) in zip(
    values[0].axes, eqn.params['padding_config'], strict=True
  ):
    if min(low, high) < 0 or interior:
      types.pin(t, 'padded')
      size = t.size + low + high + interior * max(t.size - 1, 0)
      axes.append(Type(size, ['padded']))
    else:
      around = Type(low, ['padded']), Type(high, ['padded'])
      axes.append(types.total([around[0], t, around[1]]))
  return [Value(tuple(axes))]


def tile(walk, eqn, values, path):
  """Repeated axes are products."""
  (value,), (out,) = values, eqn.outvars
  axes = [
    types.product([Type(size // max(t.size, 1)), t])
    for t, size in zip(value.axes, _shape(out), strict=True)
  ]
  return [Value(tuple(axes), value.place)]


def rev(walk, eqn, values, path):
  """The order of positions matters."""
  for i in eqn.params['dimensions']:
    types.pin(values[0].axes[i], 'ordered')
  return values


def cumulate(walk, eqn, values, path):
  """The order of positions matters; `reduce` is for sums without one."""
  types.pin(values[0].axes[eqn.params['axis']], 'ordered')
  return [Value(values[0].axes)]


def reduce(walk, eqn, values, path):
  """Reduced axes may be permuted, but their size matters."""
  gone, arrays = eqn.params['axes'], values[: len(eqn.outvars)]
  _same(arrays)
  for i in gone:
    types.pin(arrays[0].axes[i], 'reduced')
  axes = tuple(t for i, t in enumerate(arrays[0].axes) if i not in gone)
  return [Value(axes) for _ in eqn.outvars]


def argreduce(walk, eqn, values, path):
  """The result are positions along the reduced axis."""
  (axis,) = eqn.params['axes']
  types.pin(values[0].axes[axis], 'sorted')
  axes = values[0].axes[:axis] + values[0].axes[axis + 1 :]
  return [Value(axes, values[0].axes[axis])]


def iota(walk, eqn, values, path):
  """Positions along an axis."""
  axes = _fresh(_shape(eqn.outvars[0]))
  axis = axes[eqn.params['dimension']]
  types.pin(axis, 'iota')
  return [Value(axes, axis)]


def top_k(walk, eqn, values, path):
  """Values and their positions along the sorted axis."""
  axes = list(values[0].axes)
  axis = eqn.params.get('axis', -1) % len(axes)
  place = axes[axis]
  axes[axis] = Type(_shape(eqn.outvars[0])[axis], ['sorted'])
  types.pin(place, 'sorted')
  return [Value(tuple(axes)), Value(tuple(axes), place)]


def sort(walk, eqn, values, path):
  """Positions along an axis that is sorted with others come out in order."""
  _same(values)
  axis, axes = eqn.params['dimension'], list(values[0].axes)
  types.pin(axes[axis], 'sorted')
  axes[axis] = Type(axes[axis].size, ['sorted'])
  return [Value(tuple(axes), value.place) for value in values]


def _indexed(t: Type, size: int) -> Type:
  """A part of an axis at computed positions, or all of it."""
  if t.size == size:
    return t
  types.pin(t, 'indexed')
  return Type(size, ['indexed'])


def dynamic_slice(walk, eqn, values, path):
  """Whole axes pass."""
  pairs = zip(values[0].axes, eqn.params['slice_sizes'], strict=True)
  return [Value(tuple(_indexed(*pair) for pair in pairs), values[0].place)]


def dynamic_update_slice(walk, eqn, values, path):
  """Whole axes are the same."""
  operand, update, *_ = values
  for t, new in zip(operand.axes, update.axes, strict=True):
    if t.size == new.size:
      types.unify(t, new)
    else:
      types.pin(t, 'indexed')
      types.pin(new, 'indexed')
  return [operand]


def gather(walk, eqn, values, path):
  """Whole axes pass; the others are looked up in."""
  (operand, indices), p = values, eqn.params
  dims, sizes = p['dimension_numbers'], p['slice_sizes']
  batch = tuple(getattr(dims, 'operand_batching_dims', ()))
  pairs = zip(
    batch, getattr(dims, 'start_indices_batching_dims', ()), strict=True
  )
  for i, j in pairs:
    types.unify(operand.axes[i], indices.axes[j])
  for i in dims.collapsed_slice_dims:
    _look_up(operand.axes[i], indices, dims.start_index_map, i)
  window = [
    _indexed(t, sizes[i])
    for i, t in enumerate(operand.axes)
    if i not in (*dims.collapsed_slice_dims, *batch)
  ]
  rows = list(indices.axes[:-1])
  axes = [
    window.pop(0) if i in dims.offset_dims else rows.pop(0)
    for i in range(len(_shape(eqn.outvars[0])))
  ]
  return [Value(tuple(axes), operand.place)]


def scatter(walk, eqn, values, path):
  """The reverse of a gather."""
  operand, indices, updates = values
  dims = eqn.params['dimension_numbers']
  batch = tuple(getattr(dims, 'operand_batching_dims', ()))
  pairs = zip(
    batch, getattr(dims, 'scatter_indices_batching_dims', ()), strict=True
  )
  for i, j in pairs:
    types.unify(operand.axes[i], indices.axes[j])
  for i in dims.inserted_window_dims:
    _look_up(operand.axes[i], indices, dims.scatter_dims_to_operand_dims, i)
  window = [updates.axes[i] for i in dims.update_window_dims]
  for i, t in enumerate(operand.axes):
    if i not in (*dims.inserted_window_dims, *batch):
      new = window.pop(0)
      if new.size == t.size:
        types.unify(t, new)
      else:
        types.pin(t, 'indexed')
        types.pin(new, 'indexed')
  rows = [
    t for i, t in enumerate(updates.axes) if i not in dims.update_window_dims
  ]
  for a, b in zip(rows, indices.axes[:-1], strict=True):
    types.unify(a, b)
  return [Value(operand.axes)]


def _look_up(t: Type, indices: Value, dims: Sequence[int], i: int) -> None:
  """Pins an axis in which indices look up; they may be positions along it."""
  types.pin(t, 'indexed')
  place = indices.place
  if isinstance(place, tuple):
    place = place[list(dims).index(i)] if len(place) == len(dims) else None
  _tie(t, place)


def scan(walk, eqn, values, path):
  """The axis that a loop goes along is depth: all stacks share it."""
  consts, carry, stacks = loop_parts(eqn, values)
  loop = Type(eqn.params['length'], ['loop'])
  for value in stacks:
    types.unify(loop, value.axes[0])
  types.pin(loop, 'loop')
  slices_ = [value._replace(axes=value.axes[1:]) for value in stacks]
  ((here, program),) = inside(eqn, path)
  inner = walk._replace(loops=(*walk.loops, loop))
  outs = inner(program, [*consts, *carry, *slices_], here)
  for old, new in zip(carry, outs, strict=False):
    _same([old, new])
  ys = [
    value._replace(axes=(loop, *value.axes)) for value in outs[len(carry) :]
  ]
  return [*outs[: len(carry)], *ys]


def while_loop(walk, eqn, values, path):
  """Carries are the same in all turns."""
  p = eqn.params
  first = p['cond_nconsts']
  last = first + p['body_nconsts']
  carry = values[last:]
  walk(p['cond_jaxpr'], [*values[:first], *carry], (*path, 0))
  outs = walk(p['body_jaxpr'], [*values[first:last], *carry], (*path, 1))
  for old, new in zip(carry, outs, strict=True):
    _same([old, new])
  return outs


def cond(walk, eqn, values, path):
  """The results of all branches are the same."""
  results = [
    walk(program, values[1:], here) for here, program in inside(eqn, path)
  ]
  for outs in zip(*results, strict=True):
    _same(outs)
  return results[0]


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
_SCATTERS = (
  'scatter', 'scatter-add', 'scatter-max', 'scatter-min', 'scatter-mul',
  'scatter-sub', 'scatter_add', 'scatter_max', 'scatter_min', 'scatter_mul',
  'scatter_sub',
)  # fmt: skip

RULES: dict[str, Rule] = {
  'argmax': argreduce,
  'argmin': argreduce,
  'broadcast_in_dim': broadcast,
  'concatenate': concatenate,
  'cond': cond,
  'conv_general_dilated': conv,
  'device_put': each,
  'dot_general': dot_general,
  'dynamic_slice': dynamic_slice,
  'dynamic_update_slice': dynamic_update_slice,
  'expand_dims': expand_dims,
  'gather': gather,
  'iota': iota,
  'optimization_barrier': each,
  'pad': pad,
  'ragged_dot_general': ragged_dot,
  'reshape': reshape,
  'rev': rev,
  'scan': scan,
  'slice': slices,
  'sort': sort,
  'split': split,
  'squeeze': squeeze,
  'stack': stack,
  'tile': tile,
  'top_k': top_k,
  'transpose': transpose,
  'unstack': unstack,
  'while': while_loop,
  **dict.fromkeys(CALLS, call),
  **dict.fromkeys(_CUMULATIVE, cumulate),
  **dict.fromkeys(_ELEMENTWISE, elementwise),
  **dict.fromkeys(_REDUCTIONS, reduce),
  **dict.fromkeys(_SCATTERS, scatter),
  **dict.fromkeys(_WINDOWS, reduce_window),
}
