"""COLT: every part prunes, and what all of them keep goes on."""

import functools
import itertools
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax import tickets, training


class State(NamedTuple):
  """What `colt` needs to know of a state: where the params are."""

  params: Any
  step: Any = 0


def multiply(*factors):
  """Training that multiplies each weight by a factor of its own."""

  def train(state, masks):
    params = {'w': state.params['w'] * jnp.array(factors)}
    return State(lth.masks.apply(masks, params), state.step + 1)

  return train


HAND = State({'w': np.float32([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])})
MASKS = {'w': np.ones(6, bool)}
PARTS = [multiply(1, 1, 1, 1, 1, 9), multiply(0.1, 1, 1, 1, 1, 1)]


def by(fraction, **options):
  """Pruning of a fraction of the alive weights."""
  return functools.partial(lth.prune, fraction=fraction, **options)


def alive(ticket):
  return np.flatnonzero(ticket.masks['w']).tolist()


def test_three_levels_by_hand():
  found = list(
    tickets.colt(
      PARTS, HAND, MASKS, levels=3, prune=by(0.35), evaluate=lambda s: s.step
    )
  )
  # 6 5 4 3 2 9 keeps all but 3 and 2; 0.6 5 4 3 2 1 all but 0.6 and 1. From
  # the 5 and 4 that are left, both remove the 4.
  assert [alive(t) for t in found] == [[0, 1, 2, 3, 4, 5], [1, 2], [1]]
  assert [t.level for t in found] == [0, 1, 2]
  assert [t.density for t in found] == [1.0, 1 / 3, 1 / 6]
  assert all(t.start is HAND for t in found)
  assert [t.metrics for t in found] == [(1, 1)] * 3
  one, other = found[1].trained
  np.testing.assert_allclose(one.params['w'], [0, 5, 4, 0, 0, 0])
  np.testing.assert_allclose(other.params['w'], [0, 5, 4, 0, 0, 0])


def test_one_part_is_imp():
  rng = np.random.default_rng(0)
  state = State({'w': jnp.asarray(rng.normal(size=40), jnp.float32)})
  train = multiply(*rng.normal(size=40))
  arguments = {'levels': 5, 'prune': by(0.3, rounding='ceil')}
  masks = {'w': jnp.ones(40, bool)}
  for one, other in zip(
    tickets.colt([train], state, masks, **arguments),
    tickets.imp(train, state, masks, **arguments),
    strict=True,
  ):
    chex.assert_trees_all_equal(one.masks, other.masks)
    chex.assert_trees_all_equal(one.trained, (other.trained,))
    assert one.metrics is None


def test_the_intersection_of_what_each_part_prunes():
  """A level is `prune` for each part, and their masks as sets."""
  rng = np.random.default_rng(1)
  state = State({'w': jnp.asarray(rng.normal(size=60), jnp.float32)})
  trains = [multiply(*rng.normal(size=60)) for _ in range(3)]
  found = list(tickets.colt(trains, state, {'w': jnp.ones(60, bool)}, levels=4))
  for before, ticket in itertools.pairwise(found):
    kept = [
      lth.prune(lth.scores.magnitude(x.params), before.masks, fraction=0.2)
      for x in before.trained
    ]
    expected = set.intersection(
      *(set(np.flatnonzero(masks['w']).tolist()) for masks in kept)
    )
    assert set(alive(ticket)) == expected
    for train, trained in zip(trains, ticket.trained, strict=True):
      chex.assert_trees_all_equal(trained, train(state, ticket.masks))


def test_resuming_goes_on():
  find = functools.partial(tickets.colt, PARTS, HAND, MASKS, levels=3)
  first, second, last = find()
  for done, expected in ((first, [second, last]), (second, [last]), (last, [])):
    chex.assert_trees_all_equal(list(find(resume=done)), expected)


