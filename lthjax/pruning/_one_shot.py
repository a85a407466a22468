"""One-shot pruning: scores, a budget and a pattern make masks."""

from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.axes import Axes
from lthjax.counts import (
  ROUNDINGS,
  Rounding,
  exact,
  layer_counts,
  ratio_of,
  share_of,
)
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured, count_along
from lthjax.selection import check_floating, keep_largest

Scope = Literal['layer', 'global']


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
  axes: Mapping[str, Axes] | None = None,
) -> chex.ArrayTree:
  """Removes the alive weights with the lowest scores.

  Masks nest: a dead weight never returns. Counts are exact, and ties go to the
  lowest index. Works eagerly and under `jax.jit` and `jax.vmap`; the checks of
  scores need concrete ones, and traced NaN count as lowest. A high sparsity can
  leave small leaves without any weight.

  Args:
    scores: tree of floating-point arrays like the masks; the highest survive.
      Scores of leaves whose mask is `None` are ignored.
    masks: tree of masks to start from, such as `lthjax.masks.full(params)`.
    sparsity: dead share of all prunable weights afterwards, in [0, 1).
    fraction: share of the *alive* weights to remove, in [0, 1); or ``{glob:
      share}`` over leaf names, where the first match wins and leaves without a
      match are left as they are. Give either this or ``sparsity``.
    scope: ``'layer'`` gives each leaf its own budget; ``'global'`` lets all
      leaves compete for one (with globs: all leaves of the same glob).
    pattern: which shapes may survive. A pattern with a density of its own, such
      as `lthjax.patterns.NM`, takes neither ``sparsity`` nor ``fraction``.
    densities: spreads ``sparsity`` over the layers, for instance
      `lthjax.densities.erk`; the default gives each the same.
    rounding: of the number *removed*, where it is not whole.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs, neurons or a stack of layers. Each layer
      of a stack has a budget of its own.

  Returns:
    Tree of masks, a subset of those given.

  Raises:
    TypeError: if scores are not floating point.
    ValueError: for a budget out of range or given twice, masks that do not fit
      the scores, no prunable leaf, a glob that matches nothing, a pattern that
      does not fit a leaf, fewer weights than leaves under one ``sparsity``
      for all, or scores of alive weights that are NaN, or all zero in a leaf
      that loses some.

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
  trees.check_like(masks, scores, 'scores')
  eligible = {n: m for n, m in trees.by_name(masks).items() if m is not None}
  if not eligible:
    raise ValueError(
      'There is nothing to prune: every mask is None. Choose prunable leaves'
      ' with `lthjax.masks.full(params, where=...)`.'
    )
  _check_budget(sparsity, fraction, scope, pattern, densities)
  its = pattern.fit(axes, masks)
  if rounding not in ROUNDINGS:
    raise ValueError(
      f'`rounding` was {rounding!r}, but must be one of {", ".join(ROUNDINGS)}.'
    )
  values = trees.by_name(scores)
  check_floating({name: values[name] for name in eligible})
  check_nan(scores, masks)

  budgets: list[tuple[list[str], Any]]
  if pattern.density is not None:
    budgets = [([name], None) for name in eligible]
  elif fraction is not None:
    shares = trees.per_leaf(fraction, eligible, 'fraction')
    budgets = _budgets_of_alive(eligible, shares, scope, rounding, its)
  else:
    assert sparsity is not None
    budgets = _budgets_of_all(
      eligible, sparsity, scope, densities, rounding, its
    )

  pruned = dict(eligible)
  for names, count in budgets:
    if len(names) == 1:
      (name,) = names
      pruned[name] = pattern.select(
        values[name], eligible[name], count, its[name]
      )
    else:
      keep = keep_largest(
        [values[n] for n in names], count, [eligible[n] for n in names]
      )
      pruned.update(zip(names, keep, strict=True))
  _check_not_zero(values, eligible, pruned)
  return trees.map_alive(lambda name, _: pruned[name], masks)


def check_nan(scores: chex.ArrayTree, masks: chex.ArrayTree) -> None:
  """Raises if an alive weight has no score; does nothing under a trace.

  Args:
    scores: tree of arrays.
    masks: tree of masks of the same structure.

  Raises:
    ValueError: naming each leaf and its number of NaN.
  """
  values = trees.by_name(scores)
  bad = {
    name: jnp.sum(jnp.isnan(values[name]) & mask, dtype=jnp.int32)
    for name, mask in trees.by_name(masks).items()
    if mask is not None
  }
  if trees.is_traced(*bad.values()):
    return
  if found := [f'{n} ({x})' for n, x in jax.device_get(bad).items() if x]:
    raise ValueError(
      f'Scores of alive weights are NaN in {", ".join(found)}. Pruning by'
      ' them would be arbitrary: did training diverge? Lower the learning'
      ' rate, or clean the scores with `jnp.nan_to_num`.'
    )


def check_enough(count: int, names: Collection[str]) -> None:
  """Raises if fewer weights would be left than there are layers.

  Args:
    count: how many weights a global budget keeps.
    names: of the prunable leaves.

  Raises:
    ValueError: naming the leaves.
  """
  if count < len(names):
    raise ValueError(
      f'This sparsity leaves {count} weights for {len(names)} layers'
      f' ({", ".join(names)}), and a layer without any lets nothing through.'
      ' Lower `sparsity`.'
    )


def _check_budget(
  sparsity: float | None,
  fraction: float | Mapping[str, float] | None,
  scope: str,
  pattern: Pattern,
  densities: Densities | None,
) -> None:
  """Raises on budgets that are out of range or contradict each other."""
  given = [
    name
    for name, x in [('sparsity', sparsity), ('fraction', fraction)]
    if x is not None
  ]
  if pattern.density is not None:
    if given or densities is not None or scope != 'layer':
      raise ValueError(
        f'{pattern} fixes the density to {pattern.density:g} in every layer,'
        ' so `prune` takes no sparsity, fraction, densities or scope beside'
        ' it. Leave them out.'
      )
    return
  if len(given) != 1:
    raise ValueError(
      'Give `prune` either `sparsity` (dead share of all weights) or'
      ' `fraction` (share of the alive weights to remove);'
      f' {" and ".join(given) or "neither"} was given.'
    )
  shares = fraction.values() if isinstance(fraction, Mapping) else [fraction]
  for share in [sparsity] if sparsity is not None else shares:
    if share is None or not 0 <= share < 1:
      raise ValueError(
        f'`{given[0]}` was {share}, but must be in [0, 1): at 1 no weight'
        ' would be left.'
      )
  if scope not in ('layer', 'global'):
    raise ValueError(
      f'`scope` was {scope!r}, but must be "layer" (a budget a leaf) or'
      ' "global" (one for all).'
    )
  if scope == 'global' and not isinstance(pattern, Unstructured):
    raise ValueError(
      f'`scope="global"` ranks single weights across leaves, but {pattern}'
      ' selects within a leaf. Use `scope="layer"`.'
    )
  if densities is not None and (scope == 'global' or sparsity is None):
    raise ValueError(
      '`densities` spreads a `sparsity` over layers, so it needs `sparsity`'
      ' and `scope="layer"`.'
    )


def _check_not_zero(
  values: Mapping[str, Any],
  before: Mapping[str, Any],
  after: Mapping[str, Any],
) -> None:
  """Raises if a leaf lost weights whose scores were all zero, if not traced."""
  silent = {
    name: jnp.any(mask & ~after[name]) & ~jnp.any((values[name] != 0) & mask)
    for name, mask in before.items()
  }
  if trees.is_traced(*silent.values()):
    return
  if found := [
    n or 'the array' for n, x in jax.device_get(silent).items() if x
  ]:
    raise ValueError(
      f'All scores of alive weights are zero in {", ".join(found)}. Pruning by'
      ' them would be arbitrary: do gradients and signals reach these layers?'
      ' Leave them dense with `lthjax.masks.full(params, where=...)`.'
    )


def _budgets_of_alive(
  eligible: dict[str, Any],
  shares: dict[str, tuple[str, float]],
  scope: str,
  rounding: Rounding,
  axes: Mapping[str, Axes],
) -> list[tuple[list[str], Any]]:
  """Which leaves share a budget, and how many of their alive weights stay."""
  alive = masks_lib.alive_by_name({name: eligible[name] for name in shares})
  groups: dict[str, list[str]] = {}
  for name, (glob, _) in shares.items():
    groups.setdefault(glob if scope == 'global' else name, []).append(name)
  budgets = []
  for names in groups.values():
    total = sum(alive[name] for name in names)
    if scope == 'layer' and (its := axes[names[0]]).stack:
      total = count_along(eligible[names[0]], its.layer)
    ratio = ratio_of(shares[names[0]][1])
    budgets.append((names, total - _share(total, ratio, rounding)))
  return budgets


def _budgets_of_all(
  eligible: dict[str, Any],
  sparsity: float,
  scope: str,
  densities: Densities | None,
  rounding: Rounding,
  axes: Mapping[str, Axes],
) -> list[tuple[list[str], Any]]:
  """Which leaves share a budget, and how many of all their weights stay."""
  if scope == 'global':
    total = sum(m.size for m in eligible.values())
    count = total - _share(total, exact(sparsity), rounding)
    check_enough(count, eligible)
    return [(list(eligible), count)]
  shapes = {name: m.shape for name, m in eligible.items()}
  counts = layer_counts(shapes, sparsity, densities, rounding, axes)
  return [([name], count) for name, count in counts.items()]


def _share(count: Any, ratio: Fraction, rounding: Rounding) -> Any:
  return share_of(count, ratio.numerator, ratio.denominator, rounding)
