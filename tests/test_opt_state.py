"""Masks are found wherever they are, and say what a network runs with."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax import opt_state as opt_state_lib

PARAMS = {
  'fc': {'kernel': jnp.array([[4.0, -3.0], [2.0, -1.0]]), 'bias': jnp.ones(2)},
  'out': {'kernel': jnp.array([[1.0, 2.0], [3.0, -jnp.inf]])},
}
LARGEST = {
  'fc': {'kernel': jnp.array([[True, True], [False, False]]), 'bias': None},
  'out': {'kernel': jnp.array([[False, False], [True, True]])},
}
FORWARD = {
  'fc': {'kernel': jnp.array([[4.0, -3.0], [0.0, 0.0]]), 'bias': jnp.ones(2)},
  'out': {'kernel': jnp.array([[0.0, 0.0], [3.0, -jnp.inf]])},
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


def test_without_masks_params_are_as_they_are():
  for tx in (
    optax.adam(0.1),
    optax.identity(),
    optax.MultiSteps(optax.sgd(1), 2),
  ):
    state = tx.init(PARAMS)
    assert as_bytes(lth.forward_params(state, PARAMS)) == as_bytes(PARAMS)
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


@pytest.mark.parametrize('place', PLACES)
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
