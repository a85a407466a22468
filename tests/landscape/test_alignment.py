"""Permutations of hidden units: nothing changes but their order."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax import landscape, models

SPEC = {
  'in': (None, 'units'),
  'bias': ('units',),
  'out': ('units', None),
}


def small(seed=0, units=5):
  rng = np.random.default_rng(seed)
  shapes = {'in': (3, units), 'bias': (units,), 'out': (units, 2)}
  return {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}


def draw(shapes, seed=0):
  """Random params with the shapes of a model, without compiling its init."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes
  )


def shuffled(network, spec, seed=0):
  """Permutes every group of units at random."""
  rng = np.random.default_rng(seed)
  leaves = lth.trees.by_name(network)
  sizes = {}
  for name, axes in spec.items():
    for axis, group in enumerate(axes):
      if group is not None:
        n = leaves[name].shape[axis]
        sizes[group] = min(n, sizes.get(group, n))
  permutations = {group: rng.permutation(n) for group, n in sizes.items()}
  return landscape.permute(network, permutations, spec), permutations


def test_permute_by_hand():
  params = {
    'in': jnp.array([[1.0, 2.0, 3.0]]),
    'bias': jnp.array([4.0, 5.0, 6.0]),
    # Two pixels of three channels each, flattened.
    'out': jnp.arange(6.0)[:, None],
  }
  moved = landscape.permute(params, {'units': [2, 0, 1]}, SPEC)
  np.testing.assert_array_equal(moved['in'], [[3, 1, 2]])
  np.testing.assert_array_equal(moved['bias'], [6, 4, 5])
  np.testing.assert_array_equal(moved['out'].ravel(), [2, 0, 1, 5, 3, 4])


def test_masks_move_like_their_weights():
  params = small()
  masks = lth.masks.full(params, where=['in', 'out'])
  masks = lth.prune(params, masks, sparsity=0.5)
  order = {'units': [3, 1, 4, 0, 2]}
  moved = landscape.permute(masks, order, SPEC)
  assert moved['bias'] is None
  chex.assert_trees_all_equal(
    lth.masks.apply(moved, landscape.permute(params, order, SPEC)),
    landscape.permute(lth.masks.apply(masks, params), order, SPEC),
  )


def test_weight_matching_finds_the_best_of_all_permutations():
  a, b = small(0), small(1)
  found = landscape.align(a, b, SPEC)

  def product(order):
    moved = landscape.permute(b, {'units': np.array(order)}, SPEC)
    return sum(np.vdot(np.float64(a[k]), np.float64(moved[k])) for k in a)

  best = max(itertools.permutations(range(5)), key=product)
  assert tuple(found.permutations['units']) == best
  chex.assert_trees_all_equal(
    found.params, landscape.permute(b, {'units': np.array(best)}, SPEC)
  )
  assert landscape.distance(a, found.params) < landscape.distance(a, b)


def test_both_axes_of_a_leaf_can_move_but_not_be_matched():
  params = {'w': jnp.arange(9.0).reshape(3, 3)}
  spec = {'w': ('stream', 'stream')}
  moved = landscape.permute(params, {'stream': [1, 0, 2]}, spec)
  np.testing.assert_array_equal(moved['w'], [[4, 3, 5], [1, 0, 2], [7, 6, 8]])
  with pytest.raises(ValueError, match=r'w has a group on two axes\. Finding'):
    landscape.align(params, moved, spec)


def test_alignment_undoes_a_permutation_of_lenet():
  model = models.lenet_300_100(input_shape=(6, 6, 1))
  shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
  a = draw(shapes)
  spec = landscape.chain(a, ['fc1', 'fc2', 'output'])
  b, permutations = shuffled(a, spec)
  x = jax.random.normal(jax.random.key(1), (64, 6, 6, 1))
  predict = jax.jit(lambda p: jnp.argmax(model.apply(p, {}, x)[0], -1))
  np.testing.assert_array_equal(predict(a), predict(b))
  labels = predict(a)
  error = jax.jit(lambda p: jnp.mean(predict(p) != labels))
  assert landscape.error_barrier(error, a, b, points=5).barrier > 0.01
  found = landscape.align(a, b, spec)
  chex.assert_trees_all_equal(found.params, a)
  for group, order in permutations.items():
    np.testing.assert_array_equal(
      order[found.permutations[group]].tolist(), range(len(order))
    )
  barrier = landscape.error_barrier(error, a, found.params, points=5).barrier
  assert barrier.tobytes() == bytes(4)


