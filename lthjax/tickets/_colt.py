"""COLT: tickets that models of several parts of the data agree on."""

import functools
from collections.abc import Iterator, Sequence

import chex

from lthjax import _checks
from lthjax import masks as masks_lib
from lthjax.scores import magnitude
from lthjax.tickets._checks import State, as_functions, check_resume
from lthjax.tickets._search import (
  FIFTH,
  Evaluate,
  Params,
  Prune,
  Score,
  Search,
  Ticket,
  Train,
  find_params,
  run_levels,
)


def colt(
  trains: Sequence[Train],
  state: State,
  masks: chex.ArrayTree,
  *,
  levels: int,
  prune: Prune = FIFTH,
  score: Score = magnitude,
  evaluate: Evaluate | None = None,
  params: Params = find_params,
  vmapped: bool = False,
  resume: Ticket | None = None,
) -> Iterator[Ticket]:
  """Finds tickets that hold for all parts of the data, by cyclic overlap.

  At every level, one model per part starts from the same state and masks and
  trains on its part. Each is pruned on its own; the masks of the next level are
  the intersection. A level therefore removes at least what ``prune`` removes,
  and up to as many times that as there are parts. `imp` documents the other
  arguments; with one part, the tickets are those of `imp`.

  Masks are intersected as sets. The reference code compares weights instead,
  which gives the same for pruned layers if all parts are rewound first.

  Args:
    trains: one function ``train(state, masks) -> state`` per part. The parts
      share the state: give their models a head for the classes of the whole
      data set, or for the largest number in a part with ``relabel`` in
      `lthjax.data.partition`.
    state: where all parts start at every level.
    masks: initial tree of masks.
    levels: number of times that all parts are trained, including level 0.
    prune: ``prune(scores, masks) -> masks`` of one part.
    evaluate: ``evaluate(trained_state)``, called for each part.
    score: as in `imp`.
    params: as in `imp`.
    vmapped: as in `imp`.
    resume: as in `imp`.

  Yields:
    One `Ticket` per level, with the common masks. Its ``trained`` and
    ``metrics`` are tuples with one entry per part.

  Example:
    >>> import functools
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    >>> def part(*factors):  # The state can be anything; here: params.
    ...   return lambda params, masks: lth.masks.apply(
    ...     masks, {'w': params['w'] * jnp.array(factors)}
    ...   )
    >>> tickets = lth.tickets.colt(
    ...   [part(1, 1, 1, 1), part(1, 0.1, 1, 1)],
    ...   params,
    ...   lth.masks.full(params),
    ...   levels=2,
    ...   prune=functools.partial(lth.prune, fraction=0.25),
    ...   params=lambda state: state,
    ... )
    >>> [ticket.masks['w'].tolist() for ticket in tickets]
    [[[True, True, True, True]], [[True, False, True, False]]]

  References:
    Hossain et al., COLT: Cyclic Overlapping Lottery Tickets for Faster Pruning
    of Convolutional Neural Networks, arXiv:2212.12770, algorithm 1.
  """
  levels = _checks.at_least('levels', levels, 1)
  trains = as_functions('trains', trains)
  search = Search(state, masks, score, evaluate, params, vmapped)
  search.check(trains, [prune])
  check_resume(resume, masks, state, len(trains))

  def level(number, masks):
    # All parts start from the same weights, at every level.
    parts = [search.level(train, number, state, masks) for train in trains]
    return parts[0]._replace(
      trained=tuple(part.trained for part in parts),
      metrics=None if evaluate is None else tuple(x.metrics for x in parts),
    )

  def following(ticket):
    # Algorithm 1: prune each part by itself, then intersect the masks.
    kept = [search.cut(prune, x, ticket.masks) for x in ticket.trained]
    common = functools.reduce(masks_lib.intersect, kept)
    search.check_common(common, ticket.level + 1)
    return level(ticket.level + 1, common)

  return run_levels(search, levels, lambda: level(0, masks), following, resume)
