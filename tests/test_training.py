"""One value holds everything, and one program does every step."""

import collections
import dataclasses
import functools
import re
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import flax.core
import flax.struct
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import keys, random_like, slow_but

import lthjax as lth
from lthjax import training
from lthjax.training._state import no_best

pytestmark = pytest.mark.optimized

STEPS, EVERY = 10, 4
KEYS = keys(0, 1, 2)
X = random_like((32, 4), seed=1)
DATA = X, X @ random_like((4, 3), seed=2)


def init(key):
  """A linear model and what a training step leaves behind in it."""
  params = {
    'kernel': jax.random.normal(key, (4, 3)),
    'bias': jnp.zeros(3),
  }
  state = {
    'count': jnp.int32(0),
    'batches': jnp.zeros((STEPS, 8), jnp.int32),
    'noise': jnp.zeros((STEPS, 2), jnp.uint32),
  }
  return params, state


def batch(data, key, step):
  x, y = data
  indices = jax.random.randint(jax.random.fold_in(key, step), (8,), 0, len(x))
  return indices, x[indices], y[indices]


TRACES = []


def loss(params, model_state, batch, key):
  TRACES.append(1)
  indices, x, y = batch
  count = model_state['count']
  model_state = {
    'count': count + 1,
    'batches': model_state['batches'].at[count].set(indices),
    'noise': model_state['noise'].at[count].set(jax.random.key_data(key)),
  }
  y += 0.1 * jax.random.normal(key, y.shape)
  error = jnp.mean((x @ params['kernel'] + params['bias'] - y) ** 2)
  return error, model_state


def evaluate(params, model_state, data):
  del model_state
  x, y = data
  error = jnp.mean((x @ params['kernel'] + params['bias'] - y) ** 2)
  return {'loss': error, 'norm': optax.tree.norm(params)}


DENSE = lth.masks.full(jax.eval_shape(init, KEYS[0])[0])


@functools.cache
def trainer(vmapped=False, scanned=True):
  schedule = optax.cosine_decay_schedule(0.1, STEPS)
  tx = lth.static(optax.adam(schedule), DENSE)
  return lth.trainer(
    init,
    loss,
    tx,
    batch,
    evaluate=evaluate,
    every=EVERY,
    vmapped=vmapped,
    scanned=scanned,
  )


def start(vmapped=False):
  return trainer(vmapped).init(KEYS if vmapped else KEYS[0])


@functools.cache
def unbroken(vmapped=False):
  return fit(start(vmapped), STEPS, vmapped)


def fit(state, until, vmapped=False, **kwargs):
  return trainer(vmapped).fit(state, DATA, until=until, **kwargs)


def unkeyed(state):
  """The same leaves, random keys as the numbers they are."""
  return jax.tree.map(
    lambda x: (
      jax.random.key_data(x)
      if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
    ),
    state,
  )


def assert_same_bits(a, b):
  a, b = unkeyed(a), unkeyed(b)
  chex.assert_trees_all_equal_structs(a, b)
  chex.assert_trees_all_equal_dtypes(a, b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def run(state, i):
  """One of several replicates."""
  return jax.tree.map(lambda x: x if x.ndim == 0 else x[i], state)


@pytest.mark.parametrize('vmapped', [False, True])
@pytest.mark.parametrize(
  'stops', slow_but([[1], [4], [8], [3, 4, 5, 9], [0, 10]], [[3, 4, 5, 9]])
)
def test_split_runs_are_unbroken_ones(stops, vmapped):
  state = start(vmapped)
  for until in stops:
    state = fit(state, until, vmapped)
    assert int(state.step) == until
  state = fit(state, STEPS, vmapped)
  assert_same_bits(state, unbroken(vmapped))


@pytest.mark.parametrize('vmapped', [False, True])
@pytest.mark.parametrize('k', [0, 3, 4])
def test_rewinding_without_pruning_goes_on_as_if_nothing_was(k, vmapped):
  masks = DENSE
  if vmapped:
    masks = jax.tree.map(lambda m: jnp.stack([m] * 3), DENSE)
  state = training.with_masks(fit(start(vmapped), k, vmapped), masks)
  state = fit(state, STEPS, vmapped)
  assert_same_bits(
    state._replace(best=None), unbroken(vmapped)._replace(best=None)
  )


def test_training_is_that_of_a_plain_loop():
  params, model_state = init(jax.random.split(KEYS[0])[0])
  tx = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))
  opt_state = tx.init(params)
  seen = unbroken().model_state

  @jax.jit
  def step(params, model_state, opt_state, i):
    indices = seen['batches'][i]
    noise = jax.random.wrap_key_data(seen['noise'][i])
    grads, model_state = jax.grad(loss, has_aux=True)(
      params,
      model_state,
      (indices, *(jnp.asarray(x)[indices] for x in DATA)),
      noise,
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), model_state, opt_state

  for i in range(STEPS):
    params, model_state, opt_state = step(params, model_state, opt_state, i)
  chex.assert_trees_all_close(unbroken().params, params, rtol=1e-4)
  assert int(unbroken().model_state['count']) == STEPS
  chex.assert_trees_all_equal(unbroken().model_state, model_state)


