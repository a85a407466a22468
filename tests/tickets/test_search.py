"""Train, prune, rewind, repeat; and what it leaves behind."""

import functools
import itertools
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import keys, random_like

import lthjax as lth
from lthjax import tickets, training


class State(NamedTuple):
  """What `imp` needs to know of a state: where the params are."""

  params: Any
  step: Any = 0


def multiply(factors):
  """Training that multiplies each weight by a factor of its own."""

  def train(state, masks):
    params = jax.tree.map(jnp.multiply, state.params, factors)
    return State(lth.masks.apply(masks, params), state.step + 1)

  return train


def by(fraction, **options):
  """Pruning of a fraction of the alive weights."""
  return functools.partial(lth.prune, fraction=fraction, **options)


def alive(ticket):
  """Indices of alive weights."""
  return np.flatnonzero(ticket.masks['w']).tolist()


HAND = State({'w': np.float32([5.0, 4.0, -3.0, 2.0, -1.0])})
HAND_MASKS = {'w': np.ones(5, bool)}
# Trained from the start: 0.5, 4.4, -3, 6, -3.
GROWTH = {'w': np.float32([0.1, 1.1, 1.0, 3.0, 3.0])}


def test_three_levels_by_hand():
  found = list(
    tickets.imp(multiply(GROWTH), HAND, HAND_MASKS, levels=4, prune=by(0.4))
  )
  # Removes 2 of 5 (of the equal -3, the later one), 1 of 3, 1 of 2.
  assert [alive(t) for t in found] == [[0, 1, 2, 3, 4], [1, 2, 3], [1, 3], [3]]
  assert [t.level for t in found] == [0, 1, 2, 3]
  assert [t.density for t in found] == [1.0, 0.6, 0.4, 0.2]
  assert all(t.start is HAND for t in found)
  assert all(t.metrics is None for t in found)
  np.testing.assert_allclose(
    found[1].trained.params['w'], [0, 4.4, -3, 6, 0], rtol=1e-6
  )


def meet_halfway(start, trained):
  mean = jax.tree.map(lambda a, b: (a + b) / 2, start.params, trained.params)
  return start._replace(params=mean)


@pytest.mark.parametrize(
  ('rewind', 'levels'),
  [
    # Values that are compared: 8 6 2 5, then 8 6 5.
    (tickets.rewind_weights, [[0, 1, 2, 3], [0, 1, 3], [0, 1]]),
    # 8 6 2 5, then 4 6 12.5: the first weight shrinks at every level.
    (tickets.fine_tune, [[0, 1, 2, 3], [0, 1, 3], [1, 3]]),
    (tickets.rewind_learning_rate, [[0, 1, 2, 3], [0, 1, 3], [1, 3]]),
    # 8 6 2 5, then, from the means 12 6 3.5, 6 6 8.75.
    (meet_halfway, [[0, 1, 2, 3], [0, 1, 3], [0, 3]]),
  ],
)  # fmt: skip
def test_rewinding_decides_what_dies(rewind, levels):
  state = State({'w': jnp.array([16.0, 6.0, 4.0, 2.0])})
  train = multiply({'w': jnp.array([0.5, 1.0, 0.5, 2.5])})
  found = list(
    tickets.imp(
      train, state, {'w': jnp.ones(4, bool)}, levels=3, prune=by(0.3),
      rewind=rewind,
    )
  )  # fmt: skip
  assert [alive(t) for t in found] == levels
  for before, ticket in itertools.pairwise(found):
    chex.assert_trees_all_equal(ticket.start, rewind(state, before.trained))
  steps = {tickets.fine_tune: [1, 2, 3]}.get(rewind, [1, 1, 1])
  assert [t.trained.step for t in found] == steps


