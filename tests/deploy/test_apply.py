"""Models with sparse kernels, the exact way back, files and exports."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import slow_but

import lthjax as lth
from lthjax import deploy, models

pytestmark = pytest.mark.usefixtures('compiled')

RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def drawn(params, density=0.3):
  """Masks of every kernel by chance, and the params under them."""
  masks = jax.tree.map(
    lambda m: jnp.asarray(RNG.random(m.shape) < density),
    lth.masks.full(params),
  )
  return masks, lth.masks.apply(masks, params)


def dense_layer(p, x):
  return jax.nn.relu(x @ p['kernel'] + p['bias'])


def transposed(p, x):
  return x @ p['weight'].T


def attention(p, x):
  q = jnp.einsum('btd,dhk->bthk', x, p['query']['kernel'])
  return jnp.einsum('bthk,hkd->btd', jnp.tanh(q), p['out']['kernel'])


def merged_heads(p, x):
  d, h, k = p['query']['kernel'].shape
  q = x @ p['query']['kernel'].reshape(d, h * k)
  return q @ p['out']['kernel'].reshape(h * k, d)


def nested(p, x):
  @jax.checkpoint
  def layer(x):
    return jax.jit(dense_layer)(p, x)

  return jax.lax.cond(x.sum() > 0, layer, lambda x: -layer(x), x)


def cast(p, x):
  half = x.astype(jnp.bfloat16)
  return jnp.dot(half, p['kernel'].astype(jnp.bfloat16)).astype(jnp.float32)


def pixelwise(p, x):
  return jax.lax.conv_general_dilated(
    x, p['conv']['kernel'], (2, 2), 'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip


def kernel_first(p, x):
  return jnp.einsum('io,bi->ob', p['kernel'], x)


MODELS = {
  'dense': (dense_layer, {'kernel': (40, 6), 'bias': (6,)}, (5, 40)),
  'weights out by in': (transposed, {'weight': (6, 40)}, (5, 40)),
  'attention': (
    attention,
    {'query': {'kernel': (16, 2, 4)}, 'out': {'kernel': (2, 4, 16)}},
    (3, 7, 16),
  ),
  'merged heads': (
    merged_heads,
    {'query': {'kernel': (16, 2, 4)}, 'out': {'kernel': (2, 4, 16)}},
    (3, 7, 16),
  ),
  'nested': (nested, {'kernel': (40, 6), 'bias': (6,)}, (5, 40)),
  'cast': (cast, {'kernel': (40, 6)}, (5, 40)),
  '1x1 convolution': (
    pixelwise,
    {'conv': {'kernel': (1, 1, 12, 5)}},
    (2, 6, 4, 12),
  ),
  'kernel first': (kernel_first, {'kernel': (40, 6)}, (5, 40)),
}
FAST = ('dense', 'nested')


@pytest.mark.parametrize('name', slow_but(MODELS, FAST))
def test_any_model_by_its_program(name):
  apply, shapes, inputs = MODELS[name]
  params = jax.tree.map(
    lambda shape: normal(*shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
  )
  masks, masked = drawn(params)
  sparse = deploy.condense(params, masks)
  kinds = [deploy.is_sparse(x) for x in jax.tree.leaves(
    sparse, is_leaf=deploy.is_sparse
  )]  # fmt: skip
  assert sum(kinds) == len(jax.tree.leaves(masks))
  x = normal(*inputs)
  f = deploy.sparse_apply(apply, params)
  atol = 0.1 if name == 'cast' else 1e-5
  for run in (f, jax.jit(f)):
    np.testing.assert_allclose(run(sparse, x), apply(masked, x), 1e-5, atol)
  exact = deploy.densify(sparse)
  jax.tree.map(np.testing.assert_array_equal, exact, masked)


@pytest.mark.slow
def test_lenet_trains_on_alive_weights_only():
  """As masked training of the dense network does, to rounding."""
  model = models.lenet_300_100(input_shape=(8, 8, 1))
  params, state = model.init(jax.random.key(0))
  masks, masked = drawn(params, 0.2)
  x, labels = normal(32, 8, 8, 1), RNG.integers(0, 10, 32)

  def apply(params, x):
    return model.apply(params, state, x)[0]

  def loss(logits):
    losses = optax.losses.softmax_cross_entropy_with_integer_labels
    return losses(logits, labels).mean()

  sparse = deploy.condense(params, masks, capacity=20_000)
  values, structure = deploy.split(sparse)
  apply_sparse = deploy.sparse_apply(apply, params)
  tx = optax.adam(1e-2)
  slots = jax.tree.leaves(tx.init(values))
  assert sum(x.size for x in slots) < 2 * 3 * 20_000 + 2 * 410 + 2

  @jax.jit
  def sparse_step(values, opt_state):
    value, grads = jax.value_and_grad(
      lambda v: loss(apply_sparse(deploy.join(v, structure), x))
    )(values)
    updates, opt_state = tx.update(grads, opt_state, values)
    return optax.apply_updates(values, updates), opt_state, value

  held = lth.static(tx, masks)

  @jax.jit
  def dense_step(params, opt_state):
    value, grads = jax.value_and_grad(lambda p: loss(apply(p, x)))(params)
    updates, opt_state = held.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  ours, theirs = (values, tx.init(values)), (masked, held.init(masked))
  for _ in range(20):
    *ours, a = sparse_step(*ours)
    *theirs, b = dense_step(*theirs)
    np.testing.assert_allclose(a, b, rtol=1e-3)
  back = deploy.densify(deploy.join(ours[0], structure))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=2e-2), back, theirs[0]
  )
  assert lth.masks.count(masks) == sum(
    np.count_nonzero(x) for x in jax.tree.leaves(back) if x.ndim > 1
  )


@pytest.mark.slow
def test_regather_rewinds():
  params = {'a': {'kernel': normal(20, 6)}, 'b': {'kernel': normal(6, 6)}}
  masks, _ = drawn(params)
  sparse = deploy.condense(params, masks)
  other = jax.tree.map(lambda x: x - 5, params)
  found = deploy.densify(deploy.regather(other, sparse))
  wanted = lth.masks.apply(masks, other)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  with pytest.raises(ValueError, match=r'a/kernel is \(20, 7\) in the dense'):
    deploy.regather({**params, 'a': {'kernel': normal(20, 7)}}, sparse)


@pytest.mark.slow
def test_bcsr():
  params = {'kernel': normal(600, 6)}
  masks, masked = drawn(params)
  matrix = deploy.to_bcsr(deploy.condense(params, masks)['kernel'])
  np.testing.assert_array_equal(matrix.todense().T, masked['kernel'])


def test_what_stays_dense():
  params = {
    'conv': {'kernel': normal(3, 3, 4, 8)},
    'layers': {'kernel': normal(3, 8, 8)},
    'fc': {'kernel': normal(16, 8)},
    'full': {'kernel': normal(16, 8)},
  }
  masks, masked = drawn(params)
  masks['full']['kernel'] = np.ones((16, 8), bool)
  sparse = deploy.condense(params, masks)
  assert deploy.is_sparse(sparse['fc']['kernel'])
  for name in ('conv', 'layers', 'full'):
    assert not deploy.is_sparse(sparse[name]['kernel'])
  np.testing.assert_array_equal(
    sparse['conv']['kernel'], masked['conv']['kernel']
  )
  narrowed = deploy.condense(params, masks, where=lambda n, x: n != 'fc/kernel')
  assert not deploy.is_sparse(narrowed['fc']['kernel'])


@pytest.mark.parametrize(
  ('change', 'options', 'error', 'text'),
  [
    (
      lambda w: w.astype(np.float64),
      {},
      ValueError,
      'kernel has dtype float64',
    ),
    (lambda w: w.astype(np.int32), {}, ValueError, 'kernel has dtype int32'),
    (lambda w: w, {'capacity': 3}, ValueError, 'capacity of 3'),
    (lambda w: w, {'capacity': 2**31}, ValueError, 'at most 2147483647'),
    (lambda w: w, {'max_density': 2}, ValueError, '`max_density` was 2'),
    (
      lambda w: w,
      {'capacity': 99, 'lookup': True},
      ValueError,
      '`lookup=True` packs one mask',
    ),
    (lambda w: w + np.nan, {'int8': True}, ValueError, 'not finite'),
    (lambda w: w[:3], {}, ValueError, 'The masks do not fit the params'),
  ],
  ids=[
    'double',
    'integers',
    'room',
    'most',
    'density',
    'both',
    'nan',
    'shapes',
  ],
)
def test_kernels_that_cannot_be_condensed(change, options, error, text):
  masks = {'kernel': np.arange(48).reshape(8, 6) % 4 == 0}
  with pytest.raises(error, match=text):
    deploy.condense({'kernel': change(normal(8, 6))}, masks, **options)


def test_programs_that_sparse_kernels_cannot_follow():
  params = {'kernel': normal(12, 12)}
  masks, _ = drawn(params)
  sparse = deploy.condense(params, masks)
  for apply, primitive in [
    (lambda p, x: x @ jnp.tanh(p['kernel']), 'tanh'),
    (lambda p, x: (x @ p['kernel']) @ p['kernel'].T, 'dot_general'),
    (lambda p, x: p['kernel'].reshape(16, 9) @ x[0, :9], 'reshape'),
  ]:
    x = np.ones((2, 12), np.float32)
    with pytest.raises(ValueError, match=f'kernel meets `{primitive}`'):
      deploy.sparse_apply(apply, params)(sparse, x)
  with pytest.raises(ValueError, match='The model returns kernel, which is'):
    deploy.sparse_apply(lambda p: p, params)(sparse)
  other = deploy.condense({'w': params['kernel']}, {'w': masks['kernel']})
  with pytest.raises(
    ValueError,
    match=r'not those of this model.* at bias, kernel, w|at kernel, w',
  ):
    deploy.sparse_apply(dense_layer, params)(other, x)


def test_values_of_another_structure():
  params = {'kernel': normal(8, 6)}
  masks, _ = drawn(params)
  values, structure = deploy.split(deploy.condense(params, masks))
  with pytest.raises(ValueError, match='kernel has no values'):
    deploy.join({'other': values['kernel']}, structure)
  with pytest.raises(
    ValueError, match=r'kernel has \(1,\) values for \(\d+,\)'
  ):
    deploy.join({'kernel': np.ones(1, np.float32)}, structure)


@pytest.mark.parametrize('int8', [False, True])
def test_files(tmp_path, int8):
  params = {
    'fc': {'kernel': normal(60, 6), 'bias': normal(6)},
    'half': jnp.asarray(normal(9, 5), jnp.bfloat16),
  }
  masks, masked = drawn(params)
  path = tmp_path / 'ticket.safetensors'
  deploy.save(path, params, masks, int8=int8)
  assert os.listdir(tmp_path) == ['ticket.safetensors']
  found, found_masks = deploy.load(path)
  jax.tree.map(np.testing.assert_array_equal, found_masks, masks)
  if int8:
    error = np.abs(found['fc']['kernel'] - masked['fc']['kernel'])
    assert error.max() <= np.abs(masked['fc']['kernel']).max() / 127
    assert not found['fc']['kernel'][~masks['fc']['kernel']].any()
  else:
    assert found['half'].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, found, masked)


def test_damaged_files(tmp_path):
  path = tmp_path / 'ticket.safetensors'
  params = {'fc': {'kernel': normal(60, 6), 'bias': normal(6)}}
  masks, _ = drawn(params)
  deploy.save(path, params, masks)
  whole = path.read_bytes()
  header = int.from_bytes(whole[:8], 'little') + 8
  damages = {
    'cut': whole[:-20],
    'cut in the header': whole[:50],
    'empty': b'',
    'text': b'hello',
    'shape': whole.replace(rb'[60, 6]', rb'[61, 6]'),
    'count': re.sub(
      rb'alive\\": \d+', lambda m: m[0][:-1] + b'0', whole[:header]
    )
    + whole[header:],
  }
  for data in damages.values():
    path.write_bytes(data)
    if data == whole:
      continue
    with pytest.raises(ValueError, match=r'ticket.safetensors is damaged'):
      deploy.load(path)
  with pytest.raises(FileNotFoundError):
    deploy.load(tmp_path / 'nothing')


@pytest.mark.slow
def test_an_export_runs_in_a_fresh_process(tmp_path, run_python):
  params = {'kernel': normal(40, 6), 'bias': normal(6)}
  masks, masked = drawn(params)
  sparse = deploy.condense(params, masks)
  batch = jax.export.symbolic_shape('batch')[0]
  data = deploy.export(
    deploy.sparse_apply(dense_layer, params),
    sparse,
    jax.ShapeDtypeStruct((batch, 40), jnp.float32),
  )
  (tmp_path / 'model.bin').write_bytes(data)
  deploy.save(tmp_path / 'model.safetensors', params, masks)
  x = normal(300, 40)
  np.save(tmp_path / 'x.npy', x)
  run_python(f"""
