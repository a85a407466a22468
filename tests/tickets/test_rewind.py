"""What goes back, what stays, and what is emptied."""

import functools
from typing import Any, NamedTuple

import chex
import flax.struct
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import lthjax as lth
from lthjax import tickets, training
from lthjax.training._state import no_best


def full(value, step):
  """A training state in which every array is filled with one number."""
  params = {'w': jnp.full((2, 2), value)}
  return training.TrainState(
    step=jnp.int32(step),
    params=params,
    opt_state=optax.sgd(0.1, momentum=0.9)
    .init(params)[0]
    ._replace(trace=params),
    model_state={'mean': jnp.full(2, value)},
    key=jax.random.key(step),
    best=no_best(jnp.int32(step), params, {}, jax.random.key(0)),
  )


@functools.cache
def start():
  return full(1.0, 3)


@functools.cache
def trained():
  return full(2.0, 9)


def test_rewind_weights_takes_all_from_the_start():
  assert tickets.rewind_weights(start(), trained()) is start()


def test_fine_tune_takes_all_from_the_end():
  assert tickets.fine_tune(start(), trained()) is trained()


def test_rewind_learning_rate_keeps_weights_and_statistics():
  state = tickets.rewind_learning_rate(start(), trained())
  for field in ('params', 'model_state'):
    assert getattr(state, field) is getattr(trained(), field)
  for field in ('step', 'opt_state', 'key', 'best'):
    assert getattr(state, field) is getattr(start(), field)


class Small(NamedTuple):
  params: Any
  step: int


@flax.struct.dataclass
class Struct:
  params: Any
  step: int


def linen_state(params, step):
  state = flax.training.train_state.TrainState.create(
    apply_fn=None, params=params, tx=optax.identity()
  )
  return state.replace(step=step)


@pytest.mark.parametrize('kind', [Small, Struct, dict, linen_state])
def test_states_of_other_kinds_rewind_too(kind):
  old, new = kind(params='old', step=3), kind(params='new', step=9)
  state = tickets.rewind_learning_rate(old, new)
  assert type(state) is type(old)
  if kind is dict:
    assert state == {'params': 'new', 'step': 3}
  else:
    assert (state.params, state.step) == ('new', 3)


def test_batch_statistics_belong_to_the_weights():
  @flax.struct.dataclass
  class WithStatistics(flax.training.train_state.TrainState):
    batch_stats: Any = None

  states = [
    WithStatistics.create(
      apply_fn=None, params=name, tx=optax.identity(), batch_stats=name
    ).replace(step=step)
    for name, step in (('old', 3), ('new', 9))
  ]
  state = tickets.rewind_learning_rate(*states)
  assert (state.params, state.batch_stats, state.step) == ('new', 'new', 3)


@pytest.mark.parametrize(
  'state', [None, 'theta', {'step': 3}, np.ones(3, np.float32)]
)
def test_states_without_params_are_refused(state):
  with pytest.raises(TypeError, match='without `params`, but must be a Named'):
    tickets.rewind_learning_rate(state, state)


def test_learning_rate_rewinding_runs_the_schedule_again():
  # The rate is 1 at step 0, then 0.1: only the first step counts.
  dense = {'w': jnp.ones(2, bool)}
  schedule = optax.piecewise_constant_schedule(1.0, {1: 0.1})
  train = lth.trainer(
    lambda key: ({'w': jnp.zeros(2)}, {}),
    lambda params, state, batch, key: (-params['w'].sum(), state),
    lth.static(optax.sgd(schedule), dense),
    lambda data, key, step: None,
  )
  start = train.init(jax.random.key(0))
  trained = train.fit(start, None, until=2)
  np.testing.assert_allclose(trained.params['w'], 1.1, rtol=1e-6)
  expected = {
    tickets.rewind_weights: 1.1,
    tickets.rewind_learning_rate: 2.2,
    tickets.fine_tune: 1.3,
  }
  for rewind, value in expected.items():
    state = training.with_masks(
      rewind(start, trained), {'w': jnp.array([True, False])}
    )
    until = 4 if rewind is tickets.fine_tune else 2
    state = train.fit(state, None, until=until)
    np.testing.assert_allclose(state.params['w'], [value, 0.0], rtol=1e-6)


PARAMS = {
  'kernel': np.float32([[1.0, -2.0], [3.0, -4.0]]),
  'bias': np.ones(2, np.float32),
}
MASKS = {'kernel': np.array([[True, False], [True, True]]), 'bias': None}


@pytest.mark.parametrize(
  'inner',
  [
    optax.sgd(0.1),
    optax.adam(optax.linear_schedule(0.1, 0, 9)),
    optax.adafactor(0.1, min_dim_size_to_factor=1),
    optax.contrib.muon(0.1),
    optax.masked(optax.adam(0.1), {'kernel': True, 'bias': False}),
    optax.partition(
      {'one': optax.adam(0.1), 'two': optax.sgd(0.1, momentum=0.9)},
      {'kernel': 'one', 'bias': 'two'},
    ),
    optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
  ],
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_fresh_slots_are_those_of_init_with_the_old_counts(inner, wrapped):
  tx = lth.static(inner, MASKS) if wrapped else inner
  state = tx.init(PARAMS)
  for _ in range(2):
    _, state = tx.update(PARAMS, state, PARAMS)
  fresh = tickets.fresh_slots(tx, state)
  chex.assert_trees_all_equal_shapes_and_dtypes(fresh, state)
  for now, old, new in zip(
    *(jax.tree.leaves(s) for s in (fresh, state, tx.init(PARAMS))), strict=True
  ):
    # Counts, rates and masks have no axes, or are bools; slots have axes.
    kept = now.ndim == 0 or now.dtype == bool
    np.testing.assert_array_equal(now, old if kept else new)
  if wrapped:
    chex.assert_trees_all_equal(lth.get_masks(fresh), MASKS)


def test_fresh_slots_pass_none_leaves_over():
  params = {'w': jnp.ones(2), 'activation': None}
  tx = optax.adam(0.1)
  _, state = tx.update(params, tx.init(params), params)
  fresh = tickets.fresh_slots(tx, state)
  assert int(fresh[0].count) == 1
  chex.assert_trees_all_equal(fresh[0].mu, tx.init(params)[0].mu)
