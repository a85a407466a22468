"""Budgets by the shapes of layers, and fixed ones."""

import math
from collections.abc import Callable, Mapping, Sequence

from lthjax import _checks, counts, trees
from lthjax import axes as axes_lib
from lthjax._errors import refuse
from lthjax.axes import Axes

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Densities = Callable[..., dict[str, float]]


def uniform(
  shapes: Shapes, sparsity: float, *, axes: Mapping[str, Axes] | None = None
) -> dict[str, float]:
  """Gives every layer the same density.

  Args:
    shapes: ``{name: shape}`` of the prunable leaves.
    sparsity: dead share of all weights together, in [0, 1).
    axes: ignored; every distribution takes them.

  Returns:
    ``{name: density}``.

  Example:
    >>> from lthjax import densities
    >>> densities.uniform({'a': (4, 4), 'b': (4, 2)}, 0.75)
    {'a': 0.25, 'b': 0.25}
  """
  del axes
  _checks.shapes('shapes', shapes)
  return dict.fromkeys(shapes, 1 - _checks.share('sparsity', sparsity))


def er(
  shapes: Shapes, sparsity: float, *, axes: Mapping[str, Axes] | None = None
) -> dict[str, float]:
  """Erdos-Renyi: density in proportion to ``(in + out) / (in * out)``.

  Layers that would exceed 1 are dense, and the others make up for them. A leaf
  that stacks layers, or experts, has the density of one of them.

  Args:
    shapes: as for `uniform`.
    sparsity: as for `uniform`.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say what is ``in`` and ``out``.

  Returns:
    ``{name: density}``.

  Example:
    >>> from lthjax import densities
    >>> spread = densities.er({'a': (100, 100), 'c': (100, 10)}, 0.9)
    >>> {name: round(density, 3) for name, density in spread.items()}
    {'a': 0.071, 'c': 0.39}

  References:
    Mocanu et al., Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science, arXiv:1707.04780, eq. 1.
  """

  def raw(shape: Shape, its: Axes) -> float:
    return _sum_over_product(shape, [its.inputs, its.outputs])

  return _spread(shapes, sparsity, axes, raw)


def erk(
  shapes: Shapes, sparsity: float, *, axes: Mapping[str, Axes] | None = None
) -> dict[str, float]:
  """Erdos-Renyi-Kernel: density in proportion to ``sum(dims) / prod(dims)``.

  The dimensions are those of a convolution's window, ``in`` and ``out``;
  otherwise the same as `er`.

  Example:
    >>> from lthjax import densities
    >>> lenet = {'fc1': (784, 300), 'fc2': (300, 100), 'output': (100, 10)}
    >>> {k: round(1 - v, 4) for k, v in densities.erk(lenet, 0.9).items()}
    {'fc1': 0.9204, 'fc2': 0.7698, 'output': 0.0}

  References:
    Evci et al., Rigging the Lottery: Making All Tickets Winners,
    arXiv:1911.11134, section 3.
  """

  def raw(shape: Shape, its: Axes) -> float:
    window = [(axis,) for axis in its.window]
    return _sum_over_product(shape, [*window, its.inputs, its.outputs])

  return _spread(shapes, sparsity, axes, raw)


