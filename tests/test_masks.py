"""Masks: which leaves, their algebra, and exactly +0.0 where they are false."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

import lthjax as lth
from lthjax import trees

SHAPES = {'a': (5, 7), 'c/d': (3, 4, 2)}


def random_masks(seed, density=0.5):
  """A tree with a dense leaf, and as NumPy arrays by name."""
  rng = np.random.default_rng(seed)
  flat = {n: rng.random(s) < density for n, s in SHAPES.items()}
  masks = {'a': flat['a'], 'b': None, 'c': {'d': flat['c/d']}}
  return masks, flat


def numpy_by_name(masks):
  named = trees.by_name(masks)
  assert named.pop('b') is None
  return {name: np.asarray(mask) for name, mask in named.items()}


def same(a, b):
  """Equal to the bit, types and missing leaves included."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
  return True


# ---- Which leaves may be pruned.


class Block(nnx.Module):
  """One of everything."""

  def __init__(self, rngs):
    self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, use_bias=True)
    self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
    self.embed = nnx.Embed(5, 4, rngs=rngs)
    self.fc = nnx.Linear(4, 4, rngs=rngs)
    self.ln1 = nnx.LayerNorm(4, rngs=rngs)
    self.bn1 = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)


class LinenBlock(nn.Module):
  @nn.compact
  def __call__(self, x, _=None):
    x = nn.LayerNorm()(nn.Dense(4)(x))
    return x, None


