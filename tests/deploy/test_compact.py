"""Units that do nothing go, and nothing else changes."""

import re
import warnings

import group_programs as programs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_like

import lthjax as lth
from lthjax import deploy, models, trees


def apply(p, x):
  return jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2'] + p['b2']


def array(*rows):
  return np.array(rows, np.float32)


def by_hand(bias):
  params = {
    'w1': array([1, 7], [8, 9]),
    'b1': array(0.5, bias),
    'w2': array([3], [4]),
    'b2': array(1),
  }
  alive = np.array([[True, False], [False, False]])
  masks = {'w1': alive, 'b1': None, 'w2': np.ones((2, 1), bool), 'b2': None}
  return params, masks


@pytest.mark.parametrize(('bias', 'folded'), [(2, 9), (-2, 1)])
def test_by_hand(bias, folded):
  params, masks = by_hand(bias)
  before = jax.tree.map(np.copy, (params, masks))
  small, small_masks = deploy.compact(apply, params, masks, array([1, 2]))
  expected = {
    'w1': [[1], [0]],
    'b1': [0.5],
    'w2': [[3]],
    'b2': [folded],
  }
  for name, values in expected.items():
    np.testing.assert_array_equal(small[name], values)
  np.testing.assert_array_equal(small_masks['w1'], [[True], [False]])
  assert small_masks['b1'] is small_masks['b2'] is None
  jax.tree.map(np.testing.assert_array_equal, (params, masks), before)


def test_the_plan():
  found = deploy.compaction(apply, *by_hand(2), array([1, 2]))
  assert found.groups == {
    'b1[0]': deploy.UnitGroup(2, 1, 0, 1, ''),
    'w1[0]': deploy.UnitGroup(2, 2, 0, 0, 'input'),
  }
  assert found.shapes == {'w1': (2, 1), 'b1': (1,), 'w2': (1, 1), 'b2': (1,)}
  assert str(found).splitlines()[1].split() == [
    'b1[0]',
    '2',
    '1',
    '0',
    '1',
    '--',
  ]


def three_layers(p, x, lib=jnp):
  h = lib.tanh(x @ p['w1'] + p['b1'])
  return lib.maximum(h @ p['w2'] + p['b2'], 0) @ p['w3'] + p['b3']


LAYERS = {
  'w1': (3, 5), 'b1': (5,), 'w2': (5, 4), 'b2': (4,), 'w3': (4, 2), 'b3': (2,),
}  # fmt: skip


def check_random_network(seed):
  rng = np.random.default_rng(seed)
  params = random_like(LAYERS, seed)
  masks = {
    name: rng.random(shape) < rng.uniform(0.1, 0.7) if 'w' in name else None
    for name, shape in LAYERS.items()
  }
  x = random_like({'x': (6, 3)}, seed + 1)['x']
  small, small_masks = deploy.compact(three_layers, params, masks, x)
  other = random_like({'x': (6, 3)}, seed + 2)['x']
  small, small_masks = jax.tree.map(np.asarray, (small, small_masks))
  masked = {
    name: np.where(True if masks[name] is None else masks[name], x, 0)
    for name, x in params.items()
  }
  expected = three_layers(masked, other, np)
  found = three_layers(small, other, np)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  trees.check_like(small_masks, small, 'params')
  for name, mask in small_masks.items():
    assert mask is None or not small[name][~mask].any()
  # What is left is as small as it gets, but for the last unit of a layer.
  for kernel, reader in (('w1', 'w2'), ('w2', 'w3')):
    made = np.any(small_masks[kernel], 0)
    assert made.all() or made.size == 1
    assert np.any(small_masks[reader], 1).all() or made.size == 1
  return sum(x.size for x in small.values())


@pytest.mark.slow
def test_random_networks():
  sizes = [check_random_network(seed) for seed in range(8)]
  assert min(sizes) < 20


@pytest.mark.slow
def test_many_random_networks():
  sizes = [check_random_network(seed) for seed in range(8, 80)]
  assert len(set(sizes)) > 6


