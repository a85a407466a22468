"""Masks that never move."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lthjax as lth
from lthjax import trees
from lthjax.topologies import FixedState, fixed, static

PARAMS = {'a': [np.ones((2, 2), np.float32), None], 'b': np.ones(3, np.float32)}
MASKS = {'a': [np.eye(2, dtype=bool), None], 'b': None}


def test_state_is_a_copy_that_never_moves():
  topology = fixed(MASKS)
  state = topology.init(PARAMS)
  assert isinstance(state, FixedState)
  chex.assert_trees_all_equal(state.masks, MASKS)
  assert topology.move is topology.observe is None
  state.masks['a'][0].delete()
  chex.assert_trees_all_equal(topology.init(PARAMS).masks, MASKS)


def test_state_takes_the_structure_of_the_params():
  leaves, treedef = jax.tree.flatten(PARAMS)
  shapes = jax.eval_shape(lambda: jax.tree.unflatten(treedef, leaves))
  masks = fixed(MASKS).init(shapes).masks
  chex.assert_trees_all_equal_structs(masks, MASKS)


def test_masks_may_come_from_another_kind_of_tree():
  params = nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Param)
  eye = jnp.eye(2, dtype=bool)
  masks = fixed({'bias': None, 'kernel': eye}).init(params).masks
  assert trees.by_name(masks)['bias'] is None
  chex.assert_trees_all_equal(trees.by_name(masks)['kernel'], eye)
  assert type(masks) is type(params)


def test_masks_have_to_fit():
  topology = fixed(MASKS)  # Says nothing: there are no params yet.
  with pytest.raises(
    ValueError, match=r'a/0: mask of shape .2, 2., params of shape .2, 3.'
  ):
    topology.init({'a': [jnp.ones((2, 3)), None], 'b': jnp.ones(3)})
  with pytest.raises(ValueError, match='a/1 has a mask only'):
    topology.init({'a': [jnp.ones((2, 2))], 'b': jnp.ones(3)})


def test_static_is_sparsify_of_fixed():
  one = static(optax.adam(0.1), MASKS)
  two = lth.sparsify(optax.adam(0.1), fixed(MASKS))
  state = one.init(PARAMS)
  chex.assert_trees_all_equal(state, two.init(PARAMS))
  chex.assert_trees_all_equal(
    one.update(PARAMS, state, PARAMS), two.update(PARAMS, state, PARAMS)
  )
  assert lth.static is static


def test_random_masks_stay():
  draw = lth.random_masks(jax.random.key(0), pattern=lth.patterns.NM(2, 4))
  tx = static(optax.adam(0.1), draw)
  params = {'w': jnp.ones((8, 4))}
  state = tx.init(params)
  first = lth.get_masks(state)['w']
  chex.assert_trees_all_equal(first, draw(params)['w'])
  for _ in range(3):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
  chex.assert_trees_all_equal(lth.get_masks(state)['w'], first)
  chex.assert_trees_all_equal(params['w'] != 0, first)
