"""Drop some weights, grow as many: the frame of SET, RigL and SNFS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.selection import keep_largest
from lthjax.sparsify import Topology
from lthjax.topologies import moving

# grow_score(state, name, grad, step) -> scores
GrowScore = Callable[[Any, str, jax.Array, jax.Array], jax.Array]


class DropAndGrowState(NamedTuple):
  """State of a topology that drops and grows.

  Attributes:
    masks: which weights are alive.
    key: random key of everything that is left to chance.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
  """

  masks: chex.ArrayTree
  key: chex.PRNGKey
  drop_ratios: jax.Array


def drop_and_grow(
  grow_score: GrowScore,
  *,
  sparsity: float,
  key: chex.PRNGKey,
  densities: Densities | None,
  where: masks_lib.Where | str | list[str],
  pattern: Pattern = Unstructured(),
  update_every: int,
  stop_step: int,
  drop_fraction: float | optax.Schedule,
  applies_gradient: bool,
) -> Topology:
  """Makes the topology: drop by magnitude, grow by a score, layer by layer.

  The number alive in a layer never changes. Weights just dropped may be grown
  again at once, and then keep their value and their optimizer slots.

  Args:
    grow_score: ``grow_score(state, name, grad, step) -> scores`` of one layer.
    sparsity: dead share of all prunable weights, in [0, 1).
    key: random key.
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
    ValueError: if times or fractions are out of range.
  """
  moving.check_times(update_every, stop_step)
  ratios = moving.drop_ratios(drop_fraction, update_every, stop_step)

  def init_fn(params):
    masks = moving.start_masks(
      key, params, sparsity, densities=densities, where=where, pattern=pattern
    )
    # Copied, so that donating the state does not take the user's key away.
    return DropAndGrowState(masks, jnp.copy(key), jnp.asarray(ratios))

  def move_fn(state, params, grads, step):
    def move(name, mask, w, g):
      total = jnp.sum(mask, dtype=jnp.int32)
      drop = moving.drop_count(state.drop_ratios, total, step, update_every)
      keep = keep_largest(moving.magnitude(w), total - drop, mask)
      return pattern.fill(name, grow_score(state, name, g, step), keep, total)

    masks = trees.map_alive(move, state.masks, params, grads)
    return state._replace(masks=masks)

  return Topology(
    init_fn,
    move_fn,
    moving.moves(update_every, stop_step),
    applies_gradient=applies_gradient,
  )