@pytest.mark.parametrize('vmapped', [False, True])
def test_steps_dispatched_one_by_one_are_those_of_the_loop(vmapped):
  train = trainer(vmapped, scanned=False)
  state = train.init(KEYS if vmapped else KEYS[0])
  reports = []
  whole = train.fit(
    state, DATA, until=STEPS, report=lambda step, _: reports.append(step)
  )
  assert reports == [4, 8]
  assert int(whole.step) == STEPS
  chex.assert_trees_all_close(
    unkeyed(whole), unkeyed(unbroken(vmapped)), rtol=1e-4, atol=1e-6
  )
  traces = len(TRACES)
  for until in (0, 3, 5, STEPS):
    state = train.fit(state, DATA, until=until)
  assert_same_bits(state, whole)
  assert len(TRACES) == traces


def test_replicates_are_single_runs():
  side_by_side = unbroken(True)
  assert side_by_side.step.shape == ()
  for i, key in enumerate(KEYS):
    alone = fit(trainer().init(key), STEPS)
    ours = run(side_by_side, i)
    assert_same_bits(ours.key, alone.key)
    chex.assert_trees_all_equal(ours.model_state, alone.model_state)
    chex.assert_trees_all_close(
      ours._replace(key=None), alone._replace(key=None), rtol=1e-4, atol=1e-6
    )


def test_replicates_do_not_meet():
  state = start(True)
  spoiled = state._replace(
    params=jax.tree.map(lambda x: x.at[1].set(jnp.nan), state.params)
  )
  spoiled = fit(spoiled, STEPS, True)
  assert np.isnan(spoiled.params['kernel'][1]).all()
  assert not np.isfinite(spoiled.best.loss[1])
  for i in (0, 2):
    assert_same_bits(run(spoiled, i), run(unbroken(True), i))


def test_batches_and_noise_depend_on_key_and_step_only():
  other = start()._replace(params=jax.tree.map(jnp.ones_like, start().params))
  other = fit(fit(other, 7), STEPS)
  seen, seen_too = unbroken().model_state, other.model_state
  chex.assert_trees_all_equal(seen, seen_too)
  # All differ: from step to step, and from run to run.
  everything = unbroken(True).model_state
  for name in ('batches', 'noise'):
    rows = np.asarray(everything[name]).reshape(3 * STEPS, -1)
    assert len(np.unique(rows, axis=0)) == 3 * STEPS


def test_no_batch_draws_the_numbers_of_the_noise():
  # Epochs and steps are folded into the key that batches get.
  keys = []

  def note(data, key, step):
    del data
    folded = [jax.random.fold_in(key, i) for i in range(5)]
    keys.append(jnp.stack([key, *folded]))
    return jax.vmap(lambda k: jax.random.fold_in(k, step))(keys[-1])

  def compare(params, model_state, batch, key):
    used = jax.random.key_data(jnp.concatenate([keys.pop(), batch]))
    same = (used == jax.random.key_data(key)).all(-1).any()
    return 0.0 * params.sum(), model_state | same

  train = lth.trainer(
    lambda key: (jnp.ones(2), jnp.array(False)), compare, optax.sgd(0.1), note
  )
  state = train.fit(train.init(KEYS[0]), None, until=STEPS)
  assert not state.model_state


def test_nothing_is_traced_twice():
  trainer.cache_clear()
  state = fit(start(), 1)
  once = len(TRACES)
  state = fit(state, STEPS)
  pruned = lth.prune(
    lth.scores.magnitude(state.params), DENSE, sparsity=0.5, scope='global'
  )
  for seed in range(2):
    begin = trainer().init(jax.random.key(seed))
    for k in (0, 3):
      for masks in (DENSE, pruned):
        state = training.with_masks(fit(begin, k), masks)
        state = fit(state, STEPS, report=lambda step, metrics: None)
        alive = jnp.sum(state.params['kernel'] != 0)
        assert alive == lth.masks.count(masks)
  assert len(TRACES) == once


@pytest.mark.parametrize('vmapped', [False, True])
def test_reports_come_at_multiples(vmapped):
  reports = []
  state = fit(start(vmapped), 3, vmapped, report=reports.append)
  assert not reports
  fit(state, STEPS, vmapped, report=lambda *args: reports.append(args))
  assert [step for step, _ in reports] == [4, 8]
  for step, metrics in reports:
    assert set(metrics) == {'loss', 'norm'}
    now = fit(start(vmapped), step, vmapped)
    call = jax.vmap(evaluate, (0, 0, None)) if vmapped else evaluate
    expected = jax.jit(call)(now.params, now.model_state, DATA)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-5)


