"""Gradual pruning: the numbers of the paper's polynomial; masks nest."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth

RNG = np.random.default_rng(0)
PARAMS = {
  'fc1': {'kernel': jnp.asarray(RNG.normal(size=(20, 20)), jnp.float32)},
  'fc2': {'kernel': jnp.asarray(RNG.normal(size=(20, 10)), jnp.float32)},
}


def make(**options):
  return lth.gradual(
    optax.sgd(0.1),
    **{'sparsity': 0.8, 'update_every': 1, 'stop_step': 4, **options},
  )


@functools.cache
def compiled_update(**times):
  """Serves all sparsities and densities: their counts are in the state."""
  return jax.jit(make(**times).update)


def run(steps, sparsity=0.8, densities=None, **times):
  """Trains towards zero, and returns weights and masks after every step."""
  tx = make(sparsity=sparsity, densities=densities, **times)
  params, state, seen = PARAMS, tx.init(PARAMS), []
  for _ in range(steps):
    updates, state = compiled_update(**times)(params, state, params)
    params = optax.apply_updates(params, updates)
    seen.append((params, lth.get_masks(state)))
  return seen


def counts(seen):
  return [tuple(lth.masks.alive_by_name(m).values()) for _, m in seen]


def test_counts_by_hand():
  # 0.8 - 0.8 * (1 - t / 4)^3 = 0.4625, 0.7, 0.7875, 0.8, and so it stays.
  expected = [(215, 107), (120, 60), (85, 42), (80, 40), (80, 40)]
  assert counts(run(5)) == expected


def test_moves_come_at_multiples_and_the_last_one_gets_there():
  expected = [(400, 200)] + 2 * [(120, 60)] + 3 * [(80, 40)]
  found = counts(run(6, update_every=2, stop_step=5))
  assert found == expected


def test_the_smallest_trained_weights_die_and_masks_nest():
  before, old = PARAMS, lth.masks.full(PARAMS)
  for params, masks in run(4):
    for layer in PARAMS:
      w = 0.9 * np.asarray(before[layer]['kernel'])
      mask = np.asarray(masks[layer]['kernel'])
      assert not (mask & ~np.asarray(old[layer]['kernel'])).any()
      assert np.abs(w[mask]).min() >= np.abs(w[~mask]).max()
      np.testing.assert_allclose(
        params[layer]['kernel'], np.where(mask, w, 0), rtol=1e-5
      )
    before, old = params, masks


def test_a_schedule_is_taken_as_it_is():
  def schedule(step):
    return jnp.asarray([0.0, 0.25, 0.25, 0.5, 0.6, 0.9])[step]

  found = counts(run(5, sparsity=schedule))
  assert found == [(300, 150)] * 2 + [(200, 100)] + [(160, 80)] * 2


def test_densities():
  found = counts(run(4, densities=lth.densities.erk))
  shapes = {'fc1': (20, 20), 'fc2': (20, 10)}
  spread = lth.densities.erk(shapes, 0.8)
  assert found[-1] == (round(spread['fc1'] * 400), round(spread['fc2'] * 200))
  assert sum(found[-1]) == 120


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'sparsity': lambda step: 0.5 if step < 3 else 0.4},
      '`sparsity` falls from 0.5 to 0.4 at step 3, but pruned weights never'
      ' come back: give a schedule that never falls.',
    ),
    (
      {'sparsity': lambda step: 0.5 * step},
      '`sparsity` was 1.0 at step 2, but must be in [0, 1).',
    ),
    (
      {'sparsity': lambda step: float('nan')},
      '`sparsity` was nan at step 1, but must be in [0, 1).',
    ),
    ({'sparsity': None}, '`sparsity` was not given, but Unstructured() leaves'),
    ({'sparsity': 1.0}, '`sparsity` was 1.0, but must be in [0, 1)'),
    ({'sparsity': -0.5}, '`sparsity` was -0.5, but must be in [0, 1)'),
  ],
)
def test_sparsities_out_of_range(options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    run(0, **options)


def test_layers_left_empty_are_named():
  with pytest.raises(ValueError, match='leaves no weight alive in fc1/kernel'):
    run(0, sparsity=0.999)