LENET = {
  'fc1': {'kernel': (784, 300), 'bias': (300,)},
  'fc2': {'kernel': (300, 100), 'bias': (100,)},
  'output': {'kernel': (100, 10), 'bias': (10,)},
}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Pruning left no weight')
def test_the_ladder_of_lenet():
  # The counts of removed weights are rounded to the nearest integer.
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    LENET,
    is_leaf=lambda x: isinstance(x, tuple),
  )
  found = tickets.imp(
    lambda params, masks: lth.masks.apply(masks, params),
    params,
    lth.masks.full(params),
    levels=16,
    prune=by({'output/*': 0.1, '*': 0.2}),
    params=lambda params: params,
  )
  counts, previous = [], None
  for ticket in found:
    counts.append(list(lth.masks.alive_by_name(ticket.masks).values()))
    if previous is not None:
      assert lth.masks.count(lth.masks.difference(ticket.masks, previous)) == 0
    assert ticket.density == sum(counts[-1]) / 266200
    previous = ticket.masks
  assert counts[0] == [235200, 30000, 1000]
  assert counts[1] == [188160, 24000, 900]
  assert counts[7] == [49325, 6291, 478]
  assert counts[15] == [8275, 1056, 206]
  # A global budget competes for the whole: 20 % of all weights.
  ticket = list(
    tickets.imp(
      lambda params, masks: lth.masks.apply(masks, params),
      params,
      lth.masks.full(params),
      levels=3,
      prune=by(0.2, scope='global', rounding='floor'),
      params=lambda params: params,
    )
  )[-1]
  assert lth.masks.count(ticket.masks) == 170368


def test_scores_see_the_trained_and_the_initial_params():
  calls = []

  def score(trained, initial):
    calls.append((trained, initial))
    return lth.scores.magnitude_increase(trained, initial)

  found = list(
    tickets.imp(
      multiply(GROWTH), HAND, HAND_MASKS, levels=3, prune=by(0.4), score=score,
      rewind=tickets.fine_tune,
    )
  )  # fmt: skip
  # |w| - |w0|: -4.5, 0.4, 0, 4, 2; then 0.84, 16, 8 against the same w0.
  assert [alive(t) for t in found] == [[0, 1, 2, 3, 4], [1, 3, 4], [3, 4]]
  assert len(calls) == 2
  for ticket, (trained, initial) in zip(found, calls, strict=False):
    assert trained is ticket.trained.params
    assert initial is HAND.params


def test_a_pattern_with_a_density_takes_the_place_of_the_fraction():
  params = {'w': jnp.array([[4.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0]]).T}
  found = list(
    tickets.imp(
      multiply({'w': jnp.ones((8, 1))}),
      State(params),
      lth.masks.full(params),
      levels=3,
      prune=functools.partial(lth.prune, pattern=lth.patterns.NM(2, 4)),
    )
  )
  assert [t.density for t in found] == [1.0, 0.5, 0.5]
  assert alive(found[1]) == alive(found[2]) == [0, 3, 6, 7]


def test_tickets_are_trained_when_they_are_asked_for():
  calls = []

  def train(state, masks):
    calls.append(masks)
    return multiply(GROWTH)(state, masks)

  found = tickets.imp(
    train, HAND, HAND_MASKS, levels=3, prune=by(0.4), evaluate=lambda s: s.step
  )
  assert not calls
  assert next(found).metrics == 1
  assert len(calls) == 1
  assert next(found).level == 1
  assert len(calls) == 2
  assert len(list(found)) == 1
  assert len(calls) == 3


def test_starting_from_pruned_masks_prunes_on():
  masks = {'w': jnp.array([True, True, False, True, True])}
  found = list(
    tickets.imp(multiply(GROWTH), HAND, masks, levels=2, prune=by(0.5))
  )
  # Of 0.5, 4.4, 6 and -3.
  assert [alive(t) for t in found] == [[0, 1, 3, 4], [1, 3]]


# --- with the trainer ---

STEPS, K = 7, 3
KEYS = keys(0, 1)
X = random_like((16, 6), seed=1)
DATA = X, np.tanh(X @ random_like((6, 3), seed=2))
TRACES = []


def init(key):
  keys = jax.random.split(key)
  params = {
    'fc': {'kernel': jax.random.normal(keys[0], (6, 8)), 'bias': jnp.ones(8)},
    'out': {'kernel': jax.random.normal(keys[1], (8, 3))},
  }
  return params, {'count': jnp.int32(0)}


