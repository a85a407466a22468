"""The axes of kernels, by what a program does with them."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from programs import shaped

import lthjax as lth
from lthjax import axes, program
from lthjax.axes import Axes


def of_one(layer, shape, *args, **options):
  """The axes of a single kernel."""
  (found,) = axes.from_program(
    lambda params, *args: layer(params['w'], *args),
    {'w': shaped(*shape)},
    *args,
    **options,
  ).values()
  return found


def of_linen(module, *args):
  key = jax.eval_shape(jax.random.key, 0)
  variables = jax.eval_shape(module.init, key, *args)
  found = axes.from_program(
    lambda params, *args: module.apply({'params': params}, *args),
    variables['params'],
    *args,
  )
  return {name.removesuffix('/kernel'): each for name, each in found.items()}


def of_nnx(make, *args):
  module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graphdef, params, rest = nnx.split(module, nnx.Param, ...)

  def apply(params, rest, *args):
    return nnx.merge(graphdef, params, rest, copy=True)(*args)

  found = axes.from_program(apply, params, rest, *args)
  return {name.removesuffix('/kernel'): each for name, each in found.items()}


X = shaped(5, 4)
DENSE = Axes(inputs=(0,), outputs=(1,))
LAYOUTS = {
  'in, out': (lambda w, x: x @ w, (4, 3), X, DENSE),
  'out, in': (lambda w, x: x @ w.T, (3, 4), X, Axes((), (), (1,), (0,))),
  'out, in, one example': (
    lambda w, x: jax.vmap(lambda row: w @ row)(x),
    (3, 4),
    X,
    Axes((), (), (1,), (0,)),
  ),
  'two input axes': (
    lambda w, x: jnp.einsum('bij,ijo->bo', x.reshape(5, 2, 2), w),
    (2, 2, 3),
    X,
    Axes((), (), (0, 1), (2,)),
  ),
  'heads': (
    lambda w, x: jnp.einsum('bd,dhk->bhk', x, w),
    (4, 2, 3),
    X,
    Axes((), (), (0,), (1, 2)),
  ),
  'heads, merged': (
    lambda w, x: (x @ w.reshape(4, 6)).reshape(5, 2, 3),
    (4, 2, 3),
    X,
    Axes((), (), (0,), (1, 2)),
  ),
  'one head': (
    lambda w, x: x @ w.reshape(4, 3),
    (4, 1, 3),
    X,
    Axes((), (), (0,), (1, 2)),
  ),
  'one head, squeezed': (
    lambda w, x: x @ w[:, 0],
    (4, 1, 3),
    X,
    Axes((), (), (0,), (1, 2)),
  ),
  'heads first': (
    lambda w, x: jnp.einsum('bd,hkd->bhk', x, w),
    (2, 3, 4),
    X,
    Axes((), (), (2,), (0, 1)),
  ),
  'out of heads': (
    lambda w, x: x @ w.reshape(4, 3),
    (2, 2, 3),
    X,
    Axes((), (), (0, 1), (2,)),
  ),
  'a vector': (lambda w, x: x @ w, (4,), X, Axes(inputs=(0,))),
  'fused and split': (
    lambda w, x: [x @ part for part in jnp.split(w, 3, axis=1)],
    (4, 9),
    X,
    DENSE,
  ),
  'fused and sliced after': (
    lambda w, x: jnp.split(x @ w, 3, axis=1),
    (4, 9),
    X,
    DENSE,
  ),
  'fused, three of two heads': (
    lambda w, x: jnp.einsum('bd,dnhk->nbhk', x, w.reshape(4, 3, 2, 5)),
    (4, 30),
    X,
    DENSE,
  ),
  'fused on a first axis': (
    lambda w, x: [x @ w[0], x @ w[1], x @ w[2]],
    (3, 4, 2),
    X,
    Axes((0,), (), (1,), (2,)),
  ),
  'unrolled': (
    lambda w, x: [x := jnp.tanh(x @ each.T) for each in w],
    (3, 4, 4),
    X,
    Axes((0,), (), (2,), (1,)),
  ),
  'scanned': (
    lambda w, x: jax.lax.scan(lambda x, w: (x @ w, None), x, w),
    (3, 4, 4),
    X,
    Axes((0,), (), (1,), (2,)),
  ),
  'scanned over its second axis': (
    lambda w, x: jax.lax.scan(
      jax.checkpoint(lambda x, w: (x @ w, None)), x, w.swapaxes(0, 1)
    ),
    (4, 3, 4),
    X,
    Axes((1,), (), (0,), (2,)),
  ),
  'scanned in two loops': (
    lambda w, x: jax.lax.scan(
      lambda x, w: jax.lax.scan(lambda x, w: (x @ w.T, None), x, w), x, w
    ),
    (2, 3, 4, 4),
    X,
    Axes((0, 1), (), (3,), (2,)),
  ),
  'the same in every turn': (
    lambda w, x: jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=3),
    (4, 4),
    X,
    DENSE,
  ),
  'experts': (
    lambda w, x: jnp.einsum('ebd,edo->ebo', x, w),
    (7, 4, 3),
    shaped(7, 5, 4),
    Axes((0,), (), (1,), (2,)),
  ),
  'experts side by side': (
    lambda w, x: jnp.einsum('bd,edo->beo', x, w),
    (7, 4, 3),
    X,
    Axes((), (), (1,), (0, 2)),  # One matmul with many neurons.
  ),
  'experts by vmap': (
    lambda w, x: jax.vmap(jnp.dot, (0, 2))(x, w),
    (4, 3, 7),
    shaped(7, 5, 4),
    Axes((2,), (), (0,), (1,)),
  ),
  'experts of ragged groups': (
    lambda w, x: jax.lax.ragged_dot(x, w, np.int32([2, 3])),
    (2, 4, 3),
    X,
    Axes((0,), (), (1,), (2,)),
  ),
  'masked and cast': (
    lambda w, x: x @ jnp.where(w > 0, w, 0).astype('bfloat16').T,
    (3, 4),
    X,
    Axes((), (), (1,), (0,)),
  ),
  'repeated': (
    lambda w, x: x[:, None] @ jnp.broadcast_to(w, (5, 4, 3)),
    (4, 3),
    X,
    DENSE,
  ),
  'split among devices': (
    lambda w, x: jax.shard_map(
      lambda x, w: jax.lax.psum(x @ w, 'x'),
      mesh=jax.make_mesh((1,), ('x',), (jax.sharding.AxisType.Auto,)),
      in_specs=(jax.P(None, 'x'), jax.P('x')),
      out_specs=jax.P(),
    )(x, w),
    (4, 3),
    X,
    DENSE,
  ),
  'branches': (
    lambda w, x: jax.lax.cond(
      x[0, 0] > 0, lambda x: x @ w.T, lambda x: -x @ w.T, x
    ),
    (3, 4),
    X,
    Axes((), (), (1,), (0,)),
  ),
}


@pytest.mark.parametrize('case', LAYOUTS)
def test_layouts(case):
  layer, shape, x, expected = LAYOUTS[case]
  assert of_one(layer, shape, x) == expected


def convolve(numbers, **options):
  def layer(w, x):
    return jax.lax.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=numbers, **options
    )

  return layer


IMAGE = shaped(2, 8, 8, 6)
CONVS = {
  'HWIO': (('NHWC', 'HWIO', 'NHWC'), {}, (3, 3, 6, 4), (0, 1), (2,), (3,)),
  'OIHW': (('NHWC', 'OIHW', 'NHWC'), {}, (4, 6, 3, 3), (2, 3), (1,), (0,)),
  'grouped': (
    ('NHWC', 'HWIO', 'NHWC'),
    {'feature_group_count': 3},
    (3, 3, 2, 9),
    (0, 1),
    (2,),
    (3,),
  ),
  'depthwise': (
    ('NHWC', 'HWIO', 'NHWC'),
    {'feature_group_count': 6},
    (3, 3, 1, 6),
    (0, 1),
    (2,),
    (3,),
  ),
}


@pytest.mark.parametrize('case', CONVS)
def test_convolutions(case):
  numbers, options, shape, window, inputs, outputs = CONVS[case]
  layer = convolve(numbers, **options)
  expected = Axes((), window, inputs, outputs)
  assert of_one(layer, shape, IMAGE) == expected
  # One for each seed: the stack comes first, or last.
  moved = Axes(
    (0,), *(tuple(axis + 1 for axis in part) for part in expected[1:])
  )
  many = shaped(5, *IMAGE.shape)
  assert of_one(jax.vmap(layer), (5, *shape), many) == moved
  last = jax.vmap(layer, (4, 0))
  assert of_one(last, (*shape, 5), many) == expected._replace(stack=(4,))


TOKENS = shaped(2, 5, 8)


class Attention(nn.Module):
  """Attention of names of its own, with a fused and a merged kernel."""

  @nn.compact
  def __call__(self, x):
    q = nn.DenseGeneral((2, 4), name='q_proj')(x)
    kv = nn.Dense(16, name='c_attn')(x)
    k, v = jnp.split(kv.reshape(2, 5, 2, 8), 2, axis=-1)
    out = nn.dot_product_attention(q, k, v)
    return nn.DenseGeneral(8, axis=(-2, -1), name='wo')(out)


def test_attention():
  into, out = Axes((), (), (0,), (1, 2)), Axes((), (), (0, 1), (2,))
  expected = {'query': into, 'key': into, 'value': into, 'out': out}
  layer = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
  assert of_linen(layer, TOKENS) == expected

  def make(rngs):
    return nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

  assert of_nnx(make, TOKENS) == expected
  assert of_linen(Attention(), TOKENS) == {
    'q_proj': into,
    'c_attn': DENSE,
    'wo': out,
  }


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    y = nn.LayerNorm()(x)
    return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(y))), None


@pytest.mark.parametrize('axis', [0, 1])
def test_layers_scanned_by_linen(axis):
  stack = nn.scan(
    nn.remat(Block),
    variable_axes={'params': axis},
    split_rngs={'params': True},
    length=3,
  )()
  kernel = Axes((axis,), (), (1 - axis,), (2,))
  assert of_linen(stack, TOKENS, None) == {'Dense_0': kernel, 'Dense_1': kernel}


class Stack(nnx.Module):
  """Three layers, made by vmap and run by scan."""

  def __init__(self, axis, rngs):
    self.axis = axis

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=axis)
    def make(rngs):
      return nnx.Linear(8, 8, rngs=rngs)

    self.layers = make(rngs)

  def __call__(self, x):
    @nnx.scan(in_axes=(self.axis, nnx.Carry), out_axes=nnx.Carry)
    def run(layer, x):
      return nnx.relu(layer(x))

    return run(self.layers, x)


@pytest.mark.parametrize('axis', [0, 1])
def test_layers_scanned_by_nnx(axis):
  found = of_nnx(lambda rngs: Stack(axis, rngs), shaped(2, 8))
  assert found == {'layers': Axes((axis,), (), (1 - axis,), (2,))}


# Equinox is not needed: its layers are functions of `[out, in]` weights.
def equinox_like(params, x):
  x = jax.vmap(lambda row: params['weight1'] @ row + params['bias'])(x)
  return jax.vmap(lambda row: params['weight2'] @ jax.nn.relu(row))(x)


def test_weights_of_equinox():
  params = {
    'weight1': shaped(4, 4),
    'weight2': shaped(3, 4),
    'bias': shaped(4),
  }
  swapped = Axes((), (), (1,), (0,))
  found = axes.from_program(equinox_like, params, X)
  assert found == {'weight1': swapped, 'weight2': swapped}


def test_several_kernels_in_one_matmul():
  def apply(params, x):
    joined = jnp.concatenate([params['a'], params['b'].T], 1)
    layers = jnp.stack([params['c'].T, params['d']])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0]
    return x @ joined

  shapes = {'a': (4, 3), 'b': (2, 4), 'c': (4, 4), 'd': (4, 4)}
  params = {name: shaped(*shape) for name, shape in shapes.items()}
  swapped = Axes((), (), (1,), (0,))
  found = axes.from_program(apply, params, X)
  assert found == {'a': DENSE, 'b': swapped, 'c': swapped, 'd': DENSE}


def test_patterns_go_by_the_axes_of_the_program():
  params = {'w': np.random.default_rng(0).normal(size=(3, 4))}
  found = axes.from_program(lambda p, x: x @ p['w'].T, params, X)
  masks = lth.prune(
    lth.scores.magnitude(params),
    lth.masks.full(params),
    pattern=lth.patterns.NM(2, 4),
    axes=found,
  )
  assert (masks['w'].sum(1) == 2).all()


def tied(params, tokens):
  return jnp.tanh(params['embed'][tokens]) @ params['w'] @ params['embed'].T


TIED = {'embed': shaped(11, 4), 'w': shaped(4, 4)}
IDS = shaped(2, 5, dtype='int32')


def test_tied_embeddings_have_the_axes_of_their_matmul():
  found = axes.from_program(tied, TIED, IDS)
  assert found == {'embed': Axes((), (), (1,), (0,)), 'w': DENSE}
  where = program.kernels(tied, TIED, IDS)
  assert {name: where(name, x) for name, x in TIED.items()} == {
    'embed': False,
    'w': True,
  }


def test_uses_that_disagree_are_named():
  def apply(params, x):
    return jnp.tanh(x @ params['w']) @ params['w'].T

  message = (
    'w has Axes(stack=(), window=(), inputs=(0,), outputs=(1,)) in'
    ' `dot_general` of (5, 4) and (4, 3) at (0,), but Axes(stack=(), window=(),'
    ' inputs=(1,), outputs=(0,)) in `dot_general` of (5, 3) and (3, 4) at (3,).'
    ' Exclude these'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    axes.from_program(apply, {'w': shaped(4, 3)}, X)
  both = {'w': shaped(4, 3), 'v': shaped(4, 3)}
  found = axes.from_program(
    lambda p, x: (apply(p, x), x @ p['v']), both, X, where='v'
  )
  assert found == {'v': DENSE}


MIXED = {
  'two layers in one axis': (
    lambda p, x: jax.lax.scan(
      lambda x, w: (x @ w, None), x, p['w'].reshape(2, 4, 4)
    ),
    {'w': shaped(8, 4)},
    'axis 0 of w counts inputs and stack at once in `dot_general`',
  ),
  'a square turned into another': (
    lambda p, x: x @ p['w'].reshape(4, 6),
    {'w': shaped(6, 4)},
    'axis 0 of w counts inputs and outputs at once in `dot_general`',
  ),
  'never multiplied': (
    lambda p, x: x * p['w'],
    {'w': shaped(4)},
    'never multiplies with the leaves of the params, so their axes',
  ),
  'followed nowhere': (
    lambda p, x: x @ jnp.exp(p['w']),
    {'w': shaped(4, 3)},
    'w meets `exp`',
  ),
}


@pytest.mark.parametrize('case', MIXED)
def test_axes_that_cannot_be_told(case):
  apply, params, message = MIXED[case]
  with pytest.raises(ValueError, match=re.escape(message)):
    axes.from_program(apply, params, X)


def test_looked_up_leaves_have_no_axes():
  with pytest.raises(ValueError, match='never multiplies with pos, so'):
    axes.from_program(
      lambda p, ids: p['pos'][ids] @ p['w'],
      {'pos': shaped(7, 4), 'w': shaped(4, 4)},
      IDS,
      where=['pos', 'w'],
    )
