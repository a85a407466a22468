"""Multiply-adds, training cost, bytes and exploration: the papers' numbers."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import slow_but

import lthjax as lth
from lthjax import accounting, densities, deploy, models, trees
from lthjax.accounting import step_cost

KEY = jax.random.key(0)


def shaped(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def kernel_shapes(params):
  return {
    name: leaf.shape
    for name, leaf in trees.by_name(params).items()
    if lth.masks.kernels(name, leaf)
  }


def random_masks(params, density=0.3, seed=0):
  """Masks in NumPy, each entry by itself."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lth.masks.full, params)
  return jax.tree.map(
    lambda m: m and jnp.asarray(rng.random(m.shape) < density),
    shapes,
    is_leaf=trees.is_none,
  )


@pytest.fixture(scope='module')
def resnet_50():
  """The cost of ResNet-50, and its params."""
  model = models.resnet_50()
  params, state = jax.eval_shape(model.init, KEY)
  image = shaped(1, 224, 224, 3)
  return accounting.multiply_adds(model.apply, params, state, image), params


# The forward pass.


@pytest.mark.parametrize(
  ('name', 'number'),
  slow_but(
    {
      'lenet_300_100': 266_200,
      'resnet_20': 40_813_184,
      'resnet_50': 4_089_184_256,
      'vgg_16': 313_201_664,
      'wide_resnet_22_2': 157_730_048,
    }.items(),
    ['lenet_300_100', 'resnet_20'],
    several=True,
  ),
)
def test_networks(name, number):
  size = {'lenet_300_100': (28, 28, 1), 'resnet_50': (224, 224, 3)}
  model = getattr(models, name)()
  params, state = jax.eval_shape(model.init, KEY)
  image = shaped(3, *size.get(name, (32, 32, 3)))
  cost = accounting.multiply_adds(model.apply, params, state, image)
  assert cost.total_dense == cost.total == 3 * number
  assert cost.other == 0
  assert set(cost.dense) == set(kernel_shapes(params))


def test_vgg_16_layer_by_layer():
  model = models.vgg_16()
  params, state = jax.eval_shape(model.init, KEY)
  cost = accounting.multiply_adds(
    model.apply, params, state, shaped(1, 32, 32, 3)
  )
  sizes = {'1': 32, '2': 16, '3': 8, '4': 4, '5': 2}
  for name, shape in kernel_shapes(params).items():
    positions = sizes[name[4]] ** 2 if name.startswith('conv') else 1
    assert cost.dense[name] == positions * math.prod(shape), name