def test_one_unit_stays():
  params = random_like({'w1': (2, 3), 'b1': (3,), 'w2': (3, 2), 'b2': (2,)}, 0)
  masks = {'w1': None, 'b1': None, 'w2': np.zeros((3, 2), bool), 'b2': None}
  small, _ = deploy.compact(apply, params, masks, array([1, 2]))
  assert small['w1'].shape == (2, 1)
  masks = {**masks, 'w1': np.zeros((2, 3), bool), 'w2': None}
  small, _ = deploy.compact(apply, params, masks, array([1, 2]))
  assert small['w1'].shape == (2, 1)


def folded(program, params, dead, x):
  """The shape of ``w1`` without the units of ``dead`` that can go."""
  mask = np.ones(params['w1'].shape, bool)
  mask[..., dead] = False
  masks = {**dict.fromkeys(params), 'w1': mask}
  small, _ = deploy.compact(program, params, masks, x)
  return small['w1'].shape


SHAPES = {'w1': (3, 4), 'b1': (4,), 'w2': (4, 3), 'b2': (3,)}


def residual(p, x):
  """The bias comes after the stream was added."""
  return x + jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2'] + p['b2']


def jitted(p, x):
  dense = jax.jit(lambda x, w, b: jnp.dot(x, w) + b[None])
  return dense(jax.nn.gelu(dense(x, p['w1'], p['b1'])), p['w2'], p['b2'])


def read_before(p, x):
  """What has no bias yet goes elsewhere as well."""
  y = jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2']
  return y + p['b2'], jnp.tanh(y)


def used_twice(p, x):
  y = jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2'] + p['b2']
  return y * p['b2']


def doubled(p, x):
  y = jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2']
  return y + y + p['b2']


def scaled(p, x):
  """The kernel is not what the leaf holds."""
  return jax.nn.relu(x @ p['w1'] + p['b1']) @ (2 * p['w2']) + p['b2']