@functools.cache
def counter(vmapped):
  """Params count the steps; the losses of evaluations are in the data."""

  def count_loss(params, model_state, batch, key):
    del batch, key
    return -params['w'], {**model_state, 'count': model_state['count'] + 1}

  def look_up(params, model_state, data):
    del params
    row, count = model_state['row'], model_state['count']
    return {'loss': data[row, count // 2 - 1]}

  return lth.trainer(
    lambda key: ({'w': jnp.float32(0)}, {'row': 0, 'count': 0}),
    count_loss,
    optax.sgd(1.0),
    lambda data, key, step: None,
    evaluate=look_up,
    every=2,
    vmapped=vmapped,
  )


INF, NAN = float('inf'), float('nan')
# Losses at steps 2, 4, ..., and where the best is.
BEST = [
  ([3, 1, 2, 4], 4, 1),
  ([4, 3, 2, 1], 8, 1),
  ([NAN, 3, 2, NAN], 6, 2),
  ([1, NAN, NAN, NAN], 2, 1),
  ([NAN, NAN, NAN, NAN], 0, INF),
  ([INF, -INF, 0, 0], 4, -INF),
  ([2, 1, 1, 1], 4, 1),  # The first of equals.
  ([INF, INF, INF, INF], 0, INF),
]


@pytest.mark.parametrize(('losses', 'step', 'low'), BEST)
def test_best_is_where_the_loss_is_lowest(losses, step, low):
  train = counter(False)
  state = train.fit(train.init(KEYS[0]), jnp.array([losses]), until=9)
  assert state.best.step == step
  assert state.best.loss == low
  assert state.best.params['w'] == step
  assert state.best.model_state['count'] == step
  assert state.params['w'] == 9


@pytest.mark.slow
def test_each_replicate_has_its_own_best():
  train, n = counter(True), len(BEST)
  state = train.init(jax.random.split(KEYS[0], n))
  state.model_state['row'] = jnp.arange(n)
  losses = jnp.array([row for row, _, _ in BEST])
  state = train.fit(state, losses, until=8)
  steps = [step for _, step, _ in BEST]
  assert state.best.step.tolist() == steps
  assert state.best.loss.tolist() == [low for _, _, low in BEST]
  assert state.best.params['w'].tolist() == steps
  assert state.best.model_state['count'].tolist() == steps


def test_with_masks_forgets_the_best():
  train = counter(False)
  state = train.fit(train.init(KEYS[0]), jnp.array([[1.0, 2.0]]), until=4)
  assert state.best.step == 2
  best = no_best(state.step, state.params, {}, state.key)
  assert (int(best.step), float(best.loss)) == (4, INF)
  assert best.params is state.params

  state = fit(start(), 8)
  masks = {'kernel': jnp.eye(4, 3, dtype=bool), 'bias': None}
  ticket = training.with_masks(state, masks)
  assert (int(ticket.best.step), float(ticket.best.loss)) == (8, INF)
  for params in (ticket.params, ticket.best.params):
    assert_same_bits(params, lth.masks.apply(masks, state.params))
  chex.assert_trees_all_equal(lth.get_masks(ticket.opt_state), masks)
  untouched = ('step', 'model_state', 'key')
  for field in untouched:
    assert getattr(ticket, field) is getattr(state, field)
  trained = fit(ticket, STEPS)
  assert not np.asarray(trained.params['kernel'])[~masks['kernel']].any()


def test_replicates_take_masks_of_their_own():
  state = start(True)
  masks = {
    'kernel': jax.random.bernoulli(KEYS[0], shape=(3, 4, 3)),
    'bias': None,
  }
  trained = fit(training.with_masks(state, masks), STEPS, True)
  np.testing.assert_array_equal(trained.params['kernel'] != 0, masks['kernel'])
  assert trained.best.loss.shape == (3,)


class Own(NamedTuple):
  """A state of one's own, without a best evaluation."""

  params: Any
  opt_state: Any
  ema: Any


@flax.struct.dataclass
class Struct:
  """A state as `flax.struct` has them."""

  params: Any
  opt_state: Any
  ema: Any


@dataclasses.dataclass(frozen=True)
class Plain:
  """A state as Python has them."""

  params: Any
  opt_state: Any
  ema: Any


@chex.dataclass
class Chex:
  """A state as chex has them: a dataclass that is a mapping too."""

  params: Any
  opt_state: Any
  ema: Any


@dataclasses.dataclass(frozen=True, init=False)
class OwnInit:
  """A state as modules of Equinox are, with an `__init__` of its own."""

  params: Any
  opt_state: Any
  ema: Any

  def __init__(self, everything):
    for name, value in everything.items():
      object.__setattr__(self, name, value)


def flax_state(params, opt_state, ema):
  state = flax.training.train_state.TrainState.create(
    apply_fn=None, params=params, tx=optax.identity()
  )
  return state.replace(step=ema, opt_state=opt_state)


@pytest.mark.parametrize(
  'make',
  [
    Own,
    Struct,
    Plain,
    Chex,
    lambda **fields: OwnInit(fields),
    flax_state,
    dict,
    lambda **fields: flax.core.freeze(fields),
    lambda **fields: collections.defaultdict(int, fields),
  ],
)
def test_masks_go_into_states_of_any_common_kind(make):
  params = {'kernel': jnp.ones((4, 3)), 'bias': jnp.ones(3)}
  masks = {'kernel': jnp.eye(4, 3, dtype=bool), 'bias': None}
  tx = lth.static(optax.adam(0.1), lth.masks.full(params))
  state = make(params=params, opt_state=tx.init(params), ema=7)
  ticket = training.with_masks(state, masks)
  assert type(ticket) is type(state)
  keep = ticket if isinstance(ticket, Mapping) else vars_of(ticket)
  assert 7 in (keep.get('ema'), keep.get('step'))
  expected = lth.masks.apply(masks, params)
  assert_same_bits(dict(keep['params']), expected)
  chex.assert_trees_all_equal(lth.get_masks(keep['opt_state']), masks)
  before = state if isinstance(state, Mapping) else vars_of(state)
  assert before['params'] is not keep['params']


def vars_of(state):
  if isinstance(state, tuple):
    return state._asdict()
  return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


@pytest.mark.parametrize(
  ('state', 'message'),
  [
    (
      np.ones(3, np.float32),
      'without `opt_state`, but must be a NamedTuple, a dataclass',
    ),
    ({'params': {}}, 'The state is a dict without `opt_state`, but must be'),
    (None, 'For other states, use `lthjax.set_masks(opt_state, masks)` and'),
    (types.SimpleNamespace, 'SimpleNamespace, but must be a NamedTuple, a dat'),
  ],
)
def test_other_states_are_refused(state, message):
  params = {'kernel': jnp.ones((4, 3))}
  tx = lth.static(optax.adam(0.1), masks := lth.masks.full(params))
  if state is types.SimpleNamespace:
    state = state(params=params, opt_state=tx.init(params))
  with pytest.raises(TypeError, match=re.escape(message)):
    training.with_masks(state, masks)


def test_masks_have_to_fit():
  bad = {'kernel': jnp.ones((4, 2), bool), 'bias': None}
  with pytest.raises(ValueError, match='kernel: mask of shape'):
    training.with_masks(start(), bad)
  with pytest.raises(ValueError, match='kernel: mask of shape'):
    training.with_masks(start(True), DENSE)
  train = counter(False)
  with pytest.raises(ValueError, match='holds 0 trees of masks'):
    training.with_masks(train.init(KEYS[0]), {'w': jnp.array(True)})


def test_until_must_not_lie_behind():
  message = (
    'The state is already at step 3, but `until` was 2. Pass a later step, or'
    ' start from an earlier state.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    fit(fit(start(), 3), 2)


@pytest.mark.parametrize('vmapped', [False, True])
def test_training_stops_when_told_to(vmapped):
  """It is asked after each evaluation but the last."""
  asked = []

  def stop(step):
    asked.append(step)
    return len(asked) == 2

  state = fit(start(vmapped), STEPS, vmapped, stop=stop)
  assert asked == [EVERY, 2 * EVERY]
  assert int(state.step) == 2 * EVERY
  asked.clear()
  state = fit(state, STEPS, vmapped, stop=stop)
  assert asked == [*range(3 * EVERY, STEPS, EVERY)][:2]
  assert_same_bits(state, unbroken(vmapped))


def test_stop_must_be_a_function():
  with pytest.raises(TypeError, match='`stop` was True, but must be'):
    fit(start(), STEPS, stop=True)


@pytest.mark.parametrize('every', [0, -1, 1.5, NAN, None, '10'])
def test_every_must_be_a_positive_integer(every):
  message = f'`every` was {every!r}, but must be'
  with pytest.raises((TypeError, ValueError), match=message):
    lth.trainer(init, loss, optax.sgd(0.1), batch, every=every)


@pytest.mark.parametrize('until', [1.5, NAN, None, '10'])
def test_until_must_be_an_integer(until):
  message = f'`until` was {until!r}, but must be an integer'
  with pytest.raises(TypeError, match=message):
    fit(start(), until)


@pytest.mark.parametrize('vmapped', slow_but([False, True], [True]))
def test_without_evaluation_nothing_is_measured(vmapped):
  train = lth.trainer(
    init, loss, optax.sgd(0.1), batch, every=3, vmapped=vmapped
  )
  state = train.init(KEYS if vmapped else KEYS[0])
  state = train.fit(state, DATA, until=5)
  assert np.isinf(state.best.loss).all()
  assert not state.best.step.any()
  with pytest.raises(ValueError, match='no `evaluate`'):
    train.fit(state, DATA, until=6, report=print)


@pytest.mark.parametrize('vmapped', [False, True])
def test_keys_must_be_as_many_as_the_runs(vmapped):
  train = lth.trainer(init, loss, optax.sgd(0.1), batch, vmapped=vmapped)
  with pytest.raises(ValueError, match='vmapped=True'):
    train.init(KEYS[0] if vmapped else KEYS)


@pytest.mark.parametrize('vmapped', [False, True])
@pytest.mark.parametrize('key', [None, 0, 'key', 0.5, np.ones(3)])
def test_keys_are_keys(key, vmapped):
  train = lth.trainer(init, loss, optax.sgd(0.1), batch, vmapped=vmapped)
  with pytest.raises((TypeError, ValueError), match=r'random key|array of key'):
    train.init(key)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'init': {}}, '`init` was {}, but must be a function `init(key) -> (par'),
    ({'init': int}, "`init` was <class 'int'>, but must be a function `init("),
    (
      {'tx': lambda key: None},
      '`tx(key)` returned a NoneType, but must return',
    ),
    ({'loss': None}, '`loss` was None, but must be a function `loss(params,'),
    ({'batch': 60}, '`batch` was 60, but must be a function `batch(data, key,'),
    ({'evaluate': 'x'}, "`evaluate` was 'x', but must be a function `evaluat"),
    ({'tx': None}, '`tx` was None, but must be an optax optimizer, or'),
    ({'tx': 0.1}, '`tx` was 0.1, but must be an optax optimizer, or a'),
    (
      {'init': lambda key: {'w': key}},
      '`init` returned a dict, but must return',
    ),
    ({'init': lambda key: (1, 2, 3)}, '`init` returned a tuple, but must retu'),
  ],
)
def test_parts_of_a_loop_are_checked(change, message):
  parts = {'init': init, 'loss': loss, 'tx': optax.sgd(0.1), 'batch': batch}
  with pytest.raises(TypeError, match=re.escape(message)):
    lth.trainer(**{**parts, **change}).init(KEYS[0])


