"""Dead weights are exactly zero; alive ones never notice."""

import functools
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth

pytestmark = pytest.mark.optimized

W = {'w': jnp.array([[1.0, 2.0]])}
FIRST = {'w': jnp.array([[True, False]])}
SECOND = {'w': jnp.array([[False, True]])}


def masked(values, alive):
  return np.where(alive, values, np.zeros_like(values))


def is_positive_zero(x):
  return not any(np.asarray(x).tobytes())


def take_step(tx, params, state, grads):
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def test_two_steps_by_hand():
  # Gradient plus half the weight, momentum 0.9, learning rate 0.1.
  inner = optax.chain(
    optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9)
  )
  tx = lth.static(inner, FIRST)
  state = tx.init(W)
  # 1 + 0.5 * 1 = 1.5; 1 - 0.1 * 1.5 = 0.85
  params, state = take_step(tx, W, state, {'w': jnp.array([[1.0, 7.0]])})
  np.testing.assert_allclose(params['w'], [[0.85, 0.0]], rtol=1e-6)
  # 2 + 0.5 * 0.85 + 0.9 * 1.5 = 3.775; 0.85 - 0.3775 = 0.4725
  params, state = take_step(tx, params, state, {'w': jnp.array([[2.0, -3.0]])})
  np.testing.assert_allclose(params['w'], [[0.4725, 0.0]], rtol=1e-6)
  trace = optax.tree.get(state, 'trace')['w']
  np.testing.assert_allclose(trace, [[3.775, 0.0]], rtol=1e-6)
  assert int(state.step) == 2


def sgd_in_numpy(w, grads, alive, rate=0.1, momentum=0.9, decay=0.2):
  trace = np.zeros_like(w)
  for g in grads:
    trace = momentum * trace + masked(g, alive) + decay * w
    w = w - rate * trace
  return w


def adamw_in_numpy(w, grads, alive, rate=0.1, decay=0.2):
  m, v = np.zeros_like(w), np.zeros_like(w)
  for t, g in enumerate(grads, 1):
    g = masked(g, alive)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    w = w - rate * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay * w)
  return w


@pytest.mark.parametrize(
  ('inner', 'oracle'),
  [
    (
      optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.1, momentum=0.9)),
      sgd_in_numpy,
    ),
    (optax.adamw(0.1, weight_decay=0.2), adamw_in_numpy),
  ],
)
def test_alive_weights_train_as_a_smaller_model_would(inner, oracle):
  rng = np.random.default_rng(0)
  alive = rng.random((5, 7)) < 0.4
  w, *grads = rng.normal(size=(5, 5, 7))
  expected = oracle(masked(w, alive), grads, alive)
  tx = lth.static(inner, {'w': jnp.asarray(alive)})
  params = {'w': jnp.asarray(w, jnp.float32)}
  state, step = tx.init(params), jax.jit(functools.partial(take_step, tx))
  for g in grads:
    params, state = step(params, state, {'w': jnp.asarray(g, jnp.float32)})
  assert is_positive_zero(np.asarray(params['w'])[~alive])
  np.testing.assert_allclose(params['w'], expected, rtol=2e-5, atol=1e-7)


# Any finite number; the least of each dtype are subnormal.
FINITE = {
  'float32': [-0.0, 0.0, 1e-45, -1e-40, 1.2e-38, 1 / 3, -7.0, 3.4e38, -3.4e38],
  'bfloat16': [-0.0, 0.0, 1e-40, -1e-40, 1.2e-38, 1 / 3, -7.0, 3e38, -3e38],
  'float16': [-0.0, 0.0, 6e-8, -6e-8, 6.2e-5, 1 / 3, -7.0, 65504.0, -65504.0],
}


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('grads_dtype', FINITE)
@pytest.mark.parametrize('dtype', FINITE)
def test_any_finite_weight_lands_on_zero(dtype, grads_dtype, compiled):
  w = jnp.array(FINITE[dtype], dtype)
  assert np.isfinite(np.asarray(w, np.float32)).all()
  tx = lth.static(optax.sgd(0.1, momentum=0.9), jnp.zeros(w.shape, bool))
  step = functools.partial(take_step, tx)
  step = jax.jit(step) if compiled else step
  params, _ = step(w, tx.init(w), jnp.ones(w.shape, grads_dtype))
  assert params.dtype == dtype
  assert is_positive_zero(params)


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize(
  'inner',
  [
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    optax.lamb(0.1),
    optax.apply_if_finite(optax.sgd(0.1), 0),
  ],
)
def test_what_dead_gradients_hold_never_matters(inner, bad):
  tx = lth.static(inner, FIRST)
  results = []
  for dead in (0.0, bad):
    params, state = W, tx.init(W)
    for alive in (3.0, -1.0):
      grads = {'w': jnp.array([[alive, dead]])}
      params, state = take_step(tx, params, state, grads)
    results.append((params, state))
  chex.assert_tree_all_finite(results[1])
  chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf])
