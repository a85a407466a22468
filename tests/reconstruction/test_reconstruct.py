"""Reconstruction against least squares, and block by block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import bits, random_like

import lthjax as lth
from lthjax.reconstruction import _blocks, _reconstruct

TX = optax.adam(optax.cosine_decay_schedule(0.05, 300))
WANDA = lth.rules.wanda(0.5)


def rows(seed, *shape):
  return random_like({'x': shape}, seed)['x']


def linear(params, x):
  return x @ params['w']


def block(params, x, *args):
  y = jnp.tanh(x @ params['a']) @ params['b'] + params['c']
  return x + y + sum(args)


DENSE = {'a': rows(0, 6, 8), 'b': rows(1, 8, 6), 'c': rows(2, 6)}
MASKS = {'a': rows(3, 6, 8) > 0, 'b': rows(4, 8, 6) > 0, 'c': None}
PRUNED = {
  n: x if MASKS[n] is None else np.where(MASKS[n], x, 0).astype('f')
  for n, x in DENSE.items()
}
X = rows(5, 12, 5, 6)
BLOCKS = {n: np.stack([rows(10 + i, *x.shape) for i in range(3)])
          for n, x in DENSE.items()}  # fmt: skip


def reconstruct(params=PRUNED, x=X, tx=TX, steps=40, size=4, **options):
  return lth.reconstruct(
    block, params, DENSE, MASKS, x, tx, steps, size, **options
  )


def relative(y, target):
  """The mean over tokens of squared errors over squared norms."""
  y, target = np.float64(y), np.float64(target)
  return np.mean(((y - target) ** 2).sum(-1) / (target**2).sum(-1))


def test_a_single_matrix_becomes_the_least_squares_solution():
  x = rows(0, 40, 4)
  x[:, 1:] += x[:, :-1]
  w, keep = rows(1, 4, 8), np.array([[1], [0], [1], [0]]) > np.zeros(8)
  found = lth.reconstruct(
    linear, {'w': w * keep}, {'w': w}, {'w': keep}, x, TX, 300, 40
  )
  # Tokens are weighed by the norms of their targets.
  target = np.float64(x) @ w
  norms = np.linalg.norm(target, axis=1, keepdims=True)
  inputs = np.float64(x)[:, [0, 2]] / norms
  best = np.linalg.lstsq(inputs, target / norms, rcond=None)[0]
  np.testing.assert_allclose(
    found.params['w'][np.array([0, 2])], best, atol=2e-3
  )
  after = relative(x @ np.asarray(found.params['w']), target)
  assert found.after == pytest.approx(after, rel=1e-3)


def test_dead_weights_stay_zero_and_the_error_falls():
  found = reconstruct()
  target, before = block(DENSE, X), block(PRUNED, X)
  assert found.before == pytest.approx(relative(before, target), rel=1e-4)
  after = relative(block(found.params, X), target)
  assert found.after == pytest.approx(after, rel=1e-4)
  assert found.after < 0.5 * found.before
  for name in 'ab':
    dead = np.asarray(found.params[name])[~MASKS[name]]
    assert bits(dead) == bits(np.zeros_like(dead))
  assert (found.params['c'] != DENSE['c']).any()
  assert bits(found) == bits(reconstruct())


@pytest.mark.slow
def test_the_optimizer_may_freeze_leaves():
  frozen = optax.partition(
    {'train': TX, 'freeze': optax.set_to_zero()},
    {'a': 'train', 'b': 'train', 'c': 'freeze'},
  )
  assert bits(reconstruct(tx=frozen).params['c']) == bits(DENSE['c'])


@pytest.mark.slow
def test_what_does_not_improve_is_not_taken():
  found = reconstruct(tx=optax.sgd(1e6), steps=3)
  assert bits(found.params) == bits(PRUNED)
  assert found.after == found.before
  masked = lth.reconstruct(block, DENSE, DENSE, MASKS, X, optax.sgd(1e6), 3, 4)
  assert bits(masked.params) == bits(PRUNED)


@pytest.mark.slow
def test_targets_of_the_dense_model_and_more_arguments():
  other, more = rows(6, 12, 5, 6), rows(7, 12, 5, 6)
  found = reconstruct(steps=1, size=5, dense_x=other, args=(more,))
  target = block(DENSE, other, more)
  expected = relative(block(PRUNED, X, more), target)
  assert found.before == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_tokens_that_do_not_count():
  valid = np.arange(5) < np.arange(12)[:, None] % 4 + 1
  junk = np.where(valid[..., None], X, 1e3 * rows(8, 12, 5, 6))
  clean = reconstruct(token_mask=valid)
  assert bits(reconstruct(x=junk, token_mask=valid)) == bits(clean)
  expected = relative(block(PRUNED, X)[valid], block(DENSE, X)[valid])
  assert clean.before == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_low_precision_trains_in_float32():
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PRUNED)
  found = lth.reconstruct(
    lambda p, x: block({n: p[n] for n in 'abc'}, x) * p['step'],
    half | {'step': np.int32(1)},
    DENSE | {'step': np.int32(1)},
    MASKS | {'step': None},
    X,
    optax.adam(1e-4),
    40,
    4,
  )
  assert found.params['a'].dtype == jnp.bfloat16
  assert found.params['step'] == 1
  assert found.after < found.before


def test_each_example_is_seen_once_per_epoch():
  order = np.asarray(_reconstruct._order(jax.random.key(0), 6, 5, 4))
  assert order.shape == (5, 4)
  for epoch in order.ravel()[:18].reshape(3, 6):
    assert sorted(epoch) == [*range(6)]


@pytest.mark.parametrize(
  ('change', 'error', 'text'),
  [
    ({'size': 13}, ValueError, '`batch_size` was 13.*at most.* 12'),
    ({'steps': 0}, ValueError, '`steps` was 0'),
    ({'tx': None}, TypeError, 'optax'),
    ({'args': (X[:3],)}, ValueError, r'args\[0\] has \(3,\)'),
    ({'dense_x': X[:3]}, ValueError, r'dense_x has \(3,\)'),
    ({'token_mask': np.ones(5, bool)}, ValueError, r'`token_mask`.*\(5,\)'),
    ({'token_mask': np.ones((12, 5))}, TypeError, 'bool'),
    (
      {'params': {'a': DENSE['a']}},
      ValueError,
      r'b: \(8, 6\) there, nothing here',
    ),
    ({'key': 3}, TypeError, 'key'),
    ({'dense_x': X * np.nan}, ValueError, 'NaN or infinity is in dense_x'),
    (
      {'params': {**PRUNED, 'b': np.full((8, 6), np.inf, 'f')}},
      ValueError,
      'NaN or infinity is in params/b',
    ),
  ],
)
def test_bad_arguments(change, error, text):
  with pytest.raises(error, match=text):
    reconstruct(**change)


def prune_blocks(blocks=BLOCKS, steps=20, **options):
  options = {'rule': WANDA, 'tx': TX, 'batch_size': 4} | options
  return lth.prune_blocks(block, blocks, X, steps=steps, **options)


def unstacked(tree):
  return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(3)]


@pytest.mark.slow
def test_blocks_are_pruned_and_trained_one_after_the_other():
  seen = []
  found = prune_blocks(on_block=lambda *each: seen.append(each))
  assert [number for number, *_ in seen] == [0, 1, 2]
  np.testing.assert_array_equal(np.array(seen)[:, 1:], found.errors)
  assert (found.errors[:, 1] < found.errors[:, 0]).all()
  x, dense_x = X, X
  forward = functools.partial(_blocks._forward, block, 4)
  for i, dense in enumerate(unstacked(BLOCKS)):
    pruned = lth.prune_program(block, dense, x, rule=WANDA)
    done = lth.reconstruct(
      block, pruned.params, dense, pruned.masks, x, TX, 20, 4,
      dense_x=dense_x, key=jax.random.fold_in(jax.random.key(0), i),
    )  # fmt: skip
    mine = jax.tree.map(lambda x, i=i: x[i], (found.params, found.masks))
    assert bits(mine) == bits((done.params, pruned.masks))
    x, dense_x = forward(done.params, (x,)), forward(dense, (dense_x,))
  assert bits(found.output) == bits(x)


@pytest.mark.slow
def test_a_list_of_blocks_is_a_stack_of_them():
  one, two = prune_blocks(), prune_blocks(unstacked(BLOCKS))
  assert bits(two.params) == bits(unstacked(one.params))
  assert bits(two.masks) == bits(unstacked(one.masks))
  again = prune_blocks(masks=one.masks, rule=lth.rules.wanda(0.8), steps=1)
  assert not (again.masks['a'] & ~one.masks['a']).any()
  assert again.masks['c'] is None


def test_progress_is_told_without_reconstruction_too():
  seen = []
  prune_blocks(steps=0, tx=None, on_block=lambda *each: seen.append(each))
  assert [number for number, *_ in seen] == [0, 1, 2]
  assert np.isnan([errors for _, *errors in seen]).all()


@pytest.mark.slow
def test_without_steps_it_is_pruning_as_the_program_runs():
  def scanned(params, x):
    return jax.lax.scan(lambda x, p: (block(p, x), None), x, params)[0]

  sparsity = {'a': np.array([0, 0.5, 0.75]), 'b': 0.25}
  found = prune_blocks(steps=0, tx=None, sparsity=sparsity)
  pruned = lth.prune_program(scanned, BLOCKS, X, rule=WANDA, sparsity=sparsity)
  assert bits(found.masks) == bits(pruned.masks)
  assert found.errors is None
  np.testing.assert_allclose(found.output, pruned.output, rtol=1e-4, atol=1e-4)
  assert found.masks['a'].sum((1, 2)).tolist() == [48, 24, 8]


@pytest.mark.slow
def test_statistics_of_dense_blocks_over_batches():
  found = prune_blocks(steps=0, tx=None, granularity='block', batch_size=5)

  def scanned(params, x):
    return jax.lax.scan(lambda x, p: (block(p, x), None), x, params)[0]

  pruned = lth.prune_program(
    scanned, BLOCKS, X, rule=WANDA, granularity='block'
  )
  assert bits(found.masks) == bits(pruned.masks)
  np.testing.assert_allclose(found.output, pruned.output, rtol=1e-4, atol=1e-4)
  rule = lth.rules.magnitude(0.5)
  plain = prune_blocks(steps=0, tx=None, granularity='block', rule=rule)
  assert bits(plain.masks) == bits(prune_blocks(steps=0, rule=rule).masks)


@pytest.mark.slow
def test_all_blocks_are_one_compiled_program():
  before = _reconstruct._reconstruct._cache_size()
  prune_blocks(steps=3)
  assert _reconstruct._reconstruct._cache_size() == before + 1


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ({'blocks': []}, '`blocks` was a list of 0'),
    ({'blocks': BLOCKS | {'c': BLOCKS['c'][:2]}}, r'c \(2, 6\)'),
    ({'masks': [MASKS]}, '`masks` was a list of 1.*block, 3'),
    (
      {'sparsity': {'a': [0.5, 0.5]}},
      r'one for each of 3 blocks, but a \(2,\)',
    ),
    ({'token_mask': np.ones(3, bool)}, '`token_mask` has the shape'),
  ],
)
def test_bad_stacks(change, text):
  with pytest.raises(ValueError, match=text):
    prune_blocks(**change)
  with pytest.raises(TypeError, match='optax'):
    prune_blocks(tx=None)
