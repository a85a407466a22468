"""Which leaf meets which matmul: counted by hand, and by running the program.

If all inputs and weights are one, each multiply-add contributes one to the
outputs of a single layer without padding. This is the independent count.
"""

import collections
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from lthjax import program


def mesh():
  return jax.make_mesh((1,), ('x',), (jax.sharding.AxisType.Auto,))


def constrained(w):
  sharding = jax.sharding.NamedSharding(mesh(), jax.P())
  return jax.lax.with_sharding_constraint(w, sharding)


def key():
  return jax.eval_shape(jax.random.key, 0)


def shaped(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def counts(apply, params, *args, **kwargs):
  """Multiply-adds by leaf; `None` for those without one."""
  tally = collections.Counter()
  for use in program.uses(apply, params, *args, **kwargs):
    tally[use.name] += use.multiply_adds
  return dict(tally)


def linen(module, *args):
  """Multiply-adds of a Linen module."""
  variables = jax.eval_shape(module.init, key(), *args)
  assert list(variables) == ['params']

  def apply(params, *args):
    return module.apply({'params': params}, *args)

  return counts(apply, variables['params'], *args)


def of_nnx(make, *args):
  """Multiply-adds of an NNX module."""
  module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graphdef, params, rest = nnx.split(module, nnx.Param, ...)

  def apply(params, rest, *args):
    return nnx.merge(graphdef, params, rest, copy=True)(*args)

  return counts(apply, params, rest, *args)


# Plain functions.


def mlp(params, x):
  x = jax.nn.relu(x @ params['fc1'] + params['bias'])
  return x @ params['fc2']


MLP = {'fc1': shaped(4, 3), 'bias': shaped(3), 'fc2': shaped(3, 2)}
X = shaped(5, 4)


def test_mlp_use_by_use():
  first, second = program.uses(mlp, MLP, X)
  assert (first.name, first.primitive, first.path) == (
    'fc1',
    'dot_general',
    (0,),
  )
  assert (first.shapes, first.runs) == (((5, 4), (4, 3)), 1)
  assert (first.multiply_adds, first.times) == (60, 5)
  assert (second.name, second.shapes) == ('fc2', ((5, 3), (3, 2)))
  assert (second.multiply_adds, second.times) == (30, 5)


def test_nothing_is_computed():
  params = {'w': shaped(10**6, 10**6)}
  assert counts(lambda p, x: x @ p['w'], params, shaped(7, 10**6)) == {
    'w': 7 * 10**12
  }


def test_arrays_and_shapes_count_alike():
  arrays = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), (MLP, X))
  assert counts(mlp, *arrays) == counts(mlp, MLP, X) == {'fc1': 60, 'fc2': 30}


@jax.custom_vjp
def own_vjp(w, x):
  return x @ w


own_vjp.defvjp(lambda w, x: (x @ w, (w, x)), lambda res, g: res)


@jax.custom_jvp
def own_jvp(w, x):
  return x @ w


@own_jvp.defjvp
def _(primals, tangents):
  return own_jvp(*primals), own_jvp(*tangents)


@jax.custom_batching.custom_vmap
def own_vmap(w, x):
  return x @ w


own_vmap.def_vmap(lambda size, batched, w, x: (x @ w, True))


def by_rows(w, x):
  return jax.vmap(lambda row: row @ w)(x)


def cast_and_turned(w, x):
  w = w.astype(jnp.bfloat16).T.reshape(-1).reshape(3, 2, 2)
  return jnp.einsum('oij,bij->bo', w, x.astype(jnp.bfloat16).reshape(5, 2, 2))


def sharded(w, x):
  """Each device has a block of the inputs."""
  return jax.shard_map(
    lambda x, w: jax.lax.psum(x @ w, 'x'),
    mesh=mesh(),
    in_specs=(jax.P(None, 'x'), jax.P('x')),
    out_specs=jax.P(),
  )(x, w)


def gathered(w, x):
  """Each device has a block of the kernel, and gets the others."""
  return jax.shard_map(
    lambda x, w: x @ jax.lax.all_gather(w, 'x', axis=1, tiled=True),
    mesh=mesh(),
    in_specs=(jax.P('x'), jax.P(None, 'x')),
    out_specs=jax.P('x'),
  )(x, w)