def loss(params, model_state, batch, key):
  TRACES.append(1)
  x, y = batch
  x += 0.01 * jax.random.normal(key, x.shape)
  hidden = jnp.tanh(x @ params['fc']['kernel'] + params['fc']['bias'])
  error = jnp.mean((hidden @ params['out']['kernel'] - y) ** 2)
  return error, {'count': model_state['count'] + 1}


def batch(data, key, step):
  rows = jax.random.randint(jax.random.fold_in(key, step), (4,), 0, len(X))
  return jax.tree.map(lambda x: x[rows], data)


def evaluate(params, model_state, data):
  error, _ = loss(params, model_state, data, jax.random.key(0))
  return {'loss': error}


DENSE = lth.masks.full(jax.eval_shape(init, KEYS[0])[0])
FRACTION = {'out/*': 0.1, '*': 0.2}


@functools.cache
def trainer(vmapped):
  tx = lth.static(optax.adam(optax.linear_schedule(0.1, 0, STEPS)), DENSE)
  return lth.trainer(
    init, loss, tx, batch, evaluate=evaluate, every=2, vmapped=vmapped
  )


def train(state, masks):
  vmapped = state.key.ndim == 1
  state = training.with_masks(state, masks)
  return trainer(vmapped).fit(state, DATA, until=STEPS)


@functools.cache
def run(k=K, seed=0):
  """Four levels, rewound to step k."""
  state = trainer(False).fit(trainer(False).init(KEYS[seed]), DATA, until=k)
  found = tickets.imp(train, state, DENSE, levels=4, prune=by(FRACTION))
  return state, list(found)


def unkeyed(state):
  return state._replace(key=jax.random.key_data(state.key))


