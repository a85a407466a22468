"""Iterative magnitude pruning: train, prune, rewind, repeat."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex

from lthjax import trees
from lthjax.patterns import Pattern, Unstructured
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
from lthjax.tickets._rewind import Rewind, rewind_weights


def imp(
  train: Train,
  state: State,
  masks: chex.ArrayTree,
  *,
  levels: int,
  fraction: Fraction = 0.2,
  score: Score = magnitude,
  scope: Scope = 'layer',
  pattern: Pattern = Unstructured(),
  rounding: Rounding = 'nearest',
  rewind: Rewind = rewind_weights,
  evaluate: Callable[[State], Any] | None = None,
  params: Callable[[State], chex.ArrayTree] = lambda state: state.params,
  replicated: bool = False,
  resume: Ticket | None = None,
) -> Iterator[Ticket]:
  """Finds tickets by iterative magnitude pruning with rewinding.

  Level 0 trains the network as the masks given leave it. Every further level
  prunes a share of the alive weights by the score of the trained ones, rewinds,
  and trains again, so that masks nest.

  Args:
    train: ``train(state, masks) -> state``: any function that puts the masks
      into the params and the optimizer (see `lthjax.training.with_masks`) and
      trains to the end. It must not donate the state: rewinding needs it.
    state: what to rewind to: the state at initialization, or after k steps of
      dense training for late rewinding.
    masks: tree of masks to start from, such as `lthjax.masks.full(params)`.
    levels: number of trainings, that of level 0 included.
    fraction: share of the alive weights that each level removes, or ``{glob:
      share}``; as in `lthjax.prune`.
    score: ``score(trained_params, initial_params)``; the highest survive.
      Initial means those of ``state``.
    scope: ``'layer'`` or ``'global'``, as in `lthjax.prune`.
    pattern: which shapes may survive, as in `lthjax.prune`. A pattern with a
      density of its own takes the place of ``fraction``.
    rounding: of the number removed, as in `lthjax.prune`.
    rewind: where a level starts, from the pair of ``state`` and the state
      trained last: `rewind_weights`, `rewind_learning_rate`, `fine_tune`, or a
      function of your own.
    evaluate: ``evaluate(trained_state)``, kept as ``ticket.metrics``.
    params: finds the params in a state.
    replicated: the leaves of params and masks have a leading axis of
      independent runs, each of which prunes on its own.
    resume: the last ticket of an interrupted run; goes on with the next level,
      and gives the same tickets as the unbroken run.

  Yields:
    A `Ticket` a level.

  Raises:
    ValueError: if ``levels`` is not positive, if the budget or the masks are
      wrong (see `lthjax.prune`), if ``resume`` is not a ticket of this search,
      or if ``train`` returned weights that the masks had removed.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> def train(params, masks):  # the state can be anything; here: params
    ...   return lth.masks.apply(masks, {'w': params['w'] * 2})
    >>> tickets = lth.tickets.imp(
    ...   train,
    ...   params,
    ...   lth.masks.full(params),
    ...   levels=3,
    ...   fraction=0.5,
    ...   params=lambda state: state,
    ... )
    >>> [(ticket.level, ticket.density) for ticket in tickets]
    [(0, 1.0), (1, 0.5), (2, 0.25)]

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, section 2. Frankle et al., Linear Mode
    Connectivity and the Lottery Ticket Hypothesis, arXiv:1912.05671, algorithm
    2 (late rewinding).
  """
  if levels < 1:
    raise ValueError(
      f'`levels` was {levels}, but must be at least 1: level 0 is the dense'
      ' network, and each further one prunes once more.'
    )
  trees.check_like(masks, params(state), 'params')
  remove = functools.partial(
    prune_each,
    fraction=None if pattern.density is not None else fraction,
    scope=scope,
    pattern=pattern,
    rounding=rounding,
    replicated=replicated,
  )
  remove(any_scores(masks), masks)  # Raises on a bad budget now.
  check_replicated(state, replicated)
  check_resume(resume, masks, state)
  level = functools.partial(train_level, train, evaluate, params)

  def run():
    ticket = resume
    if ticket is None:
      ticket = level(0, state, masks)
      yield ticket
    while ticket.level + 1 < levels:
      scores = score(params(ticket.trained), params(state))
      ticket = level(
        ticket.level + 1,
        rewind(state, ticket.trained),
        remove(scores, ticket.masks),
      )
      yield ticket

  return run()


def one_shot(
  train: Train,
  state: State,
  masks: chex.ArrayTree,
  *,
  fractions: Sequence[Fraction],
  score: Score = magnitude,
  scope: Scope = 'layer',
  pattern: Pattern = Unstructured(),
  rounding: Rounding = 'nearest',
  rewind: Rewind = rewind_weights,
  evaluate: Callable[[State], Any] | None = None,
  params: Callable[[State], chex.ArrayTree] = lambda state: state.params,
  replicated: bool = False,
) -> Iterator[Ticket]:
  """Finds tickets by pruning the trained dense network once to each size.

  The counterpart of `imp`: the same arguments, but every ticket is cut from the
  network of level 0, which is trained once.

  Args:
    train: as in `imp`.
    state: as in `imp`.
    masks: as in `imp`.
    fractions: for each ticket, the share of weights to remove, or ``{glob:
      share}``.
    score: as in `imp`.
    scope: as in `imp`.
    pattern: as in `imp`; must leave the density free.
    rounding: as in `imp`.
    rewind: as in `imp`.
    evaluate: as in `imp`.
    params: as in `imp`.
    replicated: as in `imp`.

  Yields:
    The dense network as level 0, then a `Ticket` a fraction.

  Raises:
    ValueError: as `imp`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> tickets = lth.tickets.one_shot(
    ...   lambda params, masks: lth.masks.apply(masks, params),
    ...   params,
    ...   lth.masks.full(params),
    ...   fractions=[0.25, 0.75],
    ...   params=lambda state: state,
    ... )
    >>> [ticket.density for ticket in tickets]
    [1.0, 0.75, 0.25]

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 2
    ("one-shot pruning").
  """
  trees.check_like(masks, params(state), 'params')
  removals = [
    functools.partial(
      prune_each,
      fraction=fraction,
      scope=scope,
      pattern=pattern,
      rounding=rounding,
      replicated=replicated,
    )
    for fraction in fractions
  ]
  for remove in removals:
    remove(any_scores(masks), masks)  # Raises on a bad budget now.
  check_replicated(state, replicated)
  level = functools.partial(train_level, train, evaluate, params)

  def run():
    dense = level(0, state, masks)
    yield dense
    scores = score(params(dense.trained), params(state))
    for i, remove in enumerate(removals):
      start = rewind(state, dense.trained)
      yield level(i + 1, start, remove(scores, masks))

  return run()
