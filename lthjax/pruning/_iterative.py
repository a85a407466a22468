"""Iterative pruning: many steps with new scores each, as one compiled loop."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax._bisection import words
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.counts import ROUNDINGS, Rounding, layer_counts, layer_sizes
from lthjax.densities import Densities
from lthjax.patterns import Unstructured
from lthjax.pruning._checks import SCOPES, check_enough, read_axes, warn_empty
from lthjax.pruning._one_shot import Scope, keep_global
from lthjax.selection import check_floating, keep_each

ScoreFn = Callable[[chex.ArrayTree], chex.ArrayTree]

_MAX_STEPS = 2**20  # The counts of all steps are in memory.


def prune_iteratively(
  score_fn: ScoreFn,
  params: chex.ArrayTree,
  *,
  sparsity: float,
  steps: int = 100,
  scope: Scope = 'global',
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  densities: Densities | None = None,
  rounding: Rounding = 'nearest',
  at_least: int = 0,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Prunes in many steps, scoring what is left before each.

  After step k of n the density is ``(1 - sparsity) ** (k / n)``. Scoring again
  finds weights whose importance depends on others that are still alive, and
  does not empty a layer at once. Masks nest. With `lthjax.scores.synflow` this
  is SynFlow, with `lthjax.scores.snip` iterative SNIP.

  All steps run as one loop, compiled once per ``score_fn`` and number of steps:
  pass the same function again, and another sparsity or other params compile
  nothing. Also works under `jax.jit` and `jax.vmap`, where scores cannot be
  checked.

  Args:
    score_fn: ``score_fn(params)``, called with dead weights at zero, returns
      scores like the params; the highest survive.
    params: tree of arrays.
    sparsity: dead share of all prunable weights afterwards, in [0, 1).
    steps: how often to score and prune.
    scope: ``'global'`` lets all leaves compete; ``'layer'`` gives each layer
      its own budget.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    densities: with ``scope='layer'``, spreads the sparsity over the layers, for
      instance `lthjax.densities.erk`; evenly by default.
    rounding: of the number removed in the end, where it is not whole.
    at_least: how many weights every layer keeps, as for `lthjax.prune`.
    axes: as for `lthjax.prune`.

  Returns:
    Tree of masks.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> lth.prune_iteratively(
    ...   lth.scores.magnitude, params, sparsity=0.75, steps=2
    ... )
    {'w': Array([[ True, False, False, False]], dtype=bool)}

  References:
    Tanaka et al., Pruning neural networks without any data by iteratively
    conserving synaptic flow, arXiv:2006.05467, algorithm 1. De Jorge et al.,
    Progressive Skeletonization, arXiv:2006.09081, algorithm 1.
  """
  _checks.function(
    'score_fn', score_fn, 'score_fn(params) -> scores', classes=False
  )
  sparsity = _checks.share('sparsity', sparsity)
  steps = _checks.at_least('steps', steps, 1)
  if steps > _MAX_STEPS:
    wanted = f'be at most {_MAX_STEPS}: each step computes all scores again'
    raise _checks.wrong_value('steps', steps, wanted)
  at_least = _checks.at_least('at_least', at_least, 0)
  _checks.one_of('scope', scope, SCOPES)
  _checks.one_of('rounding', rounding, ROUNDINGS)
  if _checks.densities('densities', densities) and scope == 'global':
    raise ValueError(
      '`densities` spreads a sparsity over layers, so it needs `scope="layer"`.'
    )
  leaves, structure = trees.flatten(params)
  _checks.check_arrays(leaves, 'params')
  masks = masks_lib.full(params, where)
  named = trees.by_name(masks)
  found = trees.by_name(jax.eval_shape(score_fn, params))
  trees.check_tables(named, found, 'scores')
  dense = {name: mask for name, mask in named.items() if mask is not None}
  check_floating({name: found[name] for name in dense})
  shapes = {name: mask.shape for name, mask in dense.items()}
  its = Unstructured().fit(read_axes(axes, params, dense), shapes)

  kept = _schedule(
    shapes, sparsity, steps, scope, densities, rounding, its, at_least
  )
  total = sum(mask.size for mask in dense.values())
  pruned, peaks = _loop(
    score_fn,
    structure,
    tuple((name, its[name]) for name in dense),
    at_least,
    leaves,
    dense,
    kept if isinstance(kept, dict) else words(kept, total),
  )
  _refuse_useless(peaks)
  _warn_if_empty(pruned, its)
  return structure.unflatten((named | pruned).values())