def assert_same_ticket(a, b):
  assert (a.level, a.density) == (b.level, b.density)
  a = a.masks, unkeyed(a.start), unkeyed(a.trained)
  b = b.masks, unkeyed(b.start), unkeyed(b.trained)
  chex.assert_trees_all_equal_structs(a, b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.slow
def test_late_rewinding_starts_every_level_at_step_k():
  state, found = run()
  assert int(state.step) == K
  for ticket in found:
    assert ticket.start is state
    assert int(ticket.trained.step) == STEPS
    assert int(ticket.trained.model_state['count']) == STEPS
    chex.assert_trees_all_equal(
      lth.get_masks(ticket.trained.opt_state), ticket.masks
    )
    nonzero = jax.tree.map(lambda x: x != 0, ticket.trained.params)
    for layer in ('fc', 'out'):
      np.testing.assert_array_equal(
        nonzero[layer]['kernel'], ticket.masks[layer]['kernel']
      )
  counts = [lth.masks.alive_by_name(t.masks) for t in found]
  # 48 and 24 weights, of which a fifth and a tenth are removed.
  assert [c['fc/kernel'] for c in counts] == [48, 38, 30, 24]
  assert [c['out/kernel'] for c in counts] == [24, 22, 20, 18]


def test_level_zero_is_the_run_that_was_never_interrupted():
  unbroken = trainer(False).fit(trainer(False).init(KEYS[0]), DATA, until=STEPS)
  dense = run()[1][0].trained
  assert_same_bits = functools.partial(chex.assert_trees_all_equal, strict=True)
  assert_same_bits(
    unkeyed(dense)._replace(best=None), unkeyed(unbroken)._replace(best=None)
  )


@pytest.mark.parametrize('last', [0, 1, 2, 3])
def test_resuming_gives_the_tickets_of_the_unbroken_run(last):
  state, found = run()
  rest = list(
    tickets.imp(
      train, state, DENSE, levels=4, prune=by(FRACTION), resume=found[last]
    )
  )
  assert len(rest) == 3 - last
  for again, ticket in zip(rest, found[last + 1 :], strict=True):
    assert_same_ticket(again, ticket)


@pytest.mark.parametrize(
  'rewind', [tickets.fine_tune, tickets.rewind_learning_rate]
)
def test_resuming_needs_the_last_ticket_only(rewind):
  # Here the trained state of the last ticket is where the next one starts.
  grow = functools.partial(
    tickets.imp, multiply(GROWTH), HAND, HAND_MASKS, levels=4, rewind=rewind
  )
  found = list(grow())
  for last in found:
    rest = list(grow(resume=last))
    chex.assert_trees_all_equal(rest, found[last.level + 1 :])


def test_a_whole_run_compiles_once():
  run()
  before = len(TRACES)
  for k in (0, K):
    for seed in (0, 1):
      run(k, seed)
  assert len(TRACES) == before


@pytest.mark.slow
def test_replicates_prune_on_their_own():
  keys = jax.random.split(jax.random.key(5), 3)
  params, growth = ({'w': jax.random.normal(k, (3, 40))} for k in keys[:2])
  masks = {'w': jnp.ones((3, 40), bool)}
  arguments = {'levels': 4, 'prune': by(0.33, scope='global')}
  for find in (
    functools.partial(tickets.imp, **arguments),
    functools.partial(tickets.one_shot, prunes=[by(0.33), by(0.5)]),
  ):
    together = list(find(multiply(growth), State(params), masks, vmapped=True))
    for i in range(3):
      single = functools.partial(jax.tree.map, lambda x, i=i: x[i])
      alone = find(
        multiply(single(growth)), State(single(params)), single(masks)
      )
      for ticket, expected in zip(together, alone, strict=True):
        chex.assert_trees_all_equal(single(ticket.masks), expected.masks)
        assert ticket.density == expected.density


@pytest.mark.slow
def test_replicates_with_the_trainer():
  state = trainer(True).init(KEYS)
  masks = jax.tree.map(lambda m: jnp.stack([m] * 2), DENSE)
  found = list(
    tickets.imp(train, state, masks, levels=3, prune=by(FRACTION), vmapped=True)
  )
  for ticket in found:
    counts = jax.tree.map(lambda m: m.sum((1, 2)).tolist(), ticket.masks)
    expected = [(48, 24), (38, 22), (30, 20)][ticket.level]
    assert counts['fc']['kernel'] == [expected[0]] * 2
    assert counts['out']['kernel'] == [expected[1]] * 2
  kernel = found[2].masks['fc']['kernel']
  assert (kernel[0] != kernel[1]).any()


# --- one shot ---


def test_one_shot_prunes_the_dense_network_once_to_each_size():
  found = list(
    tickets.one_shot(
      multiply(GROWTH), HAND, HAND_MASKS, prunes=[by(0.2), by(0.4), by(0.8)],
      evaluate=lambda state: state.step,
    )
  )  # fmt: skip
  # Cut from 0.5, 4.4, -3, 6, -3, every time.
  assert [alive(t) for t in found] == [
    [0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3], [3],
  ]  # fmt: skip
  assert [t.level for t in found] == [0, 1, 2, 3]
  assert [t.density for t in found] == [1.0, 0.8, 0.6, 0.2]
  assert [t.metrics for t in found] == [1, 1, 1, 1]
  assert all(t.start is HAND for t in found)


def test_one_shot_with_the_trainer():
  state, found = run()
  shots = list(
    tickets.one_shot(
      train, state, DENSE, prunes=[by(FRACTION), by({'fc/*': 0.5})],
      score=lth.scores.movement,
    )
  )  # fmt: skip
  assert_same_ticket(shots[0], found[0])
  scores = lth.scores.movement(found[0].trained.params, state.params)
  for shot, fraction in zip(shots[1:], [FRACTION, {'fc/*': 0.5}], strict=True):
    expected = lth.prune(scores, DENSE, fraction=fraction)
    chex.assert_trees_all_equal(shot.masks, expected)


# --- bad input ---


def test_a_training_function_has_to_hold_zeros():
  params = {'a': jnp.ones((2, 2)), 'b': jnp.ones((2, 2)), 'c': jnp.ones((2, 2))}
  masks = {'a': jnp.eye(2, dtype=bool), 'b': None, 'c': jnp.eye(2, dtype=bool)}
  for bad in (1.0, jnp.nan):
    found = tickets.imp(
      lambda state, masks, bad=bad: State(
        {**params, 'a': bad * params['a'], 'c': jnp.eye(2)}
      ),
      State(params),
      masks,
      levels=2,
    )
    message = (
      '`train` returned weights that are not zero where the masks are false, in'
      ' a. Start it with `state = lthjax.training.with_masks(state, masks)`,'
      ' and train with `lthjax.static(tx, masks)`.'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
      next(found)


def test_a_training_function_has_to_keep_the_params():
  found = tickets.imp(
    lambda state, masks: State({'v': state.params['w']}),
    HAND,
    HAND_MASKS,
    levels=2,
  )
  with pytest.raises(ValueError, match='w has a mask only; v has no mask'):
    next(found)


@pytest.mark.parametrize('vmapped', [False, True])
@pytest.mark.parametrize('find', ['imp', 'one_shot'])
def test_training_that_diverged_is_noticed(find, vmapped):
  params = {'a': jnp.ones((2, 4)), 'v': jnp.ones((2, 4))}
  factors = {
    'a': jnp.ones((2, 4)),
    'v': jnp.ones((2, 4)).at[1, 2:].set(jnp.nan),
  }
  budget = {'imp': {'levels': 2}, 'one_shot': {'prunes': [by(0.5)]}}[find]
  found = getattr(tickets, find)(
    multiply(factors),
    State(params),
    lth.masks.full(params),
    vmapped=vmapped,
    **budget,
  )
  assert next(found).level == 0
  with pytest.raises(ValueError, match=r'NaN in v \(2\).*did training diverge'):
    next(found)


@pytest.mark.parametrize('vmapped', [False, True])
@pytest.mark.parametrize(
  ('budget', 'message'),
  [
    ({'levels': 0}, '`levels` was 0, but must be at least 1'),
    ({'prune': by(1.0)}, '`fraction` was 1.0, but must be in'),
    ({'prune': by({'w*': 1})}, '`fraction` was 1, but must be in'),
    ({'prune': by(-0.1)}, '`fraction` was -0.1, but must be in'),
    ({'prune': by({})}, '`fraction` was empty, but must have a share'),
    ({'prune': by({'x*': 0.1})}, "match no prunable leaf: 'x*'"),
    ({'prune': by(0.1, scope='net')}, "`scope` was 'net', but must be"),
    ({'prune': by(0.1, rounding='up')}, "`rounding` was 'up', but must be"),
    (
      {'prune': functools.partial(lth.prune, pattern=lth.patterns.NM(5, 4))},
      'N:M sparsity needs 1 <= n <= m, but n is 5',
    ),
    ({'prunes': [by(0.5), by(1.0)]}, '`fraction` was 1.0, but must be in'),
    (
      {'prunes': [by(0.5, pattern=lth.patterns.NM(2, 4))]},
      'NM(n=2, m=4) fixes the density to 0.5',
    ),
  ],
)
def test_bad_budgets_are_refused_before_any_training(budget, message, vmapped):
  if 'prunes' in budget:
    find = tickets.one_shot
  else:
    find = functools.partial(tickets.imp, levels=2)
  params = {'w': jnp.ones((2, 4, 4))}
  with pytest.raises(ValueError, match=re.escape(message)):
    find(
      pytest.fail,
      State(params),
      lth.masks.full(params),
      vmapped=vmapped,
      **budget,
    )


@pytest.mark.parametrize(
  'find',
  [
    functools.partial(tickets.imp, levels=2),
    functools.partial(tickets.one_shot, prunes=[by(0.5)]),
  ],
)
def test_bad_masks_are_refused_before_any_training(find):
  shape = jax.ShapeDtypeStruct((5,), bool)
  for masks, message in [
    ({'w': jnp.ones(4, bool)}, 'w: mask of shape (4,), params of shape (5,)'),
    ({'w': jnp.ones(5)}, 'w is float32[5]'),
    ({'w': shape}, 'w is an abstract bool[5]'),
    ({'v': jnp.ones(5, bool)}, 'w has no mask'),
    ({'w': None}, 'every mask is None'),
    ({'w': jnp.zeros(5, bool)}, 'At level 0, no weight is alive. Stop before'),
    (None, '`masks` must be a tree of bool arrays and None, but it was None'),
    ('w', '`masks` must be a tree of bool arrays and None, but it is a str'),
  ]:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
      find(pytest.fail, HAND, masks)


@pytest.mark.parametrize('vmapped', [False, True])
@pytest.mark.parametrize('find', ['imp', 'one_shot'])
def test_vmapped_must_fit_the_state(find, vmapped):
  params = {'w': jnp.ones((2, 3, 4))}
  runs = (2,) if vmapped else ()
  best = training.Best(jnp.zeros(runs), jnp.zeros(runs), params, {})
  state = training.TrainState(jnp.int32(0), params, (), {}, None, best)
  options = {'imp': {'levels': 2}, 'one_shot': {'prunes': [by(0.5)]}}[find]
  with pytest.raises(ValueError, match='vmapped'):
    getattr(lth.tickets, find)(
      lambda state, masks: state,
      state,
      lth.masks.full(params),
      vmapped=not vmapped,
      **options,
    )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'levels': 0}, '`levels` was 0, but must be at least 1'),
    ({'levels': float('nan')}, '`levels` was nan, but must be an integer'),
    ({'levels': 2.5}, '`levels` was 2.5, but must be an integer'),
    ({'levels': None}, '`levels` was None, but must be an integer'),
    ({'train': None}, '`train` was None, but must be a function `train(state,'),
    ({'prune': 0.2}, '`prune` was 0.2, but must be a function `prune(scores,'),
    ({'score': 'magnitude'}, "`score` was 'magnitude', but must be a function"),
    ({'rewind': 'lr'}, "`rewind` was 'lr', but must be a function `rewind(st"),
    ({'evaluate': 3}, '`evaluate` was 3, but must be a function `evaluate(st'),
    ({'params': 'w'}, "`params` was 'w', but must be a function `params(state"),
    ({'state': {'w': HAND}}, 'The state is a dict without `params`, but must'),
    ({'prune': lambda scores, masks: scores}, 'w: mask of dtype float32, not'),
    ({'prune': lambda scores, masks: None}, 'w has no mask'),
  ],
)
def test_bad_arguments_of_a_search(change, message):
  arguments = {'train': pytest.fail, 'state': HAND, 'masks': HAND_MASKS}
  with pytest.raises((TypeError, ValueError), match=re.escape(message)):
    tickets.imp(**{**arguments, 'levels': 2, **change})