import pathlib, numpy as np
from lthjax import deploy
folder = pathlib.Path({str(tmp_path)!r})
model = deploy.load_export((folder / 'model.bin').read_bytes())
sparse = deploy.condense(*deploy.load(folder / 'model.safetensors'))
x = np.load(folder / 'x.npy')
np.save(folder / 'y.npy', model(sparse, x))
np.save(folder / 'y3.npy', model(sparse, x[:3]))
""")
  wanted = dense_layer(masked, x)
  np.testing.assert_allclose(np.load(tmp_path / 'y.npy'), wanted, 1e-4, 1e-5)
  found = np.load(tmp_path / 'y3.npy')
  np.testing.assert_allclose(found, wanted[:3], 1e-4, 1e-5)
  with pytest.raises(ValueError, match='not an export'):
    deploy.load_export(b'something else')


def test_report_says_what_was_gained():
  params = {
    'fc': {'kernel': normal(600, 300)},
    'conv': {'kernel': normal(3, 3, 4, 8)},
  }
  masks, _ = drawn(params, 0.1)
  found = deploy.report(
    lambda p, x: x @ p['fc']['kernel'], params, masks, normal(8, 600), repeats=2
  )
  assert found.dense == ('conv/kernel',)
  assert list(found.sparse) == ['fc/kernel']
  text = str(found)
  assert 'masked but dense: conv/kernel' in text
  assert re.search(r'ms sparse: ([\d.]+ times|no) faster', text)
  slow = found._replace(dense_seconds=1.0, sparse_seconds=1.0)
  assert '1000.000 ms sparse: no faster' in str(slow)
  with pytest.raises(ValueError, match='`repeats` was 0'):
    deploy.report(dense_layer, params, masks, normal(8, 600), repeats=0)
