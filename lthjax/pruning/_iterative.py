"""Pruning in many steps, with new scores after each, as one compiled loop."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.axes import Axes
from lthjax.counts import Rounding, layer_counts, layer_sizes
from lthjax.densities import Densities
from lthjax.patterns import Unstructured
from lthjax.pruning._one_shot import Scope, check_enough
from lthjax.selection import check_floating, keep_largest

ScoreFn = Callable[[chex.ArrayTree], chex.ArrayTree]


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
  axes: Mapping[str, Axes] | None = None,
) -> chex.ArrayTree:
  """Prunes in many steps, scoring what is left before each.

  After step k of n the density is ``(1 - sparsity) ** (k / n)``. Weights that
  matter only because others are there are so recognized, and no layer is
  emptied at once. Masks nest. With `lthjax.scores.synflow` this is SynFlow,
  with `lthjax.scores.snip` iterative SNIP.

  All steps run as one loop, which is compiled once for every ``score_fn`` and
  number of steps: pass the same function again, and another sparsity or other
  params compile nothing. Works under `jax.jit` and `jax.vmap` too, where scores
  cannot be checked.

  Args:
    score_fn: ``score_fn(params)``, called with dead weights at zero, returns
      scores like the params; the highest survive.
    params: tree of arrays.
    sparsity: dead share of all prunable weights afterwards, in [0, 1).
    steps: how often to score and prune, at least 1.
    scope: ``'global'`` lets all leaves compete; ``'layer'`` gives each leaf a
      budget.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    densities: with ``scope='layer'``, spreads the sparsity over the layers, for
      instance `lthjax.densities.erk`; the default gives each the same.
    rounding: of the number removed in the end, where it is not whole.
    axes: as for `lthjax.prune`.

  Returns:
    Tree of masks.

  Raises:
    TypeError: if scores are not floating point.
    ValueError: if a number is out of range, the sparsity leaves fewer weights
      than layers (or a layer none, for a budget by layer), scores do not fit
      the params; or, outside of transformations, if all scores of the weights
      left in a layer were zero, or one was not finite, at some step.

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
  if steps < 1:
    raise ValueError(f'`steps` was {steps}, but must be at least 1.')
  if not 0 <= sparsity < 1:
    raise ValueError(
      f'`sparsity` was {sparsity}, but must be in [0, 1): at 1 no weight would'
      ' be left.'
    )
  if scope not in ('layer', 'global'):
    raise ValueError(
      f'`scope` was {scope!r}, but must be "layer" (a budget a leaf) or'
      ' "global" (one for all).'
    )
  if densities is not None and scope == 'global':
    raise ValueError(
      '`densities` spreads a sparsity over layers, so it needs `scope="layer"`.'
    )
  masks = masks_lib.full(params, where)
  shapes = {
    n: m.shape for n, m in trees.by_name(masks).items() if m is not None
  }
  found = jax.eval_shape(score_fn, params)
  trees.check_like(masks, found, 'scores')
  check_floating({name: trees.by_name(found)[name] for name in shapes})
  its = Unstructured().fit(axes, masks)
  counts = _schedule(shapes, sparsity, steps, scope, densities, rounding, its)
  layers = tuple((name, x.layer) for name, x in its.items())
  masks, peaks = _loop(score_fn, layers, params, masks, counts)
  _check_peaks(peaks)
  return masks


def _schedule(
  shapes: dict[str, tuple[int, ...]],
  sparsity: float,
  steps: int,
  scope: Scope,
  densities: Densities | None,
  rounding: Rounding,
  axes: Mapping[str, Axes],
) -> dict[str, np.ndarray] | np.ndarray:
  """How many weights each step keeps: of every leaf, or of all together."""
  shares = np.arange(1, steps + 1) / steps

  def spread(size, last):
    kept = np.rint(size * (last / size) ** shares).astype(np.int32)
    kept[-1] = last
    return kept

  sizes = layer_sizes(shapes, axes)
  if scope == 'global':
    total = sum(math.prod(shape) for shape in shapes.values())
    (last,) = layer_counts({'': (total,)}, sparsity, None, rounding).values()
    check_enough(last, shapes)
    return spread(total, last)
  counts = layer_counts(shapes, sparsity, densities, rounding, axes)
  if empty := [name for name, count in counts.items() if not count]:
    raise ValueError(
      f'A sparsity of {sparsity} leaves no weight in {", ".join(empty)}. Lower'
      ' it, choose other `densities`, or leave them dense with `where=`.'
    )
  return {name: spread(size, counts[name]) for name, size in sizes.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _loop(
  score_fn: ScoreFn,
  layers: tuple[tuple[str, tuple[int, ...]], ...],
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  counts: dict[str, jax.Array] | jax.Array,
) -> tuple[chex.ArrayTree, dict[str, jax.Array]]:
  """Prunes to the counts of each step; also returns the highest scores."""
  axes = dict(layers)

  def step(masks, counts):
    scores = score_fn(masks_lib.apply(masks, params))
    peaks = trees.by_name(trees.map_alive(_peak, masks, scores))
    if isinstance(counts, dict):
      masks = trees.map_alive(
        lambda name, m, s: keep_largest(s, counts[name], m, axis=axes[name]),
        masks,
        scores,
      )
    else:
      scores = trees.map_alive(lambda _, m, s: s, masks, scores)
      masks = keep_largest(scores, counts, masks)
    return masks, peaks

  masks, peaks = jax.lax.scan(step, masks, counts)
  return masks, {name: x for name, x in peaks.items() if x is not None}


def _peak(name: str, mask: jax.Array, scores: jax.Array) -> jax.Array:
  """The largest absolute score of the alive weights; 1 if there are none."""
  peak = jnp.max(jnp.where(mask, jnp.abs(scores), 0))
  return jnp.where(jnp.any(mask), peak, 1)


def _check_peaks(peaks: dict[str, Any]) -> None:
  """Raises if pruning went by scores that say nothing."""
  if trees.is_traced(*peaks.values()):
    return
  faults = []
  for name, peak in jax.device_get(peaks).items():
    what = np.where(peak == 0, 'all zero', 'not finite')
    bad = np.flatnonzero((peak == 0) | ~np.isfinite(peak))
    if bad.size:
      step = int(bad[0])
      faults.append(f'{name} ({what[step]} at step {step + 1})')
  if faults:
    raise ValueError(
      f'The scores of alive weights say nothing in {", ".join(faults)}. Pruning'
      ' by them would be arbitrary: if an earlier layer was emptied, lower'
      ' `sparsity` or take more `steps`; otherwise look at the scores of the'
      ' dense params.'
    )
