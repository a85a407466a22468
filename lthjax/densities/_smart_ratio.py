"""Smart ratios, layer by layer."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from lthjax import _checks, trees
from lthjax import axes as axes_lib
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.densities._spread import Densities, Shapes


def smart_ratio(
  order: Sequence[str] | None = None,
  *,
  last: float = 0.3,
  decay: int = 0,
) -> Densities:
  """Smart ratios: density falls from input to output, except in the last layer.

  Layer l of L has a density in proportion to ``(L - l + 1)**2 + (L - l + 1)``,
  and the last layer has a fixed one. What would exceed the size of a layer goes
  to the next layers that have room.

  Args:
    order: names of the leaves, or globs over them, from input to output. Leaves
      of one glob, and all leaves by default, are sorted by name with numbers
      compared as numbers, so that ``blocks/10`` follows ``blocks/9``. Give it
      where that is not the order of the layers, such as ``['conv1/*',
      'blocks/*', 'output/*']`` for `lthjax.models.resnet_20`.
    last: density of the last layer.
    decay: divides by ``l ** decay``; the paper's VGG has 2.

  Returns:
    A distribution.

  Example:
    >>> from lthjax import densities
    >>> lenet = {'fc1': (784, 300), 'fc2': (300, 100), 'output': (100, 10)}
    >>> spread = densities.smart_ratio()(lenet, 0.95)
    >>> {name: round(density, 4) for name, density in spread.items()}
    {'fc1': 0.052, 'fc2': 0.026, 'output': 0.3}

  References:
    Su et al., Sanity-Checking Pruning Methods: Random Tickets can Win the
    Jackpot, arXiv:2009.11094, section 4.1.
  """
  order = None if order is None else _checks.globs('order', order)
  last = _checks.closed_share('last', last)
  decay = _checks.at_least('decay', decay, 0)

  def spread(
    shapes: Shapes, sparsity: float, *, axes: Mapping[str, Axes] | None = None
  ) -> dict[str, float]:
    sparsity = _checks.share('sparsity', sparsity)
    _checks.shapes('shapes', shapes)
    _check_layers(shapes, axes)
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    *names, output = _in_order(shapes, order)
    kept = {output: last * size[output]}
    budget = (1 - sparsity) * sum(size.values()) - kept[output]
    room = sum(size[name] for name in names)
    if not 0 < budget <= room * (1 + 1e-9):
      raise ValueError(
        f'A sparsity of {sparsity} leaves {budget:g} weights to all layers but'
        f' {output}, which keeps {kept[output]:g}; there must be more than 0'
        f' and at most {room}. Choose another sparsity or `last`.'
      )
    weight = {}
    for i, name in enumerate(names):
      k = len(names) + 1 - i  # L - l + 1
      weight[name] = size[name] * (k**2 + k) / (i + 1) ** decay
    total = sum(weight.values())
    kept |= {name: budget * weight[name] / total for name in names}
    spill = 0.0  # What a layer has no room for goes to the next.
    for name in names:
      spill += kept[name]
      kept[name] = min(spill, size[name])
      spill -= kept[name]
    return {name: kept[name] / max(size[name], 1) for name in shapes}

  return spread


def _check_layers(shapes: Shapes, axes: Mapping[str, Axes] | None) -> None:
  """Raises unless there are two leaves or more, each of a single layer."""
  if len(shapes) < 2:
    raise ValueError(
      'Smart ratios fix the density of the last layer and spread the budget'
      ' over those before it, so they need two prunable layers or more, but'
      f' there is {", ".join(shapes) or "none"}. Use'
      ' `lthjax.densities.uniform`.'
    )
  refuse(
    [n for n, its in axes_lib.stacks(axes, shapes).items() if its],
    'Smart ratios give every layer a density of its own, but {} stacks several.'
    ' Use `lthjax.densities.erk`.',
  )


def _in_order(names: Iterable[str], order: Sequence[str] | None) -> list[str]:
  """Sorts the names of layers from input to output."""
  globs = ['*'] if order is None else list(order)
  matches = trees.first_match(globs, names, 'order')
  refuse(
    [name for name in names if name not in matches],
    '`order` does not place {}. It must name all prunable leaves, or match them'
    ' by globs, from input to output.',
  )

  def place(name):
    parts = re.split(r'(\d+)', name)  # texts and digits, in turn
    # Numbers compare as numbers: blocks/10 follows blocks/9.
    natural = [int(x) if i % 2 else x for i, x in enumerate(parts)]
    return globs.index(matches[name]), natural

  return sorted(matches, key=place)
