"""Which units to keep: exact counts, in each group or over all of them."""

import itertools
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, counts, trees
from lthjax._errors import refuse
from lthjax.selection import keep_largest
from lthjax.structure._groups import (
  Groups,
  Where,
  check_groups,
  choose,
  stack_shape,
)


def keep(
  groups: Groups,
  scores: Mapping[str, chex.Array],
  sparsity: float,
  *,
  where: Where | None = None,
  scope: str = 'group',
  multiple_of: int = 8,
  minimum: int = 1,
) -> dict[str, jax.Array]:
  """Keeps the units with the largest scores, exactly as many as asked for.

  All layers of a stack keep equally many units, though not the same ones, so
  that the result can be cut. Ties go to the lowest index.

  Guidance from practice: at equal size, networks that are narrower are better
  than networks with fewer layers, which are faster; cut neurons before the
  width, and the width before heads; at most a third at once, and beyond a half,
  cut and distill in turns.

  Args:
    groups: which axes move together.
    scores: ``{group: scores}``, ``[size]`` or ``[*stack, size]``, from `norm`,
      `taylor`, `minitron`, `flap` or `depth`.
    sparsity: share of the units to remove, or, of a ``'global'`` scope, of the
      weights that belong to units; in [0, 1).
    where: the groups to remove units from: names, places such as
      ``'fc1/kernel[1]'``, or globs. By default all that have scores and no
      pins. Layers, pinned by their loop, and groups that are ``'reduced'`` have
      to be named.
    scope: ``'group'`` removes the same share of each group. ``'global'``
      compares groups, with scores standardized in each; units weigh what they
      have in weights.
    multiple_of: counts are multiples of it, in groups of more units.
    minimum: the smallest number of units that a group keeps.

  Returns:
    ``{group: bool array}``, of the shape of the scores, for `masks`, `compact`
    and `compensate`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.ones((1, 4)), 'out': jnp.ones((4, 1))}
    >>> groups = lth.structure.by_axes(
    ...   params, {'in': (None, 'units'), 'out': ('units', None)}
    ... )
    >>> scores = {'units': jnp.array([1.0, 4.0, 2.0, 3.0])}
    >>> lth.structure.keep(groups, scores, 0.5)['units']
    Array([False,  True, False,  True], dtype=bool)

  References:
    An et al., Fluctuation-based Adaptive Structured Pruning for Large Language
    Models, arXiv:2312.11983, section 3.3, for the global scope.
  """
  check_groups(groups)
  sparsity = _checks.share('sparsity', sparsity, 'at 1 no unit would be left')
  _checks.one_of('scope', scope, ('group', 'global'))
  multiple_of = _checks.at_least('multiple_of', multiple_of, 1)
  minimum = _checks.at_least('minimum', minimum, 1)
  scores = _check_scores(scores, groups)
  names = _chosen(groups, scores, where)
  pick = _of_each if scope == 'group' else _of_all
  kept = pick(groups, scores, names, sparsity, multiple_of, minimum)
  return {
    name: keep_largest(scores[name], number, axis=-1)
    for name, number in kept.items()
  }


def _of_each(groups, scores, names, sparsity, multiple_of, minimum):
  """Counts of the units to keep, each group for itself."""
  del scores
  share = counts.exact(sparsity)
  found = {}
  for name in names:
    size = groups[name].size
    exact = size * (1 - share)
    steps = _steps(size, multiple_of, minimum)
    found[name] = min(steps, key=lambda n, exact=exact: (abs(n - exact), -n))
  return found


def _of_all(groups, scores, names, sparsity, multiple_of, minimum):
  """Counts of the units to keep, where all groups share a budget."""
  blocks = []  # (score, weights, group, place)
  total = 0
  for number, name in enumerate(names):
    group = groups[name]
    x = np.asarray(scores[name], np.float64)
    spread = x.std()
    x = (x - x.mean()) / (spread if spread > 0 else 1.0)
    # The r-th best units of all layers go together: counts stay equal.
    ranked = -np.sort(-x, axis=-1).reshape(-1, group.size).mean(0)
    total += group.size * group.entries
    steps = _steps(group.size, multiple_of, minimum)
    for low, high in itertools.pairwise(steps):
      weights = (high - low) * group.entries
      blocks.append((ranked[low:high].mean(), weights, number, low))
  # The worst first; of equal ones, the last ones of later groups.
  blocks.sort(key=lambda block: (block[0], -block[2], -block[3]))
  removed = np.cumsum([0, *(block[1] for block in blocks)])
  cut = int(np.argmin(np.abs(removed - sparsity * total)))
  kept = {name: groups[name].size for name in names}
  for _, _, number, low in blocks[:cut]:
    kept[names[number]] = min(kept[names[number]], low)
  return kept


def _steps(size: int, multiple_of: int, minimum: int) -> list[int]:
  """The counts that a group of some size may keep, ascending."""
  step = multiple_of if size > multiple_of else 1
  found = range(step, size, step)
  return [*(n for n in found if n >= minimum), size]


def _chosen(groups: Groups, scores: Any, where: Where | None) -> list[str]:
  """Returns the groups to remove units from."""
  names = choose(groups, where)
  if where is None:
    names = [name for name in names if name in scores]
  free = ', '.join(n for n, g in groups.items() if not g.pins)
  refuse(
    [
      f'{name} ({", ".join(sorted(groups[name].pins))})'
      for name in names
      if groups[name].pins - {'loop', 'reduced'}
    ],
    'Units of {} cannot be removed, because what is in parentheses fixes them.'
    f' Groups without pins are {free or "not there"}.',
  )
  refuse(
    [name for name in names if name not in scores],
    'There are no scores for {}. Score these groups, or leave them out with'
    ' `where=`.',
  )
  if not names:
    raise ValueError(
      'No group has scores and no pins, so there are no units to choose from.'
      f' There are scores for {", ".join(scores) or "no group"}; groups without'
      f' pins are {free or "not there"}. Name others with `where=`.'
    )
  return names


def _check_scores(scores: Any, groups: Groups) -> dict[str, jax.Array]:
  """Returns the scores as arrays; raises unless they fit the groups."""
  _checks.mapping('scores', scores, 'groups to arrays, one score per unit')
  known = trees.concrete(dict(scores))
  if known is None:
    raise ValueError(
      '`scores` were traced, but which units are kept decides shapes: call'
      ' `keep` outside of `jax.jit`.'
    )
  faults = []
  for name, x in known.items():
    if name not in groups:
      faults.append(f'{name} is not a group ({", ".join(groups) or "none"})')
      continue
    size = groups[name].size
    wanted = [(size,), (*stack_shape(groups, name), size)]
    if np.shape(x) not in wanted:
      texts = ' or '.join(map(str, dict.fromkeys(wanted)))
      faults.append(f'{name} has scores of shape {np.shape(x)}, not {texts}')
    elif not np.isfinite(x).all():
      faults.append(f'{name} has scores that are not finite')
  refuse(faults, 'The scores do not fit the groups: {}.')
  return {name: jnp.asarray(x, jnp.float32) for name, x in known.items()}
