"""Gradual magnitude pruning: from dense to sparse while training."""

import itertools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax._sparsify import Topology, sparsify
from lthjax.densities import Densities
from lthjax.schedules import polynomial_sparsity
from lthjax.selection import keep_largest
from lthjax.topologies import _moving


class GradualState(NamedTuple):
  """State of `gradual`.

  Attributes:
    masks: which weights are alive.
    counts: ``{name: int32[moves]}``, how many weights each move keeps.
  """

  masks: chex.ArrayTree
  counts: dict[str, jax.Array]


def gradual(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
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
      of sparsity over steps.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    update_every: steps between moves, which come at its multiples, counted
      from 1.
    stop_step: the last step at which weights may die.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: if times or sparsities are out of range, or a schedule asks for
      a density that grows; from ``init`` if a layer would be left empty.

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
    for model compression, arXiv:1710.01878.
  """
  _moving.check_times(update_every, stop_step)
  if not callable(sparsity):
    _moving.check_sparsity(sparsity)
    last = stop_step - stop_step % update_every
    sparsity = polynomial_sparsity(sparsity, 0, last)
  steps = range(update_every, stop_step + 1, update_every)
  wanted = _moving.sparsities(sparsity, steps)
  check_only_prunes(wanted, update_every)

  def init_fn(params):
    masks = masks_lib.full(params, where)
    shapes = _moving.shapes_of(masks)
    _moving.check_not_empty(shapes, wanted[-1], densities)
    counts = _moving.count_tables(shapes, wanted, densities)
    return GradualState(masks, jax.tree.map(jnp.asarray, counts))

  def move_fn(state, params, grads, step):
    del grads

    def move(name, mask, w):
      count = _moving.at_move(state.counts[name], step, update_every)
      return keep_largest(_moving.magnitude(w), count, mask)

    masks = trees.map_alive(move, state.masks, params)
    return state._replace(masks=masks)

  topology = Topology(
    init_fn,
    move_fn,
    _moving.moves(update_every, stop_step),
    applies_gradient=True,
  )
  return sparsify(inner, topology)


def check_only_prunes(wanted: list[float], update_every: int) -> None:
  """Checks a schedule of a method that cannot bring weights back.

  Args:
    wanted: sparsity at every move.
    update_every: steps between moves.

  Raises:
    ValueError: if a sparsity falls.
  """
  for i, (before, now) in enumerate(itertools.pairwise(wanted), start=2):
    if now < before:
      raise ValueError(
        f'`sparsity` falls from {before} to {now} at step {i * update_every},'
        ' but this method only prunes: give a schedule that never falls.'
      )
