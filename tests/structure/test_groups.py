"""Groups by hand, and what is done with the units of a group."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_like

import lthjax as lth
from lthjax import structure as lib

AXES = {'in': (None, 'units'), 'bias': ('units',), 'out': ('units', None)}
SHAPES = {'in': (3, 5), 'bias': (5,), 'out': (5, 2)}

# Two layers with four heads of two features; queries, keys, values are fused.
HEADS = {'layers': (2,), 'qkv': (2, 6, 24), 'out': (2, 8, 6)}


def heads(params):
  """Groups of `HEADS`: heads and features vary from layer to layer."""
  qkv = [
    axis
    for i in (0, 8, 16)
    for axis in (
      lib.Axis('heads', i, 8, inner=2),
      lib.Axis('features', i, 8, units=2),
    )
  ]
  found = lib.by_axes(
    params,
    {
      'layers': ('loop',),
      'qkv': ('loop', None, qkv),
      'out': ('loop', (lib.Axis('heads', inner=2), 'features'), None),
    },
  )
  return {
    'loop': found['loop']._replace(pins=frozenset({'loop'})),
    'heads': found['heads']._replace(varies=('loop',)),
    'features': found['features']._replace(varies=('loop',)),
  }


def attention(params, x, features=2):
  """Attention without softmax, for any number of heads."""
  for qkv, out in zip(params['qkv'], params['out'], strict=True):
    q, k, v = (
      h.reshape(len(x), -1, features) for h in np.split(x @ qkv, 3, axis=-1)
    )
    weights = np.einsum('qhd,khd->hqk', q, k)
    x = x + np.einsum('hqk,khd->qhd', weights, v).reshape(len(x), -1) @ out
  return x


@pytest.fixture
def params():
  return random_like(SHAPES, 0)


def test_by_axes_lists_every_place():
  found = heads(random_like(HEADS, 0))
  sizes = {name: group.size for name, group in found.items()}
  assert sizes == {'loop': 2, 'heads': 4, 'features': 2}
  q, k, _, out = found['heads'].members
  assert (q.leaf, q.axis, out.leaf, out.axis) == ('qkv', 2, 'out', 1)
  assert k.places.tolist() == [[8, 9], [10, 11], [12, 13], [14, 15]]
  assert out.places.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
  features = found['features'].members[-1]
  assert features.places.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
  assert [name for name, _ in lib.by_leaf(found)['layers']] == ['loop']


def test_permute_by_hand():
  params = {
    'in': jnp.array([[1.0, 2.0, 3.0]]),
    'bias': jnp.array([4.0, 5.0, 6.0]),
    # Two pixels of three channels each, flattened.
    'out': jnp.arange(6.0)[:, None],
  }
  groups = lib.by_axes(params, AXES)
  moved = lib.permute(params, groups, {'units': [2, 0, 1]})
  np.testing.assert_array_equal(moved['in'], [[3, 1, 2]])
  np.testing.assert_array_equal(moved['bias'], [6, 4, 5])
  np.testing.assert_array_equal(moved['out'].ravel(), [2, 0, 1, 5, 3, 4])


def test_masks_move_like_their_weights(params):
  groups = lib.by_axes(params, AXES)
  masks = lth.masks.full(params, where=['in', 'out'])
  masks = lth.prune(params, masks, sparsity=0.5)
  order = {'units': [3, 1, 4, 0, 2]}
  moved = lib.permute(masks, groups, order)
  assert moved['bias'] is None
  chex.assert_trees_all_equal(
    lth.masks.apply(moved, lib.permute(params, groups, order)),
    lib.permute(lth.masks.apply(masks, params), groups, order),
  )


def test_a_function_is_the_same_when_each_layer_is_permuted():
  params = random_like(HEADS, 0)
  x = random_like({'x': (5, 6)}, 1)['x']
  groups = heads(params)
  orders = {
    'heads': np.array([[2, 0, 3, 1], [0, 3, 1, 2]]),
    'features': [1, 0],
  }
  moved = jax.tree.map(np.asarray, lib.permute(params, groups, orders))
  assert (moved['qkv'] != params['qkv']).any()
  np.testing.assert_allclose(
    attention(moved, x), attention(params, x), rtol=1e-3
  )
  # Orders of units are by layer before the layers themselves are permuted.
  swapped = lib.permute(params, groups, {**orders, 'loop': [1, 0]})
  chex.assert_trees_all_equal(swapped, jax.tree.map(lambda x: x[::-1], moved))


def test_removed_units_are_as_if_zeroed():
  params = random_like(HEADS, 0)
  x = random_like({'x': (5, 6)}, 1)['x']
  groups = heads(params)
  keeps = {
    'heads': np.array([[1, 0, 1, 1], [0, 1, 1, 1]], bool),
    'features': np.array([True, False]),
  }
  small = lib.cut(params, groups, keeps)
  assert {n: x.shape for n, x in small.items()} == {
    'layers': (2,),
    'qkv': (2, 6, 9),
    'out': (2, 3, 6),
  }
  masks = lib.masks(keeps, params, groups)
  assert masks['layers'] is None
  zeroed = jax.tree.map(np.asarray, lth.masks.apply(masks, params))
  np.testing.assert_allclose(
    attention(small, x, features=1), attention(zeroed, x), rtol=1e-3
  )
  both = lib.cut(params, groups, {**keeps, 'loop': np.array([False, True])})
  chex.assert_trees_all_equal(both, jax.tree.map(lambda x: x[1:], small))


def test_scores_are_norms_over_all_members(params):
  groups = lib.by_axes(params, AXES)
  scores = lib.norm(params, groups)['units']
  whole = np.concatenate([params['in'], params['bias'][None], params['out'].T])
  np.testing.assert_allclose(scores, np.linalg.norm(whole, axis=0), rtol=1e-6)
  stacked = random_like(HEADS, 0)
  found = lib.norm(stacked, heads(stacked))
  assert {n: x.shape for n, x in found.items()} == {
    'loop': (2,),
    'heads': (2, 4),
    'features': (2, 2),
  }
  qkv = stacked['qkv'].reshape(2, 6, 3, 4, 2)
  out = stacked['out'].reshape(2, 4, 2, 6)
  squares = (qkv**2).sum((1, 2, 4)) + (out**2).sum((2, 3))
  np.testing.assert_allclose(found['heads'], squares**0.5, rtol=1e-6)


def test_masks_are_made_under_jit_and_vmap(params):
  groups = lib.by_axes(params, AXES)
  masks = np.random.default_rng(0).random((4, 5)) < 0.5
  make = jax.jit(jax.vmap(lambda m: lib.masks({'units': m}, params, groups)))
  for i, mask in enumerate(masks):
    chex.assert_trees_all_equal(
      jax.tree.map(lambda x, i=i: x[i], make(masks)),
      lib.masks({'units': mask}, params, groups),
    )


def test_chain_needs_every_layer_once():
  params = {
    'norm': {'scale': np.ones(2)},
    'fc1': {'kernel': np.ones((2, 3)), 'more': np.ones((2, 3))},
    'block': {'fc2': {'kernel': np.ones((3, 3))}},
    'output': {'kernel': np.ones((3, 2))},
  }
  with pytest.raises(
    ValueError,
    match='output/kernel belongs to no layer; block/fc2/kernel belongs to block'
    ' and fc2; norm comes first, but has no kernel; fc1 has several kernels;'
    ' fc3 has no leaf',
  ):
    lib.chain(params, ['norm', 'fc1', 'block', 'fc2', 'fc3'])
  with pytest.raises(ValueError, match=r'a chain: .* none was given\. Name'):
    lib.chain(params, [])


@pytest.mark.parametrize(
  ('axes', 'text'),
  [
    (
      {'in': ('units', None), 'bias': (None, None), 'fc': ('units',)},
      r'there is no leaf fc; out is not described; bias has shape \(5,\), but'
      ' 2 axes',
    ),
    (
      AXES | {'in': ('units', 'units')},
      r'in\[1\] has length 5, which is not a multiple of the 3 of units',
    ),
    (
      AXES | {'in': (None, lib.Axis('units', 2, 4))},
      r"in\[1\] ends before Axis\(group='units', start=2, size=4",
    ),
    (AXES | {'in': (None, lib.Axis('more', inner=6))}, 'more has no units'),
  ],
)
def test_axes_have_to_fit(params, axes, text):
  with pytest.raises(ValueError, match=f'do not fit the params: .*{text}'):
    lib.by_axes(params, axes)


def test_groups_have_units():
  params = {'in': np.ones((2, 0)), 'out': np.ones((0, 2))}
  with pytest.raises(ValueError, match='units has no units'):
    lib.by_axes(params, {'in': (None, 'units'), 'out': ('units', None)})


USES = {
  'permute': lambda p, g: lib.permute(p, g, {}),
  'masks': lambda p, g: lib.masks({}, p, g),
  'cut': lambda p, g: lib.cut(p, g, {}),
  'norm': lib.norm,
  'align': lambda p, g: lth.landscape.align(p, p, g),
}


@pytest.mark.parametrize('use', USES.values(), ids=USES)
def test_groups_have_to_fit(params, use):
  groups = lib.by_axes(params, AXES)
  less = {'in': params['in'][:, :3], 'bias': params['bias'][0]}
  message = (
    r'in\[1\] has length 3, but units at position 4; bias has shape \(\), but'
    ' units on axis 0; units is on out, which is not a leaf'
  )
  with pytest.raises(ValueError, match=message):
    use(less, groups)
  for wrong in (None, 'units', 3, AXES, [groups]):
    with pytest.raises(
      TypeError, match=r'`groups`.* must map names to `lthjax'
    ):
      use(params, wrong)


@pytest.mark.parametrize(
  ('orders', 'text'),
  [
    ({'unit': [0]}, r'unit is not a group \(units\)'),
    ({'units': [0, 1, 1, 2, 3]}, 'that of units does not hold each of 0 to 4'),
    ({'units': [0, 1, 2, 3]}, 'that of units does not hold each of 0 to 4'),
    ({'units': [[0, 1, 2, 3, 4]]}, 'that of units does not hold each of 0 to'),
    ({'units': None}, 'that of units does not hold each of 0 to 4'),
  ],
)
def test_permutations_have_to_fit(params, orders, text):
  with pytest.raises(ValueError, match=text):
    lib.permute(params, lib.by_axes(params, AXES), orders)


@pytest.mark.parametrize(
  ('masks', 'text'),
  [
    ({'unit': np.ones(5, bool)}, 'unit is not a group (units)'),
    ({'units': np.ones(4, bool)}, 'units has bool (4,), not bool (5,)'),
    ({'units': np.ones(5)}, 'units has float64 (5,), not bool (5,)'),
    ({'units': [True] * 5}, 'units has list (5,), not bool (5,)'),
    ({'units': None}, 'units has NoneType (), not bool (5,)'),
    (np.ones(5, bool), '`masks of units` was bool[5], but must map'),
    (None, '`masks of units` was None, but must map'),
  ],
)
def test_masks_of_units_have_to_fit(params, masks, text):
  groups = lib.by_axes(params, AXES)
  for f in (
    lambda: lib.masks(masks, params, groups),
    lambda: lib.cut(params, groups, masks),
  ):
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
      f()


def test_layers_keep_equally_many_units():
  params = random_like(HEADS, 0)
  keeps = np.array([[1, 1, 1, 1], [0, 1, 1, 1]], bool)
  with pytest.raises(ValueError, match=r'heads keeps \[4, 3\]'):
    lib.cut(params, heads(params), {'heads': keeps})
  with pytest.raises(ValueError, match='features keeps nothing'):
    lib.cut(params, heads(params), {'features': np.zeros(2, bool)})
  with pytest.raises(ValueError, match='`keeps` of heads were traced'):
    jax.jit(lambda m: lib.cut(params, heads(params), {'heads': m}))(keeps)


@pytest.mark.parametrize('wrong', [None, 'w', 3.0, ['w'], {'w': 'w'}, {}])
def test_params_are_arrays(wrong):
  for f in (
    lambda p: lib.groups(lambda p: p, p),
    lambda p: lib.chain(p, ['w']),
    lambda p: lib.by_axes(p, {}),
    lambda p: lib.norm(p, {}),
    lambda p: lib.cut(p, {}, {}),
  ):
    with pytest.raises(TypeError, match='`params` must be a tree of arrays'):
      f(wrong)


def test_wrong_types(params):
  groups = lib.by_axes(params, AXES)
  with pytest.raises(
    TypeError, match="`apply` was 'f', but must be a function"
  ):
    lib.groups('f', params)
  with pytest.raises(TypeError, match=r'`layers` was .*, but must be a list'):
    lib.chain(params, 'in')
  with pytest.raises(TypeError, match=r'`axes` was .*, but must map names'):
    lib.by_axes(params, [('in', None)])
  with pytest.raises(TypeError, match=r'`permutations` was \[1, 0\], but must'):
    lib.permute(params, groups, [1, 0])
  shapes = jax.eval_shape(lambda: params)
  for f in (lib.norm, lambda p, g: lib.cut(p, g, {})):
    with pytest.raises(TypeError, match='Pass the arrays themselves'):
      f(shapes, groups)
  assert lib.masks({}, shapes, groups) == dict.fromkeys(AXES)
