"""How a budget of weights spreads over the layers.

A distribution is a function ``(shapes, sparsity) -> {name: density}``. It is
passed as it is: ``lthjax.prune(..., densities=lthjax.densities.erk)``.
"""

import math
from collections.abc import Callable, Mapping

from lthjax import trees

Shapes = Mapping[str, tuple[int, ...]]
Densities = Callable[[Shapes, float], dict[str, float]]


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
  """Gives every layer the same density.

  Args:
    shapes: ``{name: shape}`` of the prunable leaves.
    sparsity: dead share of all weights together, in [0, 1).

  Returns:
    ``{name: density}``.

  Example:
    >>> from lthjax import densities
    >>> densities.uniform({'a': (4, 4), 'b': (4, 2)}, 0.75)
    {'a': 0.25, 'b': 0.25}
  """
  return dict.fromkeys(shapes, 1 - sparsity)


def er(shapes: Shapes, sparsity: float) -> dict[str, float]:
  """Erdos-Renyi: density in proportion to ``(in + out) / (in * out)``.

  Args:
    shapes: ``{name: shape}``; the last two axes are ``in`` and ``out``.
    sparsity: dead share of all weights together, in [0, 1).

  Returns:
    ``{name: density}``; layers that would exceed 1 are dense and the others
    make up for them.

  Example:
    >>> from lthjax import densities
    >>> spread = densities.er({'a': (100, 100), 'b': (100, 10)}, 0.9)
    >>> {name: round(density, 3) for name, density in spread.items()}
    {'a': 0.071, 'b': 0.39}

  References:
    Mocanu et al., Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science, arXiv:1707.04780, eq. 1.
  """
  return _spread(shapes, sparsity, lambda s: sum(s[-2:]) / math.prod(s[-2:]))


def erk(shapes: Shapes, sparsity: float) -> dict[str, float]:
  """Erdos-Renyi-Kernel: density in proportion to ``sum(dims) / prod(dims)``.

  Args:
    shapes: ``{name: shape}``, kernel axes included.
    sparsity: dead share of all weights together, in [0, 1).

  Returns:
    ``{name: density}``; layers that would exceed 1 are dense and the others
    make up for them.

  Example:
    >>> from lthjax import densities
    >>> lenet = {'fc1': (784, 300), 'fc2': (300, 100), 'output': (100, 10)}
    >>> {k: round(1 - v, 4) for k, v in densities.erk(lenet, 0.9).items()}
    {'fc1': 0.9204, 'fc2': 0.7698, 'output': 0.0}

  References:
    Evci et al., Rigging the Lottery: Making All Tickets Winners,
    arXiv:1911.11134, section 3.
  """
  return _spread(shapes, sparsity, lambda s: sum(s) / math.prod(s))


def custom(
  fixed: Mapping[str, float],
  others: Densities = uniform,
  *,
  keep_total: bool = False,
) -> Densities:
  """Fixes the density of some layers, and spreads the budget of the others.

  The sparsity is then that of the other layers together: fixed layers are left
  out of the budget, as in the reference code of RigL. With ``keep_total`` it
  stays that of all layers, and the others make up for the fixed ones.

  Args:
    fixed: ``{glob: density}`` over names; first match wins.
    others: distribution over the layers that no glob matches.
    keep_total: whether the fixed layers count inside the budget.

  Returns:
    A distribution.

  Raises:
    ValueError: if a density is outside [0, 1], or (when called) a glob matches
      nothing, or the others cannot make up for the fixed layers.

  Example:
    >>> from lthjax import densities
    >>> spread = densities.custom({'conv1/*': 1.0})
    >>> spread({'conv1/kernel': (3, 3, 3, 8), 'fc/kernel': (8, 10)}, 0.5)
    {'conv1/kernel': 1.0, 'fc/kernel': 0.5}
    >>> spread = densities.custom({'a': 1.0}, keep_total=True)
    >>> spread({'a': (2, 5), 'b': (2, 20)}, 0.5)
    {'a': 1.0, 'b': 0.375}
  """
  wrong = [f'{glob}: {d}' for glob, d in fixed.items() if not 0 <= d <= 1]
  if wrong:
    raise ValueError(
      f'Densities must be in [0, 1], but were given as {", ".join(wrong)}.'
    )

  def spread(shapes: Shapes, sparsity: float) -> dict[str, float]:
    chosen = trees.per_leaf(fixed, shapes, 'fixed')
    densities = {name: density for name, (_, density) in chosen.items()}
    rest = {n: shape for n, shape in shapes.items() if n not in chosen}
    if keep_total:
      sparsity = _sparsity_of_rest(shapes, rest, densities, sparsity)
    spread_rest = others(rest, sparsity) if rest else {}
    return {n: (densities | spread_rest)[n] for n in shapes}

  return spread


def _sparsity_of_rest(
  shapes: Shapes, rest: Shapes, fixed: Mapping[str, float], sparsity: float
) -> float:
  """Works out the sparsity that the rest needs for the total to come true."""
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  free = sum(size[name] for name in rest)
  taken = sum(size[name] * density for name, density in fixed.items())
  budget = (1 - sparsity) * sum(size.values())
  if not -0.5 <= budget - taken <= free + 0.5:
    raise ValueError(
      f'A sparsity of {sparsity:g} keeps {budget:.0f} weights, but `fixed`'
      f' takes {taken:.0f} of them for {", ".join(fixed)}, and there are {free}'
      ' others. Change the sparsity or the fixed densities, or leave'
      ' the fixed layers out of the budget with `keep_total=False`.'
    )
  return 1 - min(max((budget - taken) / free, 0.0), 1.0) if free else sparsity


def _spread(
  shapes: Shapes, sparsity: float, raw: Callable[[tuple[int, ...]], float]
) -> dict[str, float]:
  """Scales raw densities to the budget; whatever passes 1 becomes dense."""
  size = {name: math.prod(shape) for name, shape in shapes.items()}
  weight = {name: raw(shape) for name, shape in shapes.items()}
  free, scale = set(shapes), 0.0
  while free:
    dense_total = sum(size[name] for name in shapes if name not in free)
    budget = (1 - sparsity) * sum(size.values()) - dense_total
    scale = budget / sum(weight[name] * size[name] for name in free)
    top = max(weight[name] for name in free)
    if scale * top <= 1:
      break
    free -= {name for name in free if weight[name] == top}
  return {
    name: scale * weight[name] if name in free else 1.0 for name in shapes
  }
