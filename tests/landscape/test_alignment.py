"""Permutations of hidden units change nothing but their order."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
from lthjax import landscape, models

AXES = {
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


def by_axes(params, axes=None):
  return lth.structure.by_axes(params, AXES if axes is None else axes)


def shuffled(network, groups, seed=0):
  """Permutes every group of units at random."""
  rng = np.random.default_rng(seed)
  orders = {name: rng.permutation(g.size) for name, g in groups.items()}
  return lth.structure.permute(network, groups, orders), orders


def test_weight_matching_finds_the_best_of_all_permutations():
  a, b = small(0), small(1)
  groups = by_axes(a)
  found = landscape.align(a, b, groups)

  def product(order):
    moved = lth.structure.permute(b, groups, {'units': np.array(order)})
    return sum(np.vdot(np.float64(a[k]), np.float64(moved[k])) for k in a)

  best = max(itertools.permutations(range(5)), key=product)
  assert tuple(found.permutations['units']) == best
  chex.assert_trees_all_equal(
    found.params, lth.structure.permute(b, groups, {'units': np.array(best)})
  )
  assert landscape.distance(a, found.params) < landscape.distance(a, b)


def test_units_on_both_axes_of_a_leaf_cannot_be_matched():
  params = {'w': np.arange(9.0).reshape(3, 3)}
  groups = by_axes(params, {'w': ('stream', 'stream')})
  moved = lth.structure.permute(params, groups, {'stream': [1, 0, 2]})
  np.testing.assert_array_equal(moved['w'], [[4, 3, 5], [1, 0, 2], [7, 6, 8]])
  with pytest.raises(
    ValueError, match=r'stream is on axes \[0, 1\] of w: match'
  ):
    landscape.align(params, params, groups)


def test_pinned_groups_stay_in_place():
  a, b = small(0), small(1)
  groups = by_axes(a)
  free = {'units': groups['units']._replace(pins=frozenset({'reduced'}))}
  assert landscape.align(a, b, free).permutations['units'].tolist() != [
    0,
    1,
    2,
    3,
    4,
  ]
  pinned = {
    'units': groups['units']._replace(pins=frozenset({'iota', 'reduced'}))
  }
  found = landscape.align(a, b, pinned)
  assert found.permutations == {}
  chex.assert_trees_all_equal(found.params, b)


def test_each_layer_of_a_stack_is_matched_on_its_own():
  """As two networks that are matched separately."""
  layers = [(small(i), small(i + 2)) for i in range(2)]
  a, b = (
    jax.tree.map(lambda *x: np.stack(x), *(pair[i] for pair in layers))
    for i in range(2)
  )
  groups = by_axes(
    a,
    {
      'in': ('layers', None, 'units'),
      'bias': ('layers', 'units'),
      'out': ('layers', 'units', None),
    },
  )
  groups['layers'] = groups['layers']._replace(pins=frozenset({'loop'}))
  groups['units'] = groups['units']._replace(varies=('layers',))
  found = landscape.align(a, b, groups)
  assert found.permutations['units'].shape == (2, 5)
  for i, (x, y) in enumerate(layers):
    alone = landscape.align(x, y, by_axes(x))
    np.testing.assert_array_equal(
      found.permutations['units'][i], alone.permutations['units']
    )
    chex.assert_trees_all_equal(
      jax.tree.map(lambda z, i=i: z[i], found.params), alone.params
    )


@pytest.mark.slow
def test_alignment_undoes_a_permutation_of_lenet():
  model = models.lenet_300_100(input_shape=(6, 6, 1))
  shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
  a = draw(shapes)
  groups = lth.structure.chain(a, ['fc1', 'fc2', 'output'])
  b, permutations = shuffled(a, groups)
  x = jax.random.normal(jax.random.key(1), (64, 6, 6, 1))
  predict = jax.jit(lambda p: jnp.argmax(model.apply(p, {}, x)[0], -1))
  np.testing.assert_array_equal(predict(a), predict(b))
  labels = predict(a)
  error = jax.jit(lambda p: jnp.mean(predict(p) != labels))
  assert landscape.error_barrier(error, a, b, points=5).barrier > 0.01
  found = landscape.align(a, b, groups)
  chex.assert_trees_all_equal(found.params, a)
  for group, order in permutations.items():
    np.testing.assert_array_equal(
      order[found.permutations[group]].tolist(), range(len(order))
    )
  barrier = landscape.error_barrier(error, a, found.params, points=5).barrier
  assert barrier.tobytes() == bytes(4)


@pytest.mark.slow
def test_images_are_flattened_with_channels_last():
  model = models.conv_2(input_shape=(4, 4, 2))
  shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
  a = draw(shapes)
  groups = lth.structure.chain(a, ['conv1', 'conv2', 'fc1', 'fc2', 'output'])
  assert set(groups) == {'conv1', 'conv2', 'fc1', 'fc2'}
  b, _ = shuffled(a, groups)
  assert landscape.cosine(a, b) < 0.1
  x = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
  logits = jax.jit(lambda p: model.apply(p, {}, x)[0])
  np.testing.assert_allclose(logits(a), logits(b), rtol=1e-3)
  chex.assert_trees_all_equal(landscape.align(a, b, groups).params, a)


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
  groups = lth.structure.chain(a, ['fc1', 'norm1', 'fc2', 'norm2', 'output'])
  assert lth.structure.table(groups).splitlines()[1:] == [
    'fc1       6  --    0/fc1/bias[0], 0/fc1/kernel[1], 0/norm1/bias[0],'
    ' 0/norm1/scale[0], 1/norm1/mean[0], 1/norm1/var[0], 0/fc2/kernel[0]',
    'fc2       6  --    0/fc2/bias[0], 0/fc2/kernel[1], 0/norm2/bias[0],'
    ' 0/norm2/scale[0], 1/norm2/mean[0], 1/norm2/var[0], 0/output/kernel[0]',
  ]
  b, _ = shuffled(a, groups)
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
  chex.assert_trees_all_equal(landscape.align(a, b, groups).params, a)


def test_dead_units_stay_where_they_are():
  a, b = small(0), small(0)
  for x in (a, b):
    x['in'][:, :4], x['bias'][:4], x['out'][:4] = 0, 0, 0
  found = landscape.align(a, b, by_axes(a))
  np.testing.assert_array_equal(found.permutations['units'], range(5))


def test_networks_to_align_have_to_be_alike_and_finite():
  a = small()
  with pytest.raises(ValueError, match='bias is in the first only'):
    landscape.align(a, {k: a[k] for k in ('in', 'out')}, by_axes(a))
  b = a | {'out': a['out'] * np.nan}
  with pytest.raises(ValueError, match=r'not finite: out\. Did the training'):
    landscape.align(a, b, by_axes(a))