GUISES = [
  lambda w, x: x @ w,
  lambda w, x: w.T @ x.T,
  jax.jit(lambda w, x: jax.jit(lambda x, w: x @ w)(x, w)),
  jax.checkpoint(lambda w, x: x @ w),
  own_vjp,
  own_jvp,
  own_vmap,
  jax.lax.composite(lambda w, x: x @ w, name='own.matmul'),
  by_rows,
  jax.jit(jax.checkpoint(jax.jit(by_rows))),
  cast_and_turned,
  lambda w, x: jax.lax.dot_general(w, x, (((0,), (1,)), ((), ()))),
  lambda w, x: x @ jax.lax.optimization_barrier((w, x))[0],
  lambda w, x: x @ constrained(w),
  lambda w, x: x @ checkpoint_name(w, 'kernel'),
  lambda w, x: x @ jax.device_put(jnp.copy(w))[None, :, ::-1][0],
  lambda w, x: x[:, :2] @ jnp.split(w, 2)[0] + x[:, 2:] @ w[2:],
  lambda w, x: x @ jnp.concatenate([w[:1], jnp.stack([w[1], w[2], w[3]])]),
  lambda w, x: x[:, None] @ jnp.broadcast_to(w, (5, 4, 3)),
  lambda w, x: x[:, None] @ jnp.tile(w, (5, 1, 1)),
  lambda w, x: jax.lax.cond(x[0, 0] > 0, jnp.dot, lambda x, w: x @ w, x, w),
  lambda w, x: jax.lax.scan(lambda c, row: (c, row @ w), 0, x)[1],
  lambda w, x: jax.lax.map(lambda row: row @ w, x),
  lambda w, x: jax.lax.scan(lambda w, row: (w, row @ w), w, x)[1],
  lambda w, x: jax.lax.scan(lambda c, col: (c, x @ col), 0, w.T)[1],
  lambda w, x: x @ jax.lax.scan(lambda c, row: (c, row), 0, w)[1],
  lambda w, x: x @ jax.lax.dynamic_slice(w, (0, 0), (4, 3)),
  lambda w, x: jax.lax.ragged_dot(x, w[None], np.int32([5])),
  sharded,
  jax.jit(jax.checkpoint(gathered)),
]


@pytest.mark.parametrize('layer', GUISES)
def test_one_layer_in_many_guises(layer):
  uses = program.uses(lambda p, x: layer(p['w'], x), {'w': shaped(4, 3)}, X)
  assert {use.name for use in uses} == {'w'}
  assert sum(use.multiply_adds for use in uses) == 60
  mask = np.random.default_rng(0).random((4, 3)) < 0.5
  ran = layer(jnp.float32(mask), jnp.ones((5, 4))).sum()
  assert sum(use.times * int(use.view(mask).sum()) for use in uses) == int(ran)


@pytest.mark.parametrize('layer', GUISES)
def test_the_way_back(layer):
  uses = program.uses(lambda p, x: layer(p['w'], x), {'w': shaped(4, 3)}, X)
  assert all(use.shape == (4, 3) for use in uses)
  assert all(use.exact for use in uses)
  w = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
  seen = np.zeros((4, 3))
  for use in uses:
    view = use.view(w)
    number = np.asarray(use.pull_back(jnp.ones_like(view)))
    # Each entry comes back to its own place, as often as the operand has it.
    np.testing.assert_array_equal(use.pull_back(view), w * number)
    np.testing.assert_array_equal(use.pull_back(view > 0), number > 0)
    assert number.sum() == np.count_nonzero(view)
    loops = tuple(loop.length for loop in use.scans)
    assert view.shape == loops + use.shapes[use.operand]
    axes = sorted((*use.contracted, *use.batch, *use.free))
    assert axes == list(range(len(use.shapes[use.operand])))
    seen += number > 0
  assert (seen == 1).all()  # Every entry has one use.


def test_what_does_not_fit_the_operand_cannot_go_back():
  (use,) = program.uses(lambda p, x: x @ p['w'].T, {'w': shaped(3, 4)}, X)
  with pytest.raises(ValueError, match=r'of shape \(3, 4\), but w stands at'):
    use.pull_back(jnp.ones((3, 4)))
  with pytest.raises(ValueError, match='was given int32, but sums entries'):
    use.pull_back(jnp.ones((4, 3), int))


