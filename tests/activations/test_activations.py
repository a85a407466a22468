"""Activations dropped by thresholds and by number, inside any program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits, largest, random_like

from lthjax import activations

X = np.array([[-3.0, -1.0, 0.5, 2.0]], np.float32)
SHAPES = {'up': (3, 4, 6), 'down': (3, 6, 4), 'out': (4, 2)}
PARAMS = random_like(SHAPES, 0, 0.5)
BATCH = random_like((2, 5, 4), 1)


def apply(params, x):
  """Three layers of a residual network, scanned, and a linear one."""

  def layer(x, p):
    h = jnp.tanh(x.reshape(-1, 4) @ p['up'])
    return x + (h @ p['down']).reshape(x.shape), None

  layers = {n: params[n] for n in ('up', 'down')}
  return jax.lax.scan(jax.checkpoint(layer), x, layers)[0] @ params['out']


def drop(x, t):
  return np.where(np.abs(x) > t, x, 0)


def by_hand(params, x, t):
  for i in range(3):
    h = np.tanh(drop(x, t['up'][i]) @ params['up'][i])
    x = x + drop(h, t['down'][i]) @ params['down'][i]
  return drop(x, t['out']) @ params['out']


@pytest.mark.parametrize('k', [0, 2, 4])
def test_largest_by_number(k):
  x = np.array([[3, -5, 1, 4], [-2, 2, 2, 0]], np.float32)
  wanted = np.stack([np.where(largest(abs(r), k), r, 0) for r in x])
  assert bits(activations.abs_top_k(x, k)) == bits(wanted)
  grads = jax.grad(lambda x: (2 * activations.abs_top_k(x, k)).sum())(x)
  np.testing.assert_array_equal(grads == 2, [largest(abs(r), k) for r in x])
  with pytest.raises(ValueError, match=r'keep 5 of an array of shape \(2, 4\)'):
    activations.abs_top_k(x, 5)


def test_two_largest_by_hand():
  x = np.array([3, -5, 1, 4], np.float32)
  wanted = np.array([0, -5, 0, 4], np.float32)
  assert bits(activations.abs_top_k(x, 2)) == bits(wanted)


def test_threshold_by_hand():
  params = {'w': np.eye(4, dtype=np.float32)}

  def linear(params, x):
    return x @ params['w']

  found = activations.thresholds(linear, params, X, sparsity=0.5)
  assert found == {'w': 1}
  y = activations.sparsify(linear, found)(params, X)
  assert y.tolist() == [[-3, 0, 0, 2]]
  assert activations.unread(linear, found, params, X) == {'w': 0.5}
  none = activations.thresholds(linear, params, X, sparsity=0.0)
  assert bits(activations.sparsify(linear, none)(params, X)) == bits(X)


def test_thresholds_inside_a_scan():
  """One program for all thresholds, and the numbers that NumPy has."""
  t = activations.thresholds(apply, PARAMS, BATCH, sparsity=0.4)
  assert {n: x.shape for n, x in t.items()} == {
    'up': (3,),
    'down': (3,),
    'out': (),
  }
  x = BATCH
  for i in range(3):
    order = np.sort(np.abs(x).ravel())
    np.testing.assert_allclose(t['up'][i], order[15], rtol=1e-5)
    x = x + np.tanh(x @ PARAMS['up'][i]) @ PARAMS['down'][i]
  run = jax.jit(
    lambda t, p, x: (
      activations.sparsify(apply, t)(p, x),
      activations.unread(apply, t, p, x),
    )
  )
  for scale in (1.0, 0.0, 2.0):
    own = {n: scale * x for n, x in t.items()}
    y, unread = run(own, PARAMS, BATCH)
    np.testing.assert_allclose(y, by_hand(PARAMS, BATCH, own), atol=1e-5)
    zeros = np.mean(drop(BATCH, own['up'][0]) == 0)
    np.testing.assert_allclose(unread['up'][0], zeros, rtol=1e-6)
  assert run._cache_size() == 1


def test_functions_in_place_of_thresholds():
  rule = functools.partial(activations.abs_top_k, k=2)
  y = activations.sparsify(apply, {'out': rule, '*': 0.0})(PARAMS, BATCH)
  h = apply({**PARAMS, 'out': np.eye(4, dtype=np.float32)}, BATCH)
  np.testing.assert_allclose(
    y, activations.abs_top_k(h, 2) @ PARAMS['out'], atol=1e-5
  )


def test_from_a_token_on_and_without_padding():
  t = {'up': 0.5, 'out': 0.5}
  late = activations.sparsify(apply, t, from_token=2)(PARAMS, BATCH)
  dense, sparse = (
    f(PARAMS, BATCH) for f in (apply, activations.sparsify(apply, t))
  )
  np.testing.assert_allclose(late[:, :2], dense[:, :2], rtol=1e-5)
  np.testing.assert_allclose(late[:, 2:], sparse[:, 2:], rtol=1e-5)
  mask = np.arange(5) < np.array([[5], [3]])
  junk = np.where(mask[..., None], BATCH, 1e3).astype(np.float32)
  found = activations.thresholds(
    apply, PARAMS, junk, sparsity=0.5, token_mask=mask, where='up'
  )
  wanted = np.sort(np.abs(BATCH[mask]).ravel())[15]
  np.testing.assert_allclose(found['up'][0], wanted, rtol=1e-6)


def greedy(sizes, error, sparsity, step):
  """An independent greedy choice."""
  share = np.array(sizes) / sum(sizes)
  level = np.zeros(len(sizes))
  while sparsity - share @ level > 1e-9:
    rise = np.minimum(step, sparsity - share @ level) / share
    trials = [
      level + rise * (np.arange(len(sizes)) == i) for i in range(len(sizes))
    ]
    level = min((t for t in trials if t.max() <= 0.99), key=lambda t: error(t))
  return level


def test_greedy_budgets():
  params = random_like({'a': (8, 6), 'b': (6, 3)}, 3)
  params['b'][:2] *= 10
  x = random_like((40, 8), 4)

  def block(params, x):
    return jnp.tanh(x @ params['a'] / 3) @ params['b']

  h = np.tanh(x @ params['a'] / 3)

  def error(level):
    t = [
      np.sort(np.abs(v).ravel())[max(round(p * v.size) - 1, 0)] if p else 0
      for p, v in zip(np.rint(level * 1000) / 1000, (x, h), strict=True)
    ]
    y = drop(np.tanh(drop(x, t[0]) @ params['a'] / 3), t[1]) @ params['b']
    return float(((y - h @ params['b']) ** 2).sum())

  found = activations.teal(block, params, x, sparsity=0.4, step=0.1)
  wanted = greedy([48, 18], error, 0.4, 0.1)
  np.testing.assert_allclose([*found.sparsities.values()], wanted, rtol=1e-6)
  mean = (48 * found.sparsities['a'] + 18 * found.sparsities['b']) / 66
  assert mean == pytest.approx(0.4)
  even = activations.thresholds(block, params, x, sparsity=0.4)
  y = activations.sparsify(block, even)(params, x)
  dense = h @ params['b']
  uniform = float(((y - dense) ** 2).sum() / (dense**2).sum())
  assert found.error < uniform
  y = activations.sparsify(block, found.thresholds)(params, x)
  again = float(((y - dense) ** 2).sum() / (dense**2).sum())
  assert found.error == pytest.approx(again, rel=1e-3)


def test_each_turn_of_a_loop_is_a_matmul():
  found = activations.teal(
    apply, PARAMS, BATCH, sparsity=0.3, step=0.15, where=['up', 'down']
  )
  levels = np.concatenate([*found.sparsities.values()])
  assert levels.shape == (6,)
  assert levels.mean() == pytest.approx(0.3)
  assert (levels == 0).any()


def test_bad_arguments():
  f = activations.sparsify
  with pytest.raises(
    ValueError, match="`rules` has patterns that match no leaf: 'm"
  ):
    f(apply, {'missing': 1.0})(PARAMS, BATCH)
  with pytest.raises(ValueError, match=r'of up has shape \(2,\), but must be'):
    f(apply, {'up': np.ones(2)})(PARAMS, BATCH)
  with pytest.raises(ValueError, match=r'of up is -1\.0, but must not be neg'):
    f(apply, {'up': -1.0})(PARAMS, BATCH)
  with pytest.raises(ValueError, match='map names or globs'):
    f(apply, {})
  with pytest.raises(
    ValueError, match=r'`sparsity` was 1\.0, but must be at m'
  ):
    activations.teal(apply, PARAMS, BATCH, sparsity=1.0)
  nan = {**PARAMS, 'up': PARAMS['up'] * np.nan}
  with pytest.raises(ValueError, match=r'Activations of .* are not finite'):
    activations.thresholds(apply, nan, BATCH, sparsity=0.5)

  def twice(params, x):
    return (x @ params['w']) @ params['w']

  with pytest.raises(ValueError, match='w: used several times'):
    activations.thresholds(twice, {'w': np.eye(4)}, X, sparsity=0.5)