@pytest.mark.parametrize(
  ('program', 'kept'),
  [
    (apply, 3),
    (residual, 3),
    (jitted, 3),
    (read_before, 4),
    (used_twice, 4),
    (doubled, 4),
    (scaled, 4),
    (lambda p, x: jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2'], 4),
  ],
)
def test_constants_need_a_bias_of_their_own(program, kept):
  params = {**random_like(SHAPES, 0), 'b1': np.ones(4, np.float32)}
  x = random_like({'x': (5, 3)}, 1)['x']
  assert folded(program, params, 2, x) == (3, kept)
  params['b1'][2] = 0
  assert folded(program, params, 2, x) == (3, 3)


def convolutions(p, x, padding='SAME'):
  options = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
  conv = jax.lax.conv_general_dilated
  h = jax.nn.relu(conv(x, p['w1'], (1, 1), 'SAME', **options) + p['b1'])
  return conv(h, p['w2'], (1, 1), padding, **options) + p['b2']


@pytest.mark.parametrize(
  ('padding', 'bias', 'kept'),
  [('SAME', 1, 4), ('SAME', -1, 3), ('VALID', 1, 3)],
)
def test_padded_convolutions_admit_zeros_only(padding, bias, kept):
  shapes = {'w1': (3, 3, 2, 4), 'b1': (4,), 'w2': (3, 3, 4, 3), 'b2': (3,)}
  params = {**random_like(shapes, 0), 'b1': np.full(4, bias, np.float32)}
  x = random_like({'x': (2, 5, 5, 2)}, 1)['x']

  def program(p, x):
    return convolutions(p, x, padding)

  assert folded(program, params, 1, x) == (3, 3, 2, kept)


def test_flattened_images():
  def program(p, x):
    h = convolutions({**p, 'w2': p['w2'][:, :, :4], 'b2': p['b2']}, x)
    return jax.nn.relu(h).reshape(len(x), -1) @ p['out'] + p['bias']

  shapes = {
    'w1': (3, 3, 2, 4), 'b1': (4,), 'w2': (3, 3, 4, 3), 'b2': (3,),
    'out': (75, 2), 'bias': (2,),
  }  # fmt: skip
  params = {**random_like(shapes, 0), 'b2': np.ones(3, np.float32)}
  masks = dict.fromkeys(params)
  masks['w2'] = np.ones(shapes['w2'], bool)
  masks['w2'][..., 1] = False  # Constant 1, and the image is flattened.
  x = random_like({'x': (2, 5, 5, 2)}, 1)['x']
  small, _ = deploy.compact(program, params, masks, x)
  assert small['out'].shape == (50, 2)
  assert not np.array_equal(small['bias'], params['bias'])


def attention(p, x):
  q, k, v = (jnp.einsum('btd,dhk->bthk', x, p[n]) for n in ('q', 'k', 'v'))
  return jnp.einsum('bthk,hkd->btd', programs.attend(q, k, v), p['o'])


HEADS = {'q': (6, 4, 5), 'k': (6, 4, 5), 'v': (6, 4, 5), 'o': (4, 5, 6)}


@pytest.mark.slow
def test_heads():
  params = random_like(HEADS, 0)
  masks = {name: np.ones(shape, bool) for name, shape in HEADS.items()}
  masks['o'][1] = False  # Nothing reads head 1.
  masks['v'][:, 2] = False  # Head 2 has no values; its weights stay alive.
  masks['v'][:, :, 3] = False  # A feature of all heads has none.
  masks['q'][:, :, 0] = False  # Queries meet keys: this feature stays.
  x = random_like({'x': (2, 5, 6)}, 1)['x']
  small, _ = deploy.compact(attention, params, masks, x)
  assert small['q'].shape == (6, 3, 5)
  assert small['v'].shape == (6, 3, 4)


def test_scanned_layers_lose_equally_many():
  shapes = {'in': (2, 4, 6), 'out': (2, 6, 4)}

  def program(p, x):
    def layer(x, p):
      return x + jax.nn.relu(x @ p['in']) @ p['out'], None

    return jax.lax.scan(layer, x, p)[0]

  params = random_like(shapes, 0)
  masks = {'in': None, 'out': np.ones(shapes['out'], bool)}
  masks['out'][0, [0, 1]] = masks['out'][1, [3, 4, 5]] = False
  x = random_like({'x': (3, 4)}, 1)['x']
  small, _ = deploy.compact(program, params, masks, x)
  assert small['in'].shape == (2, 4, 4)
  np.testing.assert_array_equal(small['in'][0], params['in'][0][:, 2:])


@pytest.fixture(scope='module')
def resnet():
  model = models.resnet_20((8, 8, 3), classes=4)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda s: rng.uniform(0.1, 1, s.shape).astype(s.dtype), shapes
  )
  images = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)

  def logits(variables, images):
    return model.apply(*variables, images)[0]

  return logits, variables, images


@pytest.mark.slow
def test_streams_shrink_only_where_all_writers_agree(resnet):
  logits, variables, images = resnet
  full = jax.tree.map(lambda x: np.ones(x.shape, bool), variables)
  masks = trees.by_name(full)
  groups = lth.structure.groups(logits, variables, images)
  stream = next(
    group
    for group in groups.values()
    if '0/conv1/kernel' in {member.leaf for member in group.members}
    and not group.pins
  )
  writers = [m for m in stream.members if m.axis == masks[m.leaf].ndim - 1]
  assert len(writers) > 15
  for leaf, _, _ in writers:
    masks[leaf][..., [2, 5]] = False
  # One block still writes channel 5.
  other = next(m.leaf for m in writers if m.leaf.endswith('conv2/kernel'))
  masks[other][..., 5] = True
  tree = jax.tree_util.tree_map_with_path(
    lambda path, _: masks[trees.path_name(path)], full
  )
  small, _ = deploy.compact(logits, variables, tree, images)
  assert small[0]['conv1']['kernel'].shape == (3, 3, 3, 15)
  assert small[1]['norm1']['mean'].shape == (15,)


# What cannot be, and what to do.