def test_uses_are_listed_while_something_else_is_traced():
  def apply(params, x):
    kernel = jnp.concatenate([params['a'], params['c']], axis=1)
    return x @ kernel[:, 1:]

  @jax.jit
  def traced(params, x):
    uses = program.uses(apply, params, x)
    found.extend(use.multiply_adds for use in uses)
    return [use.pull_back(use.view(params[use.name])) for use in uses]

  found = []
  a, c = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
  back, same = traced({'a': a, 'c': c}, np.ones((5, 4), np.float32))
  assert found == [40, 40]
  np.testing.assert_array_equal(back, a * [0, 1, 1])
  np.testing.assert_array_equal(same, c)


def test_batches_of_weights():
  def apply(params, x):
    return jax.vmap(jax.vmap(jnp.dot, (0, None)), (0, 0))(x, params['w'])

  params = {'w': shaped(7, 4, 3)}
  assert counts(apply, params, shaped(7, 5, 4)) == {'w': 7 * 5 * 4 * 3}


def test_tied_weights_count_twice():
  def apply(params, x):
    return jax.nn.relu(x @ params['w']) @ params['w'].T

  first, second = program.uses(apply, {'w': shaped(4, 3)}, X)
  assert first.name == second.name == 'w'
  assert first.multiply_adds == second.multiply_adds == 60
  w = jnp.arange(12).reshape(4, 3)
  np.testing.assert_array_equal(first.view(w), w)
  np.testing.assert_array_equal(second.view(w), w.T)


def test_gradients_count_as_other_matmuls():
  def apply(params, x):
    return jax.grad(lambda w: (x @ w).sum())(params['w'])

  assert counts(apply, {'w': shaped(4, 3)}, X) == {'w': 60, None: 60}


def test_where_chooses_the_leaves():
  assert counts(mlp, MLP, X, where='fc2') == {None: 60, 'fc2': 30}
  with pytest.raises(ValueError, match='No leaf of the params was selected'):
    program.uses(mlp, MLP, X, where=lambda name, leaf: False)


# Masks, and other things that keep dead weights at zero.


@pytest.mark.parametrize(
  'masked',
  [
    lambda w, m: jnp.where(m, w, 0),
    lambda w, m: jnp.where(~m, jnp.zeros(()), w),
    lambda w, m: w * m,
    lambda w, m: m.astype(jnp.bfloat16) * w.astype(jnp.bfloat16),
    lambda w, m: w + jax.lax.stop_gradient(jnp.where(m, w, 0) - w),
    lambda w, m: jnp.where(m, w, jax.lax.stop_gradient(w)),
    lambda w, m: jnp.where(jnp.abs(w) > 0.1, w, 0),
    lambda w, m: jnp.where(~(w == 0), w, 0),
    lambda w, m: w / jnp.linalg.norm(w, axis=0),
    lambda w, m: w * jax.lax.rsqrt(jnp.sum(w * w, axis=0, keepdims=True)),
    lambda w, m: jnp.round(jnp.clip(w / jnp.abs(w).max(), -1, 1) * 127) / 9,
    lambda w, m: jnp.sign(w) * 0.5,
    lambda w, m: jax.vmap(jnp.multiply)(w, m),
  ],
)
def test_masked_and_scaled_kernels(masked):
  def apply(params, mask, x):
    return x.astype(jnp.float32) @ masked(params['w'], mask)

  mask = shaped(4, 3, dtype=bool)
  (use,) = program.uses(apply, {'w': shaped(4, 3)}, mask, X)
  assert (use.name, use.multiply_adds, use.times) == ('w', 60, 5)
  w = jnp.arange(12).reshape(4, 3)
  np.testing.assert_array_equal(use.view(w), w)


# Convolutions.

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


def test_nested_scans():
  def apply(params, x):
    def outer(x, layer):  # 3 times, with its own slice
      w, x = layer.T, x @ params['in']

      def inner(x, half):  # 2 times, on halves of the slice
        return x + (x @ params['in'])[:, :2] @ half, None

      return jax.lax.scan(inner, x, w.reshape(2, 2, 4))[0], None

    return jax.lax.scan(outer, x, params['layers'])[0]

  params = {'in': shaped(4, 4), 'layers': shaped(3, 4, 4)}
  first, second, third = program.uses(apply, params, X)
  assert [u.name for u in (first, second, third)] == ['in', 'in', 'layers']
  assert [u.runs for u in (first, second, third)] == [3, 6, 6]
  assert [u.times for u in (first, second, third)] == [15, 30, 5]
  assert third.multiply_adds == 3 * 5 * 16
  w = jnp.arange(48).reshape(3, 4, 4)
  expected = w.transpose(0, 2, 1).reshape(3, 2, 2, 4)
  np.testing.assert_array_equal(third.view(w), expected)


