"""Drop some weights, grow as many: the frame of SET, RigL and SNFS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import trees
from lthjax._sparsify import Topology
from lthjax.counts import tables
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured, count_along
from lthjax.topologies import _moves, _start

# grow_score(grow_state, name, grad, step) -> scores
GrowScore = Callable[[Any, str, jax.Array, jax.Array], jax.Array]


class DropAndGrowState(NamedTuple):
  """State of a topology that drops and grows.

  Attributes:
    masks: which weights are alive.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
    counts: ``{name: int32[moves]}``, how many weights each move leaves alive;
      empty where that never changes.
    grow_state: what growth depends on: the random key of SET, the `SNFSState`
      of SNFS, nothing for RigL.
  """

  masks: chex.ArrayTree
  drop_ratios: jax.Array
  counts: dict[str, jax.Array]
  grow_state: Any


def drop_and_grow(
  grow_score: GrowScore,
  masks: _start.Masks,
  *,
  init_growth: Callable[[chex.ArrayTree, chex.ArrayTree], Any] = (
    lambda masks, params: ()
  ),
  sparsity: optax.Schedule | None,
  densities: Densities | None,
  pattern: Pattern = Unstructured(),
  update_every: int,
  stop_step: int,
  drop_fraction: float | optax.Schedule,
  applies_gradient: bool,
) -> Topology:
  """Makes the topology: drop by magnitude, grow by a score, layer by layer.

  The number alive in a layer changes with a schedule of sparsity only. Where it
  falls, the smallest weights die first, and the drop fraction is of those that
  are left. Weights just dropped may be grown again at once, and then keep their
  value and their optimizer slots.

  Args:
    grow_score: ``grow_score(grow_state, name, grad, step) -> scores`` of one
      layer.
    masks: initial masks, as a tree or a function of params.
    init_growth: ``init_growth(masks, params) -> grow_state``.
    sparsity: schedule of the dead share of all prunable weights.
    densities: how the schedule spreads over layers; by default as random
      masks do.
    pattern: which shapes may survive.
    update_every: steps between moves.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights to replace.
    applies_gradient: whether a step that moves masks also trains.

  Returns:
    A topology for `lthjax.sparsify`.
  """
  times = _moves.times(update_every, stop_step, applies_gradient)
  ratios = _moves.drop_ratios(drop_fraction, times)
  masks = _start.with_pattern(masks, pattern)
  wanted = _moves.scheduled(sparsity, densities, pattern, times)
  densities = densities or _start.densities_of(masks)

  def faults(masks):
    return pattern.faults(trees.prunable(masks), pattern.fit(None, masks))

  def init_fn(params):
    alive = _start.initial_masks(masks, params, faults)
    counts = {}
    if wanted.size:
      shapes, its = _moves.shapes_of(alive), pattern.fit(None, alive)
      _moves.check_not_empty(shapes, wanted.max(), densities, its)
      counts = tables(shapes, wanted, densities, axes=its)
    return DropAndGrowState(
      alive,
      jnp.asarray(ratios),
      jax.tree.map(jnp.asarray, counts),
      init_growth(alive, params),
    )

  def move_fn(state, params, grads, step):
    axes = pattern.fit(None, state.masks)

    def move(name, mask, w, g):
      its = axes[name]
      total = stay = count_along(mask, its.layer)
      if wanted.size:
        total = state.counts[name][times.entry(step)]
        stay = jnp.minimum(stay, total)
      # Algorithm 1 of the RigL paper: keep the largest weights ...
      drop = _moves.drop_count(state.drop_ratios, stay, step, times)
      keep = pattern.drop(_moves.magnitude(w), mask, stay - drop, its)
      # ... and grow among all others, those just dropped included.
      score = grow_score(state.grow_state, name, g, step)
      return pattern.fill(score, keep, total, its)

    masks = trees.map_alive(move, state.masks, params, grads)
    return state._replace(masks=masks)

  return Topology(
    init_fn, move_fn, times.due, applies_gradient=applies_gradient
  )