def test_a_program_with_a_size_of_its_own():
  def program(p, x, width=4):
    h = jax.nn.relu(x @ p['w1'] + p['b1'])
    if h.shape[-1] != width:
      raise ValueError(f'{h.shape[-1]} is not {width}.')
    return h @ p['w2'] + p['b2']

  params = random_like(SHAPES, 0)
  masks = {**dict.fromkeys(params), 'w2': np.ones((4, 3), bool)}
  masks['w2'][1] = False
  x = random_like({'x': (5, 3)}, 1)['x']
  text = 'is another function: b1[0]: ValueError: 3 is not 4.. Is there a'
  with pytest.raises(ValueError, match=re.escape(text)):
    deploy.compact(program, params, masks, x)
  width = deploy.compaction(program, params, masks, x).groups['b1[0]'].kept
  small, _ = deploy.compact(
    program,
    params,
    masks,
    x,
    rebuilt=lambda p, x: program(p, x, width),
  )
  assert small['w1'].shape == (3, 3)
  small, _ = deploy.compact(program, params, masks, x, whole='b1*')
  assert small['w1'].shape == (3, 4)
  found = deploy.compaction(program, params, masks, x, whole=['b1[0]'])
  assert found.groups['b1[0]'] == deploy.UnitGroup(4, 4, 0, 0, 'asked for')


def test_low_precision_needs_tolerance():
  params = {**random_like(SHAPES, 0), 'b1': np.ones(4, np.float32)}
  params = {name: jnp.asarray(x, jnp.bfloat16) for name, x in params.items()}
  masks = {**dict.fromkeys(params), 'w1': np.ones((3, 4), bool)}
  masks['w1'][:, 2] = False
  x = jnp.asarray(random_like({'x': (5, 3)}, 1)['x'], jnp.bfloat16)
  small, _ = deploy.compact(apply, params, masks, x, tolerance=0.05)
  assert small['w1'].shape == (3, 3)
  assert small['b2'].dtype == jnp.bfloat16


def test_a_program_without_groups():
  params, masks = {'w': array([1])}, {'w': np.zeros((1, 1), bool)}
  with pytest.warns(UserWarning, match='has no groups of units, so `compact`'):
    found = deploy.compact(lambda p, x: x * p['w'], params, masks, 2.0)
  assert found[0] is params
  assert found[1] is masks
  found = deploy.compaction(lambda p, x: x * p['w'], params, masks, 2.0)
  assert str(found) == 'no groups of units'


def test_what_is_unknown_stays_whole():
  def program(p, x):
    h = jnp.linalg.qr(x @ p['w1'])[0]  # Nobody knows what it does to units.
    return h @ p['w2'] + p['b2']

  params = random_like({name: SHAPES[name] for name in ('w1', 'w2', 'b2')}, 0)
  masks = {**dict.fromkeys(params), 'w1': np.ones((3, 4), bool)}
  masks['w1'][:, 1] = False
  x = random_like({'x': (5, 3)}, 1)['x']
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    small, _ = deploy.compact(program, params, masks, x)
  assert small['w1'].shape == (3, 4)


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ({'apply': None}, '`apply` was None'),
    ({'masks': {'w1': None}}, 'b1'),
    ({'example': ()}, '`compact` needs an example, such as a batch'),
    ({'rebuilt': 3}, '`rebuilt` was'),
    ({'whole': 'conv*'}, "'conv*'"),
    ({'tolerance': -1}, '`tolerance` was -1'),
  ],
)
def test_bad_input(change, text):
  params, masks = by_hand(2)
  given = {'apply': apply, 'masks': masks, 'example': (array([1, 2]),)}
  given |= change
  options = {
    name: given[name]
    for name in ('rebuilt', 'whole', 'tolerance') & given.keys()
  }
  with pytest.raises((TypeError, ValueError), match=re.escape(text)):
    deploy.compact(
      given['apply'],
      params,
      given['masks'],
      *given['example'],
      **options,
    )
  with pytest.raises(ValueError, match=r'call it outside of `jax\.jit`'):
    jax.jit(lambda p: deploy.compact(apply, p, masks, array([1, 2])))(params)
