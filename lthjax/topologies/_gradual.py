"""Gradual pruning by magnitude: from dense to sparse while training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _branches, _checks, trees
from lthjax import masks as masks_lib
from lthjax._sparsify import Topology, sparsify
from lthjax.axes import Axes
from lthjax.counts import tables
from lthjax.densities import Densities
from lthjax.patterns import NM, Pattern, Unstructured
from lthjax.schedules import polynomial_sparsity
from lthjax.topologies import _batches, _layers, _moves, _select


class GradualState(NamedTuple):
  """State of `gradual`.

  Attributes:
    masks: which weights are alive.
    counts: ``{name: int32[moves]}``, how many weights each move keeps: in the
      layer, or in each of its groups under `lthjax.patterns.NM`.
    stacks: as in `DropAndGrowState`.
  """

  masks: Any
  counts: dict[str, jax.Array]
  stacks: dict[str, jax.Array]


def gradual(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule | None = None,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
  update_every: int = 100,
  stop_step: int,
) -> optax.GradientTransformationExtraArgs:
  """Prunes by magnitude while training, more and more.

  Starts dense. Every ``update_every`` steps, after the weights have been
  trained, the smallest alive weights of each layer die. Masks nest.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: after the last move, reached along the polynomial of
      `lthjax.schedules.polynomial_sparsity` from step 0; or an optax schedule
      of sparsity over steps. A pattern that fixes the sparsity needs none.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    pattern: which shapes may survive. Under ``lthjax.patterns.NM(2, 4)`` every
      group of four keeps 4 weights at first, then 3, and 2 after the last move.
    axes: as for `lthjax.rigl`.
    update_every: steps between moves, which come at its multiples, counted
      from 1.
    stop_step: the last step at which weights may die. Equal to
      ``update_every``, it prunes once.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.gradual(
    ...   optax.sgd(0.1), sparsity=0.75, update_every=1, stop_step=2
    ... )
    >>> params = {'w': jnp.arange(1.0, 9.0).reshape(2, 4)}
    >>> opt_state = tx.init(params)
    >>> for step in range(2):
    ...   grads = {'w': jnp.zeros((2, 4))}
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    >>> params['w'].ravel()
    Array([0., 0., 0., 0., 0., 0., 7., 8.], dtype=float32)

  References:
    Zhu & Gupta, To prune, or not to prune: exploring the efficacy of pruning
    for model compression, arXiv:1710.01878, equation 1; Mishra et al.,
    Accelerating Sparse Deep Neural Networks, arXiv:2104.08378, section 3 (N:M).
  """
  _checks.optimizer(inner)
  _checks.pattern('pattern', pattern)
  _checks.densities('densities', densities)
  _checks.predicate('where', where)
  times = _moves.times(update_every, stop_step)
  steps = times.table_steps()
  last = int(steps[-1])
  schedule = _as_schedule(sparsity, densities, pattern, last)
  wanted = _moves.sparsities(schedule, steps)
  _check_only_prunes(wanted, steps)

  def init_fn(params):
    masks = masks_lib.full(params, where)
    given, stacks = _layers.remember(axes, params, masks)
    its, shapes = pattern.fit(given, masks), _moves.shapes_of(masks)
    if isinstance(pattern, NM):
      counts = dict.fromkeys(shapes, _group_counts(pattern, wanted))
    else:
      _moves.check_not_empty(shapes, wanted[-1], densities, its)
      counts = tables(shapes, wanted, densities, axes=its)
    return GradualState(masks, jax.tree.map(jnp.asarray, counts), stacks)

  def move_fn(state, params, grads, step):
    del grads
    given = _layers.recall(axes, state.stacks, state.masks)
    entry = times.entry(step)
    # Eligible are the alive weights only, so masks nest.
    masks = trees.prunable(state.masks)
    weights = _select.leaves_of(state.masks, params)
    its = pattern.fit(given, state.masks)
    counts = {name: table[entry] for name, table in state.counts.items()}

    def move(part, masks, weights):
      return _select.select(
        pattern,
        _select.magnitudes(part.join(weights)),
        masks,
        # Those of groups are the same in all leaves.
        {n: counts[n] for n in part.names}
        if isinstance(pattern, NM)
        else part.join_numbers(counts),
        part.axes,
      )

    batches = _batches.make(pattern, masks, [weights], its)
    new = batches.in_turn(move, step > 0, masks, weights)
    return state._replace(masks=_select.put(state.masks, new))

  topology = Topology(
    init_fn,
    _branches.TakesLate(move_fn),
    times.due,
    applies_gradient=True,
    grows=False,
  )
  return sparsify(inner, topology)


def _as_schedule(
  sparsity: float | optax.Schedule | None,
  densities: Densities | None,
  pattern: Pattern,
  last: int,
) -> optax.Schedule:
  """Returns a schedule of sparsity that the pattern agrees with."""
  fixed = _moves.fixed_sparsity(sparsity, densities, pattern)
  if fixed is None and callable(sparsity):
    return sparsity
  if fixed is None:
    fixed = _checks.share('sparsity', sparsity)
  return polynomial_sparsity(fixed, 0, last)


def _group_counts(pattern: NM, wanted: np.ndarray) -> np.ndarray:
  """Counts the weights that each move keeps of a group: n after the last."""
  # At least n on the way, however the schedule rounds.
  kept = np.maximum(pattern.n, np.rint(pattern.m * (1 - wanted)))
  kept[-1] = pattern.n
  return kept.astype(np.int32)


def _check_only_prunes(wanted: np.ndarray, steps: np.ndarray) -> None:
  """Raises if a sparsity falls."""
  if (falls := np.diff(wanted) < 0).any():
    i = int(np.argmax(falls))
    raise ValueError(
      f'`sparsity` falls from {wanted[i]} to {wanted[i + 1]} at step'
      f' {steps[i + 1]}, but pruned weights never come back: give a schedule'
      ' that never falls.'
    )
