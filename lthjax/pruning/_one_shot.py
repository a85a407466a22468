"""One-shot pruning: scores, a budget and a pattern make masks."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import chex
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, counts, trees
from lthjax._bisection import subtract, words
from lthjax.axes import Axes
from lthjax.counts import Rounding
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.pruning._checks import (
  as_budget,
  check_enough,
  check_pruned,
  check_total,
  check_trees,
  read_axes,
)
from lthjax.selection import check_floating, keep_each, keep_shared

Scope = Literal['layer', 'global']
Table = Mapping[str, Any]  # leaves by name


def prune(
  scores: chex.ArrayTree,
  masks: chex.ArrayTree,
  *,
  sparsity: float | None = None,
  fraction: float | Mapping[str, float] | None = None,
  scope: Scope = 'layer',
  pattern: Pattern = Unstructured(),
  densities: Densities | None = None,
  rounding: Rounding = 'nearest',
  at_least: int = 0,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Removes the alive weights with the lowest scores.

  Scores are compared with their signs: to prune by magnitude, pass
  `lthjax.scores.magnitude(params)` and not the params themselves, of which
  the most negative would go first.

  Masks nest: a dead weight never returns. Counts are exact, and ties go to the
  lowest index. Works eagerly and under `jax.jit` and `jax.vmap`; scores are
  checked where they are concrete, and traced NaN count as lowest. There is a
  warning where a layer loses its last weight.

  Args:
    scores: tree of floating-point arrays like the masks; the highest survive.
      Scores of leaves whose mask is `None` are ignored.
    masks: tree of masks to start from, such as `lthjax.masks.full(params)`.
    sparsity: dead share of all prunable weights afterwards, in [0, 1).
    fraction: share of the *alive* weights to remove, in [0, 1); or ``{glob:
      share}`` over leaf names, where the first match wins and leaves without a
      match keep their masks. Give either this or ``sparsity``.
    scope: ``'layer'`` gives each layer its own budget; ``'global'`` lets all
      leaves compete for one (with globs: all leaves of the same glob).
    pattern: which shapes may survive. A pattern with a density of its own, such
      as `lthjax.patterns.NM`, takes neither ``sparsity`` nor ``fraction``.
    densities: spreads ``sparsity`` over the layers, for instance
      `lthjax.densities.erk`; evenly by default.
    rounding: of the number *removed*, where it is not whole.
    at_least: how many alive weights every layer keeps, if it has them. A global
      budget keeps its total; a layer's own budget gives way.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs, neurons or a stack of layers. Each layer
      of a stack has a budget of its own.

  Returns:
    Tree of masks, a subset of those given.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[0.5, -2.0, 0.1, 1.0]])}
    >>> masks = lth.masks.full(params)
    >>> lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
    {'w': Array([[False,  True, False,  True]], dtype=bool)}

  References:
    Han et al., Learning both Weights and Connections for Efficient Neural
    Networks, arXiv:1506.02626; Frankle & Carbin, The Lottery Ticket Hypothesis,
    arXiv:1803.03635, section 2 (shares of alive weights, layer by layer).
  """
  named, structure = trees.flatten(masks)
  values, given = trees.flatten(scores)
  check_trees(named, values)
  sparsity, fraction = as_budget(
    sparsity, fraction, scope, pattern, densities, rounding
  )
  at_least = _checks.at_least('at_least', at_least, 0)
  alive = {name: mask for name, mask in named.items() if mask is not None}
  check_floating({name: values[name] for name in alive})
  # Scores say what is stacked by leaves that have no mask, too.
  tree: Any = {n: x.shape for n, x in values.items() if hasattr(x, 'shape')}
  if trees.has_metadata(structure):
    tree = masks
  elif trees.has_metadata(given):
    tree = scores
  its = pattern.fit(read_axes(axes, tree, alive), alive)

  # Counts of what stays are integers on the host, unless masks are traced.
  if pattern.density is not None:
    pruned = {
      name: pattern.select(values[name], mask, None, its[name])
      for name, mask in alive.items()
    }
  elif scope == 'layer':
    budget = layer_budget(alive, sparsity, fraction, densities, rounding, its)
    if at_least:
      every = counts.alive(alive, its)
      budget = {n: _raised(x, every[n], at_least) for n, x in budget.items()}
    pruned = _keep_layers(values, alive, budget, pattern, its)
  else:
    pruned = {}
    for names, count in group_budgets(alive, sparsity, fraction, rounding):
      if sparsity is not None:
        check_enough(count, names, at_least)
      group = {name: alive[name] for name in names}
      check_total(count, group, at_least, its)
      pruned |= keep_global(values, group, count, at_least, its)
  check_pruned(values, alive, pruned, {n: its[n].layer for n in alive})
  return structure.unflatten((named | pruned).values())


