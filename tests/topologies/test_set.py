"""SET: the smallest die, and chance says what grows."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax.topologies import _batches


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


def moves_by_key(shape, keys):
  """The old mask, what a move keeps of it, and the masks by key after it."""
  tx = make()
  weights = jax.random.normal(jax.random.key(0), shape)
  params = {'w': weights}
  state = tx.init(params)
  old = np.asarray(lth.get_masks(state)['w'])

  @jax.jit
  def moved(key):
    topology_state = state.topology_state._replace(grow_state=key)
    own = state._replace(topology_state=topology_state)
    _, own = tx.update({'w': jnp.zeros(shape)}, own, params)
    return lth.get_masks(own)['w']

  magnitudes = np.where(old, np.abs(weights), -1).ravel()
  keep = np.zeros(old.size, bool)
  keep[np.argsort(-magnitudes)[: old.sum() - old.sum() // 2]] = True
  masks = np.stack([np.asarray(moved(key)) for key in keys])
  return old, keep.reshape(shape), masks


@pytest.mark.parametrize('large', [False, True])
def test_growth_is_the_largest_of_the_chances(large, monkeypatch):
  if large:  # Numbers are drawn again whenever they are read.
    monkeypatch.setattr(_batches, '_LARGE', 1)
  keys, shape = jax.random.split(jax.random.key(5), 4), (48, 40)
  old, keep, masks = moves_by_key(shape, keys)
  for key, mask in zip(keys, masks, strict=True):
    key = jax.random.fold_in(jax.random.fold_in(key, 1), zlib.crc32(b'w'))
    scores = np.asarray(jax.random.uniform(key, shape))
    order = np.argsort(-np.where(keep, -1, scores).ravel(), kind='stable')
    expected = keep.copy()
    expected.ravel()[order[: old.sum() - keep.sum()]] = True
    np.testing.assert_array_equal(mask, expected)


def test_growth_is_uniform_over_all_others():
  runs = 1000
  keys = jax.random.split(jax.random.key(6), runs)
  old, keep, masks = moves_by_key((4, 8), keys)
  assert (masks.sum((1, 2)) == old.sum()).all()
  assert masks[:, keep].all()
  grown, places = int(old.sum() - keep.sum()), int((~keep).sum())
  found = masks[:, ~keep].astype(int)
  # Each place, and each pair of them, as often as without replacement.
  together = found.T @ found
  one, two = grown / places, grown * (grown - 1) / (places * (places - 1))
  for counts, p in [
    (np.diag(together), one),
    (together[np.triu_indices(places, 1)], two),
  ]:
    spread = np.sqrt(runs * p * (1 - p))
    assert np.abs(counts - runs * p).max() < 4.5 * spread
    assert np.std(counts) > spread / 2  # Not the same places in turn.
