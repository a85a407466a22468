"""Axes of kernels by names, shapes and Flax's metadata."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lthjax as lth
from lthjax.axes import Axes

DENSE = Axes(inputs=(0,), outputs=(1,))
OUT_FIRST = Axes(inputs=(1,), outputs=(0,))
CONV = Axes((), (0, 1), (2,), (3,))
QUERY = Axes(inputs=(0,), outputs=(1, 2))
JOIN = Axes(inputs=(0, 1), outputs=(2,))
FUSED = Axes(inputs=(0,), outputs=(1, 2, 3))


def stacked(axes, number=1):
  """The same axes behind those of a stack."""
  later = (tuple(i + number for i in part) for part in axes[1:])
  return Axes(tuple(range(number)), *later)


@pytest.mark.parametrize(
  ('name', 'shape', 'expected'),
  [
    ('', (4, 3), DENSE),
    ('w', (4, 3), DENSE),
    ('0', (4, 3), DENSE),
    ('fc/kernel', (4, 3), DENSE),
    ('query/kernel', (8, 3), DENSE),  # a dense layer of that name
    ('layers/0/kernel', (8, 3), DENSE),
    ('layers_0/kernel', (8, 3), DENSE),
    ('layers/kernel', (8, 3), DENSE),
    ('scores', (8,), Axes(outputs=(0,))),
    ('log_temperature', (), Axes()),
    # PyTorch and Equinox
    ('layers/0/weight', (3, 2), OUT_FIRST),
    ('attn/in_proj_weight', (12, 4), OUT_FIRST),
    ('cell/weight_hh', (12, 4), OUT_FIRST),
    ('conv1/weight', (8, 3, 5, 5), Axes((), (2, 3), (1,), (0,))),
    ('h/0/attn/c_attn/weight', (4, 12), DENSE),  # GPT-2
    ('h/0/attn/c_attn/weight', (12, 4), OUT_FIRST),
    # convolutions
    ('conv/kernel', (3, 3, 4, 2), CONV),
    ('Conv_0/kernel', (1, 7, 4, 2), CONV),
    ('patch_embed/proj/kernel', (16, 16, 3, 8), CONV),
    ('w', (3, 3, 4, 2), CONV),
    ('conv1/kernel', (5, 8, 2), Axes((), (0,), (1,), (2,))),
    ('conv1d/kernel', (5, 8, 2), Axes((), (0,), (1,), (2,))),
    ('Conv3D_0/kernel', (3, 3, 3, 4, 2), Axes((), (0, 1, 2), (3,), (4,))),
    # attention
    ('attention/query/kernel', (8, 2, 3), QUERY),
    ('attention/out/kernel', (2, 4, 5), JOIN),
    ('MultiHeadDotProductAttention_0/value/kernel', (4, 2, 5), QUERY),
    ('q_proj/kernel', (64, 4, 16), QUERY),
    ('self_attn/kProj/w', (64, 2, 16), QUERY),
    ('attn/wq', (64, 4, 16), QUERY),
    ('attn/wo', (4, 16, 64), JOIN),
    ('to_v/kernel', (64, 4, 16), QUERY),
    ('attn/o_proj/kernel', (4, 16, 64), JOIN),
    ('attn/proj/kernel', (4, 16, 64), JOIN),
    ('attn/c_proj/kernel', (4, 16, 64), JOIN),
    ('attention_output/kernel', (4, 16, 64), JOIN),
    ('query_key_value/kernel', (64, 3, 4, 16), FUSED),
    ('key_value/kernel', (64, 2, 4, 16), FUSED),
    ('attn/in_proj/kernel', (64, 3, 4, 16), FUSED),
    ('attn/c_attn/kernel', (64, 3, 4, 16), FUSED),
    ('q_lin/kernel', (64, 4, 16), QUERY),
    ('attention/output/dense/kernel', (4, 16, 64), JOIN),
    ('attention/output/dense/kernel', (4, 16, 96), JOIN),
    ('attn/to_out/0/kernel', (4, 16, 64), JOIN),
    ('attn/DenseGeneral_0/kernel', (64, 4, 16), None),
    ('attn/dense/kernel', (4, 16, 96), None),
    ('attn/wq', (4, 64, 16), Axes(inputs=(1,), outputs=(0, 2))),
    ('qkv/kernel', (64, 3, 4, 16), FUSED),
    ('qkv/kernel', (3, 64, 4, 16), Axes(inputs=(1,), outputs=(0, 2, 3))),
    ('qkv/kernel', (64, 4, 48), QUERY),
    ('c_attn/kernel', (64, 192), DENSE),
    ('kv_einsum/w', (2, 1, 64, 16), Axes(inputs=(2,), outputs=(0, 1, 3))),
    ('q_einsum/w', (4, 64, 24), Axes(inputs=(1,), outputs=(0, 2))),
    ('attn_vec_einsum/w', (4, 16, 64), JOIN),
    ('mlp/gating_einsum', (2, 64, 96), Axes(inputs=(1,), outputs=(0, 2))),
    # stacks
    ('layers/kernel', (12, 64, 64), stacked(DENSE)),
    ('blocks/fc/weight', (3, 8, 2), stacked(OUT_FIRST)),
    ('ScanBlock_0/Dense_0/kernel', (3, 8, 2), stacked(DENSE)),
    ('blocks/conv1d/kernel', (9, 3, 8, 2), stacked(Axes((), (0,), (1,), (2,)))),
    ('blocks/attention/query/kernel', (3, 8, 2, 5), stacked(QUERY)),
    ('blocks/attention/out/kernel', (3, 2, 8, 5), stacked(JOIN)),
    ('encoderLayers/fc/kernel', (3, 8, 24), stacked(DENSE)),
    ('experts/w1', (8, 64, 256), stacked(DENSE)),
    ('h/fc/kernel', (4, 32, 32), stacked(DENSE)),
    ('encoder/layer/fc/kernel', (4, 32, 32), stacked(DENSE)),
    ('layer/kernel', (32, 32), DENSE),
    ('encoder/layer/0/query/kernel', (64, 4, 16), QUERY),
    ('MoE_0/wi', (8, 64, 256), stacked(DENSE)),
    ('blocks/moe/experts/w1', (3, 8, 64, 256), None),
    ('layers/0/experts/w1', (8, 64, 256), stacked(DENSE)),
    ('layers/experts/w1', (3, 8, 64, 256), stacked(DENSE, 2)),
    ('resblocks/attn/out_proj/kernel', (12, 64, 64), stacked(DENSE)),
    ('VmapDense_0/kernel', (8, 5, 4), stacked(DENSE)),
    ('ensemble/fc/kernel', (8, 5, 4), stacked(DENSE)),
    # what can be read in two ways
    ('w', (4, 8, 8), None),
    ('w', (3, 8, 64, 64), None),
    ('k', (4, 8, 8), None),
    ('out/kernel', (4, 8, 8), None),
    ('layers/0/kernel', (4, 8, 8), None),
    ('experts_0/kernel', (4, 8, 8), None),
    ('layers/query/kernel', (64, 4, 16), None),
    ('layers/conv/kernel', (3, 3, 8, 8), None),
    ('trunk/attn/out_proj/kernel', (12, 64, 64), None),
    ('trunk/attn/q_proj/kernel', (12, 64, 64), None),
    ('trunk/attn/q_proj/kernel', (64, 12, 64), None),
    ('trunk/attn/out_proj/kernel', (64, 12, 64), None),
    ('ConvTranspose_0/kernel', (3, 3, 4, 2), CONV),
    ('conv2d_transpose/kernel', (3, 3, 4, 2), None),  # Keras
    ('conv2_d_transpose/w', (3, 3, 4, 2), None),  # Haiku
    ('conv2_d/w', (3, 3, 4, 2), CONV),
    ('depthwise_conv2d/depthwise_kernel', (3, 3, 4, 1), None),
    ('layers/qkv/kernel', (3, 8, 24), None),
    ('c_proj/weight', (4, 4), None),
    ('up/conv_transpose/weight', (3, 8, 5, 5), None),
    ('w', (2,) * 7, None),
  ],
)
def test_by_layout(name, shape, expected):
  if name == 'blocks/moe/experts/w1':  # two stacks of three that may be
    expected = stacked(DENSE, 2)
  found = lth.axes.by_layout({name: shape})
  assert found == ({} if expected is None else {name: expected})
  for axes in found.values():
    assert sorted(i for part in axes for i in part) == [*range(len(shape))]


def test_leaves_say_what_their_neighbours_are():
  found = lth.axes.by_layout(
    {
      'q': (64, 4, 16),
      'k': (64, 4, 16),
      'o': (4, 16, 64),
      'layers/query/kernel': (64, 4, 16),  # the next has another first axis
      'layers/out/kernel': (4, 16, 64),
      'blocks/norm/weight': (3, 4),
      'blocks/A_log': (3, 4, 2),
      'blocks/mystery': (3, 4),
      'blocks/out/weight': (3, 4, 4),
      'encoder/layers/conv1': (3, 3, 8, 8),
      'encoder/layers/conv2': (3, 3, 8, 16),
      'encoder/layers/fc': (16, 4),
    }
  )
  assert found == {
    'q': QUERY,
    'k': QUERY,
    'o': JOIN,
    'layers/query/kernel': QUERY,
    'layers/out/kernel': JOIN,
    'blocks/norm/weight': stacked(Axes(outputs=(0,))),
    'blocks/A_log': stacked(DENSE),
    'blocks/mystery': stacked(Axes(outputs=(0,))),
    'blocks/out/weight': stacked(OUT_FIRST),
    'encoder/layers/conv1': CONV,
    'encoder/layers/conv2': CONV,
    'encoder/layers/fc': DENSE,
  }


def test_scales_of_norms_show_what_is_stacked():
  found = lth.axes.by_layout(
    {
      'trunk/norm/scale': (6, 8),
      'trunk/attn/out/kernel': (6, 8, 8),
      'trunk/mlp/up/kernel': (6, 8, 32),
      'head/kernel': (8, 5),
      'tail/norm/scale': (6, 8),  # beside what is no stack of six
      'tail/up/kernel': (5, 8, 32),
    }
  )
  assert found == {
    'trunk/norm/scale': stacked(Axes(outputs=(0,))),
    'trunk/attn/out/kernel': stacked(DENSE),
    'trunk/mlp/up/kernel': stacked(DENSE),
    'head/kernel': DENSE,
    'tail/norm/scale': Axes(outputs=(0, 1)),
  }


def test_layers_of_a_stack_may_have_wide_heads():
  found = lth.axes.by_layout(
    {
      'blocks/attention/query/kernel': (12, 64, 4, 64),
      'blocks/attention/out/kernel': (12, 4, 64, 64),
    }
  )
  assert found['blocks/attention/query/kernel'] == stacked(QUERY)
  assert found['blocks/attention/out/kernel'].inputs == (1, 2)


def test_stacked_by_the_caller():
  shapes = {'body/w': (8, 3, 4), 'body/v': (3, 4, 8), 'head/w': (8, 4)}
  found = lth.axes.by_layout(shapes, stacked={'*/v': -1, 'body/*': 0})
  assert found == {
    'body/w': stacked(DENSE),
    'body/v': Axes(stack=(2,), inputs=(0,), outputs=(1,)),
    'head/w': DENSE,
  }
  message = r'`stacked` must name .*but body/v \(3, 4, 8\) has no axis \(3,\)\.'
  with pytest.raises(ValueError, match=message):
    lth.axes.by_layout(shapes, stacked={'*/v': 3})
  with pytest.raises(ValueError, match='`stacked` has patterns that match no'):
    lth.axes.by_layout(shapes, stacked={'tail/*': 0})


class LinenBlock(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    init = nn.with_partitioning(nn.initializers.ones, ('embed', 'mlp'))
    return nn.Dense(4, kernel_init=init)(x), None


class LinenNet(nn.Module):
  @nn.compact
  def __call__(self, x):
    stack = nn.scan(
      LinenBlock,
      variable_axes={'params': 1},
      split_rngs={'params': True},
      length=3,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return stack(name='body')(x, None)[0]


def test_metadata_of_linen():
  params = jax.eval_shape(LinenNet().init, jax.random.key(0), jnp.ones((2, 4)))
  found = lth.axes.by_layout(params)
  kernel = found['params/body/Dense_0/kernel']
  assert kernel == Axes(stack=(1,), inputs=(0,), outputs=(2,))
  masks = lth.masks.full(params)
  assert lth.axes.resolve(None, masks)['params/body/Dense_0/kernel'] == kernel


def test_metadata_of_nnx():
  def make():
    kernel = nnx.Param(jnp.ones((4, 3, 8)))
    kernel.set_metadata(out_sharding=('embed', 'layers', None))
    return nnx.State({'body': {'kernel': kernel, 'bias': nnx.Param(0.0)}})

  state = jax.eval_shape(make)
  assert lth.axes.by_layout(state)['body/kernel'] == Axes(
    stack=(1,), inputs=(0,), outputs=(2,)
  )


def test_names_come_before_globs_and_globs_before_the_layout():
  given = {
    '*w*': Axes(inputs=-1, outputs=-2),
    'a/w1': DENSE,
    'c': DENSE,  # not a leaf of these, such as one that stays dense
  }
  shapes = {'a/w1': (2, 3), 'a/w2': (2, 3), 'd': (3, 3, 4, 2)}
  assert lth.axes.resolve(given, shapes) == {
    'a/w1': DENSE,
    'a/w2': OUT_FIRST,
    'd': CONV,
  }
  tree = {'a': {'w1': np.ones((2, 3)), 'w2': None}, 'f': abs}
  assert lth.axes.resolve(None, tree) == {'a/w1': DENSE}


def test_a_name_may_look_like_a_glob():
  given = {'a[0]': OUT_FIRST, 'a*': DENSE}
  found = lth.axes.resolve(given, {'a[0]': (4, 8), 'ab': (4, 8)})
  assert found == {'a[0]': OUT_FIRST, 'ab': DENSE}


def test_what_is_in_doubt():
  shapes = {'v': (4, 8, 8), 'fc': (4, 8), 'w': (3, 8, 16, 16)}
  assert lth.axes.resolve(None, shapes, strict=False) == {'fc': DENSE}
  assert lth.axes.stacks(None, shapes) == {'v': (), 'fc': (), 'w': ()}
  message = (
    'Names and shapes do not say which axes are inputs, neurons or a stack of'
    ' layers in v (4, 8, 8), w (3, 8, 16, 16). Ask the program with'
    ' `axes=lth.axes.from_program(apply, params, inputs)`; or say what is'
    ' stacked with `axes=lth.axes.by_layout(params, stacked={"blocks/*": 0})`;'
    ' or give the axes, as in `axes={"*/kernel": lth.axes.Axes(stack=(0,),'
    ' inputs=(1,), outputs=(2,))}`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.axes.resolve(None, shapes)
  given = lth.axes.by_layout(shapes, stacked={'v': 0, 'w': (0, 1)})
  found = lth.axes.resolve(given, shapes)
  assert found['w'] == stacked(DENSE, 2)
  assert lth.axes.stacks(given, shapes) == {'v': (0,), 'fc': (), 'w': (0, 1)}


@pytest.mark.parametrize(
  ('axes', 'message'),
  [
    (3, '`axes` was 3, but must map names or globs to axes'),
    ({'x*': DENSE}, "`axes` has patterns that match no prunable leaf: 'x*'"),
    ({'w': (0, 1)}, 'each axis of a leaf once, but w (4, 8) has (0, 1). The'),
    ({'w': Axes(inputs=(0,))}, 'but w (4, 8) has Axes(stack=(), window=()'),
    ({'w': CONV}, 'but w (4, 8) has Axes(stack=(), window=(0, 1)'),
    ({'w': Axes(inputs=(0,), outputs=(0,))}, 'w (4, 8) has Axes('),
    ({'w': Axes(inputs=('a',), outputs=(0,))}, 'w (4, 8) has Axes('),
  ],
)
def test_axes_that_do_not_fit(axes, message):
  error = ValueError if isinstance(axes, dict) else TypeError
  with pytest.raises(error, match=re.escape(message)):
    lth.axes.resolve(axes, {'w': (4, 8)})


@pytest.mark.parametrize('tree', ['w', 3, [1.0], abs, {'w': ['a']}])
def test_axes_are_those_of_arrays(tree):
  for function in (lth.axes.by_layout, lambda x: lth.axes.resolve(None, x)):
    with pytest.raises(TypeError, match='Axes are those of arrays, but'):
      function(tree)
  assert lth.axes.resolve(None, {}) == lth.axes.resolve(None, None) == {}
  for stacked in (3, 'blocks/*'):
    with pytest.raises(TypeError, match=r'`stacked` was .*, but must map'):
      lth.axes.by_layout({'w': (4, 8)}, stacked=stacked)


def test_views_need_axes_of_the_array():
  for axes in (None, CONV, (0, 1)):
    with pytest.raises(ValueError, match=r'once, but x \(4, 8\) has'):
      lth.axes.columns(np.ones((4, 8)), axes)
    with pytest.raises(ValueError, match=r'once, but x \(4, 8\) has'):
      lth.axes.fan_in((4, 8), axes)
  for x in (None, {}, {'w': np.ones((4, 8))}):
    for function in (lth.axes.columns, lth.axes.fan_in):
      with pytest.raises(TypeError, match='An array or its shape is needed'):
        function(x, DENSE)


AXES = [
  ((4, 3), DENSE),
  ((4, 3), OUT_FIRST),
  ((2, 3, 4, 5), CONV),
  ((2, 3, 4, 5), stacked(QUERY)),
  ((2, 3, 4, 5), Axes(stack=(2,), inputs=(0, 3), outputs=(1,))),
  ((6,), Axes(outputs=(0,))),
  ((2, 0, 4), stacked(DENSE)),
]


@pytest.mark.parametrize(('shape', 'axes'), AXES)
def test_columns(shape, axes):
  x = np.arange(math.prod(shape)).reshape(shape)
  view, back = lth.axes.columns(x, axes)
  assert view.shape[1] == lth.axes.fan_in(shape, axes)
  np.testing.assert_array_equal(back(view), x)
  for index in np.ndindex(*shape):
    at = [
      np.ravel_multi_index([index[i] for i in part], [shape[i] for i in part])
      if part
      else 0
      for part in (axes.stack, axes.summed, axes.outputs)
    ]
    assert view[tuple(at)] == x[index]


def test_fan_in_by_hand():
  assert lth.axes.fan_in((12, 64, 64), stacked(DENSE)) == 64
  assert lth.axes.fan_in((3, 3, 16, 32), CONV) == 144
  assert lth.axes.fan_in((4, 16, 64), JOIN) == 64
  assert lth.axes.fan_in((8,), Axes(outputs=(0,))) == 1
