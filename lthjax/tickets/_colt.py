"""COLT: tickets that models of several parts of the data agree on."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.pruning._one_shot import Rounding, Scope
from lthjax.scores import magnitude
from lthjax.tickets._levels import (
  Fraction,
  Score,
  State,
  Ticket,
  Train,
  any_scores,
  check_replicated,
  check_resume,
  prune_each,
  train_level,
)


def colt(
  trains: Sequence[Train],
  state: State,
  masks: chex.ArrayTree,
  *,
  levels: int,
  fraction: Fraction = 0.2,
  score: Score = magnitude,
  scope: Scope = 'layer',
  rounding: Rounding = 'nearest',
  evaluate: Callable[[State], Any] | None = None,
  params: Callable[[State], chex.ArrayTree] = lambda state: state.params,
  replicated: bool = False,
  resume: Ticket | None = None,
) -> Iterator[Ticket]:
  """Finds tickets that hold for all parts of the data, by cyclic overlap.

  At every level, one model a part starts from the same state and masks and
  trains on its part. Each prunes its own smallest weights; what all of them
  keep are the masks of the next level, which starts from the same state again.
  A level therefore removes at least ``fraction`` of the weights, and up to as
  many times that as there are parts. With one part it is `lthjax.tickets.imp`.

  Masks are intersected as sets. The reference code compares weights instead,
  which amounts to that for layers that are pruned, as long as all parts are
  rewound before.

  Args:
    trains: for each part, a function ``train(state, masks) -> state``, as in
      `imp`. The parts share the state: give their models a head for the classes
      of the whole data set, as `lthjax.data.partition` leaves labels as they
      are. With its ``relabel``, parts may differ in their number of classes.
    state: what all parts start from at every level, as in `imp`.
    masks: as in `imp`.
    levels: number of times that all parts are trained, level 0 included.
    fraction: share of the alive weights that each part removes a level, as in
      `imp`.
    score: as in `imp`.
    scope: as in `imp`.
    rounding: as in `imp`.
    evaluate: ``evaluate(trained_state)``, called for each part.
    params: as in `imp`.
    replicated: as in `imp`.
    resume: the last ticket of an interrupted run; goes on with the next level.

  Yields:
    A `Ticket` a level, with the masks in common. Its ``trained`` is a tuple of
    the states of the parts, and its ``metrics`` one of what ``evaluate`` said
    of them, or `None`.

  Raises:
    ValueError: as `imp`; if there is no part; if ``resume`` is not a ticket of
      these parts; or if a layer has no weight left that all parts keep.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> def part(*factors):  # the state can be anything; here: params
    ...   return lambda params, masks: lth.masks.apply(
    ...     masks, {'w': params['w'] * jnp.array(factors)}
    ...   )
    >>> tickets = lth.tickets.colt(
    ...   [part(1, 1, 1, 1), part(1, 0.1, 1, 1)],
    ...   params,
    ...   lth.masks.full(params),
    ...   levels=2,
    ...   fraction=0.25,
    ...   params=lambda state: state,
    ... )
    >>> [ticket.masks['w'].tolist() for ticket in tickets]
    [[[True, True, True, True]], [[True, False, True, False]]]

  References:
    Hossain et al., COLT: Cyclic Overlapping Lottery Tickets for Faster Pruning
    of Convolutional Neural Networks, arXiv:2212.12770, algorithm 1.
  """
  if levels < 1:
    raise ValueError(
      f'`levels` was {levels}, but must be at least 1: level 0 is the dense'
      ' network, and each further one prunes once more.'
    )
  if not trains:
    raise ValueError(
      '`trains` was empty, but must have a training function for each part.'
    )
  trees.check_like(masks, params(state), 'params')
  remove = functools.partial(
    prune_each,
    fraction=fraction,
    scope=scope,
    rounding=rounding,
    replicated=replicated,
  )
  remove(any_scores(masks), masks)  # Raises on a bad budget now.
  check_replicated(state, replicated)
  check_resume(resume, masks, state, len(trains))

  def level(number, masks):
    parts = [
      train_level(train, evaluate, params, number, state, masks)
      for train in trains
    ]
    return parts[0]._replace(
      trained=tuple(part.trained for part in parts),
      metrics=None if evaluate is None else tuple(x.metrics for x in parts),
    )

  def run():
    ticket = resume
    if ticket is None:
      ticket = level(0, masks)
      yield ticket
    while ticket.level + 1 < levels:
      kept = [
        remove(score(params(trained), params(state)), ticket.masks)
        for trained in ticket.trained
      ]
      common = functools.reduce(masks_lib.intersect, kept)
      _check_alive(common, ticket.level + 1, replicated)
      ticket = level(ticket.level + 1, common)
      yield ticket

  return run()


def _check_alive(masks: chex.ArrayTree, level: int, replicated: bool) -> None:
  """Raises if the parts have nothing in common in a layer."""
  alive = {
    name: jnp.any(m, axis=tuple(range(int(replicated), m.ndim))).all()
    for name, m in trees.by_name(masks).items()
    if m is not None
  }
  if empty := [name for name, x in jax.device_get(alive).items() if not x]:
    raise ValueError(
      f'At level {level}, the parts keep no weight in common in'
      f' {", ".join(empty)}. Stop before that level, or prune a smaller'
      ' `fraction`.'
    )
