"""Masks are found at any depth of a state; what a network runs with."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import slow_but

import lthjax as lth
from lthjax import opt_state as opt_state_lib


def floats(*rows):
  return np.array(rows, np.float32)


PARAMS = {
  'fc': {'kernel': floats([4, -3], [2, -1]), 'bias': floats(1, 1)},
  'out': {'kernel': floats([1, 2], [3, -np.inf])},
}
LARGEST = {
  'fc': {'kernel': np.array([[True, True], [False, False]]), 'bias': None},
  'out': {'kernel': np.array([[False, False], [True, True]])},
}
FORWARD = {
  'fc': {'kernel': floats([4, -3], [0, 0]), 'bias': floats(1, 1)},
  'out': {'kernel': floats([0, 0], [3, -np.inf])},
}

METHODS = {
  'static': lambda inner: lth.static(inner, LARGEST),
  'straight_through': lambda inner: lth.straight_through(inner, sparsity=0.5),
  'top_kast': lambda inner: lth.top_kast(
    inner, sparsity=0.5, backward_sparsity=0.25
  ),
}
PLACES = {
  'alone': lambda make: make(optax.adam(0.1)),
  'around': lambda make: make(optax.MultiSteps(optax.adam(0.1), 2)),
  'accumulating': lambda make: optax.MultiSteps(make(optax.adam(0.1)), 2),
  'chain': lambda make: optax.chain(optax.zero_nans(), make(optax.sgd(0.1))),
  'finite': lambda make: optax.apply_if_finite(make(optax.sgd(0.1)), 3),
  'injected': lambda make: optax.inject_hyperparams(
    lambda rate: make(optax.sgd(rate))
  )(rate=0.1),
}
FAST = ('accumulating',)


def as_bytes(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('method', METHODS)
def test_masks_are_found_wherever_they_are(method, place):
  state = PLACES[place](METHODS[method]).init(PARAMS)
  chex.assert_trees_all_equal(lth.get_masks(state), LARGEST)
  assert as_bytes(lth.forward_params(state, PARAMS)) == as_bytes(FORWARD)
  assert opt_state_lib.keeps_dense_params(state) == (method != 'static')
  other = jax.tree.map(jnp.logical_not, LARGEST)
  swapped = lth.set_masks(state, other)
  chex.assert_trees_all_equal(lth.get_masks(swapped), other)
  chex.assert_trees_all_equal_structs(swapped, state)
  seen = lth.forward_params(swapped, PARAMS)
  assert as_bytes(seen) == as_bytes(lth.masks.apply(other, PARAMS))
  back = lth.set_masks(swapped, LARGEST)
  if method == 'top_kast':  # What was to run forward goes on training.
    trained = optax.tree.get(back, 'backward')
    assert all(bool(m.all()) for m in jax.tree.leaves(trained))
  else:
    chex.assert_trees_all_equal(back, state)


def test_without_masks_params_are_returned_unchanged():
  for tx in (
    optax.adam(0.1),
    optax.identity(),
    optax.MultiSteps(optax.sgd(1), 2),
  ):
    state = tx.init(PARAMS)
    assert as_bytes(lth.forward_params(state, PARAMS)) == as_bytes(PARAMS)
    stripped = lth.strip(state, PARAMS)
    assert as_bytes(stripped) == as_bytes((PARAMS, state))
    assert not opt_state_lib.keeps_dense_params(state)


def test_a_partition_has_masks_of_its_own():
  labels = {'fc': {'kernel': 'a', 'bias': 'c'}, 'out': {'kernel': 'b'}}
  make = METHODS['straight_through']
  inners = {
    'a': make(optax.sgd(0.1)),
    'b': make(optax.adam(0.1)),
    'c': optax.adam(0.1),
  }
  state = optax.partition(inners, labels).init(PARAMS)
  assert as_bytes(lth.forward_params(state, PARAMS)) == as_bytes(FORWARD)
  with pytest.raises(ValueError, match='holds 2 trees of masks'):
    lth.get_masks(state)


def cubes(params):
  return sum(jnp.sum(x**3) for x in jax.tree.leaves(params))


@pytest.mark.parametrize('method', METHODS)
def test_derivatives_pass_the_masks_unchanged(method):
  state = METHODS[method](optax.sgd(0.1)).init(PARAMS)

  def through(params):
    return cubes(lth.forward_params(state, params))

  at = jax.grad(cubes)(lth.forward_params(state, PARAMS))
  assert as_bytes(jax.grad(through)(PARAMS)) == as_bytes(at)
  assert as_bytes(jax.jit(jax.grad(through))(PARAMS)) == as_bytes(at)
  ones = jax.tree.map(np.ones_like, PARAMS)
  _, seen = jax.jvp(
    lambda params: lth.forward_params(state, params), (PARAMS,), (ones,)
  )
  assert as_bytes(seen) == as_bytes(ones)


def test_both_forms_of_straight_through_train_alike():
  rng = np.random.default_rng(0)
  x, target = rng.normal(size=(2, 8, 6)).astype(np.float32)
  tx = lth.straight_through(optax.sgd(0.1, momentum=0.5), sparsity=0.5)

  def loss(params):
    return jnp.sum((x @ params['w'] - target) ** 2) / 8

  def outside(params, state):
    return jax.grad(loss)(lth.forward_params(state, params))

  def inside(params, state):
    return jax.grad(lambda p: loss(lth.forward_params(state, p)))(params)

  ends = []
  for grad in (outside, inside):
    params = {'w': np.eye(6, dtype=np.float32)}
    state = tx.init(params)
    for _ in range(5):
      updates, state = tx.update(grad(params, state), state, params)
      params = optax.apply_updates(params, updates)
    ends.append((params, state))
  chex.assert_trees_all_equal(*ends)


@pytest.mark.parametrize('place', slow_but(PLACES, FAST))
@pytest.mark.parametrize('method', [*METHODS, 'rigl'])
def test_stripped_states_go_on_with_the_optimizer_inside(method, place):
  methods = METHODS | {
    'rigl': lambda inner: lth.rigl(inner, LARGEST, update_every=2, stop_step=4)
  }
  params = jax.tree.map(lambda x: np.where(np.isinf(x), 0.5, x), PARAMS)
  tx = PLACES[place](methods[method])
  plain = PLACES[place](lambda inner: inner)
  state = tx.init(params)
  for _ in range(3):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
  masks = lth.get_masks(state)
  stripped, state = lth.strip(state, params)
  assert as_bytes(stripped) == as_bytes(lth.masks.apply(masks, params))
  chex.assert_trees_all_equal_structs(state, plain.init(params))
  dense = stripped
  for _ in range(2):  # Accumulated over two steps in some places.
    grads = jax.tree.map(lambda x: jnp.full_like(x, 0.37), dense)
    updates, state = plain.update(grads, state, dense)
    dense = optax.apply_updates(dense, updates)
  moved = jax.tree.map(lambda x, y: bool((x != y).all()), dense, stripped)
  assert all(jax.tree.leaves(moved))


BOTH = {'body': PARAMS['fc'], 'head': PARAMS['out']}
HALVES = {'body': LARGEST['fc'], 'head': LARGEST['out']}


@pytest.mark.parametrize(
  'make',
  [
    METHODS['straight_through'],
    METHODS['top_kast'],
    lambda inner: lth.static(inner, HALVES),
    lambda inner: lth.rigl(inner, HALVES, update_every=2, stop_step=4),
    lambda inner: lth.rigl(
      inner,
      lth.random_masks(jax.random.key(0), sparsity=0.5),
      update_every=2,
      stop_step=4,
    ),
  ],
)
@pytest.mark.parametrize('wrapper', ['partition', 'masked'])
def test_a_part_of_the_params_may_have_masks(wrapper, make):
  if wrapper == 'partition':
    tx = optax.partition(
      {'sparse': make(optax.adam(0.1)), 'dense': optax.sgd(0.1)},
      {'body': 'sparse', 'head': 'dense'},
    )
  else:
    tx = optax.masked(make(optax.adam(0.1)), {'body': True, 'head': False})
  params, grads = BOTH, jax.tree.map(np.ones_like, BOTH)
  state = tx.init(params)
  assert lth.masks.alive_by_name(lth.get_masks(state)) == {'body/kernel': 2}
  for _ in range(3):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    seen = lth.forward_params(state, params)
    assert np.sum(np.asarray(seen['body']['kernel']) != 0) == 2
    assert as_bytes(seen['head']) == as_bytes(params['head'])
  assert as_bytes(params['head']) != as_bytes(BOTH['head'])
  # What is hidden from the masks is dense, and masks of all params will do.
  masked = lth.masks.apply(lth.get_masks(state), params)
  assert as_bytes(masked) == as_bytes(seen)
  state = lth.set_masks(state, lth.masks.full(params))
  assert lth.masks.density(lth.get_masks(state)) == 1


def test_a_part_has_no_masks_of_other_leaves():
  masks = HALVES | {'tail': {'kernel': LARGEST['out']['kernel']}}
  tx = optax.masked(
    lth.static(optax.sgd(0.1), masks), {'body': True, 'head': False}
  )
  with pytest.raises(ValueError, match='tail/kernel has a mask only'):
    tx.init(BOTH)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_what_was_not_finite_when_it_died_can_be_cleared(bad):
  params = {'w': floats([1, 2, bad, 3])}
  tx = lth.gradual(optax.sgd(0.1), sparsity=0.5, update_every=1, stop_step=1)
  state = tx.init(params)
  _, state = tx.update(params, state, params)
  masks = {'w': np.array([[True, True, False, False]])}
  state = lth.set_masks(state, masks)
  for _ in range(2):
    updates, state = tx.update({'w': floats([1, 1, bad, bad])}, state, params)
    params = optax.apply_updates(params, updates)
    seen = lth.forward_params(state, params)
    assert not any(np.asarray(seen['w'][0, 2:]).tobytes())
    assert np.isfinite(seen['w']).all()
  # The line of the docs; from then on updates keep it so.
  params = lth.masks.apply(lth.get_masks(state), params)
  updates, state = tx.update({'w': floats([1, 1, bad, bad])}, state, params)
  params = optax.apply_updates(params, updates)
  assert not any(np.asarray(params['w'][0, 2:]).tobytes())


def test_swapped_arguments_are_refused():
  params = {'w': np.ones((2, 2), np.float32)}
  state = lth.static(optax.sgd(0.1), {'w': np.ones((2, 2), bool)}).init(params)
  with pytest.raises(TypeError, match='in this order'):
    lth.forward_params(params, state)
  for method in (lth.straight_through, lth.sr_ste):
    with pytest.raises(TypeError, match=r'pass `lthjax.patterns.NM\(2, 4\)`'):
      method(optax.sgd(0.1), pattern='2:4')


def test_shapes_have_nothing_to_mask():
  state = lth.static(optax.sgd(0.1), LARGEST).init(PARAMS)
  shapes = jax.eval_shape(lambda: PARAMS)
  for f in (lth.forward_params, lth.strip):
    with pytest.raises(TypeError, match='arrays, but fc/kernel, out/kernel is'):
      f(state, shapes)
    jax.eval_shape(f, state, shapes)


def test_masks_have_to_fit_the_params():
  state = METHODS['straight_through'](optax.sgd(0.1)).init(PARAMS)
  for params, fault in (
    ({'fc': PARAMS['fc']}, 'out/kernel has a mask only'),
    (
      {**PARAMS, 'out': {'kernel': jnp.ones((3, 2))}},
      'out/kernel: mask of shape (2, 2), params of shape (3, 2)',
    ),
  ):
    with pytest.raises(ValueError, match=re.escape(fault)):
      lth.forward_params(state, params)


@pytest.mark.parametrize('place', slow_but(PLACES, FAST))
@pytest.mark.parametrize('method', METHODS)
def test_replicates_share_their_steps_and_nothing_else(method, place):
  tx = PLACES[place](METHODS[method])
  both = jax.tree.map(lambda x: jnp.stack([x, x + 1]), PARAMS)
  state = jax.vmap(tx.init)(both)
  shared, axes = opt_state_lib.share_steps(state)
  update = jax.vmap(tx.update, in_axes=(0, axes, 0))
  found = jax.eval_shape(update, both, shared, both)[1]
  chex.assert_trees_all_equal_shapes_and_dtypes(found, state)
  different = [
    jax.tree_util.keystr(path)
    for (path, x), y in zip(
      jax.tree_util.tree_leaves_with_path(state),
      jax.tree.leaves(shared),
      strict=True,
    )
    if x.shape != y.shape
  ]
  # A wrapper around may skip the step of one of them.
  assert len(different) == (place not in ('accumulating', 'finite'))
  assert all(path.endswith('.step') for path in different)


SKIPPING = {
  'finite': lambda tx: optax.apply_if_finite(tx, 9),
  'accumulating': lambda tx: optax.MultiSteps(
    tx, 1, should_skip_update_fn=optax.skip_not_finite
  ),
}


@pytest.mark.parametrize('wrapper', SKIPPING)
def test_a_replicate_whose_step_is_skipped_keeps_its_own(wrapper):
  tx = SKIPPING[wrapper](METHODS['static'](optax.sgd(0.1)))
  both = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
  state = jax.vmap(tx.init)(both)
  good = jax.tree.map(jnp.ones_like, both)
  bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), good)
  for grads in (bad, good):
    shared, axes = opt_state_lib.share_steps(state)
    _, state = jax.vmap(tx.update, in_axes=(0, axes, 0))(grads, shared, both)
  assert optax.tree.get(state, 'step').tolist() == [1, 2]
