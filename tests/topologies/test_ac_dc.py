"""AC/DC: everything trains in dense phases, the largest in sparse ones."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth

SHAPES = {'fc': (12, 10), 'output': (10, 6)}
PHASES = {'sparse_steps': [2, 6], 'dense_steps': [4]}
IS_SPARSE = [False, True, True, False, False, True, True, True]


def random_like(seed):
  rng = np.random.default_rng(seed)
  return {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in SHAPES.items()
  }


PARAMS = random_like(0)


def make(**options):
  inner = optax.sgd(0.1, momentum=0.9)
  return lth.ac_dc(inner, **{'sparsity': 0.7, **PHASES, **options})


@functools.cache
def compiled():
  tx = make()

  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return tx, jax.jit(step)


def train(steps, params=PARAMS, state=None):
  tx, step = compiled()
  state = tx.init(params) if state is None else state
  seen = []
  for _ in range(steps):
    params, state = step(params, state, random_like(int(state.step) + 1))
    seen.append((params, state))
  return seen


def test_phases_against_an_oracle():
  # 0.3 of 120 and of 60 weights.
  kept = {'fc': 36, 'output': 18}
  w = {name: np.asarray(x) for name, x in PARAMS.items()}
  trace = {name: np.zeros_like(x) for name, x in w.items()}
  masks = {name: np.ones(x.shape, bool) for name, x in w.items()}
  for t, (params, state) in enumerate(train(8), start=1):
    for name, g in random_like(t).items():
      trace[name] = np.where(masks[name], 0.9 * trace[name] + g, 0)
      w[name] = w[name] - np.float32(0.1) * trace[name]
      if t in PHASES['sparse_steps']:
        order = np.argsort(-np.abs(w[name]).ravel(), kind='stable')
        masks[name] = np.zeros(w[name].shape, bool)
        masks[name].ravel()[order[: kept[name]]] = True
      elif t in PHASES['dense_steps']:
        fresh = ~masks[name]
        masks[name] = np.ones(w[name].shape, bool)
        # What comes alive has nothing, to the bit.
        slot = np.asarray(optax.tree.get(state, 'trace')[name])
        for x in (np.asarray(params[name]), slot):
          assert fresh.any()
          assert not any(x[fresh].tobytes())
      w[name] = np.where(masks[name], w[name], 0)
      trace[name] = np.where(masks[name], trace[name], 0)
      assert masks[name].all() == (not IS_SPARSE[t - 1])
      np.testing.assert_array_equal(lth.get_masks(state)[name], masks[name])
      np.testing.assert_allclose(params[name], w[name], rtol=1e-4, atol=1e-6)
      assert not any(np.asarray(params[name])[~masks[name]].tobytes())


def test_weights_that_came_alive_train():
  seen = train(5)
  dead = ~np.asarray(lth.get_masks(seen[2][1])['fc'])
  assert np.asarray(seen[4][0]['fc'])[dead].all()


def test_the_last_phase_stays_sparse():
  counts = [lth.masks.count(lth.get_masks(state)) for _, state in train(12)]
  assert counts == [180, 54, 54, 180, 180, *[54] * 7]


def test_resumable_to_the_bit():
  def as_bytes(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]

  straight = train(8)
  for stop in (3, 4, 5, 6, 7):  # Just before a move, on it, and just after.
    saved = jax.tree.map(jnp.array, straight[stop - 1])
    assert as_bytes(train(8 - stop, *saved)[-1]) == as_bytes(straight[-1])


def test_densities():
  tx = make(densities=lth.densities.custom({'output': 0.5}, keep_total=True))
  masks, counts, _ = tx.init(PARAMS).topology_state  # Phases are not state.
  assert lth.masks.count(masks) == 180
  # 54 in all, of which the output takes 30 of its 60.
  assert {k: int(n) for k, n in counts.items()} == {'fc': 24, 'output': 30}


@pytest.mark.parametrize(
  ('sparse', 'dense'),
  [
    ([1, 2], [2]),  # one step begins both
    ([2, 4], [2]),
    ([1, 1], []),
    ([1, 5], [3, 3]),
    ([1, 2], []),
    ([3], [2]),
    ([0, 4], [2]),
    ([], []),
    ([], [2]),
  ],
)
def test_phases_take_turns(sparse, dense):
  message = (
    f'`sparse_steps` were {sparse} and `dense_steps` {dense}, but phases must'
    ' take turns at different steps from 1 on, a sparse one first.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    make(sparse_steps=sparse, dense_steps=dense)


@pytest.mark.parametrize('sparsity', [-0.1, 1.0, float('nan')])
def test_sparsity_is_in_range(sparsity):
  message = f'`sparsity` was {sparsity}, but must be in [0, 1)'
  with pytest.raises(ValueError, match=re.escape(message)):
    make(sparsity=sparsity)


def test_layers_left_empty_are_named():
  message = 'A sparsity of 0.995 leaves no weight alive in output (of 60'
  with pytest.raises(ValueError, match=re.escape(message)):
    make(sparsity=0.995).init(PARAMS)
