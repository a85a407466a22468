"""The roles of the axes of a leaf in the matmuls that it goes to."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lthjax.program._use import Step, Use


class Factor(NamedTuple):
  """A factor of an axis, and the axes of the leaf that it is a part of."""

  axes: frozenset[int]
  size: int


Axis = list[Factor]


def roles(use: Use) -> list[set[str]]:
  """Returns for each axis of a leaf the fields of `Axes` that it is in."""
  axes: list[Axis] = [
    [Factor(frozenset([k]), size)] for k, size in enumerate(use.shape)
  ]
  # What the program does to the leaf is done to its axes, as lists of factors.
  for step in use.steps:
    kept = axes[: step.batch]
    axes = kept + _RULES.get(step.name, _stay)(axes[step.batch :], step, use)
  found: list[dict[str, int]] = [{} for _ in use.shape]
  for axis, role in zip(axes, _operand_roles(use), strict=True):
    for factor, what in _stacked(axis, role, use):
      for k in factor.axes:
        if what:
          found[k][what] = max(found[k].get(what, 1), factor.size)
  return [_strongest(each) for each in found]


def _operand_roles(use: Use) -> list[str]:
  """The role of each axis of the view."""
  known = {
    **dict.fromkeys(use.free, 'outputs'),
    **dict.fromkeys(use.contracted, 'inputs'),
    **dict.fromkeys(use.window, 'window'),
    **dict.fromkeys(use.batch, 'stack'),
  }
  rank = len(use.shapes[use.operand])
  # A mesh axis has no role: a leaf in blocks is still one leaf.
  loops = ['' if loop.axis else 'stack' for loop in use.scans]
  return loops + [known[axis] for axis in range(rank)]


def _stacked(axis: Axis, role: str, use: Use) -> list[tuple[Factor, str]]:
  """Splits the neurons of a grouped convolution into layers and neurons."""
  pairs, groups = [], use.groups
  parts = [factor for factor in axis if factor.size > 1 or len(axis) == 1]
  for factor in axis:
    layers = role == 'outputs' and factor in parts[:-1]
    layers = layers and groups > 1 and groups % factor.size == 0
    layers = layers and not factor.axes & parts[-1].axes
    groups = groups // factor.size if layers else 1
    pairs.append((factor, 'stack' if layers else role))
  return pairs


def _strongest(sizes: dict[str, int]) -> set[str]:
  """An axis from which a single index is taken counts layers."""
  large = {role for role, size in sizes.items() if size > 1}
  return large or set(sizes) or {'stack'}


# Rules: the effect of a step on axes, as lists of factors.


def _size(axis: Axis) -> int:
  return math.prod(factor.size for factor in axis)


def _resized(axis: Axis, size: int) -> Axis:
  """A part of an axis, or an axis that is padded with zeros."""
  if size == _size(axis):
    return axis
  return [Factor(_union(axis), size)]


def _union(axis: Sequence[Factor]) -> frozenset[int]:
  return frozenset().union(*(factor.axes for factor in axis))


def _stay(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  return axes


def _transpose(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  order = step.params.get('permutation') or step.operands[0]
  return [axes[i] for i in order]


def _reshape(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  if order := step.params.get('dimensions'):
    axes = [axes[i] for i in order]
  sizes = step.params['new_sizes'] if step.params else step.operands[0]
  return _regroup(_kept([f for axis in axes for f in axis], use), sizes)


def _kept(factors: Sequence[Factor], use: Use) -> list[Factor]:
  """Drops axes from which a single index has been taken."""
  return [
    factor
    for factor in factors
    if factor.size > 1 or any(use.shape[k] == 1 for k in factor.axes)
  ]


def _regroup(factors: list[Factor], sizes: Sequence[int]) -> list[Axis]:
  """Takes factors from the left until they make up each size."""
  rest, axes = list(factors), []
  for size in sizes:
    axis, missing = [], size
    while rest and (missing > 1 or (size == rest[0].size == 1 and not axis)):
      factor = rest.pop(0)
      if missing % factor.size == 0:
        axis.append(factor)
        missing //= factor.size
      elif factor.size % missing == 0:
        axis.append(Factor(factor.axes, missing))
        rest.insert(0, Factor(factor.axes, factor.size // missing))
        missing = 1
      else:  # The boundary is inside both, so they are merged.
        both = (factor, rest.pop(0))
        size = math.prod(each.size for each in both)
        rest.insert(0, Factor(_union(both), size))
    axes.append(axis)
  if axes and rest:
    axes[-1].extend(rest)
  return axes


def _squeeze(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  gone = step.params['dimensions']
  left = [axis for i, axis in enumerate(axes) if i not in gone]
  for i in gone:  # An axis of length one goes with the next axis.
    place = sum(j not in gone for j in range(i))
    ones = _kept(axes[i], use)
    if ones and left:
      place = min(place, len(left) - 1)
      left[place] = [*ones, *left[place]]
  return left


def _broadcast(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  sizes = step.params['shape']
  new: list[Axis] = [[Factor(frozenset(), size)] for size in sizes]
  for axis, place in zip(
    axes, step.params['broadcast_dimensions'], strict=True
  ):
    new[place] = _resized(axis, sizes[place])
  return new


def _expand(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  (place,) = step.operands
  return [*axes[:place], [], *axes[place:]]


def _pad(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  (around,) = step.operands
  return [
    _resized(axis, _size(axis) + sum(ends))
    for axis, ends in zip(axes, around, strict=True)
  ]


def _slice(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  params = step.params
  if step.name == 'dynamic_slice':
    sizes = params['slice_sizes']
  else:
    strides = params['strides'] or [1] * len(axes)
    bounds = (params['start_indices'], params['limit_indices'])
    ends = zip(*bounds, strides, strict=True)
    sizes = [-(-(stop - start) // stride) for start, stop, stride in ends]
  return [_resized(*each) for each in zip(axes, sizes, strict=True)]


def _split(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  place = step.params['axis']
  size = step.params['sizes'][step.output or 0]
  return [*axes[:place], _resized(axes[place], size), *axes[place + 1 :]]


def _unstack(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  place = step.params['axis']
  return [*axes[:place], *axes[place + 1 :]]


def _tile(axes: list[Axis], step: Step, use: Use) -> list[Axis]:
  reps = step.params['reps']
  return [
    [Factor(frozenset(), n), *axis] if n > 1 else axis
    for n, axis in zip(reps, axes, strict=True)
  ]


_RULES: dict[str, Callable[[list[Axis], Step, Any], list[Axis]]] = {
  'broadcast_in_dim': _broadcast,
  'dynamic_slice': _slice,
  'expand_dims': _expand,
  'pad': _pad,
  'reshape': _reshape,
  'slice': _slice,
  'split': _split,
  'squeeze': _squeeze,
  'tile': _tile,
  'transpose': _transpose,
  'unstack': _unstack,
}