def _schedule(
  shapes: Mapping[str, tuple[int, ...]],
  sparsity: float,
  steps: int,
  scope: Scope,
  densities: Densities | None,
  rounding: Rounding,
  axes: Mapping[str, Axes],
  at_least: int = 0,
) -> dict[str, np.ndarray] | np.ndarray:
  """Counts what each step keeps: of each layer, or of all together."""
  shares = np.arange(1, steps + 1) / steps

  def spread(size, last):
    if not size:
      return np.zeros(steps, np.int64)
    # Algorithm 1 of SynFlow: after step k of n, the density is rho ** (k / n).
    kept = np.rint(size * (last / size) ** shares).astype(np.int64)
    kept[-1] = last
    return kept

  sizes = layer_sizes(shapes, axes)
  if scope == 'global':
    # Python integers, exact beyond 2^63.
    total = sum(np.prod(shape, dtype=object) for shape in shapes.values())
    (last,) = layer_counts({'': (total,)}, sparsity, None, rounding).values()
    check_enough(last, shapes, at_least)
    return spread(total, last)
  kept = layer_counts(shapes, sparsity, densities, rounding, axes)
  kept = {n: max(k, min(at_least, sizes[n])) for n, k in kept.items()}
  refuse(
    [name for name, k in kept.items() if sizes[name] and not k],
    f'A sparsity of {sparsity} leaves no weight in {{}}. Lower it, choose other'
    ' `densities`, give `at_least=1`, or leave them dense with `where=`.',
  )
  return {name: spread(size, kept[name]) for name, size in sizes.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _loop(
  score_fn: ScoreFn,
  structure: Any,
  axes: tuple[tuple[str, Axes], ...],
  at_least: int,
  leaves: dict[str, Any],
  masks: dict[str, jax.Array],
  counts: Any,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Prunes to the counts of each step; also returns the highest scores."""
  its = dict(axes)

  def step(masks, counts):
    # Scores are those of the network with its dead weights at zero.
    masked = {name: _masked(mask, leaves[name]) for name, mask in masks.items()}
    params = structure.unflatten((leaves | masked).values())
    found = trees.by_name(score_fn(params))
    scores = {name: found[name] for name in masks}
    peaks = {name: _peak(masks[name], x) for name, x in scores.items()}
    if isinstance(counts, dict):
      keep = keep_each(
        list(scores.values()),
        [counts[name] for name in masks],
        list(masks.values()),
        axes=[its[name].layer if its[name].stack else None for name in masks],
      )
      return dict(zip(masks, keep, strict=True)), peaks
    return keep_global(scores, masks, counts, at_least, its), peaks

  return jax.lax.scan(step, masks, counts)


def _masked(mask: jax.Array, w: jax.Array) -> jax.Array:
  return jnp.where(mask, w, jnp.zeros((), w.dtype))


def _peak(mask: jax.Array, scores: jax.Array) -> jax.Array:
  """The largest absolute score of the alive weights; 1 if there are none."""
  # Zero and not finite are told apart later, outside of the loop.
  peak = jnp.max(jnp.where(mask, jnp.abs(scores), 0), initial=0)
  return jnp.where(jnp.any(mask), peak, 1)


def _refuse_useless(peaks: dict[str, Any]) -> None:
  """Raises if pruning went by scores that carry no information."""
  faults = []
  for name, peak in (trees.concrete(peaks) or {}).items():
    bad = np.flatnonzero((peak == 0) | ~np.isfinite(peak))
    if bad.size:
      step = int(bad[0])
      what = 'not finite' if peak[step] else 'all zero'
      faults.append(f'{name or "the array"} ({what} at step {step + 1})')
  refuse(
    faults,
    'The scores of alive weights are useless in {}. Pruning by them would be'
    ' arbitrary: if an earlier layer was emptied, lower `sparsity`, take more'
    ' `steps` or give `at_least=1`; otherwise look at the scores of the dense'
    ' params.',
  )


def _warn_if_empty(masks: Mapping[str, Any], its: Mapping[str, Axes]) -> None:
  """Warns of layers without weights, where that can be seen."""
  if trees.is_traced(*masks.values()):
    return
  alive = {n: jnp.any(m, its[n].layer) for n, m in masks.items() if m.size}
  if (known := trees.concrete(alive)) is not None:
    warn_empty({name: ~x for name, x in known.items()})