def test_images_are_flattened_with_channels_last():
  model = models.conv_2(input_shape=(4, 4, 2))
  shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
  a = draw(shapes)
  spec = landscape.chain(a, ['conv1', 'conv2', 'fc1', 'fc2', 'output'])
  assert spec['conv2/kernel'] == (None, None, 'conv1', 'conv2')
  assert spec['fc1/kernel'] == ('conv2', 'fc1')
  b, _ = shuffled(a, spec)
  assert landscape.cosine(a, b) < 0.1
  x = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
  logits = jax.jit(lambda p: model.apply(p, {}, x)[0])
  np.testing.assert_allclose(logits(a), logits(b), rtol=1e-3)
  chex.assert_trees_all_equal(landscape.align(a, b, spec).params, a)


def test_running_statistics_move_along():
  layer = {'kernel': (6, 6), 'bias': (6,)}
  norm = {'scale': (6,), 'bias': (6,)}
  params = {'fc1': layer, 'norm1': norm, 'fc2': layer, 'norm2': norm}
  state = {f'norm{i}': {'mean': (6,), 'var': (6,)} for i in (1, 2)}
  a = draw(
    jax.tree.map(
      lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
      (params | {'output': layer}, state),
      is_leaf=lambda x: x == (6,) or x == (6, 6),
    )
  )
  spec = landscape.chain(a, ['fc1', 'norm1', 'fc2', 'norm2', 'output'])
  assert spec['0/fc2/kernel'] == ('fc1', 'fc2')
  assert spec['0/norm1/scale'] == spec['1/norm1/mean'] == ('fc1',)
  assert spec['0/norm2/bias'] == spec['1/norm2/var'] == ('fc2',)
  assert spec['0/output/kernel'] == ('fc2', None)
  b, _ = shuffled(a, spec)
  x = np.random.default_rng(3).normal(size=(10, 6))

  def logits(network):
    params, state = jax.tree.map(np.asarray, network)
    h = x
    for i in (1, 2):
      fc, norm, seen = params[f'fc{i}'], params[f'norm{i}'], state[f'norm{i}']
      h = h @ fc['kernel'] + fc['bias'] - seen['mean']
      h = h / np.sqrt(1 + seen['var'] ** 2) * norm['scale'] + norm['bias']
      h = np.maximum(h, 0)
    return h @ params['output']['kernel']

  np.testing.assert_allclose(logits(a), logits(b), rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_equal(landscape.align(a, b, spec).params, a)


def test_dead_units_stay_where_they_are():
  a, b = small(0), small(0)
  for x in (a, b):
    x['in'][:, :4], x['bias'][:4], x['out'][:4] = 0, 0, 0
  found = landscape.align(a, b, SPEC)
  np.testing.assert_array_equal(found.permutations['units'], range(5))


def test_chain_needs_every_layer_once():
  params = {
    'norm': {'scale': jnp.ones(2)},
    'fc1': {'kernel': jnp.ones((2, 3)), 'more': jnp.ones((2, 3))},
    'block': {'fc2': {'kernel': jnp.ones((3, 3))}},
    'output': {'kernel': jnp.ones((3, 2))},
  }
  with pytest.raises(
    ValueError,
    match='output/kernel belongs to no layer; block/fc2/kernel belongs to block'
    ' and fc2; norm comes first, but has no kernel; fc1 has several kernels;'
    ' fc3 has no leaf',
  ):
    landscape.chain(params, ['norm', 'fc1', 'block', 'fc2', 'fc3'])
  with pytest.raises(ValueError, match=r'no chain: none was given\. Name ev'):
    landscape.chain({}, [])


def test_groups_have_units():
  a = {'in': jnp.ones((2, 0)), 'out': jnp.ones((0, 2))}
  spec = {'in': (None, 'units'), 'out': ('units', None)}
  with pytest.raises(ValueError, match=r'not fit: units has no units\. It'):
    landscape.align(a, a, spec)


def test_the_spec_has_to_fit():
  a = small()
  spec = {'in': ('units', None), 'bias': (None, None), 'fc': ('units',)}
  for f in (
    lambda: landscape.align(a, a, spec),
    lambda: landscape.permute(a, {}, spec),
  ):
    with pytest.raises(
      ValueError,
      match=r'fc is no leaf; out is not in the spec; bias has shape \(5,\), but'
      ' 2 axes',
    ):
      f()
  with pytest.raises(ValueError, match=r'in\[1\] has length 5, .* the 3 units'):
    landscape.align(a, a, SPEC | {'in': ('units', 'units')})


def test_permutations_have_to_fit():
  spec = SPEC | {'out': ('units', 'others')}
  with pytest.raises(
    ValueError,
    match='others has none; that of units does not hold each of 0 to',
  ):
    landscape.permute(small(), {'units': [0, 1, 1, 2, 3]}, spec)


def test_networks_to_align_have_to_be_alike_and_finite():
  a = small()
  with pytest.raises(ValueError, match='bias is in the first only'):
    landscape.align(a, {k: a[k] for k in ('in', 'out')}, SPEC)
  b = a | {'out': a['out'] * np.nan}
  with pytest.raises(ValueError, match=r'not finite: out\. Did the training'):
    landscape.align(a, b, SPEC)
