"""The networks: sizes and weights of the papers, and an oracle in NumPy."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_but

from lthjax import models
from lthjax.models import _resnet

KEY = jax.random.key(0)

# Weights in the kernels of all convolutions together, of each linear layer,
# and in total.
SIZES = {
  'lenet_300_100': (0, [235_200, 30_000, 1_000], 266_200),
  'conv_2': (38_592, [4_194_304, 65_536, 2_560], 4_300_992),
  'conv_4': (259_776, [2_097_152, 65_536, 2_560], 2_425_024),
  'conv_6': (1_144_512, [1_048_576, 65_536, 2_560], 2_261_184),
  'conv_8': (4_683_456, [524_288, 65_536, 2_560], 5_275_840),
  'resnet_20': (270_256, [640], 270_896),
  'resnet_50': (23_454_912, [2_048_000], 25_502_912),
  'vgg_11': (9_217_728, [5_120], 9_222_848),
  'vgg_16': (14_710_464, [5_120], 14_715_584),
  'wide_resnet_22_2': (1_075_632, [1_280], 1_076_912),
}
FAST = ('lenet_300_100', 'conv_2', 'resnet_20')
# Layers in the order of the computation.
LAYERS = {
  'lenet_300_100': ['fc1', 'fc2', 'output'],
  'conv_2': ['conv1', 'conv2', 'fc1', 'fc2', 'output'],
  'conv_4': [*(f'conv{i}' for i in range(1, 5)), 'fc1', 'fc2', 'output'],
  'conv_6': [*(f'conv{i}' for i in range(1, 7)), 'fc1', 'fc2', 'output'],
  'conv_8': [*(f'conv{i}' for i in range(1, 9)), 'fc1', 'fc2', 'output'],
  'resnet_20': [
    'conv1',
    *(f'blocks/{i}/conv{j}' for i in range(9) for j in (1, 2)),
    *(f'blocks/{i}/shortcut' for i in (3, 6)),
    'output',
  ],
  'resnet_50': [
    'conv1',
    *(f'blocks/{i}/conv{j}' for i in range(16) for j in (1, 2, 3)),
    *(f'blocks/{i}/shortcut' for i in (0, 3, 7, 13)),
    'output',
  ],
  'vgg_11': [
    *('conv1_1', 'conv2_1', 'conv3_1', 'conv3_2'),
    *('conv4_1', 'conv4_2', 'conv5_1', 'conv5_2', 'output'),
  ],
  'vgg_16': [
    *('conv1_1', 'conv1_2', 'conv2_1', 'conv2_2', 'conv3_1', 'conv3_2'),
    *('conv3_3', 'conv4_1', 'conv4_2', 'conv4_3'),
    *('conv5_1', 'conv5_2', 'conv5_3', 'output'),
  ],
  'wide_resnet_22_2': [
    'conv1',
    *(f'blocks/{i}/conv{j}' for i in range(9) for j in (1, 2)),
    *(f'blocks/{i}/shortcut' for i in (0, 3, 6)),
    'output',
  ],
}


def norm_of(layer):
  """Name of the normalization that follows a convolution."""
  if layer.endswith('shortcut'):
    return f'{layer}_norm'
  return layer.replace('conv', 'norm')


# Normalizations of the networks that have them.
NORMS = {
  name: [norm_of(layer) for layer in LAYERS[name][:-1]]
  for name in ('resnet_20', 'resnet_50', 'vgg_11', 'vgg_16')
} | {
  'wide_resnet_22_2': [
    *(f'blocks/{i}/norm{j}' for i in range(9) for j in (1, 2)),
    'norm',
  ]
}


def flat(tree):
  """Leaves by path."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def build(name, *args, **kwargs):
  """A network with the shapes of its params and state; no array is made."""
  model = getattr(models, name)(*args, **kwargs)
  return model, *map(flat, jax.eval_shape(model.init, KEY))


@pytest.mark.parametrize('name', slow_but(SIZES, FAST))
def test_weight_counts(name):
  _, params, _ = build(name)
  kernels = [params[f'{layer}/kernel'] for layer in LAYERS[name]]
  conv = sum(kernel.size for kernel in kernels if kernel.ndim == 4)
  linear = [kernel.size for kernel in kernels if kernel.ndim == 2]
  assert (conv, linear, conv + sum(linear)) == SIZES[name]


def test_weight_count_on_digits():
  _, params, _ = build('lenet_300_100', (8, 8, 1))
  assert sum(x.size for x in params.values() if x.ndim == 2) == 50_200