@pytest.mark.parametrize('state', [None, 3, {'step': 0}, np.ones(3)])
def test_only_states_of_the_trainer_are_trained(state):
  with pytest.raises(TypeError, match=r'but must be a `TrainState`, as the tr'):
    trainer().fit(state, DATA, until=1)


@pytest.mark.parametrize('metrics', [{}, {'loss': np.ones(2, np.float32)}])
def test_evaluations_need_a_scalar_loss(metrics):
  train = lth.trainer(
    init,
    loss,
    optax.sgd(0.1),
    batch,
    evaluate=lambda params, model_state, data: metrics,
    every=1,
  )
  with pytest.raises(ValueError, match="scalar 'loss'"):
    train.fit(train.init(KEYS[0]), DATA, until=1)


@pytest.mark.parametrize('vmapped', [False, True])
def test_keys_of_either_style_may_be_anywhere(vmapped):
  train = lth.trainer(
    lambda key: (jnp.ones(2), {'rngs': key}),
    lambda params, state, batch, key: (
      jnp.sum(params**2),
      {'rngs': jax.random.split(state['rngs'])[0]},
    ),
    optax.sgd(0.1),
    lambda data, key, step: jax.random.normal(key, 2),
    evaluate=lambda params, state, data: {'loss': 1.0},
    every=2,
    vmapped=vmapped,
  )
  results = []
  for key in (jax.random.key(0), jax.random.PRNGKey(0)):
    key = jax.random.split(key) if vmapped else key
    results.append(train.fit(train.init(key), None, until=4))
  old = jax.tree.map(np.asarray, results[1])
  chex.assert_trees_all_equal(unkeyed(results[0]), old)
  assert old.best.loss.shape == ((2,) if vmapped else ())
  assert (old.best.step == 2).all()