class LinenNet(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(5, 4)(tokens)
    x = nn.MultiHeadDotProductAttention(2)(x)
    x = nn.LayerNorm()(nn.Conv(4, (3,))(x))
    scan = nn.scan(
      LinenBlock, {'params': 0}, length=3, split_rngs={'params': True}
    )
    return scan(name='blocks')(x)[0]


def prunable(tree):
  """Names of the leaves that `full` chooses by default."""
  masks = trees.by_name(lth.masks.full(tree))
  return {name for name, mask in masks.items() if mask is not None}


ATTENTION = {'key/kernel', 'out/kernel', 'query/kernel', 'value/kernel'}


def test_kernels_of_nnx():
  block = nnx.eval_shape(lambda: Block(nnx.Rngs(0)))
  state = nnx.state(block, nnx.Param)
  expected = {f'attention/{name}' for name in ATTENTION}
  expected |= {'conv/kernel', 'fc/kernel'}
  assert prunable(state) == expected
  assert prunable(nnx.to_pure_dict(state)) == expected
  # With batch statistics and random keys in the same tree.
  assert prunable(nnx.state(block)) == expected


def test_kernels_of_scanned_nnx():
  # Every bias and scale has a leading axis of layers, so two dimensions.
  @nnx.split_rngs(splits=3)
  @nnx.vmap
  def stack(rngs):
    return Block(rngs)

  block = nnx.eval_shape(lambda: Block(nnx.Rngs(0)))
  state = nnx.state(nnx.eval_shape(lambda: stack(nnx.Rngs(0))), nnx.Param)
  named = trees.by_name(state)
  assert named['fc/bias'].shape == named['ln1/scale'].shape == (3, 4)
  assert prunable(state) == prunable(nnx.state(block))


def test_kernels_of_linen():
  tokens = jnp.zeros((1, 3), int)
  variables = jax.eval_shape(LinenNet().init, jax.random.key(0), tokens)
  named = trees.by_name(variables['params'])
  assert named['blocks/LayerNorm_0/scale'].shape == (3, 4)
  expected = {f'MultiHeadDotProductAttention_0/{name}' for name in ATTENTION}
  expected |= {'Conv_0/kernel', 'blocks/Dense_0/kernel'}
  assert prunable(variables['params']) == expected
  assert prunable(variables) == {f'params/{name}' for name in expected}


@pytest.mark.parametrize(
  ('name', 'shape', 'expected'),
  [
    ('layers/0/weight', (3, 2), True),  # Equinox
    ('layers/0/bias', (2,), False),
    ('layers/0/bias', (4, 2), False),
    ('conv1/bias', (8, 1, 1), False),
    ('norm/weight', (4, 2), False),
    ('embedding/weight', (5, 2), False),
    ('mlp/linear_0/w', (3, 2), True),  # Haiku
    ('mlp/linear_0/b', (4, 2), False),
    ('layer_norm/offset', (4, 2), False),
    ('w', (3, 2), True),  # plain dicts, lists and arrays
    ('0', (3, 2), True),
    ('', (3, 2), True),
    ('w', (3,), False),
    ('log_temperature', (), False),
    ('wte', (5, 2), False),  # GPT-2
    ('h/0/ln_1/scale', (2,), False),
    ('patch_embed/kernel', (4, 4, 3, 8), True),
    ('GroupNorm_0/scale', (4, 2), False),
    ('pos_embedding', (1, 5, 2), False),
    ('PatchEmbedding_0/Conv_0/kernel', (4, 4, 3, 8), True),
    ('patch_embed/proj/kernel', (16, 16, 3, 8), True),
    ('patch_embedding/weight', (8, 3, 4, 4), True),
    ('normal_cell/conv/kernel', (3, 3, 4, 8), True),
    ('normalizer/kernel', (3, 2), True),
    ('time_embed/Dense_0/kernel', (3, 2), True),
    ('token_mixing/Dense_0/kernel', (3, 2), True),
    ('cls/predictions/dense/weight', (3, 2), True),
    ('lm_head/weight', (5, 2), True),
    ('mlp/w_b', (3, 2), True),
    ('multi_scale/conv/weight', (8, 3, 4, 4), True),
    ('cls_token', (1, 1, 8), False),
    ('mask_token', (1, 1, 8), False),
    ('pos_emb', (1, 5, 8), False),
    ('pos_embed', (1, 5, 8), False),
    ('positional_encoding', (5, 8), False),
    ('relative_position_bias_table', (9, 2), False),
    ('gamma', (1, 8), False),
    ('rms/g', (1, 8), False),
    ('rmsnorm/w', (3, 8), False),
    ('b1', (1, 8), False),
    ('b_q', (2, 8), False),
    ('q_bias', (2, 8), False),
    ('A_log', (8, 4), False),
    ('q_proj/lora_A/default/weight', (2, 8), False),
    ('lora_a', (8, 2), False),
    ('wte/weight', (9, 8), False),
    ('tok/weight', (9, 8), False),
    ('decoder/embed_tokens/weight', (9, 8), False),
    ('moving_mean', (2, 8), False),
    ('moving_variance', (2, 8), False),
    ('posemb', (1, 5, 8), False),
    ('dist_token', (1, 1, 8), False),
    ('latents', (4, 8), False),
    ('latents/kernel', (4, 8), True),
    ('prompt', (4, 8), False),
    ('prompt_encoder/w', (4, 8), True),
    ('lstm/bh', (2, 8), False),
    ('rnn/bw_kernel', (4, 4), True),
    ('cell/be_proj', (4, 4), True),
    ('reduction_cell/conv/kernel', (3, 3, 4, 8), True),
    ('token_mixer/fc/w', (3, 8), True),
    ('unembed/kernel', (8, 5), True),
    ('class_token', (1, 1, 8), False),
    ('relative_attention_bias/embedding', (9, 2), False),
    ('input_layernorm/weight', (3, 8), False),
    ('layer_scale/gamma', (3, 8), False),
    ('q_proj/loraA', (8, 2), False),
    ('embed_tokens/weight', (9, 8), False),
    ('blocks/ln1/weight', (3, 4), False),
    ('biased/kernel', (3, 2), True),  # only whole words count as a bias
    ('scaled/kernel', (3, 2), True),
    ('rms_ffn_weight', (6, 8), False),  # what a norm is for
    ('norm_q/weight', (2, 8), False),
    ('ln_mlp/weight', (2, 8), False),
    ('norm_conv/weight', (8, 4, 3), True),
    ('NormConv1d/weight', (8, 4, 3), True),
    ('patch_norm/weight', (2, 8), False),
    ('patch_pos', (1, 5, 8), False),
    ('pe/weight', (9, 8), False),
    ('shared/weight', (9, 8), False),  # T5
    ('moe/shared/w1', (9, 8), True),
    ('gru/bz', (1, 8), False),
    ('attn/sink', (2, 8), False),
    ('prefix', (4, 8), False),
    ('zero_point', (4, 8), False),
    ('time_mix_k', (1, 1, 8), False),  # vectors
    ('tau', (16, 1, 1), False),
    ('ia3_l', (1, 8), False),
    ('pool/probe', (1, 1, 8), False),
    ('w', (8, 1), True),
    ('wq', (8, 1), True),
    ('Conv_0/kernel', (1, 1, 1, 8), True),
    ('head/gate_proj', (8, 1), True),
    ('vocab/weight', (9, 8), False),
    ('lut/weight', (9, 8), False),
    ('model/shared/weight', (9, 8), False),
    ('word_emb', (9, 8), False),
    ('wordemb/weight', (9, 8), False),
    # Layers that make vectors, or read them.
    ('to_vocab/weight', (9, 8), True),
    ('linear_probe', (8, 3), True),
    ('linear_pos/weight', (8, 8), True),
    ('mlp_tokens/0/weight', (8, 8), True),
    ('token_classifier/weight', (3, 8), True),
    ('fc_mu', (8, 3), True),
    ('conv1_bn_mean', (2, 8), False),
    ('position_wise_feed_forward/w_1/weight', (8, 8), True),
    ('embedding_hidden_mapping_in/weight', (8, 4), True),
    ('adaLN_modulation/1/weight', (48, 8), True),
    # Words that are written together.
    ('actnorm/weight', (1, 8), False),
    ('bproj', (2, 8), False),
    ('fcb', (2, 8), False),
    ('bih', (3, 8), False),
    ('qkvw', (8, 24), True),
    # Statistics, caches and buffers.
    ('obs_std', (3, 8), False),
    ('att/time_decay', (2, 8), False),
    ('attn/cached_key', (1, 5, 2, 4), False),
    ('kv_cache/key', (1, 5, 2, 4), False),
    ('CachedAttention_0/query/kernel', (8, 8), True),
    ('layers/0/attn_with_cache/out_proj/kernel', (8, 8), True),
    ('attn_mask', (4, 9, 9), False),
    ('registers', (1, 4, 8), False),
  ],
)
def test_kernels_by_name(name, shape, expected):
  leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
  assert lth.masks.kernels(name, leaf) is expected


@pytest.mark.parametrize(
  ('name', 'shape', 'expected'),
  [
    ('norm1/scale', (3,), True),
    ('scale', (3,), True),
    ('BatchNorm_0/scale', (3,), True),
    ('layers/1/ln/weight', (3,), True),
    ('bn1/weight', (3,), True),
    ('layer_norm/gamma', (3,), True),
    ('rms/g', (3,), True),
    ('a/bn/gamma', (3,), True),
    ('grayscale', (3,), False),
    ('subnet/weight', (3,), False),
    ('norm1/bias', (3,), False),
    ('fc/weight', (3,), False),
    ('normal/weight', (3,), False),
    ('multi_scale/weight', (3,), False),
    ('norm1/scale', (3, 3), False),
  ],
)
def test_scales_by_name(name, shape, expected):
  leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
  assert lth.masks.scales(name, leaf) is expected


def test_stacked_vectors_are_dense():
  params = {
    'blocks': {
      'ln1': {'weight': np.ones((3, 4))},
      'mystery': np.ones((3, 4)),
      'out': {'weight': np.ones((3, 4, 4))},
    },
    'mystery': np.ones((3, 4)),
  }
  assert prunable(params) == {'blocks/out/weight', 'mystery'}


class Module:
  """What Equinox's modules are: trees with functions among their leaves."""

  def __init__(self, weight, activation):
    self.weight, self.activation = weight, activation


jax.tree_util.register_pytree_with_keys(
  Module,
  lambda m: (
    [
      (jax.tree_util.GetAttrKey(name), value) for name, value in vars(m).items()
    ],
    None,
  ),
  lambda _, leaves: Module(*leaves),
)


def test_leaves_that_are_not_arrays_have_no_masks():
  module = Module(np.ones((3, 2), np.float32), jax.nn.relu)
  params = {'layers': [module], 'rate': 0.5, 'name': 'net', 'key': None}
  params['key'] = jax.random.split(jax.random.key(0), (2, 2))
  masks = lth.masks.full(params)
  named = trees.by_name(masks)
  assert {n for n, m in named.items() if m is not None} == {'layers/0/weight'}
  assert lth.masks.full(params, lambda name, leaf: True)['key'] is None
  half = {'layers': [Module(np.eye(3, 2, dtype=bool), None)]}
  half |= dict.fromkeys(['rate', 'name', 'key'])
  found = lth.masks.apply(half, params)
  assert found['name'] == 'net'
  assert found['layers'][0].activation is jax.nn.relu
  np.testing.assert_array_equal(found['layers'][0].weight, np.eye(3, 2))


# ---- full


PARAMS = {
  'fc1': {'kernel': np.ones((3, 2)), 'bias': np.ones(2)},
  'output': {'kernel': np.ones((2, 4)), 'bias': np.ones(4)},
}


@pytest.mark.parametrize(
  ('where', 'expected'),
  [
    ('*/kernel', {'fc1/kernel', 'output/kernel'}),
    ('fc1/*', {'fc1/kernel'}),  # globs narrow the rule down
    ('*', {'fc1/kernel', 'output/kernel'}),
    ('fc1/bias', {'fc1/bias'}),  # names choose whatever it is
    (['fc1/bias', 'output/k*'], {'fc1/bias', 'output/kernel'}),
    (('fc1/bias', '*'), {'fc1/bias', 'fc1/kernel', 'output/kernel'}),
    (lambda name, leaf: leaf.shape == (4,), {'output/bias'}),
  ],
)
def test_where(where, expected):
  linear = {
    name: nnx.Linear(*np.shape(x['kernel']), rngs=nnx.Rngs(0))
    for name, x in PARAMS.items()
  }
  for params in (PARAMS, nnx.state(linear), jax.eval_shape(lambda: PARAMS)):
    masks = trees.by_name(lth.masks.full(params, where))
    assert {n for n, m in masks.items() if m is not None} == expected
    for name in expected:
      leaf = trees.by_name(params)[name]
      assert (masks[name].shape, masks[name].dtype) == (leaf.shape, bool)
      assert masks[name].all()


def test_where_finds_nothing():
  names = 'fc1/bias, fc1/kernel, output/bias, output/kernel'
  with pytest.raises(ValueError, match=f'No leaf of the .*They are {names}'):
    lth.masks.full(PARAMS, lambda name, leaf: False)
  with pytest.raises(ValueError, match='No leaf of the params was selected'):
    lth.masks.full({'b': np.ones(3)})
  with pytest.raises(ValueError, match='They are empty'):
    lth.masks.full({})
  with pytest.raises(ValueError, match=r"match no leaf: 'fc2/\*'"):
    lth.masks.full(PARAMS, ['fc2/*', 'fc1/*'])
  message = (
    "`where` has globs that match no leaf among the kernels: '*/bias'. To"
    ' choose other leaves, give their exact names, or `where=lambda name, leaf:'
    ' ...`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    lth.masks.full(PARAMS, ['*/bias', 'fc1/*'])


def test_globs_narrow_other_rules():
  params = {'norm': {'scale': np.ones(3), 'bias': np.ones(3)}, 'b': np.ones(3)}
  masks = lth.masks.full(params, 'norm/*', rule=lth.masks.scales)
  assert {n for n, m in trees.by_name(masks).items() if m is not None} == {
    'norm/scale'
  }


@pytest.mark.parametrize('where', [None, 3, [], ['a', 3], jnp.ones])
def test_where_of_a_wrong_type(where):
  if where is jnp.ones:
    where = np.ones((2, 2))
  with pytest.raises(TypeError, match=r'`where` was .*must be a function'):
    lth.masks.full(PARAMS, where)


@pytest.mark.parametrize('params', [3, 'w', {'w': 1.5}, [abs]])
def test_params_of_a_wrong_type(params):
  with pytest.raises(TypeError, match='`params` must be a tree of arrays'):
    lth.masks.full(params)


def test_full_keeps_missing_leaves():
  masks = lth.masks.full({'a': np.ones((2, 2)), 'b': None})
  assert masks['b'] is None


def test_full_is_placed_like_the_params():
  mesh = jax.make_mesh((1,), ('d',), (AxisType.Explicit,))
  place = NamedSharding(mesh, P('d', None))
  mask = lth.masks.full(jax.device_put(np.ones((2, 3), np.float32), place))
  assert mask.sharding == place


# ---- apply


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('jit', [False, True])
def test_apply_is_exact(dtype, jit):
  info = jnp.finfo(dtype)
  values = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.5, -2.5, float(info.max)]
  values += [float(info.smallest_subnormal), -float(info.tiny)]
  weights = np.array([values, values]).astype(jnp.dtype(dtype))
  mask = np.repeat([[True], [False]], len(values), axis=1)
  masks, params = {'w': mask, 'b': None}, {'w': weights, 'b': weights}
  apply = jax.jit(lth.masks.apply) if jit else lth.masks.apply
  out = apply(masks, params)
  bits = f'uint{info.bits}'
  assert out['w'].dtype == weights.dtype
  alive, dead = np.asarray(out['w']).view(bits)
  np.testing.assert_array_equal(alive, weights.view(bits)[0])
  assert not dead.any()  # +0.0, and not -0.0
  assert same(out['b'], weights)


def test_apply_to_nnx():
  state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
  masks = lth.prune(
    lth.scores.magnitude(state), lth.masks.full(state), sparsity=0.5
  )
  out = lth.masks.apply(masks, state)
  assert isinstance(out, nnx.State)
  kernel = np.asarray(trees.by_name(out)['kernel'])
  assert (kernel != 0).sum() == 3


def test_apply_names_every_misfit():
  masks = {'a': np.ones((2, 3), bool), 'b': np.ones(2), 'c': None}
  params = {'a': np.ones((3, 2)), 'b': np.ones(2), 'd': np.ones(1)}
  with pytest.raises(ValueError, match='masks do not fit the params') as info:
    lth.masks.apply(masks, params)
  for fault in ('a: mask of shape', 'b: mask of dtype', 'c has', 'd has no'):
    assert fault in str(info.value)


def test_masks_of_another_container():
  """Masks from an `nnx.Optimizer` are `State`s, and params pure trees."""
  state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
  pure = nnx.to_pure_dict(state)
  masks = lth.prune(
    lth.scores.magnitude(state), lth.masks.full(state), sparsity=0.5
  )
  other = lth.masks.full(pure)
  out = lth.masks.apply(masks, pure)
  assert isinstance(out, dict)
  assert (np.asarray(out['kernel']) != 0).sum() == 3
  assert isinstance(lth.masks.apply(other, state), nnx.State)
  assert lth.masks.jaccard(masks, other) == 0.5
  assert lth.masks.hamming(other, masks) == 0.5
  both = lth.masks.intersect(other, masks)
  assert isinstance(both, dict)
  np.testing.assert_array_equal(both['kernel'], trees.by_name(masks)['kernel'])


# ---- The algebra.


@pytest.mark.parametrize('seed', range(3))
def test_algebra_against_numpy(seed):
  a, x = random_masks(seed, 0.3)
  b, y = random_masks(seed + 100, 0.6)
  ours = lth.masks
  for function, expected in [
    (ours.intersect, np.logical_and),
    (ours.union, np.logical_or),
    (ours.difference, np.greater),
  ]:
    found = numpy_by_name(function(a, b))
    assert list(found) == list(x)
    for name in x:
      np.testing.assert_array_equal(found[name], expected(x[name], y[name]))
  flat_x, flat_y = (
    np.concatenate([v.ravel() for v in tree.values()]) for tree in (x, y)
  )
  assert ours.count(a) == flat_x.sum()
  assert ours.density(a) == flat_x.mean()
  assert ours.alive_by_name(a) == {n: m.sum() for n, m in x.items()}
  assert ours.hamming(a, b) == (flat_x != flat_y).mean()
  both, either = (flat_x & flat_y).sum(), (flat_x | flat_y).sum()
  assert ours.jaccard(a, b) == both / either
  assert ours.count(a) + ours.count(b) == both + either


def test_identities():
  a, b = random_masks(0)[0], random_masks(1)[0]
  full = lth.masks.full(a, lambda name, leaf: True)
  none = lth.masks.difference(a, a)
  ours = lth.masks

  def negate(masks):
    return ours.difference(full, masks)

  # De Morgan, both ways; and what else difference must be.
  assert same(negate(ours.union(a, b)), ours.intersect(negate(a), negate(b)))
  assert same(negate(ours.intersect(a, b)), ours.union(negate(a), negate(b)))
  assert same(ours.difference(a, b), ours.intersect(a, negate(b)))
  assert same(ours.union(ours.difference(a, b), ours.intersect(a, b)), a)
  assert same(negate(negate(a)), a)
  assert (ours.count(none), ours.density(full)) == (0, 1.0)
  assert ours.hamming(a, a) == ours.hamming(none, none) == 0.0
  assert ours.hamming(full, none) == ours.hamming(a, negate(a)) == 1.0
  assert ours.jaccard(a, a) == ours.jaccard(none, none) == 1.0
  assert ours.jaccard(a, negate(a)) == 0.0
  assert ours.jaccard(a, full) == ours.density(a)


def test_counts_are_python_numbers_or_traced():
  masks = random_masks(0)[0]
  assert type(lth.masks.count(masks)) is int
  assert type(lth.masks.density(masks)) is float
  assert all(type(n) is int for n in lth.masks.alive_by_name(masks).values())
  traced = jax.jit(lth.masks.alive_by_name)(masks)
  assert traced == lth.masks.alive_by_name(masks)


def test_comparisons_may_be_traced():
  a, b = random_masks(0)[0], random_masks(1)[0]
  for function in (lth.masks.hamming, lth.masks.jaccard, lth.masks.density):
    masks = (a,) if function is lth.masks.density else (a, b)
    np.testing.assert_allclose(jax.jit(function)(*masks), function(*masks))


MISTAKES = {
  'count': lth.masks.count,
  'density': lth.masks.density,
  'alive_by_name': lth.masks.alive_by_name,
  'summary': lth.masks.summary,
  'pack': lth.masks.pack,
  'shuffle': lambda x: lth.masks.shuffle(jax.random.key(0), x),
}


@pytest.mark.parametrize('name', MISTAKES)
@pytest.mark.parametrize(
  'tree',
  [
    {'w': np.ones((2, 2), np.float32)},
    {'w': jax.ShapeDtypeStruct((2, 2), bool)},
    {'w': 'mask'},
    {'w': [1.0, True]},
    None,
    3,
  ],
  ids=['params', 'shapes', 'text', 'numbers', 'none', 'number'],
)
def test_what_is_not_a_tree_of_masks(name, tree):
  with pytest.raises(TypeError, match='`masks` must be a tree of bool arrays'):
    MISTAKES[name](tree)


def test_empty_leaves_count_nothing():
  masks = {'lora': np.ones((4, 0), bool), 'w': np.eye(2, dtype=bool)}
  ours = lth.masks
  assert ours.alive_by_name(masks) == {'lora': 0, 'w': 2}
  assert (ours.count(masks), ours.density(masks)) == (2, 0.5)
  only = {'lora': masks['lora']}
  assert (ours.count(only), ours.density(only)) == (0, 1.0)
  assert (ours.hamming(only, only), ours.jaccard(only, only)) == (0.0, 1.0)
  for within in ('layer', 'global', 'input'):
    moved = ours.shuffle(jax.random.key(0), masks, within)
    assert ours.alive_by_name(moved) == {'lora': 0, 'w': 2}
  assert same(
    ours.unpack(ours.pack(masks), masks), jax.tree.map(jnp.array, masks)
  )
  assert ours.summary(masks).split('\n') == [
    'leaf    shape  alive  density',
    'lora   (4, 0)      0        –',
    'w      (2, 2)      2  50.00 %',
    'total       4      2  50.00 %',
  ]


@pytest.mark.parametrize(
  'function', ['intersect', 'union', 'difference', 'hamming', 'jaccard']
)
def test_algebra_needs_masks_alike(function):
  function = getattr(lth.masks, function)
  a = {'x': np.ones(2, bool), 'y': None}
  for b, message in [
    ({'x': np.ones(3, bool), 'y': None}, r'x: mask of shape \(2,\)'),
    ({'x': np.ones(2, bool), 'y': np.ones(2, bool)}, 'y is None in the other'),
    ({'x': None, 'y': None}, 'x is None in the other masks but has a mask'),
    ({'x': np.ones(2), 'y': None}, 'x: mask of dtype float64, not bool'),
    ({'x': np.ones(2, bool)}, 'y has a mask only'),
  ]:
    with pytest.raises(ValueError, match=message):
      function(a, b)


# ---- shuffle


@pytest.mark.parametrize('density', [0.0, 0.2, 1.0])
def test_shuffle_keeps_counts(density):
  masks = random_masks(0, density)[0]
  alive = lth.masks.alive_by_name(masks)
  shuffle = jax.jit(lth.masks.shuffle, static_argnames='within')
  for seed in range(5):
    key = jax.random.key(seed)
    layer = shuffle(key, masks)
    assert lth.masks.alive_by_name(layer) == alive
    total = shuffle(key, masks, within='global')
    assert lth.masks.count(total) == sum(alive.values())
    assert trees.by_name(total)['b'] is None
    assert same(layer, lth.masks.shuffle(key, masks))
  if density == 0.2:
    assert lth.masks.alive_by_name(total) != alive


def test_shuffle_depends_on_key_and_name():
  half = np.arange(400).reshape(20, 20) < 200
  masks = {'a': jnp.asarray(half), 'b': jnp.asarray(half)}
  one, two = (lth.masks.shuffle(jax.random.key(i), masks) for i in (0, 1))
  pairs = [(one['a'], two['a']), (one['a'], one['b']), (one['a'], half)]
  for x, y in pairs:
    # Independent halves differ at 200 of 400 places, give or take 10.
    assert 140 < np.sum(np.asarray(x) != np.asarray(y)) < 260
  # What else is in the tree, and which masks it held before, does not matter.
  alone = lth.masks.shuffle(jax.random.key(0), {'b': masks['b'][::-1]})
  assert same(alone['b'], one['b'])


@pytest.mark.parametrize('within', ['layer', 'global'])
def test_shuffle_is_uniform(within):
  mask = jnp.arange(20).reshape(4, 5) < 5
  masks = {'a': mask, 'b': mask}
  keys = jax.random.split(jax.random.key(0), 4000)
  shuffled = jax.vmap(lambda key: lth.masks.shuffle(key, masks, within))(keys)
  hits = np.stack(jax.tree.map(lambda m: m.sum(0), list(shuffled.values())))
  # Without replacement the variance is 1 - density of the binomial's.
  share = 1000 / 4000
  chi2 = ((hits - 1000) ** 2 / 1000).sum() / (1 - share)
  assert hits.sum() == 40_000
  assert 0.001 < stats.chi2.sf(chi2, df=hits.size - 1) < 0.999


def test_shuffle_within_input_keeps_what_each_input_has():
  rng = np.random.default_rng(0)
  masks = {
    'fc': jnp.asarray(rng.random((6, 40)) < rng.random((6, 1))),
    'conv': jnp.asarray(rng.random((3, 3, 2, 40)) < 0.3),
    'b': None,
  }
  shuffled = lth.masks.shuffle(jax.random.key(0), masks, within='input')
  assert shuffled['b'] is None
  for name in ('fc', 'conv'):
    alive = np.asarray(masks[name]).sum(-1)
    assert (np.asarray(shuffled[name]).sum(-1) == alive).all()
    assert (np.asarray(shuffled[name]) != np.asarray(masks[name])).any()
    # Rows of equal counts are shuffled each on its own.
    flat = np.asarray(shuffled[name]).reshape(-1, 40)
    assert len({row.tobytes() for row in flat}) == len(flat)


def test_shuffle_needs_a_known_scope():
  with pytest.raises(ValueError, match="`within` was 'layers', but must be"):
    lth.masks.shuffle(jax.random.key(0), random_masks(0)[0], within='layers')


# ---- pack and unpack


def test_pack_by_hand():
  mask = jnp.array([[1, 0, 1, 0, 0], [0, 0, 1, 1, 1]], bool)
  packed = lth.masks.pack({'w': mask, 'b': None})
  assert packed['b'] is None
  assert packed['w'].dtype == np.uint8
  assert packed['w'].tolist() == [0b10100001, 0b11000000]


@pytest.mark.parametrize('size', [0, 1, 7, 8, 9, 63, 64, 65])
def test_pack_and_unpack(size):
  mask = np.random.default_rng(size).random((size, 1)) < 0.5
  masks = {'w': jnp.asarray(mask), 'b': None}
  packed = lth.masks.pack(masks)
  assert packed['w'].shape == (-(-size // 8),)
  like = {'w': jax.ShapeDtypeStruct((size, 1), jnp.float32), 'b': np.ones(3)}
  assert same(lth.masks.unpack(packed, like), masks)
  assert same(lth.masks.unpack(packed, masks), masks)


def test_unpack_a_tree():
  masks = random_masks(0)[0]
  assert same(lth.masks.unpack(lth.masks.pack(masks), masks), masks)
  state = nnx.state(nnx.Linear(3, 5, rngs=nnx.Rngs(0)))
  masks = lth.masks.full(state)
  assert same(lth.masks.unpack(lth.masks.pack(masks), state), masks)


def test_unpack_the_wrong_shape():
  packed = lth.masks.pack({'w': jnp.ones((3, 3), bool)})
  message = r'w is packed in uint8\[2\], which does not fit the shape '
  with pytest.raises(ValueError, match=message + re.escape('(5, 5)')):
    lth.masks.unpack(packed, {'w': np.ones((5, 5))})
  with pytest.raises(ValueError, match=message + 'None'):
    lth.masks.unpack(packed, {'v': np.ones((3, 3))})


def test_summary():
  masks = {
    'conv': {'kernel': np.arange(36).reshape(3, 3, 4) < 9, 'bias': None},
    'fc': {'kernel': np.ones((40, 50), bool)},
    'layers': {'kernel': np.zeros((2, 4, 5), bool)},
    'out': np.zeros((3, 2), bool),
  }
  masks['layers']['kernel'][1, :2] = True
  assert lth.masks.summary(masks).split('\n') == [
    'leaf               shape  alive                  density',
    'conv/bias          dense',
    'conv/kernel    (3, 3, 4)      9                  25.00 %',
    'fc/kernel       (40, 50)  2,000                 100.00 %',
    'layers/kernel  (2, 4, 5)     10  25.00 % (0.00 to 50.00)',
    'out               (3, 2)      0                   0.00 %',
    'total              2,082  2,019                  96.97 %',
    'empty: layers/kernel (1 of 2 layers), out',
  ]


def test_names_cannot_drive_a_terminal():
  text = lth.masks.summary({'a\x1b[31mb\n': np.ones((1, 2), bool)})
  assert '\x1b' not in text
  assert text.split('\n')[1].startswith('a\\x1b[31mb\\n  (1, 2)')


def test_deep_trees():
  params = {'w': np.ones((2, 2), np.float32)}
  for _ in range(400):
    params = {'k': params}
  masks = lth.masks.full(params)
  assert lth.masks.count(masks) == 4
  assert lth.masks.summary(masks).count('k/') == 400


# ---- Shardings


SHARDED = """
import jax, numpy as np, optax
import lthjax as lth
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

PLACES = [
  P('x', 'y'),
  P(('x', 'y')),
  P(None, 'x'),
  P('y', 'x'),
  P(None, ('x', 'y')),
  P('x'),
  P(),
]
axes = {'w': lth.axes.Axes((), (0, 1), (2,), (3,))}
rng = np.random.default_rng(0)
mask = rng.random((3, 3, 16, 32)) < 0.3
scores = rng.random(mask.shape).astype(np.float32)
key = jax.random.key(0)


def results(mask, scores, place=None):
  masks = {'w': mask}
  full = jax.tree.map(lambda m: m | True, masks)
  packed = lth.masks.pack(masks)
  shuffled = {
    f'shuffle {within}': lth.masks.shuffle(key, masks, within, axes=axes)
    for within in ('layer', 'global', 'input')
  }
  pruned = {
    str(pattern): lth.prune(
      {'w': scores},
      full,
      pattern=pattern,
      sparsity=None if pattern.density else 0.75,
      axes=axes,
    )
    for pattern in (
      lth.patterns.Unstructured(),
      lth.patterns.Rows(),
      lth.patterns.Columns(),
      lth.patterns.NM(2, 4),
      lth.patterns.Block((4, 2)),
    )[: 3 if place == P(('x', 'y')) else 5]  # There, no group is on one device.
  }
  pruned['global'] = lth.prune(
    {'w': scores}, full, sparsity=0.75, scope='global', axes=axes
  )
  draw = lth.random_masks(key, sparsity=0.75, axes=axes)
  tx = lth.srigl(optax.sgd(0.1), draw, stop_step=100, axes=axes)
  moving = lth.get_masks(tx.init({'w': scores}))
  return packed['w'], {
    'srigl': moving['w'],
    'noise': lth.scores.noise(key, {'w': mask})['w'],
    'apply': lth.masks.apply(masks, {'w': scores})['w'],
    'full': lth.masks.full({'w': scores})['w'],
    'unpack': lth.masks.unpack(packed, masks)['w'],
    **{name: x['w'] for name, x in (shuffled | pruned).items()},
  }


bits, expected = jax.tree.map(np.asarray, results(mask, scores))
kinds = ((AxisType.Explicit, NUMBER), (AxisType.Auto, 1))
for kind, number in kinds[: 1 if NUMBER == 1 else 2]:
  mesh = jax.make_mesh((4, 2), ('x', 'y'), (kind, kind))
  for place in PLACES[:number]:
    sharding = NamedSharding(mesh, P(None, None, *place))
    with jax.set_mesh(mesh):
      x, y = (jax.device_put(z, sharding) for z in (mask, scores))
      packed, found = results(x, y, place)
      np.testing.assert_array_equal(packed, bits)
      for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], name)
        same = value.sharding.is_equivalent_to(sharding, value.ndim)
        print(kind.name, place, name, 'same' if same else value.sharding)
print('done')
"""


@pytest.mark.slow
@pytest.mark.parametrize('number', [1, pytest.param(7, marks=pytest.mark.slow)])
def test_everything_is_sharded_like_its_input(run_python, number):
  source = SHARDED.replace('NUMBER', str(number))
  lines = run_python(source, devices=8).split('\n')
  assert 'done' in lines
  others = [
    line
    for line in lines
    if line and line != 'done' and not line.endswith('same')
  ]
  assert others == []
