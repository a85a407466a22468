"""RigL: a move by hand, and against an oracle in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax.patterns import NM

MASK = np.array([[1, 1, 1], [1, 0, 0]], bool)
W = {'w': jnp.array([[4.0, 0.0, 3.0], [1.0, 0.0, 0.0]])}
FIRST = {'w': jnp.array([[2.0, 2.0, 2.0], [1.0, 7.0, 7.0]])}


def make(inner, masks=None, first=1 / 3, **options):
  """RigL that moves at every second step and drops half."""
  return lth.rigl(
    inner,
    masks or lth.random_masks(jax.random.key(0), sparsity=first),
    **{
      'update_every': 2,
      'stop_step': 10,
      'drop_fraction': optax.constant_schedule(0.5),
      **options,
    },
  )


def run(tx, params, grads, mask=MASK):
  """Takes one step a gradient, from the given mask."""
  state = lth.set_masks(tx.init(params), {'w': jnp.asarray(mask)})
  update = jax.jit(tx.update)
  for g in grads:
    updates, state = update(g, state, params)
    params = optax.apply_updates(params, updates)
  return params['w'], state


def check(value, expected):
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=0)


def test_a_move_by_hand():
  tx = make(optax.sgd(0.5, momentum=0.9))
  w, _ = run(tx, W, [FIRST])
  check(w, [[3, -1, 2], [0.5, 0, 0]])
  # Drops -1 and 0.5; grows where the gradient is 5, which was -1, and 4.
  second = {'w': jnp.array([[9.0, -5.0, 9.0], [1.0, 2.0, -4.0]])}
  w, state = run(tx, W, [FIRST, second])
  masks = lth.get_masks(state)['w']
  np.testing.assert_array_equal(masks, [[1, 1, 1], [0, 0, 1]])
  # No weight was trained; what was dropped and regrown has its momentum still.
  check(w, [[3, -1, 2], [0, 0, 0]])
  trace = optax.tree.get(state, 'trace')['w']
  check(trace, [[2, 2, 2], [0, 0, 0]])
  for x in (w, trace):
    assert not any(np.asarray(x)[1].tobytes())
  # The next step trains them all: 0.9 * 2 + 1 = 2.8, and 1 where it is new.
  third = {'w': jnp.ones((2, 3))}
  w, state = run(tx, W, [FIRST, second, third])
  check(w, [[1.6, -2.4, 0.6], [0, 0, -0.5]])
  check(optax.tree.get(state, 'trace')['w'], [[2.8] * 3, [0, 0, 1]])


def test_a_move_that_also_trains_by_hand():
  tx = make(optax.sgd(0.5, momentum=0.9), applies_gradient=True)
  second = {'w': jnp.array([[3.0, 5.0, 9.0], [1.0, 3.5, 4.0]])}
  w, state = run(tx, W, [FIRST, second])
  # Momentum 4.8, 6.8, 10.8, 1.9 makes weights 0.6, -4.4, -3.4, -0.45.
  masks = lth.get_masks(state)['w']
  np.testing.assert_array_equal(masks, [[0, 1, 1], [0, 1, 1]])
  check(w, [[0, -4.4, -3.4], [0, 0, 0]])
  check(optax.tree.get(state, 'trace')['w'], [[0, 6.8, 10.8], [0, 0, 0]])


@pytest.mark.parametrize('applies_gradient', [False, True])
def test_a_move_advances_the_optimizer_whole_or_not_at_all(applies_gradient):
  inner = optax.chain(
    optax.add_noise(0.1, 0.55, jax.random.key(1)), optax.adam(0.1)
  )
  tx = make(inner, applies_gradient=applies_gradient)
  second = {'w': jnp.array([[9.0, -5.0, 9.0], [1.0, 2.0, -4.0]])}
  _, before = run(tx, W, [FIRST])
  _, after = run(tx, W, [FIRST, second])
  old, new = (x.inner_state[1][0] for x in (before, after))
  noise = [x.inner_state[0] for x in (before, after)]
  assert int(after.step) == 2
  steps = 2 if applies_gradient else 1
  assert int(new.count) == int(noise[1].count) == steps
  keys = [jax.random.key_data(x.rng_key).tolist() for x in noise]
  assert (keys[0] != keys[1]) == applies_gradient
  if not applies_gradient:
    both = MASK & np.asarray(lth.get_masks(after)['w'])
    for slot in ('mu', 'nu'):
      x, y = (np.asarray(getattr(s, slot)['w']) for s in (old, new))
      np.testing.assert_array_equal(y, np.where(both, x, 0))


def largest(scores, count, allowed):
  """The ``count`` largest of the allowed scores; ties to the lowest index."""
  scores, keep = scores.ravel(), np.zeros(scores.size, bool)
  order = np.argsort(-scores.astype(np.float64), kind='stable')
  keep[[i for i in order if allowed.ravel()[i]][: max(count, 0)]] = True
  return keep.reshape(allowed.shape)


def oracle(mask, w, g, drop):
  alive = mask.sum()
  keep = largest(np.abs(w), alive - drop, mask)
  return keep | largest(np.abs(g), alive - keep.sum(), ~keep)


def every_step(**options):
  """RigL that moves at every step; weights stay as they are."""
  options |= {'update_every': 1, 'applies_gradient': True}
  return make(optax.sgd(0.0), **options)


@functools.cache
def compiled_update(**options):
  """Serves all states with as many moves."""
  return jax.jit(every_step(**options).update)


@pytest.mark.parametrize(
  ('share', 'dtype'),
  [(0.0, 'float32'), (0.29, 'float32'), (0.3, 'bfloat16'), (1.0, 'float32')],
)
def test_moves_against_an_oracle_with_ties(share, dtype):
  rng = np.random.default_rng(round(share * 100))
  tx = every_step(
    first=0.5,
    drop_fraction=optax.constant_schedule(share),
  )
  update = compiled_update()
  for alive in (1, 17, 100):
    mask = largest(rng.random((20, 10)), alive, np.ones((20, 10), bool))
    w, g = rng.integers(-3, 4, (2, 20, 10)) * np.float32(0.5)
    params = {'w': jnp.asarray(np.where(mask, w, 0), dtype)}
    state = lth.set_masks(tx.init(params), {'w': jnp.asarray(mask)})
    _, state = update({'w': jnp.asarray(g, dtype)}, state, params)
    expected = oracle(mask, w, g, int(round(share * 100) * alive / 100))
    np.testing.assert_array_equal(lth.get_masks(state)['w'], expected)


WAVE = [0.5, 0.9, 0.9, 0.7, 0.75]  # sparsity at steps 0, 1, 2, ...


def test_counts_follow_a_schedule():
  densities = lth.densities.custom({'c': 1.0}, keep_total=True)
  first = lth.random_masks(
    jax.random.key(0), sparsity=WAVE[0], densities=densities
  )
  tx = every_step(
    masks=first,
    sparsity=lambda step: jnp.asarray(WAVE)[step],
    stop_step=4,
    drop_fraction=optax.constant_schedule(0.29),
  )
  rng = np.random.default_rng(0)
  w, c = rng.normal(size=(2, 20, 10)).astype(np.float32)
  params = {'w': jnp.asarray(w), 'c': jnp.asarray(c[:, :1])}
  state, update = tx.init(params), jax.jit(tx.update)
  mask = np.asarray(lth.get_masks(state)['w'])
  # Of 220 weights, the 20 of `c` always.
  counts = [round(220 * (1 - s)) - 20 for s in WAVE]
  assert (mask.sum(), counts) == (90, [90, 2, 2, 46, 35])
  for count in counts[1:]:
    g = rng.normal(size=(20, 10)).astype(np.float32)
    grads = {'w': jnp.asarray(g), 'c': jnp.asarray(c[:, :1])}
    w = np.where(mask, np.asarray(params['w']), 0)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    # First to the new number, by magnitude, and of those as many are replaced.
    stay = min(mask.sum(), count)
    keep = largest(np.abs(w), stay - int(stay * 29 // 100), mask)
    mask = keep | largest(np.abs(g), count - keep.sum(), ~keep)
    np.testing.assert_array_equal(lth.get_masks(state)['w'], mask)
    assert lth.get_masks(state)['c'].all()


def groups(mask):
  return np.asarray(mask).reshape(-1, 4, mask.shape[-1]).sum(1)


def test_a_move_under_n_of_m_by_hand():
  tx = every_step(first=0.5, pattern=NM(2, 4))
  # One column of two groups: 4, 3 and 1, 2; half of all four is dropped.
  mask = np.array([[1, 1, 0, 0, 1, 0, 1, 0]], bool).T
  params = {'w': jnp.array([[4.0, 3.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0]]).T}
  grads = {'w': jnp.array([[0.0, 0.0, 9.0, 9.0, 3.0, 1.0, 0.0, 4.0]]).T}
  _, state = run(tx, params, [grads], mask)
  # The first group is full, for all its gradients; the second grows two.
  expected = np.array([[1, 1, 0, 0, 1, 0, 0, 1]], bool).T
  np.testing.assert_array_equal(lth.get_masks(state)['w'], expected)


@pytest.mark.slow
@pytest.mark.parametrize('random_growth', [False, True])
def test_every_group_keeps_exactly_n(random_growth):
  key = jax.random.key(0)
  method = lth.rigl
  if random_growth:
    method = functools.partial(lth.sparse_evolution, key=key)
  tx = method(
    optax.sgd(0.1),
    lth.random_masks(key),
    pattern=NM(2, 4),
    update_every=1,
    stop_step=30,
    drop_fraction=optax.constant_schedule(0.3),
    applies_gradient=True,
  )
  rng = np.random.default_rng(0)
  params = {'w': jnp.asarray(rng.normal(size=(16, 6)), jnp.float32)}
  state = tx.init(params)
  update, seen = jax.jit(tx.update), set()
  for i in range(30):
    g = rng.normal(size=(16, 6)) * (np.nan if i == 7 else 10.0 ** (i % 5))
    updates, state = update({'w': jnp.asarray(g, jnp.float32)}, state, params)
    params = optax.apply_updates(params, updates)
    mask = lth.get_masks(state)['w']
    assert (groups(mask) == 2).all()
    seen.add(np.asarray(mask).tobytes())
  assert len(seen) > 20


@pytest.mark.parametrize(
  ('pattern', 'message'),
  [
    (NM(2, 3), r'w \(8, 4\) has 8 on axis 0'),
    (NM(5, 4), 'needs 1 <= n <= m'),
    (NM(4, 2), 'but n is 4 and m is 2'),
    (NM(0, 4), 'but n is 0 and m is 4'),
  ],
)
def test_patterns_have_to_fit(pattern, message):
  masks = lth.random_masks(jax.random.key(0))
  tx = make(optax.sgd(0.1), masks, pattern=pattern)
  with pytest.raises(ValueError, match=message):
    tx.init({'w': jnp.ones((8, 4))})


def test_a_pattern_that_fixes_the_sparsity_takes_no_schedule():
  message = 'so it takes no schedule of `sparsity`. Leave it out.'
  with pytest.raises(ValueError, match=message):
    make(
      optax.sgd(0.1),
      pattern=NM(2, 4),
      sparsity=optax.constant_schedule(0.5),
    )
