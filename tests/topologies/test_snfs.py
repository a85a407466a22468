"""SNFS: growth by an average of gradients, and budgets that wander."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax.topologies._snfs import _share_out


def make(inner, **options):
  return lth.snfs(
    inner,
    lth.random_masks(jax.random.key(0), sparsity=0.5),
    **{
      'update_every': 2,
      'stop_step': 100,
      'drop_fraction': optax.constant_schedule(0.5),
      **options,
    },
  )


@functools.partial(jax.jit, static_argnums=0)
def step(tx, params, state, grads):
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


@pytest.mark.parametrize('applies_gradient', [True, False])
def test_average_without_debiasing_by_hand(applies_gradient):
  tx = make(optax.sgd(0.0), applies_gradient=applies_gradient)
  params = {'w': jnp.array([[2.0, 1.0, 0.0, 0.0]])}
  masks = {'w': jnp.array([[True, True, False, False]])}
  state = lth.set_masks(tx.init(params), masks)
  assert not state.topology_state.grow_state.dense_momentum['w'].any()
  grads = [[0.0, 1.0, 10.0, 0.0], [0.0, 1.0, 0.0, 6.0], [0.0, 0.0, 0.0, -1.0]]
  averages = [[0, 0.1, 1, 0], [0, 0.19, 0.9, 0.6], [0, 0.171, 0.81, 0.44]]
  for g, expected in zip(grads, averages, strict=True):
    params, state = step(tx, params, state, {'w': jnp.array([g])})
    smoothed = state.topology_state.grow_state.dense_momentum['w']
    np.testing.assert_allclose(smoothed, [expected], rtol=1e-5)
  # Of the average, not of the last gradient, which was 6 at the end.
  np.testing.assert_array_equal(lth.get_masks(state)['w'], [[1, 0, 1, 0]])


def count(state):
  return lth.masks.alive_by_name(lth.get_masks(state))


REDISTRIBUTED = make(optax.sgd(0.0), redistribute=True, update_every=1)
TWO = {'a': jnp.ones((8, 8)), 'c': jnp.ones((8, 8))}


def test_budgets_go_where_the_momentum_is():
  params, state = TWO, REDISTRIBUTED.init(TWO)
  assert count(state) == {'a': 32, 'c': 32}
  # Each drops 16 of 32; momentum 3 to 1 shares the 32 out as 24 and 8.
  grads = {'a': -3 * jnp.ones((8, 8)), 'c': jnp.ones((8, 8))}
  params, state = step(REDISTRIBUTED, params, state, grads)
  assert count(state) == {'a': 40, 'c': 24}
  # Drop 20 and 12, and share them out as before.
  params, state = step(REDISTRIBUTED, params, state, grads)
  assert count(state) == {'a': 44, 'c': 20}


def test_a_layer_without_momentum_is_never_emptied():
  params, state = TWO, REDISTRIBUTED.init(TWO)
  grads = {'a': jnp.ones((8, 8)), 'c': jnp.zeros((8, 8))}
  for _ in range(12):
    params, state = step(REDISTRIBUTED, params, state, grads)
    assert sum(count(state).values()) == 64
  assert count(state) == {'a': 63, 'c': 1}


def test_gradients_that_are_not_finite_are_no_news():
  state = REDISTRIBUTED.init(TWO)
  fine = {name: 2 * jnp.ones((8, 8)) for name in TWO}
  wild = {
    'a': fine['a'].at[0].set(jnp.array([np.nan, np.inf, -np.inf, *[1.0] * 5])),
    'c': fine['c'],
  }
  seen = []
  for grads in (fine, wild, fine):
    _, state = step(REDISTRIBUTED, TWO, state, grads)
    seen.append(np.asarray(state.topology_state.grow_state.dense_momentum['a']))
  np.testing.assert_array_equal(seen[1][0, :3], seen[0][0, :3])
  # 0.2; the others go on to 0.28 and 0.38; then all of them go on.
  np.testing.assert_allclose(seen[1][0, 3:], 0.28, rtol=1e-6)
  np.testing.assert_allclose(seen[1][1:], 0.38, rtol=1e-6)
  np.testing.assert_allclose(seen[2][0, :3], 0.38, rtol=1e-6)
  np.testing.assert_allclose(seen[2][0, 3:], 0.452, rtol=1e-6)


@pytest.mark.slow
def test_the_total_is_constant_whatever_the_gradients():
  tx = make(optax.sgd(0.1), redistribute=True, update_every=1)
  rng = np.random.default_rng(0)
  params = {'a': jnp.ones((8, 8)), 'c': jnp.ones((5, 5)), 'd': jnp.ones((2, 3))}
  state, update = tx.init(params), jax.jit(tx.update)
  total = sum(count(state).values())
  for scale in [0.0, 1e-30, 1.0, 1e30, 1e38, np.inf, np.nan, 1.0]:
    grads = jax.tree.map(
      lambda x, s=scale: jnp.asarray(rng.normal(size=x.shape) * s, x.dtype),
      params,
    )
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    assert sum(count(state).values()) == total


def test_shares_are_exact_and_have_limits():
  rng, n = np.random.default_rng(0), 5
  compiled = jax.jit(_share_out)
  for i in range(200):
    room = rng.integers(0, 10 ** rng.integers(1, 9), n)
    weights = rng.random(n) ** 9 * (rng.random(n) < 0.7)
    total = int(rng.integers(0, room.sum() + 1))
    given = np.asarray(
      compiled(
        jnp.int32(total),
        jnp.asarray(weights, jnp.float32),
        jnp.asarray(room, jnp.int32),
      )
    )
    assert given.sum() == total, i
    assert (given >= 0).all(), i
    assert (given <= room).all(), i


def test_large_shares_do_not_pass_the_total():
  # In float32 the sum of these shares times the total is above the total.
  total = 2**25 + 1
  weights = jnp.array([*(1 / 3 + i for i in range(6)), 0], jnp.float32)
  given = _share_out(jnp.int32(total), weights, jnp.full(7, 2**27))
  assert given.sum() == total
  assert (given >= 0).all()


@pytest.mark.parametrize('momentum', [-0.1, 1.0, float('nan')])
def test_momentum_is_in_range(momentum):
  with pytest.raises(ValueError, match='`momentum` was'):
    make(optax.sgd(0.1), momentum=momentum)
