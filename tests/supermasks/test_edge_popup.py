"""Edge-popup: scores choose among random weights, and all scores learn."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import bits

import lthjax as lth
from lthjax import trees

popup = lth.supermasks.edge_popup
popup_masks = lth.supermasks.edge_popup_masks

PARAMS = {
  'fc1': {
    'kernel': np.float32([[1.0, -2.0], [3.0, -4.0]]),
    'bias': np.ones(2, np.float32),
  },
  'fc2': {
    'kernel': np.float32([[0.5], [-0.0]]),
    'bias': np.zeros(1, np.float32),
  },
}
SCORES = {
  'fc1': {'kernel': np.float32([[0.1, -0.4], [-0.3, 0.2]]), 'bias': None},
  'fc2': {'kernel': np.float32([[-0.6], [0.5]]), 'bias': None},
}


def kernels(tree):
  """Values of both kernels as lists."""
  return [np.ravel(tree[layer]['kernel']).tolist() for layer in ('fc1', 'fc2')]


def test_largest_scores_by_hand():
  found = popup(PARAMS, SCORES, sparsity=0.5)
  assert kernels(found) == [[0, -2, 3, 0], [0.5, 0]]
  # Absolute values, over both layers: 0.6, 0.5, 0.4 are the largest.
  found = popup(PARAMS, SCORES, sparsity=0.5, scope='global')
  assert kernels(found) == [[0, -2, 0, 0], [0.5, 0]]
  assert kernels(popup_masks(SCORES, sparsity=0.5, scope='global')) == [
    [0, 1, 0, 0],
    [1, 1],
  ]


def test_left_out_is_plus_zero_and_the_rest_keeps_its_bits():
  found = popup(PARAMS, SCORES, sparsity=0.5, scope='global')
  # -4 becomes +0.0, the -0.0 that is let through stays -0.0.
  assert not np.signbit(found['fc1']['kernel'][1, 1])
  assert np.signbit(found['fc2']['kernel'][1, 0])
  assert found['fc1']['bias'] is PARAMS['fc1']['bias']


@pytest.mark.parametrize('scope', ['layer', 'global'])
def test_gradient_reaches_what_is_left_out(scope):
  pull = {
    'fc1': {'kernel': jnp.array([[5.0, 6.0], [7.0, 8.0]]), 'bias': jnp.ones(2)},
    'fc2': {'kernel': jnp.array([[9.0], [1.0]]), 'bias': jnp.ones(1)},
  }

  def loss(scores):
    params = popup(PARAMS, scores, sparsity=0.5, scope=scope)
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, pull, params)))

  grads = jax.grad(loss)(SCORES)
  assert grads['fc1']['bias'] is None
  # sign(score) * weight * pull, whether the weight runs or not.
  assert kernels(grads) == [[5, 12, -21, -32], [-4.5, 0]]


def test_gradient_by_the_weights_stops_at_those_left_out():
  def loss(params):
    found = popup(params, SCORES, sparsity=0.5)
    return jnp.sum(found['fc1']['kernel'] ** 2) + found['fc1']['bias'].sum()

  grads = jax.grad(loss)(PARAMS)
  assert kernels(grads) == [[0, -4, 6, 0], [0, 0]]
  assert grads['fc1']['bias'].tolist() == [1, 1]


def test_second_derivative():
  def loss(s):
    return jnp.sum(popup(jnp.array([[2.0, 3.0]]), s, sparsity=0.5) ** 2)

  s = jnp.array([[0.5, -0.2]])
  # Forward over reverse: the first gradient is 2 * w * sign(s) * (what runs),
  # and what runs moves by w * sign(s).
  _, moved = jax.jvp(jax.grad(loss), (s,), (jnp.ones_like(s),))
  assert moved.tolist() == [[8, 18]]


def numpy_popup(w, s, keep):
  """The weights that run, by a stable sort of absolute scores."""
  order = np.argsort(-np.abs(s), axis=None, kind='stable')
  mask = np.zeros(s.size, bool)
  mask[order[:keep]] = True
  return np.where(mask.reshape(s.shape), w, 0)


def test_training_as_in_numpy():
  rng = np.random.default_rng(0)
  w, target = rng.normal(size=(2, 6, 5)).astype(np.float32)
  s = rng.uniform(-1, 1, (6, 5)).astype(np.float32)
  params, scores = {'w': jnp.asarray(w)}, {'w': jnp.asarray(s)}
  before, tx = bits(params), optax.sgd(0.2, momentum=0.9)

  def loss(scores):
    found = popup(params, scores, sparsity=0.7)
    return jnp.sum((found['w'] - target) ** 2) / 2

  @jax.jit
  def step(scores, state):
    updates, state = tx.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state

  state, trace, first = tx.init(scores), 0, numpy_popup(w, s, 9)
  for _ in range(20):
    trace = 0.9 * trace + np.sign(s) * w * (numpy_popup(w, s, 9) - target)
    s = s - 0.2 * trace
    scores, state = step(scores, state)
    np.testing.assert_allclose(scores['w'], s, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(
      popup(params, scores, sparsity=0.7)['w'], numpy_popup(w, s, 9)
    )
  assert (numpy_popup(w, s, 9) != first).any()
  assert bits(params) == before


def test_groups():
  pattern = lth.patterns.NM(1, 2)
  scores = {'w': jnp.array([[0.3], [-0.4], [0.2], [0.1]])}
  masks = popup_masks(scores, pattern=pattern)
  assert masks['w'].ravel().tolist() == [False, True, True, False]
  params = {'w': jnp.array([[1.0], [2.0], [3.0], [4.0]])}
  found = popup(params, scores, pattern=pattern)
  assert found['w'].ravel().tolist() == [0, 2, 3, 0]


def test_budgets_are_exact():
  params = {'a': jnp.ones((20, 20)), 'c': jnp.ones((20, 5))}
  scores = lth.supermasks.init_scores(jax.random.key(0), params)
  masks = popup_masks(scores, sparsity=0.8, densities=lth.densities.erk)
  spread = lth.densities.erk({'a': (20, 20), 'c': (20, 5)}, 0.8)
  assert lth.masks.alive_by_name(masks) == {
    'a': round(spread['a'] * 400),
    'c': round(spread['c'] * 100),
  }
  alike = jax.tree.map(jnp.ones_like, scores)  # Ties go to the lowest index.
  masks = jax.jit(functools.partial(popup_masks, sparsity=0.29))(alike)
  assert masks['a'].ravel().tolist() == [True] * 284 + [False] * 116


def test_first_scores():
  params = {
    'conv': {'kernel': jnp.ones((3, 3, 4, 50)), 'bias': jnp.ones(50)},
    'query': {'kernel': jnp.ones((64, 4, 8), jnp.bfloat16)},
  }
  key = jax.random.key(3)
  scores = lth.supermasks.init_scores(key, params)
  for name, inputs in {'conv/kernel': 36, 'query/kernel': 64}.items():
    found, w = (trees.by_name(tree)[name] for tree in (scores, params))
    assert (found.shape, found.dtype) == (w.shape, w.dtype)
    bound = inputs**-0.5
    assert 0.98 * bound < np.abs(found.astype(jnp.float32)).max() <= bound
    assert abs(found.astype(jnp.float32).mean()) < 0.05 * bound
  assert scores['conv']['bias'] is None
  only = lth.supermasks.init_scores(key, params, 'conv/kernel')
  assert only['query']['kernel'] is None
  assert bits(only['conv']) == bits(scores['conv'])


def test_half_precision():
  params = {'w': jnp.array([[1.5, -2.5]], jnp.bfloat16)}
  scores = {'w': jnp.array([[0.1, 0.2]])}

  def loss(scores):
    return popup(params, scores, sparsity=0.5)['w'].astype(jnp.float32).sum()

  assert popup(params, scores, sparsity=0.5)['w'].dtype == jnp.bfloat16
  grads = jax.grad(loss)(scores)['w']
  assert (grads.dtype, grads.tolist()) == (jnp.float32, [[1.5, -2.5]])


def test_replicates():
  rng = np.random.default_rng(1)
  w, s = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  run = functools.partial(popup, sparsity=0.6)
  found = jax.vmap(run)({'w': w}, {'w': s})['w']
  for i in range(3):
    np.testing.assert_array_equal(found[i], numpy_popup(w[i], s[i], 8))


W = {'w': np.ones((4, 1), np.float32)}
S = {'w': np.ones((4, 1), np.float32)}


@pytest.mark.parametrize(
  ('scores', 'options', 'message'),
  [
    *(
      (
        S,
        {'sparsity': x},
        f'`sparsity` was {x}, but must be {"in [0, 1)" if x else "above 0"}:'
        ' with all weights or none there is no mask to learn.',
      )
      for x in (0, 1.0, -0.5, 2, float('nan'))
    ),
    (S, {}, 'Give `prune` either `sparsity`'),
    (
      S,
      {'sparsity': 0.9},
      'A sparsity of 0.9 leaves no weight alive in w (of 4 weights; keeping one'
      ' is a sparsity of 0.75). Lower it',
    ),
    (
      S,
      {'sparsity': 0.9, 'scope': 'global'},
      'This sparsity leaves 0 weights for 1 layers (w)',
    ),
    (
      S,
      {'pattern': lth.patterns.NM(2, 3)},
      '2:3 sparsity does not fit: w (4, 1) has 4 on axis 0, not a multiple of'
      ' 3. Leave',
    ),
    (
      S,
      {'pattern': lth.patterns.NM(2, 4), 'sparsity': 0.5},
      'NM(n=2, m=4) fixes the density to 0.5 in every layer',
    ),
    (
      {'v': np.ones((4, 1), np.float32)},
      {'sparsity': 0.5},
      'The scores do not fit the params: v has scores only; w has no scores. A'
      ' tree of scores has the structure of the params, with an array of the'
      ' same shape or None at each leaf; `lthjax.supermasks.init_scores` makes'
      ' one.',
    ),
    (
      {'w': np.ones(4, np.float32)},
      {'sparsity': 0.5},
      'w: scores of shape (4,), params of shape (4, 1).',
    ),
    ({'w': None}, {'sparsity': 0.5}, '`scores` must be a tree of arrays, but'),
    (
      {'w': jnp.full((4, 1), jnp.nan)},
      {'sparsity': 0.5},
      'Scores of alive weights are NaN in w (4)',
    ),
  ],
)
def test_bad_input(scores, options, message):
  with pytest.raises((TypeError, ValueError), match=re.escape(message)):
    popup(W, scores, **options)


def test_scores_of_integers():
  with pytest.raises(TypeError, match='must be floating point, but w is int32'):
    popup(W, {'w': jnp.ones((4, 1), jnp.int32)}, sparsity=0.5)
