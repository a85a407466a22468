"""Top-KAST: by hand, and against an oracle in NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth


def backward(state):
  return optax.tree.get(state, 'backward')


def test_four_steps_by_hand():
  tx = lth.top_kast(
    optax.sgd(1.0, momentum=0.5),
    sparsity=0.75,
    backward_sparsity=0.5,
    decay=0.1,
    update_every=2,
  )
  params = {'w': jnp.array([[8.0, -6.0, 5.0, 4.0, 3.0, 2.0, 1.0, -0.0]])}
  state, update, nan = tx.init(params), jax.jit(tx.update), np.nan
  steps = [
    # Penalties are 0.1 w in A and 0.4 w in the rest of B.
    (
      [1, 1, 1, 1, 1, 1, 1, 1],
      [6.2, -6.4, 2, 1.4, 3, 2, 1, 0],
      [1.8, 0.4, 3, 2.6, 0, 0, 0, 0],
      [0, 1],
      [0, 1, 2, 3],
    ),
    # What left B has its momentum until the next update; what entered has none.
    (
      [0, 0, 0, 0, nan, nan, nan, nan],
      [4.68, -5.96, -0.3, -0.46, 3, 2, 1, 0],
      [1.52, -0.44, 2.3, 1.86, 0, 0, 0, 0],
      [0, 1],
      [0, 1, 4, 5],
    ),
    (
      [0, 0, 9, 9, -20, 1, 9, 9],
      [3.452, -5.144, -0.3, -0.46, 21.8, 0.2, 1, 0],
      [1.228, -0.816, 0, 0, -18.8, 1.8, 0, 0],
      [0, 1],
      [0, 1, 4, 5],
    ),
    (
      [0, 0, 9, 9, 0, 0, 9, 9],
      [2.4928, -4.2216, -0.3, -0.46, 22.48, -0.78, 1, 0],
      [0.9592, -0.9224, 0, 0, -0.68, 0.98, 0, 0],
      [1, 4],
      [0, 1, 4, 6],
    ),
  ]
  for grad, w, trace, forward, trained in steps:
    grads = {'w': jnp.array([grad], jnp.float32)}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['w'][0], w, rtol=1e-5)
    slot = optax.tree.get(state, 'trace')['w'][0]
    np.testing.assert_allclose(slot, trace, rtol=1e-4)
    assert np.flatnonzero(lth.get_masks(state)['w']).tolist() == forward
    assert np.flatnonzero(backward(state)['w']).tolist() == trained
    assert np.signbit(params['w'][0, 7])
    seen = lth.forward_params(state, params)['w'][0]
    assert np.flatnonzero(seen).tolist() == forward


def first(count, w):
  mask = np.zeros(w.size, bool)
  mask[np.argsort(-np.abs(w), axis=None, kind='stable')[:count]] = True
  return mask.reshape(w.shape)


@pytest.mark.parametrize('every', [1, 3])
def test_many_steps_as_in_numpy(every):
  rng = np.random.default_rng(0)
  w, target = rng.normal(size=(2, 6, 5))
  tx = lth.top_kast(
    optax.sgd(0.3, momentum=0.9),
    sparsity=0.7,
    backward_sparsity=0.4,
    decay=0.05,
    update_every=every,
  )
  params = {'w': jnp.asarray(w, jnp.float32)}
  state, update, trace, moved = tx.init(params), jax.jit(tx.update), 0 * w, 0
  a, b = first(9, w), first(18, w)
  for step in range(1, 19):
    grad = w * a - target
    pull = grad + 0.05 * w * np.where(a, 1, 30 / 9)
    trace = np.where(b, 0.9 * trace + pull, 0)
    w = w - 0.3 * trace
    if step % every == 0:
      moved += (first(18, w) != b).any()
      a, trace = first(9, w), np.where(first(18, w) & b, trace, 0)
      b = first(18, w)
    seen = lth.forward_params(state, params)['w']
    grads = {'w': seen - jnp.asarray(target, jnp.float32)}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['w'], w, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(lth.get_masks(state)['w'], a)
    np.testing.assert_array_equal(backward(state)['w'], b)
  assert moved > 1


def test_masks_put_there_train():
  tx = lth.top_kast(optax.sgd(1.0), sparsity=0.75, backward_sparsity=0.5)
  params = {'w': jnp.array([[4.0, 3.0, 2.0, 1.0]])}
  state = tx.init(params)
  masks = {'w': jnp.array([[False, False, False, True]])}
  state = lth.set_masks(state, masks)
  assert backward(state)['w'].tolist() == [[True, True, False, True]]
  assert lth.get_masks(state)['w'].tolist() == masks['w'].tolist()
  updates, _ = tx.update({'w': jnp.ones((1, 4))}, state, params)
  assert np.flatnonzero(updates['w']).tolist() == [0, 1, 3]


def test_layers_follow_the_densities():
  params = {'a': jnp.ones((20, 20)), 'c': jnp.ones((20, 5))}
  tx = lth.top_kast(
    optax.sgd(0.1),
    sparsity=0.9,
    backward_sparsity=0.7,
    densities=lth.densities.custom({'c': 1.0}),
  )
  state = tx.init(params)
  found = [lth.masks.alive_by_name(m) for m in (lth.get_masks(state),)]
  found += [lth.masks.alive_by_name(backward(state))]
  assert found == [{'a': 40, 'c': 100}, {'a': 120, 'c': 100}]


@pytest.mark.parametrize('backward_sparsity', [0.5, 0.6, -0.1, float('nan')])
def test_more_must_train_than_run_forward(backward_sparsity):
  message = (
    f'`backward_sparsity` was {backward_sparsity} and `sparsity` 0.5, but more'
    ' weights must train than run forward: give a backward sparsity from 0 to'
    ' below the other.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.top_kast(
      optax.sgd(1.0), sparsity=0.5, backward_sparsity=backward_sparsity
    )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'sparsity': 1.0}, '`sparsity` was 1.0, but must be in [0, 1)'),
    ({'update_every': 0}, '`update_every` was 0, but must be at least 1'),
    (
      {'stop_step': 50},
      '`stop_step` was 50, before the first move at step 100',
    ),
    (
      {'sparsity': 0.95},
      'A sparsity of 0.95 leaves no weight alive in w (of 8 weights; keeping'
      ' one is a sparsity of 0.875)',
    ),
  ],
)
def test_bad_input(options, message):
  options = {'sparsity': 0.5, 'backward_sparsity': 0.2, **options}
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.top_kast(optax.sgd(1.0), **options).init({'w': jnp.ones((2, 4))})