def test_what_the_optimizer_says_of_dead_weights_never_matters(bad):
  inner = optax.stateless(lambda updates, params: {'w': jnp.full((1, 2), bad)})
  params, _ = take_step(
    lth.static(inner, FIRST), W, lth.static(inner, FIRST).init(W), W
  )
  assert not np.isfinite(params['w'][0, 0])
  assert is_positive_zero(params['w'][0, 1])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
  'make',
  [
    lambda inner: lth.static(inner, FIRST),
    lambda inner: lth.rigl(inner, FIRST, update_every=9, stop_step=9),
  ],
  ids=['static', 'rigl'],
)
def test_updates_have_derivatives_where_weights_are_alive(make, dtype):
  params = jax.tree.map(lambda x: x.astype(dtype), W)
  tx = make(optax.sgd(0.5, 0.5))
  state = tx.init(params)

  def last(grads):
    _, after = tx.update(grads, state, params)
    return jnp.sum(tx.update(grads, after, params)[0]['w'])

  found = jax.jit(jax.grad(last))(params)['w']
  # 0.5 * (1 + 0.5)
  np.testing.assert_array_equal(found, [[-0.75, 0.0]])


def test_only_alive_gradients_count_for_clipping():
  masks = {'w': jnp.array([[True, True, False]])}
  params = {'w': jnp.zeros((1, 3))}
  tx = lth.static(
    optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), masks
  )
  # The norm of (3, 4) is 5.
  grads = {'w': jnp.array([[3.0, 4.0, 1000.0]])}
  params, _ = take_step(tx, params, tx.init(params), grads)
  np.testing.assert_allclose(params['w'], [[-0.6, -0.8, 0.0]], rtol=1e-6)


def test_only_alive_weights_count_for_trust_ratios():
  masks = {'w': jnp.array([[True, True, False]])}
  params = {'w': jnp.array([[3.0, 4.0, 1000.0]])}  # Not masked yet.
  tx = lth.static(
    optax.chain(optax.scale_by_trust_ratio(), optax.sgd(1.0)), masks
  )
  # The norm of the weights is 5 times that of the gradient.
  grads = {'w': jnp.array([[1.0, 0.0, 1000.0]])}
  params, _ = take_step(tx, params, tx.init(params), grads)
  np.testing.assert_allclose(params['w'], [[-2.0, 4.0, 0.0]], rtol=1e-6)


class SwapState(NamedTuple):
  masks: Any
  seen: Any


def swap(**options):
  """A topology that turns its masks around at every step."""

  def init(params):
    return SwapState(SECOND, (params, params, jnp.int32(0)))

  def move(state, params, grads, step):
    masks = jax.tree.map(jnp.logical_not, state.masks)
    return SwapState(masks, (params, grads, step))

  return lth.Topology(init, move, lambda step: step > 0, **options)


def test_what_comes_alive_starts_from_nothing():
  tx = lth.sparsify(optax.sgd(0.1, momentum=0.9), swap(applies_gradient=True))
  step = jax.jit(functools.partial(take_step, tx))
  params, state = W, tx.init(W)
  ones = {'w': jnp.ones((1, 2))}
  # What was alive is trained, and dies at once.
  for i, seen in enumerate([[[0.0, 1.9]], [[-0.1, 0.0]], [[0.0, -0.1]]]):
    params, state = step(params, state, ones)
    assert is_positive_zero(params['w'])
    assert not optax.tree.get(state, 'trace')['w'].any()
    # A topology sees the trained alive weights, and all gradients.
    np.testing.assert_allclose(state.topology_state.seen[0]['w'], seen)
    chex.assert_trees_all_equal(state.topology_state.seen[1], ones)
    assert state.topology_state.seen[2] == state.step == i + 1
    assert lth.get_masks(state)['w'].tolist() == [[i % 2 == 0, i % 2 == 1]]


