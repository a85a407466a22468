"""Axes that are rearranged: merged, split, cut, joined, indexed."""

import math
from collections.abc import Sequence

from lthjax.program._axis_meetings import unknown
from lthjax.program._axis_types import (
  Rule,
  Type,
  Value,
  cut,
  fresh,
  pin,
  product,
  same,
  shape,
  tie,
  total,
  unify,
)


def reshape(walk, eqn, values, path):
  """Blocks of axes with the same number of entries are one product."""
  value, *_ = values
  new_shape = shape(eqn.outvars[0])
  if 0 in new_shape or eqn.params.get('dimensions') is not None:
    return unknown(walk, eqn, values, path)
  old = [t for t in value.axes if t.size != 1]
  axes = list(fresh(new_shape))
  new = [i for i, t in enumerate(axes) if t.size != 1]
  while old:
    ins, outs = [old.pop(0)], [new.pop(0)]
    while (size := _size(ins)) != (wanted := _size([axes[i] for i in outs])):
      if size < wanted:
        ins.append(old.pop(0))
      else:
        outs.append(new.pop(0))
    if len(outs) == 1:
      axes[outs[0]] = product(ins)
    else:
      whole = product([axes[i] for i in outs])
      unify(product(ins), whole)
  place = value.place if isinstance(value.place, Type) else None
  return [Value(tuple(axes), place)]


def _size(parts: Sequence[Type]) -> int:
  return math.prod(t.size for t in parts)


def broadcast(walk, eqn, values, path):
  """New axes are atoms."""
  value, *_ = values
  axes = list(fresh(eqn.params['shape']))
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
    unify(t, product([first, last]))
    return first
  if stride == 1 and size:
    pieces = cut(t, [start, stop])
    if pieces is not None:
      return pieces[1 if start else 0]
  pin(t, 'sliced')
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
  same(others)
  axes = list(values[0].axes)
  axes[axis] = total([v.axes[axis] for v in values])
  vectors = axis == len(axes) - 1 and all(
    v.axes[axis].size == 1 for v in values
  )
  columns = tuple(
    v.place if isinstance(v.place, Type) else None for v in values
  )
  return [Value(tuple(axes), columns if vectors else None)]


def stack(walk, eqn, values, path):
  """Values side by side along a new axis."""
  same(values)
  axes = list(values[0].axes)
  axes.insert(eqn.params['axis'], Type(len(values), ['parts']))
  return [Value(tuple(axes))]


def unstack(walk, eqn, values, path):
  """All slices of an axis, one by one."""
  (value,), axis = values, eqn.params['axis']
  pin(value.axes[axis], 'indexed')
  axes = value.axes[:axis] + value.axes[axis + 1 :]
  return [Value(axes, value.place) for _ in eqn.outvars]


def pad(walk, eqn, values, path):
  """What pads is a term of a sum, of a size that the program fixes."""
  axes = []
  for t, (low, high, interior) in zip(
    values[0].axes, eqn.params['padding_config'], strict=True
  ):
    if min(low, high) < 0 or interior:
      pin(t, 'padded')
      size = t.size + low + high + interior * max(t.size - 1, 0)
      axes.append(Type(size, ['padded']))
    else:
      around = Type(low, ['padded']), Type(high, ['padded'])
      axes.append(total([around[0], t, around[1]]))
  return [Value(tuple(axes))]


def tile(walk, eqn, values, path):
  """Repeated axes are products."""
  (value,), (out,) = values, eqn.outvars
  axes = [
    product([Type(size // max(t.size, 1)), t])
    for t, size in zip(value.axes, shape(out), strict=True)
  ]
  return [Value(tuple(axes), value.place)]


def rev(walk, eqn, values, path):
  """The order of positions matters."""
  for i in eqn.params['dimensions']:
    pin(values[0].axes[i], 'ordered')
  return values


def iota(walk, eqn, values, path):
  """Positions along an axis."""
  axes = fresh(shape(eqn.outvars[0]))
  axis = axes[eqn.params['dimension']]
  pin(axis, 'iota')
  return [Value(axes, axis)]


def _indexed(t: Type, size: int) -> Type:
  """A part of an axis at computed positions, or all of it."""
  if t.size == size:
    return t
  pin(t, 'indexed')
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
      unify(t, new)
    else:
      pin(t, 'indexed')
      pin(new, 'indexed')
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
    unify(operand.axes[i], indices.axes[j])
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
    for i in range(len(shape(eqn.outvars[0])))
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
    unify(operand.axes[i], indices.axes[j])
  for i in dims.inserted_window_dims:
    _look_up(operand.axes[i], indices, dims.scatter_dims_to_operand_dims, i)
  window = [updates.axes[i] for i in dims.update_window_dims]
  for i, t in enumerate(operand.axes):
    if i not in (*dims.inserted_window_dims, *batch):
      new = window.pop(0)
      if new.size == t.size:
        unify(t, new)
      else:
        pin(t, 'indexed')
        pin(new, 'indexed')
  rows = [
    t for i, t in enumerate(updates.axes) if i not in dims.update_window_dims
  ]
  for a, b in zip(rows, indices.axes[:-1], strict=True):
    unify(a, b)
  return [Value(operand.axes)]


def _look_up(t: Type, indices: Value, dims: Sequence[int], i: int) -> None:
  """Pins an axis in which indices look up; they may be positions along it."""
  pin(t, 'indexed')
  place = indices.place
  if isinstance(place, tuple):
    place = place[list(dims).index(i)] if len(place) == len(dims) else None
  tie(t, place)


_SCATTERS = (
  'scatter', 'scatter-add', 'scatter-max', 'scatter-min', 'scatter-mul',
  'scatter-sub', 'scatter_add', 'scatter_max', 'scatter_min', 'scatter_mul',
  'scatter_sub',
)  # fmt: skip

RULES: dict[str, Rule] = {
  'broadcast_in_dim': broadcast,
  'concatenate': concatenate,
  'dynamic_slice': dynamic_slice,
  'dynamic_update_slice': dynamic_update_slice,
  'expand_dims': expand_dims,
  'gather': gather,
  'iota': iota,
  'pad': pad,
  'reshape': reshape,
  'rev': rev,
  'slice': slices,
  'split': split,
  'squeeze': squeeze,
  'stack': stack,
  'tile': tile,
  'transpose': transpose,
  'unstack': unstack,
  **dict.fromkeys(_SCATTERS, scatter),
}