def note_alive(params, model_state, batch, key):
  """Counts the weights that the network runs with, step by step."""
  _, x, y = batch
  del key
  alive = (
    model_state['alive']
    .at[model_state['count']]
    .set(jnp.sum(params['kernel'] != 0))
  )
  error = jnp.mean((x @ params['kernel'] + params['bias'] - y) ** 2)
  return error, {'alive': alive, 'count': model_state['count'] + 1}


@functools.cache
def sparse_trainer(tx, vmapped=False, scanned=True):
  def start(key):
    counts = {'alive': jnp.zeros(STEPS, jnp.int32), 'count': jnp.int32(0)}
    return init(key)[0], counts

  def measure(params, model_state, data):
    alive = jnp.sum(params['kernel'] != 0)
    return {**evaluate(params, model_state, data), 'alive': alive}

  return lth.trainer(
    start,
    note_alive,
    tx,
    batch,
    evaluate=measure,
    every=EVERY,
    vmapped=vmapped,
    scanned=scanned,
  )


def rigl(key):
  return lth.rigl(
    optax.sgd(0.1),
    lth.random_masks(key, sparsity=0.5),
    update_every=3,
    stop_step=9,
    drop_fraction=optax.constant_schedule(0.5),
  )


SPARSE = {
  'rigl': rigl(KEYS[0]),
  'straight_through': lth.straight_through(optax.sgd(0.1), sparsity=0.5),
  'top_kast': lth.top_kast(
    optax.sgd(0.1), sparsity=0.5, backward_sparsity=0.25, update_every=3
  ),
}