def layer_budget(
  alive: Table,
  sparsity: float | None,
  fraction: float | Mapping[str, float] | None,
  densities: Densities | None,
  rounding: Rounding,
  its: Mapping[str, Axes],
) -> dict[str, Any]:
  """Counts what stays in each layer, of all its weights or the alive ones."""
  if fraction is None:
    assert sparsity is not None
    shapes = {name: mask.shape for name, mask in alive.items()}
    return counts.layer_counts(shapes, sparsity, densities, rounding, its)
  shares = trees.per_leaf(fraction, alive, 'fraction')
  numbers = counts.alive({name: alive[name] for name in shares}, its)
  return {
    name: _stay(numbers[name], counts.ratio_of(share), rounding)
    for name, (_, share) in shares.items()
  }


def group_budgets(
  alive: Table,
  sparsity: float | None,
  fraction: float | Mapping[str, float] | None,
  rounding: Rounding,
) -> list[tuple[list[str], Any]]:
  """Counts what stays in the leaves that compete: all, or those of a glob."""
  if fraction is None:
    total = sum(mask.size for mask in alive.values())
    return [(list(alive), _stay(total, counts.exact(sparsity), rounding))]
  groups: dict[str, list[str]] = {}  # The first glob that matches decides.
  shares = trees.per_leaf(fraction, alive, 'fraction')
  for name, (glob, _) in shares.items():
    groups.setdefault(glob, []).append(name)
  numbers = counts.alive({name: alive[name] for name in shares})
  budgets = []
  for names in groups.values():
    total = counts.total({name: numbers[name] for name in names}, alive)
    ratio = counts.ratio_of(shares[names[0]][1])
    budgets.append((names, _stay(total, ratio, rounding)))
  return budgets


def keep_global(
  scores: Table,
  alive: Table,
  count: Any,
  at_least: int,
  its: Mapping[str, Axes],
) -> dict[str, Any]:
  """Keeps a number of weights together, and at least some in each layer."""
  values, masks = [scores[name] for name in alive], list(alive.values())
  if not at_least:
    return dict(zip(alive, keep_shared(values, count, masks), strict=True))
  # The best of each layer first, then the best of all others.
  layers = [its[name].layer for name in alive]
  best = keep_each(values, [at_least] * len(values), masks, axes=layers)
  taken = sum((jnp.sum(b, dtype=jnp.int32) for b in best), jnp.int32(0))
  size = sum(mask.size for mask in masks)
  rest = subtract(words(count, size), taken)
  others = [mask & ~b for mask, b in zip(masks, best, strict=True)]
  keep = keep_shared(values, rest, others)
  return {n: b | k for n, b, k in zip(alive, best, keep, strict=True)}


def _keep_layers(
  scores: Table,
  alive: Table,
  budget: Mapping[str, Any],
  pattern: Pattern,
  its: Mapping[str, Axes],
) -> dict[str, Any]:
  """Selects within each layer that has a budget."""
  if not isinstance(pattern, Unstructured):
    return {
      name: pattern.select(scores[name], alive[name], count, its[name])
      for name, count in budget.items()
    } | {name: mask for name, mask in alive.items() if name not in budget}
  keep = keep_each(
    [scores[name] for name in budget],
    list(budget.values()),
    [alive[name] for name in budget],
    axes=[its[name].layer if its[name].stack else None for name in budget],
  )
  return dict(alive) | dict(zip(budget, keep, strict=True))


def _raised(count: Any, alive: Any, at_least: int) -> Any:
  """Raises a count to what a layer keeps at least, if it has so many."""
  # Known counts stay on the host.
  lib: Any = jnp if trees.is_traced(count, alive) else np
  return lib.maximum(count, lib.minimum(at_least, alive))


def _stay(count: Any, ratio: Fraction, rounding: Rounding) -> Any:
  """Counts what stays when a share goes."""
  # `rounding` is that of the number removed.
  return count - counts.share_of(count, *ratio.as_integer_ratio(), rounding)
