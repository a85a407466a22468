"""One level of a search for tickets: a training, and what is pruned after."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.pruning._one_shot import check_nan, prune
from lthjax.training._loop import TrainState

State = Any
Train = Callable[[State, chex.ArrayTree], State]
Score = Callable[[chex.ArrayTree, chex.ArrayTree], chex.ArrayTree]
Fraction = float | Mapping[str, float]


class Ticket(NamedTuple):
  """One level: masks, where their training started and where it led.

  Attributes:
    level: number of prunings so far; 0 is the dense network.
    density: alive share of the prunable weights.
    masks: tree of masks.
    start: the state that training started from, before the masks are applied.
    trained: the state that training returned; from `lthjax.tickets.colt`, a
      tuple of them, one for each part.
    metrics: what ``evaluate`` said of the trained state; from
      `lthjax.tickets.colt`, a tuple with what it said for each part.
  """

  level: int
  density: float
  masks: chex.ArrayTree
  start: State
  trained: State
  metrics: Any


def prune_each(
  scores: chex.ArrayTree,
  masks: chex.ArrayTree,
  *,
  replicated: bool,
  **budget: Any,
) -> chex.ArrayTree:
  """`prune`, for every replicate on its own."""
  if not replicated:
    return prune(scores, masks, **budget)
  trees.check_like(masks, scores, 'scores')
  check_nan(scores, masks)
  return jax.vmap(functools.partial(prune, **budget))(scores, masks)


def any_scores(masks: chex.ArrayTree) -> chex.ArrayTree:
  """Scores of no meaning, to try a budget out before anything is trained."""
  return jax.tree.map(lambda m: jnp.ones(m.shape), masks)


def train_level(
  train: Train,
  evaluate: Callable[[State], Any] | None,
  params: Callable[[State], chex.ArrayTree],
  level: int,
  start: State,
  masks: chex.ArrayTree,
) -> Ticket:
  """Trains one ticket."""
  trained = train(start, masks)
  if isinstance(trained, TrainState) and trained.step == start.step:
    raise ValueError(
      f'`train` did no step: its state was at step {int(start.step)} already.'
      ' To go on from there, train until `int(state.step) + steps`.'
    )
  check_dead(masks, params(trained))
  metrics = None if evaluate is None else evaluate(trained)
  return Ticket(level, masks_lib.density(masks), masks, start, trained, metrics)


def check_resume(
  resume: Ticket | None,
  masks: chex.ArrayTree,
  state: State,
  parts: int | None = None,
) -> None:
  """Raises if a search cannot go on from a ticket; parts are those of COLT."""
  if resume is None:
    return
  try:
    masks_lib.intersect(masks, resume.masks)
  except ValueError as error:
    raise ValueError(
      f'`resume` is not a ticket of this search. {error}'
    ) from error
  trained = resume.trained
  several = type(trained) is tuple
  if parts is None and several and type(state) is not tuple:
    raise ValueError(
      f'`resume.trained` was a tuple of {len(trained)}, as in a ticket of'
      ' `colt`, but must be one state. Give the last ticket that this search'
      ' yielded.'
    )
  if parts is not None and not (
    several and len(trained) == parts and not any(map(trees.is_none, trained))
  ):
    kind = type(trained).__name__
    given = f'a tuple of {len(trained)}' if several else f'a {kind}'
    raise ValueError(
      f'`resume.trained` was {given}, but must be a tuple with a trained state'
      f' for each of the {parts} parts. Give the last ticket that `colt`'
      ' yielded for them, with its states.'
    )


def check_replicated(state: State, replicated: bool) -> None:
  """Raises if runs side by side would be pruned as one, or one as several."""
  if isinstance(state, TrainState) and jnp.ndim(state.best.loss) != replicated:
    raise ValueError(
      'The state is that of several runs side by side, so `replicated=True` is'
      ' needed to prune each on its own.'
      if not replicated
      else 'The state is that of one run, but `replicated` was True. Leave it'
      ' out, or train several runs with `trainer(..., replicated=True)`.'
    )


def check_dead(masks: chex.ArrayTree, params: chex.ArrayTree) -> None:
  """Raises if a training function did not hold dead weights at zero."""
  trees.check_like(masks, params, 'params that `train` returned')
  values = trees.by_name(params)
  wrong = {
    name: jnp.any((values[name] != 0) & ~mask)
    for name, mask in trees.by_name(masks).items()
    if mask is not None
  }
  if names := [n for n, x in jax.device_get(wrong).items() if x]:
    raise ValueError(
      '`train` returned weights that are not zero where the masks are false,'
      f' in {", ".join(names)}. Start it with'
      ' `state = lthjax.training.with_masks(state, masks)`, and train with'
      ' `lthjax.static(tx, masks)`.'
    )