@functools.cache
def sparse_run(method, vmapped=False):
  train = sparse_trainer(SPARSE[method], vmapped)
  reports = []
  state = train.fit(
    train.init(KEYS if vmapped else KEYS[0]),
    DATA,
    until=STEPS,
    report=lambda step, metrics: reports.append(metrics['alive']),
  )
  return state, np.asarray(reports)


@pytest.mark.parametrize('vmapped', slow_but([False, True], [True]))
@pytest.mark.parametrize('method', slow_but(SPARSE, ['rigl']))
def test_the_network_is_sparse_from_the_first_step_on(method, vmapped):
  keys = KEYS if vmapped else KEYS[0]
  first = sparse_trainer(SPARSE[method], vmapped).init(keys)
  state, reports = sparse_run(method, vmapped)
  alive = state.model_state['alive']
  # Weights just grown are zero, from the third step of RigL on.
  assert (alive[..., :3] == 6).all()
  assert (alive <= 6).all()
  assert reports.size
  assert (reports <= 6).all()
  shape = (3,) if vmapped else ()
  dense = method != 'rigl'
  for s in (first, state):
    kernels = np.asarray(s.params['kernel']).reshape(*shape, -1)
    alive = (kernels != 0).sum(-1)
    assert (alive == 12).all() if dense else (alive <= 6).all()
    kernels = np.asarray(s.best.params['kernel']).reshape(*shape, -1)
    alive = (kernels != 0).sum(-1)
    assert (alive == 6).all() if dense else (alive <= 6).all()
  assert np.isfinite(state.best.loss).all()


