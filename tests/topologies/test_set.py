"""SET: the smallest die, and chance says what grows."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth


def make(applies_gradient=True, seed=3):
  key = jax.random.key(seed)
  return lth.sparse_evolution(
    optax.sgd(1.0, momentum=0.5),
    lth.random_masks(key, sparsity=0.5),
    key=key,
    update_every=1 if applies_gradient else 2,
    stop_step=9,
    drop_fraction=optax.constant_schedule(0.5),
    applies_gradient=applies_gradient,
  )


def chance(step, name, shape):
  """What the docs promise: the key, the step and the name of the layer."""
  key = jax.random.fold_in(jax.random.key(3), step)
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  return np.asarray(jax.random.uniform(key, shape))


@pytest.mark.parametrize('applies_gradient', [True, False])
def test_a_move_by_hand(applies_gradient):
  tx = make(applies_gradient)
  params = {
    name: jnp.array([[4.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    for name in 'ac'
  }
  old = np.array([[True] * 4, [False] * 4])
  # The largest weight shrinks most, if the gradient is applied.
  grads = {n: jnp.array([[3.9, 0.0, 0.0, 0.0], [9.0] * 4]) for n in 'ac'}
  state = lth.set_masks(tx.init(params), dict.fromkeys('ac', jnp.array(old)))
  move = 1 if applies_gradient else 2
  state = state._replace(step=jnp.int32(move - 1))
  updates, state = jax.jit(tx.update)(grads, state, params)
  after = optax.apply_updates(params, updates)
  keep = np.array([[0, 0, 1, 1] if applies_gradient else [1, 0, 0, 1], [0] * 4])
  found = []
  for name in 'ac':
    scores = np.where(keep, -1, chance(move, name, (2, 4)))
    expected = keep.astype(bool) | (scores >= np.sort(scores.ravel())[-2])
    mask = np.asarray(lth.get_masks(state)[name])
    np.testing.assert_array_equal(mask, expected)
    trained = np.array(params[name]) - applies_gradient * np.array(grads[name])
    np.testing.assert_allclose(
      after[name], np.where(old & mask, trained, 0), rtol=1e-6
    )
    found.append(mask.tobytes())
  assert found[0] != found[1]  # Layers do not share their chance.


def test_chance_is_of_the_key_and_the_step_alone():
  params = {'w': jnp.ones((20, 20))}
  runs, update = [], jax.jit(make().update)  # The key is in the state.
  for seed in (3, 3, 4):
    state = make(seed=seed).init(params)
    masks = [lth.get_masks(state)['w']]
    for _ in range(2):
      _, state = update({'w': jnp.zeros((20, 20))}, state, params)
      masks.append(lth.get_masks(state)['w'])
    runs.append([np.asarray(m).tobytes() for m in masks])
  assert runs[0] == runs[1]
  assert not set(runs[0]) & set(runs[2])
  assert len(set(runs[0])) == 3