# Sparsity; then the share of the dense multiply-adds with ERK, with ERK where
# the first layer is dense, and with uniform where the first layer is dense; and
# the number of layers that ERK leaves dense.
RESNET_50 = [
  (0.8, 0.4138, 0.4178, 0.2231, 8),
  (0.9, 0.2418, 0.2581, 0.1260, 1),
  (0.95, 0.1217, 0.1438, 0.0774, 0),
  (0.965, 0.0852, 0.1091, 0.0628, 0),
  (0.99, 0.0243, 0.0512, 0.0386, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('sparsity', 'erk', 'erk_first', 'uniform_first', 'dense_layers'), RESNET_50
)
def test_resnet_50_in_the_distributions_of_the_papers(
  resnet_50, sparsity, erk, erk_first, uniform_first, dense_layers
):
  cost, params = resnet_50
  shapes = kernel_shapes(params)
  spread = densities.erk(shapes, sparsity)
  assert sum(density == 1 for density in spread.values()) == dense_layers
  assert round(cost.at(spread) / cost.total_dense, 4) == erk

  # The other layers of ERK make up for the weights of the first one ...
  size = sum(map(math.prod, shapes.values()))
  first = math.prod(shapes['conv1/kernel'])
  others = 1 - ((1 - sparsity) * size - first) / (size - first)
  spread = densities.custom({'conv1/*': 1.0}, densities.erk)(shapes, others)
  assert round(cost.at(spread) / cost.total_dense, 4) == erk_first

  # ... and those of uniform do not.
  spread = densities.custom({'conv1/*': 1.0})(shapes, sparsity)
  assert round(cost.at(spread) / cost.total_dense, 4) == uniform_first


def test_wide_resnet_in_the_distributions_of_the_papers():
  model = models.wide_resnet_22_2()
  params, state = jax.eval_shape(model.init, KEY)
  cost = accounting.multiply_adds(
    model.apply, params, state, shaped(1, 32, 32, 3)
  )
  shapes = kernel_shapes(params)
  shares = {
    spread: cost.at(spread(shapes, 0.8)) / cost.total_dense
    for spread in (densities.erk, densities.uniform)
  }
  assert round(shares[densities.erk], 2) == 0.35
  assert round(shares[densities.uniform], 2) == 0.2


def positions_of_resnet_20(name):
  """Pixels that the output of a layer has."""
  if name.startswith('output'):
    return 1
  block = int(name.split('/')[1]) if name.startswith('blocks') else 0
  return (32 // 2 ** (block // 3)) ** 2


def test_masks_count_each_alive_weight_as_often_as_it_is_used():
  model = models.resnet_20()
  params, state = jax.eval_shape(model.init, KEY)
  masks = random_masks(params)
  cost = accounting.multiply_adds(
    model.apply, params, state, shaped(2, 32, 32, 3), masks=masks
  )
  alive = lth.masks.alive_by_name(masks)
  assert cost.alive == {
    name: 2 * positions_of_resnet_20(name) * n for name, n in alive.items()
  }
  assert cost.total == sum(cost.alive.values()) < cost.total_dense


class Layer(nn.Module):
  """Attention, and a dense layer in lower precision."""

  @nn.compact
  def __call__(self, x, _):
    x = nn.MultiHeadDotProductAttention(num_heads=2)(x)
    return nn.relu(nn.Dense(8, dtype=jnp.bfloat16)(x)).astype(x.dtype), None


class Layers(nn.Module):
  """Three layers, scanned, and one more."""

  @nn.compact
  def __call__(self, x):
    layers = nn.scan(
      nn.remat(Layer),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=3,
    )
    return nn.Dense(4)(layers()(x, None)[0])


def test_masks_of_scanned_layers():
  module, x = Layers(), shaped(2, 5, 8)
  params = jax.eval_shape(module.init, KEY, x)
  masks = random_masks(params)
  cost = accounting.multiply_adds(module.apply, params, x, masks=masks)
  alive = lth.masks.alive_by_name(masks)
  assert len(alive) == 6
  assert cost.alive == {name: 10 * n for name, n in alive.items()}
  assert cost.other == 3 * 2 * (2 * 2 * 5 * 5 * 4)
  assert cost.total == sum(cost.alive.values()) + cost.other


def test_masks_are_seen_where_the_program_uses_them():
  def apply(params, x):
    w = params['w']
    return x[:, :2] @ w[:2] + x[:, 2:] @ w[2:] + (x @ w)[:, ::-1] @ w.T @ w

  mask = jnp.zeros((4, 3), bool).at[1].set(True)
  cost = accounting.multiply_adds(
    apply, {'w': shaped(4, 3)}, shaped(5, 4), masks={'w': mask}
  )
  assert cost.dense == {'w': 5 * 12 * 4}
  assert cost.alive == {'w': 5 * 3 * 4}


def test_all_true_masks_cost_what_the_dense_network_does():
  model = models.lenet_300_100()
  params, state = jax.eval_shape(model.init, KEY)
  masks = lth.masks.full(model.init(KEY)[0])
  image = shaped(1, 28, 28, 1)
  dense = accounting.multiply_adds(model.apply, params, state, image)
  masked = accounting.multiply_adds(
    model.apply, params, state, image, masks=masks
  )
  assert masked == dense


def test_leaves_without_a_mask():
  def apply(params, x):
    return x @ params['w'] @ params['v']

  params = {'w': shaped(4, 4), 'v': shaped(4, 4), 'aux': shaped(3, 3)}
  masks = {'w': jnp.eye(4, dtype=bool), 'v': None, 'aux': None}
  x = shaped(5, 4)
  cost = accounting.multiply_adds(apply, params, x, masks=masks)
  assert cost == ({'w': 80}, {'w': 20}, 80)
  cost = accounting.multiply_adds(
    apply, params, x, masks=masks, where=lth.masks.kernels
  )
  dense = {'w': 80, 'v': 80, 'aux': 0}
  assert cost == (dense, {**dense, 'w': 20}, 0)
  message = (
    'w have masks, but `where` leaves them out. Choose at least the leaves that'
    ' have masks, or leave `where` to its default.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    accounting.multiply_adds(apply, params, x, masks=masks, where='v')
  with pytest.raises(ValueError, match='The masks do not fit the params'):
    accounting.multiply_adds(apply, params, x, masks={'w': masks['w']})


def test_masks_of_vectors_alone_cost_what_the_dense_network_does():
  def apply(params, x):
    return x @ params['w'] + params['bias']

  params, x = {'w': shaped(4, 4), 'bias': shaped(4)}, shaped(5, 4)
  masks = {'w': None, 'bias': jnp.arange(4) < 2}
  dense = accounting.multiply_adds(apply, params, x)
  assert dense == ({'w': 80}, {'w': 80}, 0)
  assert accounting.multiply_adds(apply, params, x, masks=masks) == dense


def test_densities_of_unknown_leaves_are_refused():
  cost = accounting.MultiplyAdds({'w': 8}, {'w': 8}, 0)
  message = (
    'There are densities for v, but the leaves counted by name are w. Choose'
    ' the same with `where=`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    cost.at({'w': 0.5, 'v': 0.5})


def test_summary_of_multiply_adds():
  cost = accounting.MultiplyAdds(
    {'conv/kernel': 12_000, 'aux': 0}, {'conv/kernel': 3_000, 'aux': 0}, 3_000
  )
  assert cost.summary().splitlines() == [
    'leaf          dense  alive     share',
    'conv/kernel  12,000  3,000   25.00 %',
    'aux               0      0',
    'other         3,000  3,000  100.00 %',
    'total        15,000  6,000   40.00 %',
  ]


# Training.


def test_training_costs():
  f_d, f_s = 1.0, 0.125
  assert step_cost.dense(f_d) == 3
  assert step_cost.static(f_s) == 0.375
  assert step_cost.rigl(f_d, f_s, update_every=1) == (0.375 + 1.25) / 2
  assert step_cost.rigl(f_d, f_s, update_every=100) == (37.5 + 1.25) / 101
  assert step_cost.snfs(f_d, f_s) == 1.25
  assert step_cost.straight_through(f_d, f_s) == 1.25
  assert step_cost.top_kast(f_s, 0.25) == 0.5
  assert step_cost.ac_dc(f_d, f_s, dense_share=0.75) == 2.25 + 0.09375


def test_methods_in_order_of_their_cost():
  f_d, f_s = 1.0, 0.1
  costs = [
    step_cost.static(f_s),
    step_cost.top_kast(f_s, 0.15),
    step_cost.rigl(f_d, f_s, update_every=1),
    step_cost.snfs(f_d, f_s),
    step_cost.ac_dc(f_d, f_s, dense_share=0.5),
    step_cost.dense(f_d),
  ]
  assert costs == sorted(costs)
  # With all weights alive, nothing is saved.
  assert step_cost.rigl(1.0, 1.0, update_every=7) == 3
  assert step_cost.top_kast(1.0, 1.0) == step_cost.snfs(1.0, 1.0) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
  ('sparsity', 'erk', 'uniform'), [(0.8, 0.42, 0.23), (0.9, 0.24, 0.13)]
)
def test_rigl_on_resnet_50_costs_what_its_authors_say(
  resnet_50, sparsity, erk, uniform
):
  cost, params = resnet_50
  shapes = kernel_shapes(params)
  for expected, spread in (
    (erk, densities.erk),
    (uniform, densities.custom({'conv1/*': 1.0})),
  ):
    sparse = cost.at(spread(shapes, sparsity))
    step = step_cost.rigl(cost.total_dense, sparse, update_every=100)
    share = step / step_cost.dense(cost.total_dense)
    assert abs(share - expected) < 0.006


def test_gradual_pruning():
  def cubic(step):
    return 1 - 0.8 * (1 - (1 - step / 100) ** 3)

  mean = np.mean([cubic(t) for t in range(100)])
  cost = step_cost.gradual(lambda density: 10 * density, cubic, steps=100)
  np.testing.assert_allclose(cost, 30 * mean, rtol=1e-6)
  mean = np.mean([cubic(t // 20 * 20) for t in range(100)])
  cost = step_cost.gradual(lambda d: 10 * d, cubic, steps=100, update_every=20)
  np.testing.assert_allclose(cost, 30 * mean, rtol=1e-6)
  constant = optax.constant_schedule(0.5)
  assert step_cost.gradual(lambda d: d, constant, steps=7) == 1.5
  late = step_cost.gradual(lambda d: d, constant, steps=7, update_every=2**31)
  assert late == 1.5


def test_gradual_pruning_asks_once_for_each_density():
  asked = []

  def cost(density):
    asked.append(density)
    return density

  schedule = optax.linear_schedule(1.0, 0.5, transition_steps=50)
  step_cost.gradual(cost, schedule, steps=1000, update_every=10)
  np.testing.assert_allclose(sorted(asked), np.linspace(0.5, 1, 6), rtol=1e-6)


def test_bad_arguments_of_training():
  message = '`update_every` was 0, but must be at least 1'
  with pytest.raises(ValueError, match=message):
    step_cost.rigl(1.0, 0.1, update_every=0)
  with pytest.raises(ValueError, match=message):
    step_cost.gradual(lambda d: d, lambda t: 0.5, steps=9, update_every=0)
  with pytest.raises(ValueError, match='`steps` was 0, but must be at least 1'):
    step_cost.gradual(lambda d: d, lambda t: 0.5, steps=0)
  with pytest.raises(ValueError, match=r'`dense_share` was 1\.5, but must be'):
    step_cost.ac_dc(1.0, 0.1, dense_share=1.5)


# Storage.


def test_bytes_by_hand():
  params = {
    'dense': shaped(100, 10),
    'conv': shaped(3, 3, 8, 4, dtype=jnp.bfloat16),
    'wide': shaped(70_000, 2),
    'vector': shaped(1000),
    'full': shaped(3, 5),
    'bias': shaped(10),
  }
  masks = {
    'dense': jnp.arange(1000).reshape(100, 10) % 10 == 0,
    'conv': jnp.arange(288).reshape(3, 3, 8, 4) < 5,
    'wide': jnp.arange(140_000).reshape(70_000, 2) < 7,
    'vector': jnp.arange(1000) < 1,
    'full': jnp.ones((3, 5), bool),
    'bias': None,
  }
  sizes = deploy.storage(params, masks)
  same = {'full': 60, 'bias': 40}
  assert sizes.dense == {
    'dense': 4000,
    'conv': 576,
    'wide': 560_000,
    'vector': 4000,
    **same,
  }
  assert sizes.bitmask == {
    'dense': 125 + 400,
    'conv': 36 + 10,
    'wide': 17_500 + 28,
    'vector': 125 + 4,
    **same,
  }
  assert sizes.csr == {
    'dense': 100 * 6 + 4 * 11,
    'conv': 5 * 4 + 4 * 5,
    'wide': 7 * 8 + 4 * 3,
    'vector': 6 + 4 * 2,
    **same,
  }
  assert sizes.total == tuple(sum(x.values()) for x in sizes)


@pytest.mark.parametrize(
  ('name', 'shape', 'outputs'),
  [
    ('fc/weight', (3, 50), 3),
    ('attention/query/kernel', (50, 2, 4), 8),
    ('layers/kernel', (3, 50, 4), 12),
    ('w', (3, 50, 4), 4),  # in doubt the last axis
  ],
)
def test_rows_are_outputs_in_any_layout(name, shape, outputs):
  mask = np.zeros(shape, bool)
  mask[0] = True
  sizes = deploy.storage({name: shaped(*shape)}, {name: mask})
  assert sizes.csr[name] == mask.sum() * 6 + 4 * (outputs + 1)


def test_bitmask_is_what_packing_takes():
  params = {'w': jnp.ones((7, 5)), 'v': jnp.ones((3, 4)), 'bias': jnp.ones(5)}
  masks = random_masks(params)
  sizes = deploy.storage(params, masks).bitmask
  packed = trees.by_name(lth.masks.pack(masks))
  for name, alive in lth.masks.alive_by_name(masks).items():
    assert sizes[name] == packed[name].nbytes + 4 * alive


@pytest.mark.slow
@pytest.mark.parametrize(
  ('sparsity', 'spread', 'megabytes'),
  [
    (0.8, densities.erk, 23.683),
    (0.9, densities.erk, 13.499),
    (0.95, densities.erk, 8.399),
    (0.9, densities.custom({'conv1/*': 1.0}), 13.532),
    (0.95, densities.custom({'conv1/*': 1.0}), 8.433),
  ],
)
def test_resnet_50_takes_what_the_authors_of_rigl_say(
  resnet_50, sparsity, spread, megabytes
):
  _, params = resnet_50
  shapes = kernel_shapes(params)
  alive = {
    name: round(density * math.prod(shapes[name]))
    for name, density in spread(shapes, sparsity).items()
  }
  params = {name: shaped(*shape) for name, shape in shapes.items()}
  masks = {
    name: np.arange(math.prod(shape)).reshape(shape) < alive[name]
    for name, shape in shapes.items()
  }
  _, bitmask, _ = deploy.storage(params, masks).total
  # They add one number for each channel, and the bias of the output. (For
  # uniform at 0.8 their 23.685 is 0.2 % less than this comes to.)
  bitmask += 4 * (26_560 + 1_000)
  assert abs(bitmask / 1e6 - megabytes) < 0.003


def test_bytes_need_fitting_masks():
  with pytest.raises(ValueError, match='The masks do not fit the params'):
    deploy.storage({'w': shaped(3, 2)}, {'w': jnp.ones((2, 3), bool)})


def test_summary_of_storage():
  sizes = deploy.Storage(
    {'w': 4000, 'bias': 40}, {'w': 525, 'bias': 40}, {'w': 644, 'bias': 40}
  )
  assert sizes.summary().splitlines() == [
    'leaf   dense  bitmask  csr',
    'w      4,000      525  644',
    'bias      40       40   40',
    'total  4,040      565  684',
  ]


# In-time over-parameterization.


def test_exploration_never_shrinks():
  params = {'w': jnp.ones((10, 10)), 'bias': jnp.ones(10)}
  masks = [random_masks(params, seed=seed) for seed in range(4)]
  explored = accounting.itop_init(masks[0])
  union = np.zeros((10, 10), bool)
  for step in masks:
    explored = accounting.itop_update(explored, step)
    union |= np.asarray(step['w'])
    assert accounting.itop_rate(explored) == union.mean()
  assert explored['bias'] is None


def test_exploration_inside_a_scan():
  masks = {'w': jnp.arange(24).reshape(4, 6) % 3 == 0}
  moved = {'w': jnp.stack([jnp.roll(masks['w'], i, 1) for i in range(2)])}

  @jax.jit
  def run(explored):
    def step(explored, masks):
      return accounting.itop_update(explored, masks), None

    return jax.lax.scan(step, explored, moved)[0]

  explored = run(accounting.itop_init(masks))
  assert accounting.itop_rate(explored) == 2 / 3


def test_starting_copies_the_masks():
  masks = {'w': jnp.ones((2, 2), bool), 'bias': None}
  explored = accounting.itop_init(masks)
  masks['w'].delete()  # donated, say
  assert accounting.itop_rate(explored) == 1


def test_dense_layers_may_count_as_explored():
  params = {
    'w': shaped(4, 5),
    'v': shaped(10, 2),
    'embedding': shaped(9, 9),
    'bias': shaped(5),
  }
  explored = {
    'w': jnp.arange(20).reshape(4, 5) < 5,
    'v': None,
    'embedding': None,
    'bias': None,
  }
  assert accounting.itop_rate(explored) == 0.25
  assert accounting.itop_rate(explored, params) == 25 / 40
  everything = accounting.itop_rate(
    explored, params, where=lambda name, leaf: True
  )
  assert everything == (25 + 81 + 5) / (40 + 81 + 5)


def test_exploration_needs_fitting_masks():
  a, b = jnp.ones((2, 2), bool), jnp.ones((2, 3), bool)
  with pytest.raises(ValueError, match='do not fit'):
    accounting.itop_update({'w': a}, {'w': b})
  with pytest.raises(ValueError, match='do not fit the params'):
    accounting.itop_rate({'w': a}, {'v': shaped(2, 2)})