def test_moving_instead_of_training():
  inner = optax.chain(optax.adam(0.1), optax.add_decayed_weights(0.1))
  tx = lth.sparsify(inner, swap())
  step = jax.jit(functools.partial(take_step, tx))
  state = tx.init(W)
  params, state = step(W, state, {'w': jnp.full((1, 2), jnp.nan)})
  assert is_positive_zero(params['w'])
  np.testing.assert_array_equal(state.topology_state.seen[0]['w'], [[0, 2]])
  chex.assert_trees_all_equal(state.inner_state, tx.init(W).inner_state)


@pytest.mark.parametrize('applies_gradient', [False, True])
def test_without_a_trace_nothing_is_compiled_for_a_move(
  monkeypatch, applies_gradient
):
  topology = swap(applies_gradient=applies_gradient)
  tx = lth.sparsify(
    optax.sgd(0.5, momentum=0.5),
    topology._replace(moves=lambda step: step % 2 == 0),
  )
  grads = {'w': jnp.array([[1.0, 2.0]])}
  jitted, expected = jax.jit(functools.partial(take_step, tx)), (W, tx.init(W))
  for _ in range(4):
    expected = jitted(*expected, grads)

  def fail(*args):
    raise AssertionError('a branch was compiled')

  monkeypatch.setattr(jax.lax, 'cond', fail)
  params, state = W, tx.init(W)
  for _ in range(4):
    params, state = take_step(tx, params, state, grads)
  chex.assert_trees_all_equal((params, state), expected)
  with pytest.raises(AssertionError, match='a branch was compiled'):
    jax.make_jaxpr(tx.update)(grads, state, params)


class WatchState(NamedTuple):
  masks: Any
  total: Any


def test_a_topology_may_watch_all_gradients_at_every_step():
  topology = lth.Topology(
    init=lambda params: WatchState(FIRST, jnp.zeros((1, 2))),
    observe=lambda state, grads: state._replace(total=state.total + grads['w']),
  )
  tx = lth.sparsify(optax.sgd(0.1), topology)
  params, state = W, tx.init(W)
  for _ in range(3):
    params, state = take_step(tx, params, state, {'w': jnp.array([[1.0, 5.0]])})
  assert state.topology_state.total.tolist() == [[3.0, 15.0]]
  chex.assert_trees_all_equal(lth.get_masks(state), FIRST)


def test_what_comes_alive_starts_from_nothing_whatever_was_put_there():
  seen = []

  def count(updates, state, params=None):
    del params
    jax.debug.callback(lambda x: seen.append(x.tolist()), state['w'])
    return updates, jax.tree.map(lambda x: x + 1, state)

  inner = optax.GradientTransformation(optax.tree.zeros_like, count)
  tx = lth.sparsify(inner, swap(applies_gradient=True))
  step = jax.jit(functools.partial(take_step, tx))
  params, state = W, tx.init(W)
  for _ in range(3):
    params, state = step(params, state, W)
  jax.effects_barrier()
  # All entries were counted up, but both died: one before and one after.
  assert len(seen) >= 3
  assert all(x == [[0.0, 0.0]] for x in seen)


def test_revived_by_set_masks_starts_from_nothing():
  tx = lth.static(optax.sgd(0.1, momentum=0.9), FIRST)
  params, state = W, tx.init(W)
  ones = {'w': jnp.ones((1, 2))}
  for masks in (FIRST, SECOND, FIRST):
    state = lth.set_masks(state, masks)
    params, state = take_step(tx, params, state, ones)
  np.testing.assert_allclose(params['w'], [[-0.1, 0.0]], rtol=1e-6)


def test_masks_are_arguments_and_not_part_of_the_program():
  tx = lth.static(optax.adam(0.1), FIRST)
  program = jax.make_jaxpr(tx.update)(W, tx.init(W), W)
  assert not program.consts


