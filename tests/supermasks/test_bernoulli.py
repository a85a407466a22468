"""Learned Bernoulli masks: drawn by learned probabilities."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import keys

import lthjax as lth

bernoulli = lth.supermasks.bernoulli
bernoulli_masks = lth.supermasks.bernoulli_masks

PARAMS = {
  'kernel': np.float32([[1.0, -2.0, 3.0]]),
  'bias': np.ones(3, np.float32),
}
LOGITS = {'kernel': np.float32([[0.5, -0.5, 0.0]]), 'bias': None}
KEY = keys(7)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_likely_weights_by_hand():
  found = bernoulli(PARAMS, LOGITS)
  assert found['kernel'].tolist() == [[1, 0, 3]]
  assert not np.signbit(found['kernel'][0, 1])
  assert found['bias'] is PARAMS['bias']
  # Three weights, of which two are there.
  found = bernoulli(PARAMS, LOGITS, rescale=True)
  assert found['kernel'].tolist() == [[1.5, 0, 4.5]]


def test_empty_layers_stay_empty():
  never = {'kernel': jnp.full((1, 3), -50.0), 'bias': None}
  for key in (None, KEY):
    found = bernoulli(PARAMS, never, key, rescale=True)
    assert found['kernel'].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize('rescale', [False, True])
def test_gradient_by_the_formula(rescale):
  pull = jnp.array([[5.0, 7.0, 11.0]])

  def loss(logits):
    found = bernoulli(PARAMS, logits, KEY, rescale=rescale)
    return jnp.vdot(pull, found['kernel'])

  grads = jax.grad(loss)(LOGITS)
  p = sigmoid(np.array([[0.5, -0.5, 0.0]]))
  there = np.asarray(bernoulli_masks(LOGITS, KEY)['kernel'])
  scale = 3 / there.sum() if rescale else 1
  assert 0 < there.sum() < 3
  np.testing.assert_allclose(
    grads['kernel'],
    p * (1 - p) * scale * np.asarray(PARAMS['kernel']) * pull,
    rtol=1e-6,
  )
  assert grads['bias'] is None


def test_draws():
  logits = {
    'a': jnp.full((100, 100), 1.0),
    'b': jnp.full((100, 100), 1.0),
    'c': None,
  }
  masks = bernoulli_masks(logits, KEY)
  p, n = sigmoid(1.0), 10_000
  for name in 'ab':
    # Five standard errors of a mean.
    error = 5 * np.sqrt(p * (1 - p) / n)
    assert abs(float(masks[name].mean()) - p) < error
  assert masks['c'] is None
  assert (masks['a'] != masks['b']).any()
  again, other = (bernoulli_masks(logits, k) for k in (KEY, jax.random.key(8)))
  assert (again['a'] == masks['a']).all()
  assert (other['a'] != masks['a']).any()
  # What else there is does not change the draw of a leaf.
  assert (bernoulli_masks({'b': logits['b']}, KEY)['b'] == masks['b']).all()


def test_weights_run_under_the_masks_drawn():
  params = {'w': jax.random.normal(KEY, (30, 20))}
  logits = {'w': jax.random.normal(jax.random.key(1), (30, 20))}
  mask = np.asarray(bernoulli_masks(logits, KEY)['w'])
  w = np.asarray(params['w'])
  found = np.asarray(bernoulli(params, logits, KEY)['w'])
  assert found.tobytes() == np.where(mask, w, np.float32(0)).tobytes()
  found = bernoulli(params, logits, KEY, rescale=True)['w']
  grown = np.where(mask, w * (mask.size / mask.sum()), 0)
  np.testing.assert_allclose(found, grown, rtol=1e-6)


def test_training_finds_the_weights_that_help():
  target = jnp.array([[1.0, 0.0, 3.0, 0.0]])
  params = {'w': jnp.array([[1.0, -2.0, 3.0, 4.0]])}
  before = np.asarray(params['w']).tobytes()
  logits, tx = lth.supermasks.init_logits(params), optax.sgd(1.0)

  @jax.jit
  def step(i, carry):
    logits, state = carry

    def loss(logits):
      found = bernoulli(params, logits, jax.random.fold_in(KEY, i))
      return jnp.sum((found['w'] - target) ** 2)

    updates, state = tx.update(jax.grad(loss)(logits), state)
    return optax.apply_updates(logits, updates), state

  logits, _ = jax.lax.fori_loop(0, 50, step, (logits, tx.init(logits)))
  assert bernoulli(params, logits)['w'].tolist() == target.tolist()
  assert np.asarray(params['w']).tobytes() == before


def test_first_logits():
  params = {'kernel': jnp.ones((2, 3), jnp.bfloat16), 'bias': jnp.ones(3)}
  logits = lth.supermasks.init_logits(params)
  assert logits['bias'] is None
  assert logits['kernel'].dtype == jnp.bfloat16
  assert not logits['kernel'].any()
  logits = lth.supermasks.init_logits(
    params, probability=0.8, where=['kernel', 'bias']
  )
  np.testing.assert_allclose(sigmoid(logits['bias']), 0.8, rtol=1e-6)


def test_stacked_layers_are_rescaled_one_by_one():
  logits = jnp.array([[[1.0, -1.0, -1.0]], [[1.0, 1.0, -1.0]]])
  params = {'blocks': {'kernel': jnp.ones((2, 1, 3))}}
  found = bernoulli(
    params,
    {'blocks': {'kernel': logits}},
    rescale=True,
    axes={'blocks/*': lth.axes.Axes((0,), (), (1,), (2,))},
  )
  assert found['blocks']['kernel'].tolist() == [[[3, 0, 0]], [[1.5, 1.5, 0]]]


def test_replicates():
  logits = {'w': jnp.array([[[1.0, -1.0]], [[-1.0, 1.0]]])}
  params = {'w': jnp.array([[[2.0, 3.0]], [[2.0, 3.0]]])}
  run = functools.partial(bernoulli, rescale=True)
  assert jax.vmap(run)(params, logits)['w'].tolist() == [[[4, 0]], [[0, 6]]]


@pytest.mark.parametrize(
  ('logits', 'message'),
  [
    (
      {'kernel': np.ones((1, 3), np.float32)},
      'The logits do not fit the params: bias has no logits. A tree of logits'
      ' has the structure of the params, with an array of the same shape or'
      ' None at each leaf; `lthjax.supermasks.init_logits` makes one.',
    ),
    (
      {'kernel': np.ones((3, 1), np.float32), 'bias': np.ones(2, np.float32)},
      'bias: logits of shape (2,), params of shape (3,); kernel: logits of'
      ' shape (3, 1), params of shape (1, 3).',
    ),
  ],
)
def test_logits_that_do_not_fit(logits, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    bernoulli(PARAMS, logits)


@pytest.mark.parametrize('probability', [0, 1.0, -0.1, float('nan')])
def test_probability_out_of_range(probability):
  message = f'`probability` was {probability}, but must be '
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.supermasks.init_logits(PARAMS, probability=probability)