def custom(
  fixed: Mapping[str, float],
  others: Densities = uniform,
  *,
  keep_total: bool = False,
) -> Densities:
  """Fixes the density of some layers and spreads the budget of the others.

  The sparsity is then that of the other layers together: fixed layers are not
  part of the budget, as in the reference code of RigL. With ``keep_total`` it
  is that of all layers, and the others make up for the fixed ones.

  Args:
    fixed: ``{glob: density}`` over names; first match wins.
    others: distribution over the layers that no glob matches.
    keep_total: whether the fixed layers count inside the budget.

  Returns:
    A distribution.

  Example:
    >>> from lthjax import densities
    >>> spread = densities.custom({'conv1/*': 1.0})
    >>> spread({'conv1/kernel': (3, 3, 3, 8), 'fc/kernel': (8, 10)}, 0.5)
    {'conv1/kernel': 1.0, 'fc/kernel': 0.5}
    >>> spread = densities.custom({'a': 1.0}, keep_total=True)
    >>> spread({'a': (2, 5), 'b': (2, 20)}, 0.5)
    {'a': 1.0, 'b': 0.375}
  """
  fixed = _fixed_densities(fixed)
  _checks.densities('others', others)
  keep_total = _checks.flag('keep_total', keep_total)

  def spread(
    shapes: Shapes, sparsity: float, *, axes: Mapping[str, Axes] | None = None
  ) -> dict[str, float]:
    sparsity = _checks.share('sparsity', sparsity)
    _checks.shapes('shapes', shapes)
    chosen = trees.per_leaf(fixed, shapes, 'fixed')
    densities = {name: density for name, (_, density) in chosen.items()}
    rest = {n: shape for n, shape in shapes.items() if n not in chosen}
    if keep_total:
      sparsity = _sparsity_of_rest(shapes, rest, densities, sparsity)
    if sparsity == 1:  # The fixed layers use all of the budget.
      densities |= dict.fromkeys(rest, 0.0)
    elif rest:
      densities |= counts.call(others, rest, sparsity, axes)
    return {name: densities[name] for name in shapes}

  return spread


def _fixed_densities(fixed: Mapping[str, float]) -> dict[str, float]:
  """Returns densities by glob as numbers in [0, 1]."""
  _checks.mapping('fixed', fixed, 'globs to densities, as {"conv1/*": 1.0}')
  found, wrong = {}, []
  for glob, density in fixed.items():
    try:
      found[glob] = _checks.closed_share('density', density)
    except (TypeError, ValueError):
      wrong.append(f'{glob}: {density}')
  refuse(wrong, 'Densities must be in [0, 1], but were given as {}.')
  return found


def _sparsity_of_rest(
  shapes: Shapes, rest: Shapes, fixed: Mapping[str, float], sparsity: float
) -> float:
  """Returns the sparsity of the rest with which the total comes out right."""
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  free = sum(size[name] for name in rest)
  taken = sum(size[name] * density for name, density in fixed.items())
  budget = (1 - sparsity) * sum(size.values())
  if not -0.5 <= budget - taken <= free + 0.5:  # up to rounding
    raise ValueError(
      f'A sparsity of {sparsity:g} keeps {budget:.0f} weights, but `fixed`'
      f' takes {taken:.0f} of them for {", ".join(fixed)}, and there are {free}'
      ' others. Change the sparsity or the fixed densities, or leave'
      ' the fixed layers out of the budget with `keep_total=False`.'
    )
  return 1 - min(max((budget - taken) / free, 0.0), 1.0) if free else sparsity


def _sum_over_product(shape: Shape, groups: Sequence[Shape]) -> float:
  """Returns the sum of the sizes of groups of axes over their product."""
  sizes = [axes_lib.size(shape, group) for group in groups if group]
  return sum(sizes) / math.prod(sizes) if all(sizes) else 1.0


def _spread(
  shapes: Shapes,
  sparsity: float,
  axes: Mapping[str, Axes] | None,
  raw: Callable[[Shape, Axes], float],
) -> dict[str, float]:
  """Scales raw densities to the budget; whatever exceeds 1 becomes dense."""
  sparsity = _checks.share('sparsity', sparsity)
  _checks.shapes('shapes', shapes)
  its = axes_lib.resolve(axes, shapes, strict=False)
  # Without inputs but with neurons on two axes, nobody was sure of a kernel.
  sure = {n: x for n, x in its.items() if x.inputs or len(x.outputs) < 2}
  its = axes_lib.resolve(sure, shapes)
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  weight = {name: raw(shape, its[name]) for name, shape in shapes.items()}
  # As in the reference code of RigL: as long as the densest layer would exceed
  # 1, it becomes dense, and the others share what is left of the budget.
  free, scale = {name for name in shapes if size[name]}, 1 - sparsity
  while free:
    dense = sum(size[name] for name in shapes if name not in free)
    budget = (1 - sparsity) * sum(size.values()) - dense
    scale = budget / sum(weight[name] * size[name] for name in free)
    top = max(weight[name] for name in free)
    if scale * top <= 1:
      break
    free -= {name for name in free if weight[name] == top}
  return {
    name: scale * weight[name] if name in free else 1.0 for name in shapes
  }