def test_loops_of_known_length():
  def apply(params, x):
    return jax.lax.fori_loop(0, 7, lambda i, x: x @ params['w'], x)

  assert counts(apply, {'w': shaped(4, 4)}, X) == {'w': 7 * 5 * 16}


# Parts of leaves, and several leaves in one kernel.


def test_slices_count_what_they_use():
  def apply(params, x):
    return x @ params['w'][0, 1:, :2] + x @ params['w'][1, :3, 1:]

  first, second = program.uses(apply, {'w': shaped(2, 4, 3)}, shaped(5, 3))
  assert first.multiply_adds == second.multiply_adds == 30
  w = jnp.arange(24).reshape(2, 4, 3)
  np.testing.assert_array_equal(first.view(w), w[0, 1:, :2])
  np.testing.assert_array_equal(second.view(w), w[1, :3, 1:])


def test_concatenated_kernels():
  def apply(params, x):
    kernel = jnp.concatenate([params['a'], params['c']], axis=1)
    return x @ kernel[:, 1:]

  params = {'a': shaped(4, 3), 'c': shaped(4, 2)}
  first, second = program.uses(apply, params, X)
  assert (first.name, first.multiply_adds) == ('a', 5 * 4 * 2)
  assert (second.name, second.multiply_adds) == ('c', 5 * 4 * 2)
  mask = jnp.arange(12).reshape(4, 3) % 3 == 1
  assert first.times * int(first.view(mask).sum()) == 5 * 4
  assert first.view(mask).shape == (4, 4)


def test_layers_stacked_for_a_scan():
  def apply(params, x):
    layers = jnp.stack([params['a'], params['c'] * 2])
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0]

  params = {'a': shaped(4, 4), 'c': shaped(4, 4)}
  first, second = program.uses(apply, params, X)
  assert first.multiply_adds == second.multiply_adds == 80
  mask = jnp.eye(4, dtype=bool)
  np.testing.assert_array_equal(second.view(mask), [jnp.zeros((4, 4)), mask])


# What cannot be followed.