@pytest.mark.parametrize('prunes', [[], by(0.5)])
def test_one_shot_needs_a_list(prunes):
  with pytest.raises(ValueError, match='must be a list of at least one func'):
    tickets.one_shot(pytest.fail, HAND, HAND_MASKS, prunes=prunes)


@pytest.mark.filterwarnings('ignore:Pruning left no weight')
@pytest.mark.parametrize('vmapped', [False, True])
def test_a_search_ends_before_no_weight_is_left(vmapped):
  weights = jnp.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
  params = {'w': weights if vmapped else weights[0]}
  found = tickets.imp(
    multiply({'w': jnp.ones(())}),
    State(params),
    lth.masks.full(params, 'w'),
    levels=9,
    prune=by(0.9, rounding='floor'),
    vmapped=vmapped,
  )
  # 3 weights, less 2 of 3; one can only stay.
  assert [round(ticket.density, 2) for ticket in found] == [1, *[0.33] * 8]
  found = tickets.imp(
    multiply({'w': jnp.ones(())}),
    State(params),
    lth.masks.full(params, 'w'),
    levels=9,
    prune=by(0.6, rounding='ceil'),
    vmapped=vmapped,
  )
  assert [next(found).density, round(next(found).density, 2)] == [1, 0.33]
  where = ' in some of the runs' if vmapped else ''
  message = f'At level 2, no weight is alive{where}. Stop before that level, or'
  with pytest.raises(ValueError, match=message):
    next(found)