def test_set_masks_copies_and_changes_nothing_else():
  tx = lth.static(optax.adam(0.1), FIRST)
  _, state = tx.update(W, tx.init(W), W)
  before = jax.tree.map(np.array, state)
  new = lth.set_masks(state, SECOND)
  chex.assert_trees_all_equal(state, before)
  chex.assert_trees_all_equal(lth.get_masks(new), SECOND)
  chex.assert_trees_all_equal(lth.set_masks(new, FIRST), state)
  for x in jax.tree.leaves(new):
    if x.dtype == bool:
      x.delete()
  assert not SECOND['w'].is_deleted()


def test_update_needs_params():
  tx = lth.static(optax.sgd(0.1), FIRST)
  message = (
    '`sparsify` needs the current params: call `tx.update(grads, state,'
    ' params)`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    tx.update(W, tx.init(W))


TWO = {'fc': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}, 'out': None}


@pytest.mark.parametrize(
  ('masks', 'faults'),
  [
    ({'fc': {'kernel': None}}, ['fc/bias has no mask', 'out has no mask']),
    (
      {'fc': {'kernel': np.ones((3, 2), bool), 'bias': None}, 'out': None},
      ['fc/kernel: mask of shape (3, 2), params of shape (2, 3)'],
    ),
    (
      {'fc': {'kernel': jnp.ones((2, 3)), 'bias': None}, 'out': None},
      ['fc/kernel: mask of dtype float32, not bool'],
    ),
    (
      {
        'fc': {'kernel': jax.ShapeDtypeStruct((2, 3), bool), 'bias': None},
        'out': None,
      },
      ['fc/kernel: mask is an abstract bool[2, 3], not an array'],
    ),
    (
      {'fc': {'kernel': None, 'bias': True}, 'out': np.ones(2, bool)},
      [
        'fc/bias: mask is a bool, not an array',
        'out is None in the params but has a mask',
      ],
    ),
  ],
)
def test_masks_have_to_fit_at_init(masks, faults):
  with pytest.raises(ValueError, match='The masks do not fit the params') as e:
    lth.static(optax.sgd(0.1), masks).init(TWO)
  for fault in faults:
    assert fault in str(e.value)


@pytest.mark.parametrize(
  'grads',
  [
    {'w': jnp.ones((1, 2)), 'b': jnp.ones(1)},
    {'v': jnp.ones((1, 2))},
    {'w': jnp.ones((2, 1))},
    {'w': None},
  ],
)
def test_gradients_have_to_fit(grads):
  tx = lth.static(optax.sgd(0.1), FIRST)
  with pytest.raises(ValueError, match='masks do not fit the gradients'):
    tx.update(grads, tx.init(W), W)


@pytest.mark.parametrize(
  'masks',
  [
    {'w': jnp.ones((1, 3), bool)},
    {'w': jnp.ones((1, 2))},
    {'w': None},
    {'v': jnp.ones((1, 2), bool)},
    {'w': jnp.ones((1, 2), bool), 'v': None},
  ],
)
def test_new_masks_have_to_fit_the_old_ones(masks):
  state = lth.static(optax.sgd(0.1), FIRST).init(W)
  with pytest.raises(ValueError, match='masks do not fit the'):
    lth.set_masks(state, masks)


def test_a_state_without_masks_says_how_to_get_them():
  message = (
    'This optimizer state holds 0 trees of masks, but must hold one. Wrap the'
    ' whole optimizer once, for instance `tx = lthjax.static(tx, masks)`, and'
    ' call `tx.init(params)` again.'
  )
  for state in (optax.adam(0.1).init(W), optax.sgd(0.1).init(W), ()):
    with pytest.raises(ValueError, match=re.escape(message)):
      lth.get_masks(state)
    with pytest.raises(ValueError, match=re.escape(message)):
      lth.set_masks(state, FIRST)


def test_two_wrapped_optimizers_have_no_one_tree_of_masks():
  tx = lth.static(optax.sgd(0.1), FIRST)
  state = optax.chain(tx, tx).init(W)
  with pytest.raises(ValueError, match='holds 2 trees of masks'):
    lth.get_masks(state)
