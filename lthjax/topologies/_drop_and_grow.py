"""Drop some weights, grow as many: the frame of SET, RigL and SNFS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax._sparsify import Topology
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.selection import keep_largest
from lthjax.topologies import _moving, _starting

# grow_score(state, name, grad, step) -> scores
GrowScore = Callable[[Any, str, jax.Array, jax.Array], jax.Array]


class DropAndGrowState(NamedTuple):
  """State of a topology that drops and grows.

  Attributes:
    masks: which weights are alive.
    key: random key of everything that is left to chance, if anything is.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
    counts: ``{name: int32[moves]}``, how many weights each move leaves alive;
      empty where that never changes.
  """

  masks: chex.ArrayTree
  key: chex.PRNGKey | None
  drop_ratios: jax.Array
  counts: dict[str, jax.Array]


def drop_and_grow(
  grow_score: GrowScore,
  *,
  sparsity: float | optax.Schedule | None,
  masks: chex.ArrayTree | None,
  key: chex.PRNGKey | None,
  densities: Densities | None,
  where: masks_lib.Where | str | list[str],
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
    grow_score: ``grow_score(state, name, grad, step) -> scores`` of one layer.
    sparsity: dead share of all prunable weights, in [0, 1), or a schedule of it
      over steps.
    masks: masks to start from, if there is no ``sparsity``.
    key: random key; not needed with ``masks`` if growth is not random.
    densities: how the budget spreads over layers.
    where: which leaves may be pruned.
    pattern: which shapes may survive.
    update_every: steps between moves.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights to replace.
    applies_gradient: whether a step that moves masks also trains.

  Returns:
    A topology for `lthjax.sparsify`.

  Raises:
    ValueError: if times, sparsities or fractions are out of range; if
      ``sparsity`` and ``masks`` are both given, or neither; or for a schedule
      of sparsity under a pattern that fixes it.
  """
  _starting.check_given(sparsity, masks, key, densities, where)
  _moving.check_times(update_every, stop_step, applies_gradient)
  ratios = _moving.drop_ratios(drop_fraction, update_every, stop_step)
  if scheduled := callable(sparsity):
    if pattern.density is not None:
      raise ValueError(
        f'{pattern} fixes the density of every layer, so `sparsity` cannot be a'
        f' schedule. Give {1 - pattern.density:g}.'
      )
    steps = range(0, stop_step + 1, update_every)
    first, *wanted = _moving.sparsities(sparsity, steps)
  else:
    first, wanted = sparsity, []

  def init_fn(params):
    if masks is not None:
      alive = _starting.take(masks, params, pattern.faults)
    else:
      assert first is not None
      assert key is not None
      alive = _moving.start_masks(
        key, params, first, densities=densities, where=where, pattern=pattern
      )
    counts = {}
    if scheduled:
      shapes = _moving.shapes_of(alive)
      _moving.check_not_empty(shapes, max(wanted), densities)
      counts = _moving.count_tables(shapes, wanted, densities)
    # Copied, so that donating the state does not take the user's key away.
    return DropAndGrowState(
      alive,
      None if key is None else jnp.copy(key),
      jnp.asarray(ratios),
      jax.tree.map(jnp.asarray, counts),
    )

  def move_fn(state, params, grads, step):
    def move(name, mask, w, g):
      total = stay = jnp.sum(mask, dtype=jnp.int32)
      if scheduled:
        total = _moving.at_move(state.counts[name], step, update_every)
        stay = jnp.minimum(stay, total)
      drop = _moving.drop_count(state.drop_ratios, stay, step, update_every)
      keep = keep_largest(_moving.magnitude(w), stay - drop, mask)
      return pattern.fill(name, grow_score(state, name, g, step), keep, total)

    masks = trees.map_alive(move, state.masks, params, grads)
    return state._replace(masks=masks)

  return Topology(
    init_fn,
    move_fn,
    _moving.moves(update_every, stop_step),
    applies_gradient=applies_gradient,
  )