def test_trying_out_the_pruning_warns_of_nothing():
  """All-equal scores would empty the last layers of a global budget."""
  params = {'fc': np.arange(1.0, 21.0).astype('f'), 'out': np.float32([30, 40])}
  found = tickets.imp(
    lambda params, masks: lth.masks.apply(masks, params),
    params,
    lth.masks.full(params, lambda name, x: True),
    levels=2,
    prune=by(0.5, scope='global'),
    params=lambda params: params,
  )
  assert [lth.masks.alive_by_name(t.masks)['out'] for t in found] == [2, 2]


def test_a_training_has_to_return_a_state():
  found = tickets.imp(lambda state, masks: None, HAND, HAND_MASKS, levels=2)
  with pytest.raises(TypeError, match='`train` returned None, but must return'):
    next(found)


# --- states that are not values ---


class Box:
  """A state that is changed in place, as a Flax NNX module may be."""

  def __init__(self, w):
    self.params = {'w': w}


def in_place(state, masks):
  state.params['w'] = state.params['w'] * 2
  state.params = lth.masks.apply(masks, state.params)
  return state


def numpy_in_place(state, masks):
  state['params']['w'] *= 2
  return {'params': lth.masks.apply(masks, state['params'])}


def module_in_place(model, masks):
  kernel = model.kernel
  kernel[...] = jnp.where(masks['kernel'], kernel[...] * 2, 0)
  return model


