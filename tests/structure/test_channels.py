"""Channels are chosen by their scales, and go with all that belongs to them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax import models, structure

NORMS = ('norm1', 'norm2')
LAYERS = ('conv1', 'norm1', 'conv2', 'norm2', 'output')


def apply(params, x):
  """Two normalized convolutions; a dense layer reads every position."""
  for i in '12':
    norm = params[f'norm{i}']
    x = jax.lax.conv_general_dilated(
      x,
      params[f'conv{i}']['kernel'],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = x - 0.1  # As if this were the running mean.
    x = jax.nn.relu((x + 0.1) * norm['scale'] + norm['bias'])
  return x.reshape(len(x), -1) @ params['output']['kernel']


@pytest.fixture(scope='module')
def params():
  rng = np.random.default_rng(0)
  shapes = {
    'conv1': {'kernel': (3, 3, 2, 6)},
    'norm1': {'scale': (6,), 'bias': (6,)},
    'conv2': {'kernel': (3, 3, 6, 4)},
    'norm2': {'scale': (4,), 'bias': (4,)},
    'output': {'kernel': (5 * 5 * 4, 3)},
  }
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def test_largest_scales_of_all_layers(params):
  sizes = np.concatenate([np.abs(params[norm]['scale']) for norm in NORMS])
  for sparsity, removed in [(0.0, 0), (0.3, 3), (0.5, 5)]:
    masks = structure.channel_masks(params, sparsity)
    assert masks['conv1']['kernel'] is masks['norm1']['bias'] is None
    kept = np.concatenate([masks[n]['scale'] for n in NORMS])
    np.testing.assert_array_equal(kept, sizes >= np.sort(sizes)[removed])


def test_equal_scales_still_give_exact_counts():
  """As at initialization: no threshold would tell ten ones apart."""
  params = {'norm1': {'scale': jnp.ones(6)}, 'norm2': {'scale': jnp.ones(4)}}
  masks = structure.channel_masks(params, 0.3)
  assert lth.masks.alive_by_name(masks) == {'norm1/scale': 6, 'norm2/scale': 1}
  assert masks['norm2']['scale'].tolist() == [True, False, False, False]


def test_no_layer_loses_its_largest_channel():
  params = {
    'norm1': {'scale': jnp.array([1.0, 2.0, 3.0, 4.0])},
    'norm2': {'scale': jnp.array([0.1, -0.2])},
  }
  masks = structure.channel_masks(params, 0.5)
  assert masks['norm1']['scale'].tolist() == [False, False, True, True]
  assert masks['norm2']['scale'].tolist() == [False, True]


def test_scales_that_are_not_numbers():
  params = {'norm': {'scale': jnp.array([1.0, jnp.nan, 2.0])}}
  with pytest.raises(ValueError, match=r'NaN in norm/scale \(1\)'):
    structure.channel_masks(params, 0.5)


def test_replicates_choose_on_their_own(params):
  both = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), params)
  masks = jax.vmap(lambda p: structure.channel_masks(p, 0.5))(both)
  alone = structure.channel_masks(params, 0.5)['norm1']['scale']
  found = masks['norm1']['scale']
  np.testing.assert_array_equal(found, [alone, alone[::-1]])


@pytest.mark.slow
def test_it_is_the_network_without_the_channels(params):
  """Same outputs, and as many multiply-adds, as one built smaller."""
  channels = structure.channel_masks(params, 0.5)
  masks = structure.mask_channels(
    params, channels, structure.chain(params, LAYERS)
  )
  a, b = (np.flatnonzero(channels[n]['scale']) for n in NORMS)
  assert 0 < len(a) < 6
  assert 0 < len(b) < 4
  output = params['output']['kernel'].reshape(25, 4, 3)
  small = {
    'conv1': {'kernel': params['conv1']['kernel'][..., a]},
    'norm1': jax.tree.map(lambda x: x[a], params['norm1']),
    'conv2': {'kernel': params['conv2']['kernel'][:, :, a][..., b]},
    'norm2': jax.tree.map(lambda x: x[b], params['norm2']),
    'output': {'kernel': output[:, b].reshape(-1, 3)},
  }
  x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 5, 5, 2)))
  np.testing.assert_allclose(
    apply(lth.masks.apply(masks, params), x), apply(small, x), rtol=1e-4
  )
  cost = lth.accounting.multiply_adds(apply, params, x[:1], masks=masks)
  built = lth.accounting.multiply_adds(apply, small, x[:1])
  assert cost.alive == built.dense
  assert cost.total_dense > cost.total > 0


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    (lambda m: m.astype(int), 'norm1/scale: mask of dtype int32, not bool'),
    (lambda m: m[:2], r'norm1/scale: mask of shape \(2,\), params of'),
    (lambda m: None, '`channels` are None at every leaf, but must have a mask'),
  ],
)
def test_channels_that_are_none(params, change, text):
  channels = structure.channel_masks(params, 0.5, 'norm1/scale')
  with pytest.raises(ValueError, match=text):
    structure.mask_channels(
      params,
      jax.tree.map(change, channels),
      structure.chain(params, LAYERS),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('where', 'name', 'kernels'),
  [
    (lth.masks.scales, 'vgg_11', 8 + 1),
    (lth.masks.scales, 'resnet_20', 1 + 2 * 9 + 2),
    ('blocks/*/norm1/scale', 'resnet_20', 2 * 9),
    ('blocks/*/norm2/scale', 'wide_resnet_22_2', 2 * 9),
  ],
)
def test_all_weights_of_a_channel_go(where, name, kernels):
  """The network is the same as without scales and biases alone."""
  size = 32 if name == 'vgg_11' else 8
  model = getattr(models, name)((size, size, 3))
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  params, state = jax.tree.map(
    lambda x: rng.uniform(0.5, 1, x.shape).astype(x.dtype), (params, state)
  )
  params = jax.tree.map(
    lambda x: x * rng.normal(size=x.shape).astype(x.dtype), params
  )
  images = rng.normal(size=(2, size, size, 3)).astype(np.float32)
  apply = jax.jit(lambda p: model.apply(p, state, images)[0])
  groups = lth.structure.groups(
    lambda p, x: model.apply(p, state, x)[0], params, images, sums=False
  )
  channels = structure.channel_masks(params, 0.3, where)
  masks = structure.mask_channels(params, channels, groups)
  vectors = jax.tree.map(lambda m: m if m.ndim == 1 else None, masks)
  assert len(jax.tree.leaves(vectors)) == 2 * len(jax.tree.leaves(channels))
  assert len(jax.tree.leaves(masks)) - len(jax.tree.leaves(vectors)) == kernels
  whole, without, less = (
    apply(p)
    for p in (
      params,
      lth.masks.apply(masks, params),
      lth.masks.apply(vectors, params),
    )
  )
  np.testing.assert_allclose(without, less, rtol=1e-4, atol=1e-4)
  assert (whole != less).all()


def test_channels_without_a_group(params):
  channels = structure.channel_masks(params, 0.5)
  groups = structure.chain(params, LAYERS)
  del groups['conv1']
  message = (
    r'No group holds the channels of norm1/scale\. The groups are conv2; make'
  )
  with pytest.raises(ValueError, match=message):
    structure.mask_channels(params, channels, groups)
  parts = {'conv1': groups['conv2'], 'conv2': groups['conv2']}
  with pytest.raises(ValueError, match='norm1/scale'):
    structure.mask_channels(params, channels, parts)


def test_scales_of_one_group_agree(params):
  """As in a residual stream, where channels are added up."""
  params = {f'norm{i}': {'scale': np.arange(4.0) % 3} for i in (1, 2)}
  axes = {'norm1/scale': ('stream',), 'norm2/scale': ('stream',)}
  groups = lth.structure.by_axes(params, axes)
  keep = np.array([True, False, True, True])
  channels = {f'norm{i}': {'scale': keep} for i in (1, 2)}
  masks = structure.mask_channels(params, channels, groups)
  chex.assert_trees_all_equal(masks, channels)
  other = {**channels, 'norm2': {'scale': ~keep}}
  message = (
    'chosen separately: norm1/scale and norm2/scale of stream. Choose scales'
  )
  with pytest.raises(ValueError, match=message):
    structure.mask_channels(params, other, groups)
  with pytest.raises(ValueError, match=message):  # They may be.
    jax.eval_shape(
      lambda c: structure.mask_channels(params, c, groups), channels
    )


def test_l1_by_hand():
  """One step of SGD at 0.5 on a gradient of 1, with a penalty of 0.1."""
  params = {
    'conv': {'kernel': jnp.ones((1, 2))},
    'norm': {'scale': jnp.array([2.0, -2.0, 0.0]), 'bias': jnp.ones(3)},
  }
  tx = optax.chain(structure.add_l1(0.1), optax.sgd(0.5))
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates['norm']['scale'], [-0.55, -0.45, -0.5])
  np.testing.assert_array_equal(updates['norm']['bias'], [-0.5] * 3)
  np.testing.assert_array_equal(updates['conv']['kernel'], [[-0.5] * 2])


def test_l1_is_the_gradient_of_the_penalty(params):
  def penalty(params):
    return 0.01 * sum(jnp.abs(params[n]['scale']).sum() for n in NORMS)

  zeros = jax.tree.map(jnp.zeros_like, params)
  tx = structure.add_l1(0.01)
  updates, _ = tx.update(zeros, tx.init(params), params)
  jax.tree.map(
    np.testing.assert_array_equal, updates, jax.grad(penalty)(params)
  )


@pytest.mark.slow
def test_removed_channels_stay_at_zero_under_the_penalty(params):
  masks = structure.mask_channels(
    params,
    structure.channel_masks(params, 0.5),
    structure.chain(params, LAYERS),
  )
  tx = lth.static(optax.chain(structure.add_l1(), optax.adam(0.1)), masks)
  params = lth.masks.apply(masks, params)
  updates, _ = tx.update(
    jax.tree.map(jnp.ones_like, params), tx.init(params), params
  )
  after = optax.apply_updates(params, updates)
  for name in NORMS:
    alive = np.asarray(masks[name]['scale'])
    assert not np.asarray(after[name]['scale'])[~alive].any()
    assert (after[name]['scale'] != params[name]['scale'])[alive].all()


def test_no_scale_to_go_by():
  with pytest.raises(ValueError, match='No leaf of the params was selected'):
    structure.channel_masks({'fc': {'kernel': jnp.ones((2, 2))}}, 0.5)
  message = '`add_l1` found no scale of a normalization in the params.* are w. '
  with pytest.raises(ValueError, match=message):
    structure.add_l1().init({'w': jnp.ones((2, 2))})
  with pytest.raises(
    ValueError, match=r"match no leaf: 'b\*'. The leaves are w"
  ):
    structure.add_l1(where='b*').init({'w': jnp.ones((2, 2))})


@pytest.mark.parametrize('sparsity', [-0.1, 1.0, 1.5])
def test_sparsity_out_of_range(params, sparsity):
  with pytest.raises(ValueError, match=rf'`sparsity` was {sparsity}, but must'):
    structure.channel_masks(params, sparsity)


def test_fewer_channels_than_layers(params):
  with pytest.raises(ValueError, match='leaves 1 weights for 2 layers'):
    structure.channel_masks(params, 0.9)


def test_l1_with_a_strength_that_may_change():
  params = {'norm': {'scale': jnp.array([2.0, -2.0]), 'bias': jnp.ones(2)}}
  grads = jax.tree.map(jnp.zeros_like, params)
  inject = optax.inject_hyperparams(structure.add_l1)
  schedule = optax.piecewise_constant_schedule(0.5, {1: 0.5})
  tx = optax.chain(inject(strength=schedule), optax.scale(2.0))
  update, state = jax.jit(tx.update), tx.init(params)
  for expected in ([1.0, -1.0], [0.5, -0.5]):
    updates, state = update(grads, state, params)
    np.testing.assert_array_equal(updates['norm']['scale'], expected)
    np.testing.assert_array_equal(updates['norm']['bias'], [0.0, 0.0])
  tx = inject(strength=0.25, where='*/bias')
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_array_equal(updates['norm']['bias'], [0.25, 0.25])
  # As optax finds out what in a state has the structure of the params.
  optax.tree.map_params(tx, lambda x: x, tx.init(params))


def test_l1_leaves_what_has_no_gradient():
  params = {'a': {'scale': jnp.ones(2)}, 'b': {'scale': jnp.ones(2)}, 'c': None}
  grads = {'a': {'scale': None}, 'b': {'scale': jnp.zeros(2)}, 'c': None}
  updates, _ = structure.add_l1(0.5).update(grads, optax.EmptyState(), params)
  assert updates['a']['scale'] is updates['c'] is None
  np.testing.assert_array_equal(updates['b']['scale'], [0.5, 0.5])


def test_l1_that_cannot_be():
  with pytest.raises(ValueError, match='`strength` was -1, but must not be'):
    structure.add_l1(-1)
  with pytest.raises(ValueError, match='`add_l1` needs the current params'):
    structure.add_l1().update({}, optax.EmptyState())
