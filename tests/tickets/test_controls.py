"""Controls keep one thing of a ticket and change the rest."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax import tickets

KEY = jax.random.key(0)
BIAS = jnp.array([7.0, -7.0])
MASKS = {
  'fc': {'kernel': jnp.array([[True, False], [True, True]]), 'bias': None}
}


def tree(values):
  return {'fc': {'kernel': jnp.array(values), 'bias': BIAS}}


def test_sign_preserved_by_hand():
  params = tree([[-1.0, 2.0], [0.5, -3.0]])
  fresh = {
    'fc': {'kernel': jnp.array([[4.0, -5.0], [6.0, -7.0]]), 'bias': -BIAS}
  }
  drawn = tickets.sign_preserved(params, fresh, MASKS)
  np.testing.assert_array_equal(
    drawn['fc']['kernel'], [[-4.0, 5.0], [6.0, -7.0]]
  )
  assert drawn['fc']['bias'] is BIAS


def test_sign_preserved_keeps_the_dtype_of_the_params():
  params = jnp.array([[-1.0, 2.0]], jnp.bfloat16)
  drawn = tickets.sign_preserved(
    params, jnp.array([[4.0, -5.0]]), jnp.ones((1, 2), bool)
  )
  assert drawn.dtype == jnp.bfloat16
  np.testing.assert_array_equal(drawn, [[-4.0, 5.0]])


def test_reshuffle_takes_arrays_of_numpy():
  params, masks = np.arange(4.0, dtype=np.float32), np.ones(4, bool)
  wanted = tickets.reshuffle(KEY, jnp.asarray(params), jnp.asarray(masks))
  moved = tickets.reshuffle(KEY, params, masks)
  np.testing.assert_array_equal(moved, wanted)
  np.testing.assert_array_equal(params, np.arange(4.0))


def test_sign_preserved_leaves_masked_weights_at_zero():
  params = lth.masks.apply(MASKS, tree([[-1.0, 2.0], [0.5, -3.0]]))
  drawn = tickets.sign_preserved(
    params, tree([[4.0, -5.0], [6.0, -7.0]]), MASKS
  )
  kernel = np.asarray(drawn['fc']['kernel'])
  np.testing.assert_array_equal(kernel, [[-4.0, 0.0], [6.0, -7.0]])
  assert not any(kernel[0, 1].tobytes())


def test_signed_constant_has_the_deviation_of_its_layer():
  params = {
    'one': jnp.array([[-1.0, 2.0], [3.0, -4.0]]),
    'two': jnp.array([[10.0, -10.0]]),
    'bias': BIAS,
  }
  masks = lth.masks.full(params)
  constant = tickets.signed_constant(params, masks)
  # The mean is 0, and the mean square (1 + 4 + 9 + 16) / 4.
  np.testing.assert_allclose(
    constant['one'], 7.5**0.5 * np.array([[-1, 1], [1, -1]]), rtol=1e-6
  )
  np.testing.assert_allclose(constant['two'], [[10.0, -10.0]], rtol=1e-6)
  assert constant['bias'] is BIAS


def test_random_signs_keep_magnitudes_to_the_bit():
  """A sign is a fair coin, thrown for each weight of each layer."""
  kernel = jax.random.normal(KEY, (100, 100)).at[0, 0].set(0)
  params = {'one': kernel, 'two': kernel, 'bias': BIAS}
  masks = lth.masks.full(params)
  drawn = tickets.random_signs(KEY, params, masks)
  assert drawn['bias'] is BIAS
  for name in ('one', 'two'):
    np.testing.assert_array_equal(jnp.abs(drawn[name]), jnp.abs(kernel))
    # Five standard deviations of the share of heads in 10,000 throws.
    for values in (drawn[name], drawn[name] * kernel):
      assert abs((np.asarray(values) > 0).mean() - 0.5) < 0.025
  assert 0.475 < (drawn['one'] == drawn['two']).mean() < 0.525
  other = tickets.random_signs(jax.random.key(1), params, masks)
  assert 0.475 < (drawn['one'] == other['one']).mean() < 0.525


@pytest.mark.parametrize('density', [0.0, 0.01, 0.3, 1.0])
def test_reshuffle_permutes_the_alive_values_of_each_layer(density):
  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in {
      'one': (20, 30),
      'two': (3, 4, 5, 6),
      'bias': (9,),
    }.items()
  }
  masks = {
    name: None if x.ndim == 1 else jnp.asarray(rng.random(x.shape) < density)
    for name, x in params.items()
  }
  moved = jax.jit(tickets.reshuffle)(KEY, params, masks)
  chex.assert_trees_all_equal(moved['bias'], params['bias'])
  for name in ('one', 'two'):
    alive = np.asarray(masks[name])
    before, after = np.asarray(params[name]), np.asarray(moved[name])
    np.testing.assert_array_equal(before[~alive], after[~alive])
    np.testing.assert_array_equal(np.sort(before[alive]), np.sort(after[alive]))
    if density >= 0.3:
      assert (before[alive] != after[alive]).mean() > 0.9


def test_reshuffle_draws_every_order_alike():
  params, masks = jnp.array([1.0, 2.0, 9.0, 3.0]), jnp.array([1, 1, 0, 1]) > 0
  keys = jax.random.split(KEY, 6000)
  moved = jax.vmap(tickets.reshuffle, (0, None, None))(keys, params, masks)
  orders, counts = np.unique(np.asarray(moved), axis=0, return_counts=True)
  assert len(orders) == 6
  # 1000 are expected of each, with a deviation of 29.
  assert abs(counts - 1000).max() < 150


def test_layers_of_one_shape_are_permuted_differently():
  params = {'one': jnp.arange(100.0), 'two': jnp.arange(100.0)}
  masks = jax.tree.map(lambda x: x >= 0, params)
  moved = tickets.reshuffle(KEY, params, masks)
  assert (moved['one'] != moved['two']).mean() > 0.9
  other = tickets.reshuffle(jax.random.key(1), params, masks)
  assert (moved['one'] != other['one']).mean() > 0.9


def test_replicates_are_those_of_single_runs():
  keys = jax.random.split(KEY, 3)
  params = {'w': jax.random.normal(keys[0], (3, 4, 5))}
  fresh = {'w': jax.random.normal(keys[1], (3, 4, 5))}
  masks = {'w': jax.random.bernoulli(keys[2], 0.5, (3, 4, 5))}
  for control, arguments in [
    (tickets.sign_preserved, (params, fresh, masks)),
    (tickets.signed_constant, (params, masks)),
    (tickets.reshuffle, (keys, params, masks)),
    (tickets.random_signs, (keys, params, masks)),
  ]:
    control = jax.jit(control)
    together = jax.jit(jax.vmap(control))(*arguments)
    for i in range(3):
      single = functools.partial(jax.tree.map, lambda x, i=i: x[i])
      alone = control(*map(single, arguments))
      chex.assert_trees_all_close(single(together), alone, rtol=1e-6)


@pytest.mark.parametrize(
  'control',
  [
    lambda params: tickets.sign_preserved(params, params, MASKS),
    lambda params: tickets.signed_constant(params, MASKS),
    lambda params: tickets.reshuffle(KEY, params, MASKS),
    lambda params: tickets.random_signs(KEY, params, MASKS),
  ],
)
def test_masks_have_to_fit(control):
  with pytest.raises(ValueError, match='fc/kernel: mask of shape'):
    control(tree([[1.0, 2.0, 3.0]]))
  with pytest.raises(ValueError, match='fc/bias has a mask only'):
    control({'fc': {'kernel': jnp.ones((2, 2))}})


def test_fresh_params_have_to_fit_too():
  params = tree([[1.0, 2.0], [3.0, 4.0]])
  with pytest.raises(ValueError, match='masks do not fit the fresh params'):
    tickets.sign_preserved(params, tree([[1.0, 2.0]]), MASKS)