class Linear(nnx.Module):
  """A module with one kernel."""

  def __init__(self):
    self.kernel = nnx.Param(jnp.array([[1.0, 2.0], [3.0, 4.0]]))


def pure(model):
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.parametrize(
  ('train', 'make', 'params'),
  [
    (in_place, lambda: Box(jnp.arange(1.0, 6.0)), None),
    (in_place, lambda: Box(np.arange(1, 6, dtype=np.float32)), None),
    (
      numpy_in_place,
      lambda: {'params': {'w': np.arange(1.0, 6.0, dtype=np.float32)}},
      None,
    ),
    (module_in_place, Linear, pure),
  ],
)
def test_states_that_change_in_place_are_refused(train, make, params):
  state = make()
  options = {} if params is None else {'params': params}
  masks = {'w': jnp.ones(5, bool)}
  if params:
    masks = {'kernel': jnp.ones((2, 2), bool)}
  message = '`train` changed the state it was given, but rewinding needs'
  for find in (
    functools.partial(tickets.imp, levels=3),
    functools.partial(tickets.one_shot, prunes=[by(0.5)]),
  ):
    with pytest.raises(ValueError, match=message):
      next(find(train, state, masks, **options))


@pytest.mark.parametrize('where', ['evaluate', 'score', 'rewind', 'loop'])
def test_states_that_change_between_trainings_are_refused(where):
  state = {'params': {'w': np.arange(1.0, 6.0, dtype=np.float32)}}

  def change(result):
    state['params']['w'] *= 3
    return result

  options = {
    'evaluate': {'evaluate': change},
    'score': {'score': lambda params: change(lth.scores.magnitude(params))},
    'rewind': {'rewind': lambda start, trained: change(start)},
    'loop': {},
  }[where]

  def train(state, masks):
    return {'params': lth.masks.apply(masks, state['params'])}

  found = tickets.imp(
    train, state, {'w': np.ones(5, bool)}, levels=3, prune=by(0.4), **options
  )

  def loop():
    for ticket in found:
      if not options:
        change(ticket)

  message = f'`{where}`' if options else 'the loop over the tickets'
  with pytest.raises(ValueError, match=f'{message}.* changed the state it was'):
    loop()


