"""Straight-through: dense weights train, the largest run forward."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth

W = {'w': jnp.array([[4.0], [3.0], [-2.0], [1.0]])}
GRADS = [[0, 2, 0, -3], [1, 0, -2, 0], [4, -2, 0, 3]]


def run(tx, grads=GRADS, params=W):
  """Takes one step a gradient; returns weights and masks from the start on."""
  state, update = tx.init(params), jax.jit(tx.update)
  seen = [(params, lth.get_masks(state))]
  for g in grads:
    g = {'w': jnp.array(g, jnp.float32)[:, None]}
    updates, state = update(g, state, params)
    params = optax.apply_updates(params, updates)
    seen.append((params, lth.get_masks(state)))
  return [(p['w'].ravel().tolist(), m['w'].ravel().tolist()) for p, m in seen]


STE = functools.partial(lth.straight_through, optax.sgd(1.0))


def test_three_steps_by_hand():
  assert run(STE(sparsity=0.5)) == [
    ([4, 3, -2, 1], [1, 1, 0, 0]),
    ([4, 1, -2, 4], [1, 0, 0, 1]),
    ([3, 1, 0, 4], [1, 0, 0, 1]),
    ([-1, 3, 0, 1], [1, 1, 0, 0]),  # Of equals, the first.
  ]


def test_masks_move_when_they_should():
  def masks(**options):
    return [m for _, m in run(STE(sparsity=0.5, **options))]

  first, second, third = [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0]
  assert masks(update_every=2) == [first, first, second, second]
  assert masks(update_every=3) == [first, first, first, third]
  assert masks(stop_step=2) == [first, second, second, second]


def test_groups_by_hand():
  found = run(STE(pattern=lth.patterns.NM(1, 2)), [[2, 0, 0, -3]])
  assert found == [([4, 3, -2, 1], [1, 0, 1, 0]), ([2, 3, -2, 4], [0, 1, 0, 1])]
  again = run(STE(sparsity=0.5, pattern=lth.patterns.NM(1, 2)), [[2, 0, 0, -3]])
  assert again == found


def test_a_schedule_is_spread_once_for_each_sparsity():
  seen = []

  def spread(shapes, sparsity):
    seen.append(sparsity)
    return lth.densities.uniform(shapes, sparsity)

  tx = STE(
    sparsity=lambda step: 0.5 if step < 90 else 0.75,
    densities=spread,
    stop_step=99,
  )
  counts = tx.init(W).topology_state.counts['w']
  assert counts.tolist() == [2] * 90 + [1] * 10
  # Once more, for the highest, to see that no layer is left empty.
  assert sorted(seen) == [0.5, 0.75, 0.75]


def test_a_schedule_may_rise_and_fall():
  def schedule(step):
    return jnp.asarray([0.0, 0.25, 0.75, 0.5, 0.9])[step]

  found = run(STE(sparsity=schedule, stop_step=3), [*GRADS, GRADS[0]])
  assert [sum(m) for _, m in found] == [4, 3, 1, 2, 2]
  found = run(STE(sparsity=schedule, stop_step=3, update_every=2))
  assert [sum(m) for _, m in found] == [4, 4, 1, 1]


def test_densities():
  params = {'a': jnp.ones((20, 20)), 'c': jnp.ones((20, 5))}
  tx = lth.straight_through(
    optax.sgd(0.1), sparsity=0.8, densities=lth.densities.erk
  )
  spread = lth.densities.erk({'a': (20, 20), 'c': (20, 5)}, 0.8)
  assert lth.masks.alive_by_name(lth.get_masks(tx.init(params))) == {
    'a': round(spread['a'] * 400),
    'c': round(spread['c'] * 100),
  }


@pytest.mark.parametrize('decay', [None, 0.3])
def test_many_steps_as_in_numpy(decay):
  rng = np.random.default_rng(0)
  w, target = rng.normal(size=(2, 6, 5))
  scale = rng.uniform(0.5, 2, (6, 5))
  inner = optax.sgd(0.3, momentum=0.9)
  if decay is None:
    tx = lth.straight_through(inner, sparsity=0.7)
  else:
    tx = lth.sr_ste(inner, sparsity=0.7, decay=decay)

  def loss(params):
    return jnp.sum(scale * (params['w'] - target) ** 2) / 2

  @jax.jit
  def step(params, state):
    grads = jax.grad(loss)(lth.forward_params(state, params))
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  def largest(w):
    mask = np.zeros(30, bool)
    mask[np.argsort(-np.abs(w), axis=None, kind='stable')[:9]] = True
    return mask.reshape(6, 5)

  params = {'w': jnp.asarray(w, jnp.float32)}
  state, trace, moved = tx.init(params), 0, 0
  for _ in range(20):
    mask = largest(w)
    np.testing.assert_array_equal(lth.get_masks(state)['w'], mask)
    grad = scale * (w * mask - target) + (decay or 0) * ~mask * w
    trace = 0.9 * trace + grad
    w = w - 0.3 * trace
    moved += (largest(w) != mask).any()
    params, state = step(params, state)
    np.testing.assert_allclose(params['w'], w, rtol=1e-3, atol=1e-4)
  assert moved > 5


NM = lth.patterns.NM(2, 4)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {},
      '`sparsity` was not given, but Unstructured() leaves it open: give a'
      ' number in [0, 1), or a pattern such as `lthjax.patterns.NM(2, 4)`.',
    ),
    ({'sparsity': 1.0}, '`sparsity` was 1.0, but must be in [0, 1)'),
    ({'sparsity': -0.5}, '`sparsity` was -0.5, but must be in [0, 1)'),
    (
      {'sparsity': lambda step: 0.5},
      '`sparsity` is a schedule, so'
      ' `stop_step` is needed: give the step at which it ends.',
    ),
    (
      {'sparsity': lambda step: 0.25 * step, 'stop_step': 4},
      '`sparsity` was 1.0 at step 4, but must be in [0, 1).',
    ),
    (
      {'sparsity': lambda step: step - 0.5, 'stop_step': 4, 'update_every': 2},
      '`sparsity` was -0.5 at step 0, but must be in [0, 1).',
    ),
    (
      {'sparsity': 0.5, 'update_every': 0},
      '`update_every` was 0, but must be at least 1.',
    ),
    (
      {'sparsity': 0.5, 'stop_step': 0},
      '`stop_step` was 0, before the first move at step 1',
    ),
    (
      {'sparsity': lambda step: 0.5, 'stop_step': 3, 'pattern': NM},
      f'{NM} fixes the sparsity of every layer to 0.5, so it takes no schedule'
      ' of `sparsity` and no `densities`. Leave them out.',
    ),
    (
      {'densities': lth.densities.erk, 'pattern': NM},
      'it takes no schedule of `sparsity` and no `densities`',
    ),
    (
      {'sparsity': 0.75, 'pattern': NM},
      f'{NM} has a sparsity of 0.5, but `sparsity` was 0.75. Leave it out.',
    ),
    (
      {'sparsity': 0.9},
      'A sparsity of 0.9 leaves no weight alive in w (of 4 weights; keeping one'
      ' is a sparsity of 0.75)',
    ),
    (
      {'sparsity': lambda step: [0.5, 0.95, 0.5][step], 'stop_step': 2},
      'A sparsity of 0.95 leaves no weight alive in w',
    ),
    (
      {'pattern': lth.patterns.NM(2, 3)},
      '2:3 sparsity does not fit: w (4, 1) has 4 on axis 0, not a multiple of'
      ' 3. Leave',
    ),
  ],
)
@pytest.mark.parametrize('method', [lth.straight_through, lth.sr_ste])
def test_bad_input(method, options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    method(optax.sgd(0.1), **options).init(W)
