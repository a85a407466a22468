"""Batch statistics, recomputed for networks that no training has visited."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lthjax import landscape, models


class Pair(NamedTuple):
  var: Any
  mean: Any


class Net(nnx.Module):
  def __init__(self, *, rngs):
    self.fc = nnx.Linear(3, 5, rngs=rngs)
    self.norm = nnx.BatchNorm(5, momentum=0.7, rngs=rngs)
    self.output = nnx.Linear(5, 2, rngs=rngs)
    self.dropout = nnx.Dropout(0.0, rngs=rngs)

  def __call__(self, x, *, train=False):
    x = self.norm(self.fc(x), use_running_average=not train)
    return self.output(nnx.relu(self.dropout(x)))


MODEL = models.functional(lambda rngs: Net(rngs=rngs))
TRAIN = jax.jit(functools.partial(MODEL.apply, train=True))
INIT = jax.jit(MODEL.init)
BATCHES = np.float32(np.random.default_rng(5).normal(2, 3, size=(4, 20, 3)))
recompute = functools.partial(landscape.batch_statistics, TRAIN)


def test_they_are_the_mean_over_batches():
  params, state = INIT(jax.random.key(0))
  state['norm'] = {'mean': jnp.full(5, 1e3), 'var': jnp.full(5, 7.0)}
  new = recompute(params, state, BATCHES)
  features = np.asarray(BATCHES, np.float64) @ np.asarray(
    params['fc']['kernel']
  )
  features += np.asarray(params['fc']['bias'])
  np.testing.assert_allclose(
    new['norm']['mean'], features.mean((0, 1)), rtol=1e-4
  )
  np.testing.assert_allclose(
    new['norm']['var'], features.var(1).mean(0), rtol=1e-4
  )
  # What is no floating point number stays: the stream of the dropout.
  old = {k: v for k, v in state.items() if k != 'norm'}
  assert jax.tree.leaves(old)
  chex.assert_trees_all_equal({k: new[k] for k in old}, old)


def test_nothing_is_left_of_the_old_ones():
  params, state = INIT(jax.random.key(0))
  other = INIT(jax.random.key(0))[1]
  other['norm'] = {'mean': jnp.full(5, jnp.nan), 'var': jnp.full(5, -9.0)}
  chex.assert_trees_all_equal(
    recompute(params, state, BATCHES)['norm'],
    recompute(params, other, BATCHES)['norm'],
  )


def test_training_converges_to_them():
  params, state = INIT(jax.random.key(0))
  wanted = recompute(params, state, BATCHES[:1])
  for _ in range(60):
    _, state = TRAIN(params, state, BATCHES[0])
  chex.assert_trees_all_close(state['norm'], wanted['norm'], rtol=1e-5)


@pytest.mark.slow
def test_an_error_that_recomputes_them_has_a_barrier():
  (a, state), (b, _) = INIT(jax.random.key(0)), INIT(jax.random.key(1))
  labels = jnp.arange(80) % 2

  def error(params, model_state):
    logits, _ = MODEL.apply(params, model_state, BATCHES.reshape(80, 3))
    return jnp.mean(jnp.argmax(logits, -1) != labels)

  recomputed = jax.jit(lambda p: error(p, recompute(p, state, BATCHES)))
  found = landscape.error_barrier(recomputed, a, b, points=5)
  middle = landscape.interpolate(a, b, 0.5)
  wanted = error(middle, recompute(middle, state, BATCHES))
  assert found.errors[2] == wanted
  assert landscape.error_barrier(recomputed, a, a, points=5).barrier == 0
  # Interpolated: the network is the pair, but for the stream of the dropout.
  pairs = [(p, recompute(p, state, BATCHES)['norm']) for p in (a, b)]
  interpolated = landscape.error_barrier(
    jax.jit(lambda pair: error(pair[0], state | {'norm': pair[1]})),
    *pairs,
    points=3,
  )
  assert interpolated.errors[0] == found.errors[0]
  assert interpolated.errors[-1] == found.errors[-1]


def test_frozen_statistics_stay():
  def apply(params, state, x):
    return x, state | {'mean': 0.5 * state['mean'] + 0.5 * x.mean(0)}

  state = {'mean': jnp.zeros(3), 'frozen': jnp.ones(3)}
  new = landscape.batch_statistics(apply, {}, state, BATCHES)
  np.testing.assert_array_equal(new['frozen'], state['frozen'])
  np.testing.assert_allclose(new['mean'], BATCHES.mean((0, 1)), rtol=1e-5)


def test_a_model_without_statistics_needs_no_data():
  state = {'count': jnp.array(3)}
  assert landscape.batch_statistics(TRAIN, {}, state, None) is state
  assert landscape.batch_statistics(TRAIN, {}, {}, None) == {}


@pytest.mark.parametrize('batches', [None, [], jnp.ones((0, 20, 3))])
def test_statistics_need_data(batches):
  params, state = INIT(jax.random.key(0))
  with pytest.raises(ValueError, match='of batches, at least one, but held'):
    recompute(params, state, batches)


def test_statistics_of_half_precision_are_summed_in_single():
  def apply(params, state, x):
    return x, {'mean': 0.5 * state['mean'] + 0.5 * x.mean(0)}

  # Added one by one in bfloat16, ones would not pass 256.
  state = {'mean': jnp.zeros(3, jnp.bfloat16)}
  new = landscape.batch_statistics(apply, {}, state, jnp.ones((1000, 2, 3)))
  assert new['mean'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(new['mean'], jnp.ones(3))


@pytest.mark.parametrize(
  ('batches', 'message'),
  [
    (
      iter([]),
      r'must be a tree of arrays .* but held a list_iterator\. Stack',
    ),
    (jnp.float32(1), r'held float32\[\]. .* `jnp\.stack\(list_of_images\)`'),
    (
      (jnp.ones((2, 3)), jnp.ones((3, 3))),
      r'the same leading .* but held float32\[2, 3\], float32\[3, 3\]\. Stack',
    ),
  ],
)
def test_batches_are_arrays_of_one_length(batches, message):
  with pytest.raises(ValueError, match=message):
    landscape.batch_statistics(TRAIN, {}, {'mean': jnp.ones(3)}, batches)


@pytest.mark.parametrize(
  ('returned', 'message'),
  [
    (jnp.ones((2, 3)), r'`\(outputs, model_state\)`, but returned one thing'),
    ((1.0, {}, {}), r'but returned 3 things\. Give one that records'),
    (
      (1.0, {'mean': jnp.ones(2), 'new': 1.0}),
      r'was given: var is missing; new is new; mean has shape \(2,\), not \(3,',
    ),
    (
      (1.0, {'mean': jnp.ones(3), 'var': None}),
      r'var has shape None, not \(\)',
    ),
    ((1.0, Pair(0.5, jnp.ones(3))), 'leaves have another order'),
  ],
)
def test_apply_has_to_return_a_state_like_the_given_one(returned, message):
  state = {'mean': jnp.ones(3), 'var': jnp.array(1.0)}
  with pytest.raises(ValueError, match=message):
    landscape.batch_statistics(lambda *_: returned, {}, state, BATCHES)


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit])
def test_apply_has_to_record(wrap):
  params, state = INIT(jax.random.key(0))
  evaluate = wrap(functools.partial(MODEL.apply, train=False))
  with pytest.raises(ValueError, match=r'unchanged. Give one that records'):
    landscape.batch_statistics(evaluate, params, state, BATCHES)