def test_objects_that_change_inside_are_refused():
  class Run(Box):
    def __init__(self, w, average):
      super().__init__(w)
      self.average = average

  def train(run, masks):
    run.average += 1  # an array that its params do not show
    return Run(lth.masks.apply(masks, run.params)['w'], run.average)

  run = Run(np.arange(1.0, 6.0, dtype=np.float32), np.zeros(3))
  with pytest.raises(ValueError, match='`train` changed the state it was'):
    next(tickets.imp(train, run, {'w': np.ones(5, bool)}, levels=2))


def test_objects_may_hold_what_is_no_tree():
  run = Box(np.arange(1.0, 6.0, dtype=np.float32))
  run.names = np.array(['a', 'b'])
  run.meta = {1: np.ones(2), 'a': [np.zeros(2)]}

  def train(run, masks):
    return Box(lth.masks.apply(masks, run.params)['w'])

  found = tickets.imp(train, run, {'w': np.ones(5, bool)}, levels=2)
  assert next(found).density == 1

  def rename(run, masks):
    run.meta['a'][0] += 1
    return train(run, masks)

  with pytest.raises(ValueError, match='`train` changed the state it was'):
    next(tickets.imp(rename, run, {'w': np.ones(5, bool)}, levels=2))


def test_a_module_that_is_cloned_is_a_value():
  model = Linear()
  found = list(
    tickets.imp(
      lambda model, masks: module_in_place(nnx.clone(model), masks),
      model,
      {'kernel': jnp.ones((2, 2), bool)},
      levels=3,
      prune=by(0.25, rounding='ceil'),
      params=pure,
    )
  )
  for ticket, expected in zip(
    found, [[2, 4, 6, 8], [0, 4, 6, 8], [0, 0, 6, 8]], strict=True
  ):
    assert np.ravel(ticket.trained.kernel[...]).tolist() == expected


def test_params_may_be_computed_from_the_state():
  found = tickets.imp(
    lambda state, masks: lth.masks.apply(masks, {'w': state['w'] * 2}),
    {'w': np.arange(1.0, 6.0, dtype=np.float32)},
    HAND_MASKS,
    levels=2,
    params=lambda state: jax.tree.map(lambda x: jnp.asarray(x) * 1.0, state),
  )
  assert [t.density for t in found] == [1, 0.8]


def test_a_donated_state_is_noticed():
  step = jax.jit(lambda params: {'w': params['w'] * 2}, donate_argnums=0)
  found = tickets.imp(
    lambda state, masks: State(step(state.params)),
    State({'w': jnp.arange(1.0, 6.0)}),
    HAND_MASKS,
    levels=2,
  )
  with pytest.raises(ValueError, match='`train` donated the state it was'):
    next(found)


# --- scores ---


@pytest.mark.parametrize(
  'score',
  [
    lambda params: jax.tree.map(jnp.abs, params),
    lambda params, power=1: jax.tree.map(lambda x: jnp.abs(x) ** power, params),
    lambda params, initial: jax.tree.map(
      lambda w, w0: jnp.abs(w) + 0 * w0, params, initial
    ),
    lambda *both: jax.tree.map(lambda w, w0: jnp.abs(w) + 0 * w0, *both),
    functools.partial(
      lambda which, params: jax.tree.map(which, params), jnp.abs
    ),
    jax.jit(lambda params: jax.tree.map(jnp.abs, params)),
  ],
)
def test_scores_take_as_many_params_as_they_require(score):
  found = tickets.imp(
    multiply(GROWTH), HAND, HAND_MASKS, levels=2, prune=by(0.4), score=score
  )
  assert [alive(t) for t in found] == [[0, 1, 2, 3, 4], [1, 2, 3]]


def test_a_training_without_a_step_is_refused():
  params = {'w': jnp.ones((3, 4))}
  best = training.Best(jnp.int32(0), jnp.inf, params, {})
  state = training.TrainState(jnp.int32(20), params, (), {}, None, best)
  tickets = lth.tickets.imp(
    lambda state, masks: state, state, lth.masks.full(params), levels=2
  )
  with pytest.raises(ValueError, match=r'took no steps: .* at step 20'):
    next(tickets)
