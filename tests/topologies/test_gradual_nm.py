"""Gradual pruning to N:M: whole groups, against an oracle in NumPy."""

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
  'fc': {'kernel': RNG.normal(size=(16, 6)).astype(np.float32)},
  'torch': {'weight': RNG.normal(size=(6, 8)).astype(np.float32)},
}
# Groups keep 8 * (1 - 0.75 * (1 - (1 - t / 8)^3)), and 2 at the end:
# 4.53, 2.75, 2.09, 2.
KEPT = [5, 3, 2, 2]


def make(n=2, m=8, update_every=2, stop_step=8, **options):
  return lth.gradual(
    optax.sgd(0.1, momentum=0.9),
    pattern=lth.patterns.NM(n, m),
    update_every=update_every,
    stop_step=stop_step,
    **options,
  )


def kept(tx):
  (one,) = {
    tuple(x.tolist()) for x in tx.init(PARAMS).topology_state.counts.values()
  }
  return list(one)


@functools.cache
def compiled():
  tx = make()

  def step(params, state):
    updates, state = tx.update(params, state, params)
    return optax.apply_updates(params, updates), state

  return tx, jax.jit(step)


def groups(x, layer):
  """Rows of eight."""
  x = np.asarray(x['fc']['kernel'].T if layer == 'fc' else x['torch']['weight'])
  return x.reshape(-1, 8)


def train(steps, params=PARAMS, state=None):
  """Trains towards zero, and returns what is there after every step."""
  tx, step = compiled()
  state = tx.init(params) if state is None else state
  seen = []
  for _ in range(steps):
    params, state = step(params, state)
    seen.append((params, state))
  return seen


def test_a_schedule_by_hand():
  tx, _ = compiled()
  assert kept(tx) == KEPT
  state = tx.init(PARAMS)
  assert lth.masks.density(lth.get_masks(state)) == 1


def test_groups_against_an_oracle():
  params, old = PARAMS, lth.masks.full(PARAMS)
  trace = jax.tree.map(jnp.zeros_like, params)
  for t, (after, state) in enumerate(train(10), start=1):
    masks = lth.get_masks(state)
    trace = jax.tree.map(lambda m, g: 0.9 * m + g, trace, params)
    moved = jax.tree.map(lambda w, m: w - 0.1 * m, params, trace)
    for layer in PARAMS:
      before, now = groups(old, layer), groups(masks, layer)
      assert not (now & ~before).any()
      left = 8 if t < 2 else KEPT[min(t, 8) // 2 - 1]
      assert (now.sum(1) == left).all()
      sizes = np.where(before, np.abs(groups(moved, layer)), -1)
      order = np.argsort(-sizes, axis=1, kind='stable')
      expected = np.zeros_like(now)
      np.put_along_axis(expected, order[:, :left], True, axis=1)
      np.testing.assert_array_equal(now, expected if t % 2 == 0 else before)
      weights = groups(after, layer)
      assert not any(weights[~now].tobytes())
      np.testing.assert_allclose(
        weights, np.where(now, groups(moved, layer), 0), rtol=1e-4
      )
    slots = optax.tree.get(state, 'trace')
    for mask, slot in zip(
      jax.tree.leaves(masks), jax.tree.leaves(slots), strict=True
    ):
      assert not any(np.asarray(slot)[~np.asarray(mask)].tobytes())
    params, old, trace = after, masks, slots


def test_resumable_to_the_bit():
  def as_bytes(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]

  straight = train(6)
  for stop in (3, 4, 5):  # Just before a move, on it, and just after.
    saved = jax.tree.map(jnp.array, straight[stop - 1])
    assert as_bytes(train(6 - stop, *saved)[-1]) == as_bytes(straight[-1])


def test_pruning_once_is_pruning():
  tx = make(m=4, update_every=3, stop_step=3)
  assert kept(tx) == [2]
  state = tx.init(PARAMS)._replace(step=jnp.int32(2))
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  _, state = jax.jit(tx.update)(zeros, state, PARAMS)
  expected = lth.prune(
    lth.scores.magnitude(PARAMS),
    lth.masks.full(PARAMS),
    pattern=lth.patterns.NM(2, 4),
  )
  assert lth.masks.hamming(lth.get_masks(state), expected) == 0


def test_the_last_move_reaches_n():
  # Also before `stop_step`, where 2 + 6 * (4 / 9)^3 would be kept, about 3.
  assert kept(make(update_every=5, stop_step=9)) == [2]
  # Never fewer than n on the way.
  assert kept(make(n=1, m=2, update_every=1)) == [2, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'m': 5},
      'fc/kernel (16, 6) has 16 on axis 0, not a multiple of 5; torch/weight'
      ' (6, 8) has 8 on axis 1, not a multiple of 5. Leave',
    ),
    ({'n': 9}, 'N:M sparsity needs 1 <= n <= m, but n is 9 and m is 8.'),
    ({'update_every': 0}, '`update_every` was 0, but must be at least 1.'),
    (
      {'sparsity': 0.5},
      'has a sparsity of 0.75, but `sparsity` was 0.5. Leave it out.',
    ),
    (
      {'sparsity': optax.constant_schedule(0.75)},
      'so it takes no schedule of `sparsity` and no `densities`.',
    ),
    (
      {'densities': lth.densities.erk},
      'so it takes no schedule of `sparsity` and no `densities`.',
    ),
    ({'stop_step': 1}, '`stop_step` was 1, before the first move at step 2'),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(**options).init(PARAMS)