# Outputs of the convolutions of ResNet-50 with one filter.
BOTTLENECKS = [
  n
  for filters, depth in ((1, 3), (2, 4), (4, 6), (8, 3))
  for n in [filters, filters, 4 * filters] * depth
]


@pytest.mark.parametrize(
  ('name', 'width', 'outputs'),
  [
    ('lenet_300_100', 0.5, [150, 50, 10]),
    ('lenet_300_100', 2, [600, 200, 10]),
    ('conv_2', 0.25, [16, 16, 64, 64, 10]),
    ('conv_4', 1.5, [96, 96, 192, 192, 384, 384, 10]),
    ('conv_6', 0.02, [1, 1, 3, 3, 5, 5, 5, 5, 10]),
    ('conv_8', 0.5, [32, 32, 64, 64, 128, 128, 256, 256, 128, 128, 10]),
    pytest.param(
      'resnet_50',
      1 / 64,
      [1, *BOTTLENECKS, 4, 8, 16, 32, 1000],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_width(name, width, outputs):
  _, params, _ = build(name, width=width)
  kernels = [params[f'{layer}/kernel'] for layer in LAYERS[name]]
  assert [kernel.shape[-1] for kernel in kernels] == outputs


def test_a_width_may_be_an_array():
  model = models.lenet_300_100(width=jnp.float32(0.5))
  params, _ = jax.eval_shape(model.init, jax.random.key(0))
  assert params['fc1']['kernel'].shape[-1] == 150


@pytest.mark.parametrize(
  'width', [0, -1, 0.001, float('nan'), float('inf'), '2', None]
)
def test_a_width_that_leaves_nothing_is_refused(width):
  message = (
    f'`lenet_300_100` was given width={width!r}, but it multiplies the 100'
    ' units of its narrowest layer and must leave at least one. Give a positive'
    ' number, such as 0.5.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    models.lenet_300_100(width=width)


@pytest.mark.parametrize('name', slow_but(SIZES, FAST))
def test_paths(name):
  _, params, model_state = build(name)
  layers = LAYERS[name]
  expected = {f'{layer}/kernel' for layer in layers}
  if name in NORMS:
    norms = NORMS[name]
    expected |= {
      f'{norm}/{leaf}' for norm in norms for leaf in ('bias', 'scale')
    }
    expected |= {'output/bias'}
    stats = {f'{norm}/{leaf}' for norm in norms for leaf in ('mean', 'var')}
  else:
    expected |= {f'{layer}/bias' for layer in layers}
    stats = set()
  assert set(params) == expected
  assert set(model_state) == stats


@pytest.mark.parametrize('name', slow_but(SIZES, FAST))
def test_other_images_and_classes(name):
  model, params, _ = build(name, input_shape=(48, 33, 5), classes=7)
  assert params['output/kernel'].shape[-1] == 7
  x = jax.ShapeDtypeStruct((2, 48, 33, 5), jnp.float32)
  trees = jax.eval_shape(model.init, KEY)
  logits, _ = jax.eval_shape(model.apply, *trees, x)
  assert logits.shape == (2, 7)


@pytest.mark.parametrize(
  ('name', 'shape', 'gain', 'truncated'),
  slow_but(
    [
      ('lenet_300_100', (8, 8, 1), 'glorot', True),
      ('conv_4', (8, 8, 3), 'glorot', True),
      ('resnet_20', (8, 8, 3), 'kaiming', False),
      ('wide_resnet_22_2', (8, 8, 3), 'kaiming', False),
    ],
    FAST,
    several=True,
  ),
)
def test_initial_weights(name, shape, gain, truncated):
  model = getattr(models, name)(input_shape=shape)
  params, model_state = model.init(KEY)
  for path, leaf in flat(params).items():
    leaf = np.asarray(leaf)
    if not path.endswith('kernel'):
      assert (leaf == path.endswith('scale')).all(), path
      continue
    field = math.prod(leaf.shape[:-2])
    fan_in, fan_out = field * leaf.shape[-2], field * leaf.shape[-1]
    fan = fan_in if gain == 'kaiming' else fan_in + fan_out
    std = math.sqrt(2 / fan)
    # Five standard errors of a Gaussian's standard deviation and mean.
    assert abs(leaf.std() / std - 1) < 5 / math.sqrt(2 * leaf.size), path
    assert abs(leaf.mean()) < 5 * std / math.sqrt(leaf.size), path
    # A Gaussian cut at two of its deviations, scaled back to the right one.
    inside = np.abs(leaf).max() < 2 * std / 0.879625
    assert inside == truncated or leaf.size < 1_000, path
  for path, leaf in flat(model_state).items():
    assert (np.asarray(leaf) == path.endswith('var')).all(), path


# An independent forward pass in float64.


def relu(x):
  return np.maximum(x, 0)


def conv(x, kernel, stride=1):
  """Convolution of an odd size, padded so that it keeps the image's size."""
  size = kernel.shape[0]
  pad = size // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
  windows = windows[:, ::stride, ::stride]
  return np.einsum('bhwcij,ijcf->bhwf', windows, kernel, optimize=True)


def pool(x):
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def linear(p, x, layer):
  return x @ p[f'{layer}/kernel'] + p[f'{layer}/bias']


def normalize(p, s, x, name):
  """Normalization by the running statistics."""
  x = (x - s[f'{name}/mean']) / np.sqrt(s[f'{name}/var'] + 1e-5)
  return x * p[f'{name}/scale'] + p[f'{name}/bias']


def normed(p, s, x, layer, stride=1):
  """Convolution and normalization."""
  return normalize(p, s, conv(x, p[f'{layer}/kernel'], stride), norm_of(layer))


def head(p, x):
  x = x.reshape(len(x), -1)
  x = relu(linear(p, x, 'fc1'))
  x = relu(linear(p, x, 'fc2'))
  return linear(p, x, 'output')


def lenet_oracle(p, s, x):
  del s
  return head(p, x)


def conv_4_oracle(p, s, x):
  del s
  for layer in LAYERS['conv_4'][:4]:
    x = relu(conv(x, p[f'{layer}/kernel']) + p[f'{layer}/bias'])
    x = pool(x) if layer in ('conv2', 'conv4') else x
  return head(p, x)


def resnet_oracle(p, s, x):
  x = relu(normed(p, s, x, 'conv1'))
  for i in range(9):
    stride = 2 if i in (3, 6) else 1
    y = relu(normed(p, s, x, f'blocks/{i}/conv1', stride))
    y = normed(p, s, y, f'blocks/{i}/conv2')
    if stride == 2:
      x = normed(p, s, x, f'blocks/{i}/shortcut', stride)
    x = relu(x + y)
  return linear(p, x.mean((1, 2)), 'output')


def bottleneck_oracle(p, s, x):
  x = relu(normed(p, s, x, 'conv1', 2))
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
  x = windows[:, ::2, ::2].max((-2, -1))
  for i in range(3):
    stride = 2 if i == 1 else 1
    y = relu(normed(p, s, x, f'blocks/{i}/conv1'))
    y = relu(normed(p, s, y, f'blocks/{i}/conv2', stride))
    y = normed(p, s, y, f'blocks/{i}/conv3')
    if i < 2:
      x = normed(p, s, x, f'blocks/{i}/shortcut', stride)
    x = relu(x + y)
  return linear(p, x.mean((1, 2)), 'output')


def wide_resnet_oracle(p, s, x):
  x = conv(x, p['conv1/kernel'])
  for i in range(9):
    stride = 2 if i in (3, 6) else 1
    y = relu(normalize(p, s, x, f'blocks/{i}/norm1'))
    if i in (0, 3, 6):
      x = conv(y, p[f'blocks/{i}/shortcut/kernel'], stride)
    y = conv(y, p[f'blocks/{i}/conv1/kernel'], stride)
    y = relu(normalize(p, s, y, f'blocks/{i}/norm2'))
    x = x + conv(y, p[f'blocks/{i}/conv2/kernel'])
  x = relu(normalize(p, s, x, 'norm'))
  return linear(p, x.mean((1, 2)), 'output')


def vgg_oracle(p, s, x):
  stage = '1'
  for layer in LAYERS['vgg_11'][:-1]:
    if layer[4] != stage:
      stage, x = layer[4], pool(x)
    x = relu(normed(p, s, x, layer))
  return linear(p, x.mean((1, 2)), 'output')


def small_bottlenecks(input_shape):
  """ResNet-50 with three narrow blocks."""
  blocks = functools.partial(_resnet.ResNet, _resnet.Bottleneck, 4, (1, 2))
  return models.functional(lambda rngs: blocks(3, 10, large=True, rngs=rngs))


ORACLES = [
  (models.lenet_300_100, (4, 6, 3), lenet_oracle),
  (models.conv_4, (8, 12, 3), conv_4_oracle),
  (models.resnet_20, (8, 12, 3), resnet_oracle),
  (small_bottlenecks, (32, 24, 3), bottleneck_oracle),
  (models.vgg_11, (32, 16, 3), vgg_oracle),
  (models.wide_resnet_22_2, (8, 12, 3), wide_resnet_oracle),
]


def arbitrary(model, seed=0):
  """Params and state in which no two leaves are alike, and variances > 0."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape).astype(np.float32)
    if leaf.ndim > 1:
      return values * np.float32(math.sqrt(2 / math.prod(leaf.shape[:-1])))
    return abs(values) + 0.5 if path[-1].key in ('scale', 'var') else values

  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, KEY))


@pytest.mark.parametrize(
  ('network', 'shape', 'oracle'),
  slow_but(ORACLES, [models.lenet_300_100, models.resnet_20], several=True),
)
def test_evaluation_is_the_formula(network, shape, oracle):
  model = network(input_shape=shape)
  params, model_state = arbitrary(model)
  x = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
  logits, new_state = jax.jit(model.apply)(params, model_state, x)
  chex.assert_trees_all_equal(new_state, model_state)
  p, s, x = jax.tree.map(np.float64, (flat(params), flat(model_state), x))
  expected = oracle(p, s, x)
  np.testing.assert_allclose(logits, expected, atol=1e-4 * abs(expected).max())


@pytest.mark.slow
def test_training_records_the_batch_statistics():
  model = models.resnet_20(input_shape=(8, 8, 3))
  params, model_state = arbitrary(model)
  x = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)

  @jax.jit
  def step(params, model_state, x):
    def loss(params):
      logits, state = model.apply(params, model_state, x, train=True)
      return (logits**2).mean(), state

    return jax.grad(loss, has_aux=True)(params)

  grads, new_state = step(params, model_state, x)
  chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
  assert all(bool((g != 0).any()) for g in flat(grads).values())
  old, new = flat(model_state), flat(new_state)
  assert all(bool((new[path] != old[path]).all()) for path in old)
  # A step of 0.1 towards the statistics of the batch.
  y = conv(x, params['conv1']['kernel'])
  for leaf, batch in (('mean', y.mean((0, 1, 2))), ('var', y.var((0, 1, 2)))):
    expected = 0.9 * old[f'norm1/{leaf}'] + 0.1 * batch
    np.testing.assert_allclose(new[f'norm1/{leaf}'], expected, rtol=1e-4)


@pytest.mark.parametrize('name', SIZES)
def test_bad_arguments_are_refused_at_once(name):
  message = (
    f'`{name}` was given input_shape=(32, 32), but it needs three positive'
    ' integers: (height, width, channels) of one image, without the batch axis;'
    ' and classes=1, but it needs an integer of at least 2.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    getattr(models, name)(input_shape=(32, 32), classes=1)


@pytest.mark.parametrize('shape', [(0, 8, 1), (8.0, 8, 1), 784, None, '881'])
def test_bad_input_shapes_are_refused(shape):
  with pytest.raises(ValueError, match='needs three positive integers'):
    models.lenet_300_100(input_shape=shape)


@pytest.mark.parametrize('classes', [0, 2.0, None])
def test_bad_classes_are_refused(classes):
  with pytest.raises(ValueError, match=f'classes={classes}, but it needs'):
    models.lenet_300_100(classes=classes)


@pytest.mark.parametrize(
  ('name', 'pixels'),
  [
    ('conv_2', 2),
    ('conv_4', 4),
    ('conv_6', 8),
    ('conv_8', 16),
    ('vgg_11', 16),
    ('vgg_16', 16),
  ],
)
def test_too_small_images_are_refused(name, pixels):
  network = getattr(models, name)
  network(input_shape=(pixels, pixels, 1))
  message = (
    f'`{name}` was given input_shape=({pixels}, {pixels - 1}, 1), but with its'
    f' poolings it needs at least {pixels} x {pixels} pixels: resize the images'
    ' or use a network with fewer poolings.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    network(input_shape=(pixels, pixels - 1, 1))


def test_networks_refuse_images_of_another_size():
  model = models.lenet_300_100()
  with pytest.raises(ValueError, match=r'\(5, 784\).*\(batch, 28, 28, 1\)'):
    model.apply(*arbitrary(model), jnp.zeros((5, 784)))


# Tested on their own.
OTHERS = {
  'vit_b_16',
  'BertConfig',
  'Cache',
  'Decoder',
  'PrunedDecoder',
  'Tagger',
  'prune_decoder',
  'tagger',
  'word_features',
  'Encoder',
  'LlamaConfig',
  'LlamaMoEConfig',
  'bert',
  'generate',
  'llama',
  'llama_moe',
  'load_gguf',
  'load_hf',
  'load_tokenizer',
  'perplexity',
  'save_hf',
}


def test_public_names():
  assert models.__all__ == sorted(models.__all__)
  assert set(SIZES) == set(models.__all__) - OTHERS - {'Model', 'functional'}
