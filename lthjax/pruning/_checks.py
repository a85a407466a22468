"""Checks of what is pruned, by which budget, and of what comes out."""

import functools
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, counts, trees
from lthjax import axes as axes_lib
from lthjax._errors import refuse
from lthjax._sums import count_true
from lthjax.axes import Axes
from lthjax.counts import ROUNDINGS
from lthjax.patterns import Unstructured

SCOPES = {'layer': 'one budget per layer', 'global': 'one for all'}


def check_trees(masks: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
  """Raises unless flat trees can be pruned: masks and scores of one kind."""
  _checks.check_masks(masks)
  if all(mask is None for mask in masks.values()):
    raise ValueError(
      'There is nothing to prune: every mask is None. Choose prunable leaves'
      ' with `lthjax.masks.full(params, where=...)`.'
    )
  _checks.check_arrays(scores, 'scores')
  trees.check_tables(masks, scores, 'scores')


def read_axes(
  axes: Mapping[str, Axes] | None, tree: Any, names: Collection[str]
) -> dict[str, Axes]:
  """Returns the axes of some leaves; others may say what is stacked."""
  found = axes_lib.resolve(axes, tree, strict=False)
  return {name: its for name, its in found.items() if name in names}


def as_budget(
  sparsity: Any,
  fraction: Any,
  scope: Any,
  pattern: Any,
  densities: Any,
  rounding: Any,
) -> tuple[float | None, float | dict[str, float] | None]:
  """Returns the budget as Python numbers, if it does not contradict itself."""
  _checks.pattern('pattern', pattern)
  _checks.densities('densities', densities)
  _checks.one_of('rounding', rounding, ROUNDINGS)
  _checks.one_of('scope', scope, SCOPES)
  if fault := _contradiction(sparsity, fraction, scope, pattern, densities):
    raise ValueError(fault)
  if sparsity is not None:
    return _checks.share('sparsity', sparsity), None
  if isinstance(fraction, Mapping):
    return None, {g: _checks.share('fraction', x) for g, x in fraction.items()}
  if fraction is None:
    return None, None
  return None, _checks.share('fraction', fraction)


def _contradiction(
  sparsity: Any, fraction: Any, scope: Any, pattern: Any, densities: Any
) -> str | None:
  """Returns what is wrong with these arguments together."""
  budgets = {'sparsity': sparsity, 'fraction': fraction}
  given = [name for name, x in budgets.items() if x is not None]
  if pattern.density is not None:
    if not given and densities is None and scope == 'layer':
      return None
    return (
      f'{pattern} fixes the density to {pattern.density:g} in every layer, so'
      ' `prune` takes no sparsity, fraction, densities or scope with it. Leave'
      ' them out.'
    )
  if len(given) != 1:
    return (
      'Give `prune` either `sparsity` (dead share of all weights) or `fraction`'
      ' (share of the alive weights to remove);'
      f' {" and ".join(given) or "neither"} was given.'
    )
  if isinstance(fraction, Mapping) and not fraction:
    return (
      '`fraction` was empty, but must have a share of the alive weights for at'
      ' least one glob, such as `{"*": 0.2}`.'
    )
  if scope == 'global' and not isinstance(pattern, Unstructured):
    return (
      f'`scope="global"` ranks single weights across leaves, but {pattern}'
      ' selects within a leaf. Use `scope="layer"`.'
    )
  if densities is not None and (scope == 'global' or sparsity is None):
    return (
      '`densities` spreads a `sparsity` over layers, so it needs `sparsity` and'
      ' `scope="layer"`.'
    )
  return None


def check_enough(count: int, names: Collection[str], least: int) -> None:
  """Raises if a global budget leaves fewer weights than the layers need."""
  if count < len(names) * max(least, 1):
    need = f' of at least {least} weights each' if least > 1 else ''
    raise ValueError(
      f'This sparsity leaves {count} weights for {len(names)} layers{need}'
      f' ({", ".join(names)}), and a layer without weights blocks the signal.'
      ' Lower `sparsity`.'
    )


def check_total(
  count: Any,
  masks: Mapping[str, Any],
  at_least: int,
  axes: Mapping[str, Axes],
) -> None:
  """Raises if layers that keep some weights keep more than a global budget."""
  if not at_least or trees.is_traced(count, *masks.values()):
    return
  alive = trees.concrete(counts.alive(masks, axes)) or {}
  need = sum(int(np.minimum(at_least, x).sum()) for x in alive.values())
  if need > count:
    raise ValueError(
      f'This budget leaves {count} weights, but `at_least={at_least}` needs'
      f' {need} in these layers: {", ".join(masks)}. Lower either.'
    )


def check_nan(scores: chex.ArrayTree, masks: chex.ArrayTree) -> None:
  """Raises if an alive weight scores NaN; does nothing under a trace."""
  values = trees.by_name(scores)
  _refuse_nan(
    {
      name: jnp.sum(jnp.isnan(values[name]) & mask, dtype=jnp.int32)
      for name, mask in trees.prunable(masks).items()
    }
  )


def check_pruned(
  scores: Mapping[str, Any],
  before: Mapping[str, Any],
  after: Mapping[str, Any],
  layers: Mapping[str, tuple[int, ...]],  # axes of a single layer
) -> None:
  """Raises if scores said nothing, warns if a layer is empty; not traced."""
  values = {name: scores[name] for name in before}
  if trees.is_traced(*values.values(), *before.values(), *after.values()):
    return
  # Leaf by leaf: XLA sums slower in one program for all.
  facts = {
    name: _facts(x, before[name], after[name], layers[name])
    for name, x in values.items()
  }
  if (known := trees.concrete(facts)) is None:
    return
  _refuse_nan({name: nan for name, (nan, _, _) in known.items()})
  refuse(
    [name for name, (_, zero, _) in known.items() if zero],
    'All scores of alive weights are zero in {}. Pruning by them would be'
    ' arbitrary: do gradients and signals reach these layers? Leave them dense'
    ' with `lthjax.masks.full(params, where=...)`.',
  )
  warn_empty({name: empty for name, (_, _, empty) in known.items()})


def warn_empty(empty: Mapping[str, Any]) -> None:
  """Warns of layers that lost their last weight; stacked ones by number."""
  names = []
  for name, is_empty in empty.items():
    if np.any(is_empty):
      stacked = np.size(is_empty) > 1
      number = f' ({np.sum(is_empty)} layers of it)' if stacked else ''
      names.append((name or 'the array') + number)
  if names:
    warnings.warn(
      f'Pruning left no weight in {", ".join(names)}, and a layer without'
      ' weights blocks the signal. Keep some in every layer with `at_least=1`,'
      ' or lower the budget.',
      stacklevel=4,
    )


@functools.partial(jax.jit, static_argnums=3)
def _facts(x, before, after, axes):
  """The number of alive NaN; whether zeros decided; which layers went empty."""
  nan = count_true(jnp.isnan(x) & before, None)
  zero = jnp.any(before & ~after) & ~jnp.any((x != 0) & before)
  return nan, zero, jnp.any(before, axes) & ~jnp.any(after, axes)


def _refuse_nan(numbers: Mapping[str, Any]) -> None:
  known = trees.concrete(numbers) or {}
  refuse(
    [f'{n or "the array"} ({x})' for n, x in known.items() if x],
    'Scores of alive weights are NaN in {}. Pruning by them would be arbitrary:'
    ' did training diverge? Lower the learning rate, or clean the scores with'
    ' `jnp.nan_to_num`.',
  )