@pytest.mark.parametrize('method', slow_but(SPARSE, ['rigl']))
def test_replicates_with_moving_masks_are_single_runs(method):
  side_by_side, _ = sparse_run(method, True)
  for i, key in enumerate(KEYS):
    train = sparse_trainer(SPARSE[method])
    alone = train.fit(train.init(key), DATA, until=STEPS)
    ours = run(side_by_side, i)
    chex.assert_trees_all_equal(
      lth.get_masks(ours.opt_state), lth.get_masks(alone.opt_state)
    )
    chex.assert_trees_all_close(ours.params, alone.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(
      ours.best.params, alone.best.params, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
  'wrapped', slow_but([None, 'chain', 'injected'], ['chain'])
)
def test_replicates_do_not_pay_for_moves_at_every_step(wrapped):
  tx = {
    None: rigl,
    'chain': lambda key: optax.chain(optax.clip(9.0), rigl(key)),
    'injected': lambda key: optax.inject_hyperparams(
      lambda rate: optax.chain(optax.scale(rate), rigl(key))
    )(rate=1.0),
  }[wrapped](KEYS[0])
  train = sparse_trainer(tx, vmapped=True, scanned=False)
  state = train.init(KEYS)

  def one_step(params, opt_state):
    now = state._replace(params=params, opt_state=opt_state)
    return train.fit(now, DATA, until=1).params

  arguments = state.params, state.opt_state
  assert 'cond[' in str(jax.make_jaxpr(one_step)(*arguments))
  if not wrapped:
    program = jax.jit(one_step).lower(*arguments).compile().as_text()
    assert ' conditional(' in program


@pytest.mark.slow
def test_seeds_may_draw_first_masks_of_their_own():
  train = sparse_trainer(rigl, vmapped=True)
  first = train.init(KEYS)
  masks = np.asarray(lth.get_masks(first.opt_state)['kernel'])
  assert len({m.tobytes() for m in masks}) == 3
  np.testing.assert_array_equal(first.params['kernel'] != 0, masks)
  done = train.fit(first, DATA, until=5)
  alone = sparse_trainer(rigl)
  for i in (0, 1):
    ours = alone.init(KEYS[i])
    np.testing.assert_array_equal(
      lth.get_masks(ours.opt_state)['kernel'], masks[i]
    )
    assert_same_bits(ours.params['bias'], first.params['bias'][i])
    ours = alone.fit(ours, DATA, until=5)
    np.testing.assert_array_equal(
      lth.get_masks(ours.opt_state)['kernel'],
      lth.get_masks(done.opt_state)['kernel'][i],
    )
  # The key of an optimizer changes nothing about the rest.
  plain = sparse_trainer(lambda key: optax.sgd(0.1)).init(KEYS[0])
  assert_same_bits(plain, sparse_trainer(optax.sgd(0.1)).init(KEYS[0]))


def test_other_masks_leave_dense_params_dense():
  state, _ = sparse_run('straight_through')
  masks = {'kernel': jnp.eye(4, 3, dtype=bool), 'bias': None}
  other = training.with_masks(state, masks)
  assert_same_bits(other.params, state.params)
  seen = lth.masks.apply(masks, state.params)
  assert_same_bits(other.best.params, seen)
  assert_same_bits(lth.forward_params(other.opt_state, other.params), seen)


# --- losses that are not finite ---


@functools.cache
def explosive(vmapped=False, scanned=True, check_finite=True, every=3, tx=None):
  """Training by a loss with factors from the data: ``w * data[run, step]``."""

  def scaled(params, model_state, factors, key):
    del key
    return params['w'] * factors[model_state['run']], model_state

  return lth.trainer(
    lambda key: ({'w': jnp.float32(1)}, {'run': jnp.int32(0)}),
    scaled,
    optax.sgd(0.1) if tx is None else tx,
    lambda data, key, step: data[:, step],
    every=every,
    vmapped=vmapped,
    scanned=scanned,
    check_finite=check_finite,
  )


def factors(*bad, steps=10, value=NAN):
  """Factors of one; others, if at all, for each run from a step on."""
  table = np.ones((len(bad), steps), np.float32)
  for run, step in enumerate(bad):
    if step is not None:
      table[run, step] = value
  return table


@pytest.mark.parametrize('value', [NAN, INF, -INF])
@pytest.mark.parametrize('scanned', [True, False])
@pytest.mark.parametrize('bad', [0, 1, 2, 3, 7, 9])
def test_a_loss_that_is_not_finite_stops_training(bad, scanned, value):
  train = explosive(scanned=scanned)
  begin = train.init(KEYS[0])
  with pytest.raises(training.DivergedError) as caught:
    train.fit(begin, factors(bad, value=value), until=10)
  error = caught.value
  assert str(error).startswith(
    f'The training loss became NaN or infinite at step {bad}. Lower the'
  )
  last = max(bad - 1, bad // 3 * 3)
  assert f'The state at step {last} is the `state` of this error.' in str(error)
  assert error.step == bad
  good = factors(None)
  assert_same_bits(error.state, train.fit(begin, good, until=last))
  # Training can go on from there once the cause is gone.
  assert_same_bits(
    train.fit(error.state, good, until=10), train.fit(begin, good, until=10)
  )


@pytest.mark.parametrize('until', [3, 4, 10])
def test_params_that_are_not_finite_stop_training(until):
  # The last losses were finite; the next one would not be.
  broken = optax.scale_by_schedule(
    lambda count: jnp.where(count == until - 1, NAN, -0.1)
  )
  train = explosive(tx=broken)
  with pytest.raises(training.DivergedError) as caught:
    train.fit(train.init(KEYS[0]), factors(None), until=until)
  assert caught.value.step == until
  assert int(caught.value.state.step) == until - 1
  assert np.isfinite(caught.value.state.params['w'])


def test_the_loss_may_overflow_with_finite_params():
  train = explosive(tx=optax.sgd(1.0))
  table = factors(None) * 0
  table[0, 5:] = 3e38  # From 1, w goes to -3e38, where the loss is -9e76.
  with pytest.raises(training.DivergedError) as caught:
    train.fit(train.init(KEYS[0]), table, until=9)
  assert caught.value.step == 6
  assert int(caught.value.state.step) == 6
  assert np.isfinite(caught.value.state.params['w'])


def test_training_on_without_the_check():
  train = explosive(check_finite=False)
  state = train.fit(train.init(KEYS[0]), factors(4), until=10)
  assert int(state.step) == 10
  assert int(state.diverged) == 4
  assert int(train.fit(state, factors(4), until=10).diverged) == 4
  checked = explosive().fit(train.init(KEYS[0]), factors(None), until=10)
  assert int(checked.diverged) == -1


@pytest.mark.parametrize('scanned', [True, False])
def test_runs_that_diverge_are_marked_and_others_train_on(scanned):
  train = explosive(vmapped=True, scanned=scanned)
  begin = train.init(KEYS)
  begin.model_state['run'] = jnp.arange(3)
  state = train.fit(begin, factors(None, 2, 7), until=10)
  assert state.diverged.tolist() == [-1, 2, 7]
  healthy = train.fit(begin, factors(None, None, None), until=10)
  assert_same_bits(run(state, 0), run(healthy, 0))
  assert np.isnan(state.params['w']).tolist() == [False, True, True]
  with pytest.raises(training.DivergedError, match='infinite at step 8') as (
    caught
  ):
    train.fit(begin, factors(8, 2, 7), until=10)
  # A step before the last run diverged.
  assert int(caught.value.state.step) == 7
  assert caught.value.state.diverged.tolist() == [-1, 2, -1]


@pytest.mark.parametrize('vmapped', [False, True])
@pytest.mark.parametrize('scanned', [True, False])
@pytest.mark.parametrize('bad', [NAN, INF, -0.0])
def test_dead_weights_are_zero_whatever_they_were(bad, scanned, vmapped):
  keys = KEYS if vmapped else KEYS[0]
  masks = jax.tree.map(lambda m: m & (np.arange(12).reshape(4, 3) > 5), DENSE)
  if vmapped:
    masks = jax.tree.map(lambda m: jnp.stack([m] * 3), masks)
  train = trainer(vmapped, scanned)
  state = training.with_masks(train.init(keys), masks)
  kernel = jnp.where(masks['kernel'], state.params['kernel'], bad)
  spoiled = state._replace(params={**state.params, 'kernel': kernel})
  assert_same_bits(
    train.fit(spoiled, DATA, until=5)._replace(best=None),
    train.fit(state, DATA, until=5)._replace(best=None),
  )


def test_weights_that_die_as_nan_are_zero():
  """A weight that no input reaches becomes NaN, and is pruned for that."""

  def look_up(params, model_state, rows, key):
    del key
    return jnp.sum(params['kernel'][rows] ** 2), model_state

  def spoil(updates, params=None):
    kernel = updates['kernel'].at[0, 0].set(NAN)
    return {'kernel': kernel}

  tx = lth.gradual(
    optax.chain(optax.sgd(0.01), optax.stateless(spoil)),
    sparsity=0.5,
    update_every=2,
    stop_step=4,
  )
  train = lth.trainer(
    lambda key: ({'kernel': jax.random.normal(key, (3, 4))}, {}),
    look_up,
    tx,
    lambda data, key, step: jnp.array([1, 2]),
    check_finite=False,
  )
  state = train.fit(train.init(KEYS[0]), None, until=1)
  assert np.isnan(state.params['kernel'][0, 0])
  state = train.fit(state, None, until=5)
  assert not lth.get_masks(state.opt_state)['kernel'][0, 0]
  table = np.asarray(state.params['kernel'])
  assert np.isfinite(table).all()
  assert not np.signbit(table[0, 0])


SEEDS = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import lthjax as lth


def make():
  return lth.trainer(
    lambda key: ({'w': jax.random.normal(key, (8, 6))}, {'n': jnp.zeros(3)}),
    lambda params, state, x, key: (
      jnp.mean((x @ params['w'] - 1) ** 2), {'n': state['n'] + 1}
    ),
    lambda key: lth.static(
      optax.adam(0.1), lth.random_masks(key, sparsity=0.5)
    ),
    lambda data, key, step: data[step % 2],
    evaluate=lambda params, state, data: {'loss': jnp.sum(params['w'] ** 2)},
    every=4,
    vmapped=True,
  )


keys = jax.random.split(jax.random.key(0), 4)
data = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
train = make()
wanted = train.fit(train.init(keys), data, until=6)
mesh = jax.make_mesh((2,), ('seeds',), (AxisType.Explicit,))
with jax.set_mesh(mesh):
  place = NamedSharding(mesh, P('seeds'))
  train, found = make(), []
  state = train.init(jax.device_put(keys, place))
  state = train.fit(
    state, data, until=6, report=lambda step, x: found.append(x['loss'])
  )
leaves = zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True)
for x, y in leaves:
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    x, y = jax.random.key_data(x), jax.random.key_data(y)
  assert x.ndim == 0 or x.sharding.spec[0] == 'seeds', x.sharding
  np.testing.assert_allclose(x, y, atol=1e-6)
masks = [lth.get_masks(s.opt_state)['w'] for s in (state, wanted)]
np.testing.assert_array_equal(*masks)
assert found[0].sharding.spec[0] == 'seeds'
print('done')
"""


@pytest.mark.slow
def test_seeds_may_be_spread_over_devices(run_python):
  assert run_python(SEEDS, devices=2).split() == ['done']
