"""Multiply-adds of convolutions and of Flax's layers, counted by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from programs import counts, key, linen, of_nnx, shaped

from lthjax import program

CONVS = {
  'plain': ((2, 8, 8, 3), (3, 3, 3, 5), {}),
  'strided': ((2, 9, 8, 3), (3, 2, 3, 5), {'window_strides': (2, 3)}),
  'dilated': ((2, 9, 9, 3), (3, 3, 3, 5), {'rhs_dilation': (3, 2)}),
  'grouped': ((2, 8, 8, 6), (3, 3, 2, 9), {'feature_group_count': 3}),
  'depthwise': ((2, 8, 8, 4), (3, 3, 1, 8), {'feature_group_count': 4}),
  'batches': ((6, 8, 8, 3), (3, 3, 3, 9), {'batch_group_count': 3}),
}


@pytest.mark.parametrize('case', CONVS)
def test_convolutions(case):
  image, kernel, options = CONVS[case]
  options = {
    'window_strides': (1, 1),
    'padding': 'VALID',
    'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'),
    **options,
  }

  def apply(params, x):
    return jax.lax.conv_general_dilated(x, params['kernel'], **options)

  (use,) = program.uses(apply, {'kernel': shaped(*kernel)}, shaped(*image))
  rng = np.random.default_rng(0)
  mask = rng.random(kernel) < 0.3
  dense = apply({'kernel': jnp.ones(kernel)}, jnp.ones(image)).sum()
  sparse = apply({'kernel': jnp.float32(mask)}, jnp.ones(image)).sum()
  assert use.multiply_adds == int(dense)
  assert use.times * int(mask.sum()) == int(sparse)


def test_padding_counts_as_in_the_literature():
  layer = nn.Conv(5, (3, 3), strides=2)
  assert linen(layer, shaped(2, 7, 7, 4)) == {'kernel': 2 * 16 * 9 * 4 * 5}


def test_one_dimensional_and_other_layouts():
  def apply(params, x):
    return jax.lax.conv_general_dilated(
      x, params['w'], (1,), [(0, 0)], dimension_numbers=('NCH', 'OIH', 'NCH')
    )

  assert counts(apply, {'w': shaped(5, 3, 4)}, shaped(2, 3, 9)) == {
    'w': 2 * 6 * 5 * 3 * 4
  }


@pytest.mark.parametrize('transposed', [False, True])
def test_transposed_convolution_skips_the_zeros_between_pixels(transposed):
  layer = nn.ConvTranspose(
    4, (2, 2), strides=(2, 2), transpose_kernel=transposed
  )
  # Each of the 25 pixels meets each weight once.
  assert linen(layer, shaped(1, 5, 5, 4)) == {'kernel': 25 * 2 * 2 * 4 * 4}


def test_a_convolution_for_each_seed():
  layer = nn.Conv(5, (3, 3), padding='VALID', use_bias=False)
  x = shaped(2, 1, 6, 6, 4)

  def apply(params, x):
    return jax.vmap(lambda k, x: layer.apply({'params': {'kernel': k}}, x))(
      params['kernel'], x
    )

  params = {'kernel': shaped(2, 3, 3, 4, 5)}
  (use,) = program.uses(apply, params, x)
  assert use.multiply_adds == 2 * 16 * 9 * 4 * 5
  mask = np.zeros((2, 3, 3, 4, 5), bool)
  mask[1, 0, 2] = True
  assert use.times * int(use.view(mask).sum()) == 16 * 20


# Layers of Flax.

TOKENS = shaped(2, 5, 8)
# Each of query, key, value, out: 10 tokens, 8 x 8. Scores, and their sum of
# values: 2 batches, 2 heads, 5 x 5 tokens, 4 numbers.
ATTENTION = {
  **dict.fromkeys(
    (f'{n}/kernel' for n in ('query', 'key', 'value', 'out')), 640
  ),
  None: 2 * 2 * 2 * 5 * 5 * 4,
}


def test_attention():
  attention = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
  assert linen(attention, TOKENS) == ATTENTION

  def make(rngs):
    return nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

  assert of_nnx(make, TOKENS) == ATTENTION


def test_dense_layers_with_more_axes():
  layer = nn.DenseGeneral((3, 4), axis=(-2, -1))
  assert linen(layer, TOKENS) == {'kernel': 2 * 5 * 8 * 3 * 4}
  layer = nn.Einsum((8, 3, 4), 'btd,dhk->bthk')
  assert linen(layer, TOKENS) == {'kernel': 10 * 8 * 12}


@pytest.mark.parametrize('cell', [nn.LSTMCell, nn.OptimizedLSTMCell])
def test_recurrent_weights_count_once_a_token(cell):
  tally = linen(nn.RNN(cell(4)), TOKENS)
  inputs = {f'cell/i{gate}/kernel': 10 * 8 * 4 for gate in 'figo'}
  hidden = {f'cell/h{gate}/kernel': 10 * 4 * 4 for gate in 'figo'}
  assert tally == {**inputs, **hidden}


def test_weight_normalization():
  assert linen(nn.WeightNorm(nn.Dense(3)), TOKENS) == {
    'layer_instance/kernel': 240
  }


def test_bfloat16():
  layer = nn.Dense(3, dtype=jnp.bfloat16)
  assert linen(layer, TOKENS) == {'kernel': 240}


class Embedded(nn.Module):
  """Tokens in and out through one embedding."""

  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(11, 8)
    return embed.attend(nn.Dense(8)(embed(tokens)))


def test_lookups_cost_nothing():
  tokens = shaped(2, 5, dtype=jnp.int32)
  assert linen(Embedded(), tokens) == {'Dense_0/kernel': 640, None: 880}

  module = Embedded()
  params = jax.eval_shape(module.init, key(), tokens)
  uses = program.uses(
    module.apply, params, tokens, where=lambda name, leaf: leaf.ndim > 1
  )
  assert [(u.name, u.primitive, u.multiply_adds) for u in uses] == [
    ('params/Embed_0/embedding', 'gather', 0),
    ('params/Dense_0/kernel', 'dot_general', 640),
    ('params/Embed_0/embedding', 'dot_general', 880),
  ]


# Scanned layers.


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    y = nn.LayerNorm()(x)
    return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(y))), None


def test_layers_scanned_by_linen():
  stack = nn.scan(
    nn.remat(Block),
    variable_axes={'params': 0},
    split_rngs={'params': True},
    length=3,
  )()
  each = 3 * 10 * 8 * 16
  assert linen(stack, TOKENS, None) == {
    'Dense_0/kernel': each,
    'Dense_1/kernel': each,
  }


class Stack(nnx.Module):
  """Three layers, made by vmap and run by scan."""

  def __init__(self, rngs):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
      return nnx.Linear(8, 8, rngs=rngs)

    self.layers = make(rngs)

  def __call__(self, x):
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def run(layer, x):
      return nnx.remat(lambda layer, x: nnx.relu(layer(x)))(layer, x)

    return run(self.layers, x)


def test_layers_scanned_by_nnx():
  assert of_nnx(Stack, shaped(2, 8)) == {'layers/kernel': 3 * 2 * 8 * 8}