@pytest.mark.slow
def test_replicates_prune_on_their_own():
  keys = jax.random.split(jax.random.key(0), 3)
  params, one, other = ({'w': jax.random.normal(k, (2, 30))} for k in keys)

  def part(factors):
    def train(state, masks):
      params = {'w': state.params['w'] * factors['w']}
      return State(lth.masks.apply(masks, params))

    return train

  together = tickets.colt(
    [part(one), part(other)],
    State(params),
    {'w': jnp.ones((2, 30), bool)},
    levels=3,
    vmapped=True,
  )
  single = [
    tickets.colt(
      [part({'w': one['w'][i]}), part({'w': other['w'][i]})],
      State({'w': params['w'][i]}),
      {'w': jnp.ones(30, bool)},
      levels=3,
    )
    for i in range(2)
  ]
  for ticket, *alone in zip(together, *single, strict=True):
    for i in range(2):
      assert (ticket.masks['w'][i] == alone[i].masks['w']).all()


def test_nothing_in_common_names_the_leaf():
  masks = {'a': jnp.ones(4, bool), 'w': jnp.ones(4, bool), 'b': None}
  params = {name: jnp.arange(1.0, 5.0) for name in 'awb'}

  def part(sign):
    def train(state, masks):
      w = params['w'] ** sign
      return State(lth.masks.apply(masks, {**params, 'w': w}))

    return train

  found = tickets.colt(
    [part(1), part(-1)], State(params), masks, levels=2, prune=by(0.5)
  )
  assert next(found).level == 0
  message = (
    'At level 1, the parts keep no weight in common in w. Stop before that'
    ' level, or prune less per level.'
  )
  with pytest.raises(ValueError, match=message):
    next(found)


def test_every_part_has_to_hold_zeros():
  found = tickets.colt(
    [PARTS[0], lambda state, masks: state],
    HAND,
    {'w': jnp.arange(6) < 3},
    levels=2,
  )
  with pytest.raises(ValueError, match=r'are not zero .* false, in w\. Start'):
    next(found)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'trains': []}, '`trains` was empty, but must be a list of at least'),
    ({'levels': 0}, '`levels` was 0, but must be at least 1'),
    ({'prune': by(1.0)}, '`fraction` was 1.0, but must be in'),
    ({'prune': by({'x*': 0.1})}, "match no prunable leaf: 'x*'"),
    ({'prune': by(0.1, scope='net')}, "`scope` was 'net', but must be"),
    ({'masks': {'w': np.ones(5, bool)}}, 'w: mask of shape (5,), params of'),
    ({'vmapped': True}, 'The state is that of one run, but `vmapped`'),
  ],
)
def test_bad_input_is_refused_before_any_training(change, message):
  best = training.Best(jnp.int32(0), jnp.float32(0), HAND.params, {})
  state = training.TrainState(jnp.int32(0), HAND.params, (), {}, None, best)
  arguments = {
    'trains': [pytest.fail],
    'state': state,
    'masks': MASKS,
    'levels': 2,
    **change,
  }
  with pytest.raises(ValueError, match=re.escape(message)):
    tickets.colt(**arguments)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'trained': HAND}, '`resume.trained` was a State, but must be a tuple'),
    (
      {'trained': (HAND,)},
      'was a tuple of 1, but must be a tuple with a train',
    ),
    ({'trained': (HAND, None)}, 'trained state for each of the 2 parts. Pass'),
    ({'trained': None}, '`resume.trained` was a NoneType, but must be'),
    ({'masks': {'v': MASKS['w']}}, '`resume` is not a ticket of this search. '),
    ({'masks': {'w': np.ones(5, bool)}}, 'w: mask of shape (6,), other masks'),
  ],
)
def test_what_cannot_be_resumed(change, message):
  ticket = tickets.Ticket(0, 1.0, MASKS, HAND, (HAND, HAND), None)
  find = functools.partial(tickets.colt, PARTS, HAND, MASKS, levels=2)
  find(resume=ticket)
  with pytest.raises(ValueError, match=re.escape(message)):
    find(resume=ticket._replace(**change))


def test_imp_does_not_go_on_from_several_parts():
  ticket = tickets.Ticket(0, 1.0, MASKS, HAND, (HAND, HAND), None)
  message = '`resume.trained` was a tuple of 2, but must be one state. Pass'
  with pytest.raises(ValueError, match=message):
    tickets.imp(PARTS[0], HAND, MASKS, levels=2, resume=ticket)
  # A state may be a tuple itself.
  state = (HAND.params, 0)
  tickets.imp(
    pytest.fail,
    state,
    MASKS,
    levels=2,
    params=lambda state: state[0],
    resume=ticket._replace(trained=state),
  )