W = {'w': shaped(4, 4), 'v': shaped(4, 4)}
LOST = {
  'a sum with activations': (
    lambda p, x: (x[:4] + p['w']) @ p['v'],
    'w meets `add`, which makes something of dead weights',
  ),
  'a nonzero value': (lambda p, x: x @ jnp.exp(p['w']), 'w meets `exp`'),
  'a shifted kernel': (
    lambda p, x: x @ (p['w'] - p['w'].mean()),
    'w meets `sub`, which makes something of dead weights',
  ),
  'two kernels': (
    lambda p, x: x @ (p['w'] @ p['v']),
    'w and v meet in `dot_general`',
  ),
  'low-rank updates': (
    lambda p, x: x @ (p['w'] + p['v']),
    'w meets `add` beside another kernel',
  ),
  'averages of kernels': (
    lambda p, x: x @ p['w'].reshape(2, 2, 4).mean(1).T,
    'rows or sums of w, as kernels, meet in `dot_general`',
  ),
  'experts chosen by data': (
    lambda p, x: x @ p['w'].reshape(1, 4, 4)[jnp.int32(x[0])][0],
    'rows or sums of w, as kernels, meet in `dot_general`',
  ),
  'a computed place': (
    lambda p, x: jax.lax.fori_loop(
      0, 4, lambda i, x: x * (x @ p['w'][i])[:, None], x
    ),
    'w meets `dynamic_slice` at a computed place',
  ),
  'a matmul written out': (
    lambda p, x: (x[:, :, None] * p['w'][None]).sum(1),
    'w meets `mul` after being repeated',
  ),
  'a matmul written out with repeats': (
    lambda p, x: (x[:, :, None] * jnp.tile(p['w'][None], (5, 1, 1))).sum(1),
    'w meets `mul` after being repeated',
  ),
  'sums of its columns': (
    lambda p, x: x @ (p['w'][:, :1] * x[0]),
    'w meets `mul` after being repeated',
  ),
  'a product written out': (
    lambda p, x: (x[0, :, None] * p['w']).sum(0),
    'w meets `reduce_sum` after a product',
  ),
  'a divisor': (
    lambda p, x: x @ (x[:4] / p['w']),
    'w meets `div` as the diviso',
  ),
  'activations beside it': (
    lambda p, x: x @ jnp.concatenate([p['w'], x[:4]], 1),
    'w meets `concatenate` with something else',
  ),
  'a solver': (
    lambda p, x: jnp.linalg.solve(p['w'], x[:4]),
    'w meets `lu`',
  ),
  'an image': (
    lambda p, x: jnp.convolve(p['w'][0], x[0]),
    'w meets `conv_general_dilated` as its image',
  ),
  'a loop of unknown length': (
    lambda p, x: jax.lax.while_loop(
      lambda x: x.sum() < 9, lambda x: x @ p['w'], x
    ),
    '`while` has matmuls that cannot be counted; w meets `while`',
  ),
  'a loop of unknown length over activations': (
    lambda p, x: jax.lax.while_loop(
      lambda x: x.sum() < 9, lambda x: x @ x[:4], x @ p['w']
    ),
    '`while` has matmuls that cannot be counted. Kernels',
  ),
  'branches that differ': (
    lambda p, x: jax.lax.cond(
      x[0, 0] > 0, lambda x: x @ p['w'], lambda x: x, x
    ),
    'w is used by some branches of `cond` only',
  ),
  'branches of different activations': (
    lambda p, x: jax.lax.cond(
      x[0, 0] > 0, lambda x: x @ x.T @ x, lambda x: x, x @ p['w']
    ),
    'a matmul of activations is used by some branches of `cond` only',
  ),
  'branches of different parts': (
    lambda p, x: jax.lax.cond(
      x[0, 0] > 0, lambda x: x @ p['w'][:, :2], lambda x: x @ p['w'][:, 2:], x
    ),
    'w is used by some branches of `cond` only',
  ),
  'a choice of kernels': (
    lambda p, x: x @ jax.lax.cond(x[0, 0] > 0, lambda: p['w'], lambda: p['v']),
    'v meets `cond` in some branches only; w meets `cond` in some',
  ),
  'a kernel that changes in a loop': (
    lambda p, x: jax.lax.scan(lambda w, row: (w.T, row @ w), p['w'], x)[1],
    'w meets `scan` as a carry that changes',
  ),
  'a kernel that comes out of a loop': (
    lambda p, x: (
      x @ jax.lax.scan(lambda c, _: (p['w'], None), x[:4], None, length=2)[0]
    ),
    'w meets `scan` as a carry that changes',
  ),
  'copies of a kernel': (
    lambda p, x: (
      x @ jax.lax.scan(lambda c, _: (c, p['w']), 0, None, length=2)[1]
    ),
    'w meets `scan`, which stacks copies of it',
  ),
}


@pytest.mark.parametrize('case', LOST)
def test_lost_leaves_are_errors(case):
  apply, message = LOST[case]
  with pytest.raises(ValueError, match=re.escape(message)):
    program.uses(apply, W, shaped(5, 4), where='?')


def test_all_lost_leaves_are_named_at_once():
  message = (
    'The matmuls of this function and their kernels are not certain: w meets'
    ' `exp`; v meets `cumsum`. Kernels may only be cast, masked or rearranged'
    ' before their matmuls; exclude other leaves with `where=`.'
  )

  def apply(params, x):
    return x @ jnp.exp(params['w']) + x @ jnp.cumsum(params['v'], 0)

  with pytest.raises(ValueError, match=re.escape(message)):
    program.uses(apply, W, shaped(5, 4))


class Classified(nn.Module):
  """Attention with a class token, a parameter of three dimensions."""

  @nn.compact
  def __call__(self, x):
    cls = self.param('cls', nn.initializers.zeros, (1, 1, 8))
    x = jnp.concatenate([jnp.tile(cls, (2, 1, 1)), x], axis=1)
    return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


def test_the_error_says_what_to_leave_out():
  module = Classified()
  params = jax.eval_shape(module.init, key(), TOKENS)
  message = 'params/cls meets `concatenate` with something else'
  with pytest.raises(ValueError, match=message):
    program.uses(module.apply, params, TOKENS, where=lambda n, x: x.ndim > 1)
  assert counts(module.apply, params, TOKENS) == {
    'params/Dense_0/kernel': 2 * 8 * 3
  }


def test_unused_and_printed_leaves_are_no_error():
  def apply(params, x):
    jax.debug.print('{}', params['v'])
    return x @ params['w'], jnp.linalg.norm(params['v'])

  assert counts(apply, W, shaped(5, 4)) == {'w': 80}
