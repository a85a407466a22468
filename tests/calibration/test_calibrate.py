"""Statistics of activations, against those taken by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import keys, random_like

import lthjax as lth


def rows(seed, *shape):
  return random_like({'x': shape}, seed)['x']


def assert_is(found, expected, rtol=2e-5):
  assert set(found) == set(expected)
  for name, x in expected.items():
    np.testing.assert_allclose(found[name], x, rtol=rtol, atol=1e-4)


def gram(x):
  x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
  return x.T @ x


def test_linen_mlp():
  class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Dense(5)(x))
      return nn.Dense(2)(x)

  x, model = rows(0, 2, 3, 4), MLP()
  params = model.init(keys(0), x)
  first = params['params']['Dense_0']
  hidden = np.maximum(x @ first['kernel'] + first['bias'], 0)
  found = lth.calibrate(model.apply, params, x, stat=lth.stats.gram)
  names = [f'params/Dense_{i}/kernel' for i in (0, 1)]
  assert_is(found.sums, dict(zip(names, [gram(x), gram(hidden)], strict=True)))
  assert_is(found.counts, dict.fromkeys(names, 6))


def test_nnx_linear_general_merges_contracted_axes():
  model = nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), rngs=nnx.Rngs(0))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  def apply(params, x):
    return nnx.merge(graphdef, params, rest, copy=True)(x)

  x = rows(1, 5, 2, 3)
  found = lth.calibrate(apply, params, x, stat=lth.stats.sums)
  assert_is(found.sums, {'kernel': x.reshape(5, 6).sum(0)})


STATS = {
  'sums': lambda x: x.sum(0),
  'squares': lambda x: (x**2).sum(0),
  'absolute_means': lambda x: abs(x).sum(0),
}


@pytest.mark.parametrize('name', STATS)
def test_stats_and_sums_over_batches(name):
  params, x, y = {'w': rows(0, 4, 2)}, rows(1, 6, 4), rows(2, 3, 4)

  def apply(params, x):
    return x @ params['w']

  calibrate = functools.partial(
    lth.calibrate, apply, params, stat=getattr(lth.stats, name)
  )
  found = calibrate(x) + calibrate(y)
  both = np.concatenate([x, y])
  assert_is(found.sums, {'w': STATS[name](both)})
  assert_is(found.means(), {'w': STATS[name](both) / 9})
  jitted = jax.jit(calibrate)(x)
  assert_is(jitted.sums, {'w': STATS[name](x)})


def test_experts_are_batch_axes():
  params, x = {'w': rows(0, 3, 4, 2)}, rows(1, 3, 5, 4)

  def apply(params, x):
    return jnp.einsum('ecd,edf->ecf', x, params['w'])

  found = lth.calibrate(apply, params, x, stat=lth.stats.gram)
  assert_is(found.sums, {'w': np.stack([gram(e) for e in x])})

  def swapped(params, x):
    return jnp.einsum('edf,ecd->efc', params['w'], x)

  again = lth.calibrate(swapped, params, x, stat=lth.stats.gram)
  assert_is(again.sums, {'w': found.sums['w']})


@pytest.mark.parametrize('axis', [0, 1])
def test_scans_stack_and_checkpoints_are_opened(axis):
  w = rows(0, 3, 4, 4)
  params = {'w': np.moveaxis(w, 0, axis), 'shared': rows(2, 4, 4)}
  x, expected, shared = rows(1, 5, 4), [], 0

  def apply(params, x):
    @jax.checkpoint
    def turn(x, w):
      return jnp.tanh(jnp.tanh(x @ w) @ params['shared']), None

    return jax.lax.scan(turn, x, jnp.moveaxis(params['w'], axis, 0))[0]

  y = x
  for layer in w:
    expected.append(gram(y))
    y = np.tanh(y @ layer)
    shared += gram(y)
    y = np.tanh(y @ params['shared'])
  found = lth.calibrate(apply, params, x, stat=lth.stats.gram)
  assert_is(found.sums, {'w': np.stack(expected), 'shared': shared})
  assert_is(found.counts, {'w': [5, 5, 5], 'shared': 15})


def test_nested_scans():
  params, x = {'w': rows(0, 2, 3, 4, 4)}, rows(1, 5, 4)

  def apply(params, x):
    def inner(x, w):
      return jnp.tanh(x @ w), None

    def outer(x, ws):
      return jax.lax.scan(inner, x, ws)[0], None

    return jax.lax.scan(outer, x, params['w'])[0]

  found = lth.calibrate(apply, params, x)
  y, expected = x, np.zeros((2, 3, 4))
  for i in range(2):
    for j in range(3):
      expected[i, j] = (y**2).sum(0)
      y = np.tanh(y @ params['w'][i, j])
  assert_is(found.sums, {'w': expected})


def test_fused_kernels():
  params = {'q': rows(0, 4, 2), 'k': rows(1, 4, 3), 'f': rows(2, 4, 6)}
  x = rows(3, 5, 4)

  def apply(params, x):
    joined = x @ jnp.concatenate([params['q'], params['k']], 1)
    gate, up = params['f'][:, :2], params['f'][:, 2:]
    return joined, x @ gate, (2 * x) @ up

  found = lth.calibrate(apply, params, x, stat=lth.stats.gram)
  one, two = gram(x), gram(2 * x)
  assert_is(found.sums, {'q': one, 'k': one, 'f[0]': one, 'f[1]': two})


def test_what_is_read_by_several_is_computed_once():
  params = {n: rows(i, 4, 4) for i, n in enumerate('qkv')}

  def apply(params, x):
    return [x @ params[n] for n in 'qkv']

  def total(x):
    return lth.calibrate(apply, params, x, stat=lth.stats.gram)

  text = str(jax.make_jaxpr(total)(rows(3, 5, 4)))
  assert text.count('dot_general') == 3 + 1
  found = total(rows(3, 5, 4)).sums
  np.testing.assert_array_equal(found['q'], found['v'])


def transformer(params, tokens, valid):
  """Two scanned layers of attention and an MLP on flattened tokens."""
  x = params['embed'][tokens]

  def layer(x, p):
    q, k, v = (
      jnp.einsum('btd,dhk->bthk', x, p[name]) for name in ('q', 'k', 'v')
    )
    logits = jnp.einsum('bqhd,bkhd->bhqk', q, k)
    causal = jnp.tril(jnp.ones(logits.shape[-2:], bool))
    seen = causal & valid[:, None, None]
    weights = jax.nn.softmax(jnp.where(seen, logits, -1e9))
    y = jnp.einsum('bhqk,bkhd->bqhd', weights, v)
    x = x + jnp.einsum('bthk,hkd->btd', y, p['o'])
    flat = x.reshape(-1, x.shape[-1])
    y = jnp.einsum('nd,edf->enf', flat, p['up'])
    y = jnp.einsum('enf,efd->nd', jax.nn.relu(y), p['down'])
    return x + y.reshape(x.shape), None

  return jax.lax.scan(layer, x, params['layers'])[0] @ params['head']


def test_padding_is_left_out_exactly():
  square = dict.fromkeys('qkv', (2, 4, 2, 2)) | {'o': (2, 2, 2, 4)}
  experts = {'up': (2, 3, 4, 5), 'down': (2, 3, 5, 4)}
  shapes = {'embed': (7, 4), 'head': (4, 7), 'layers': square | experts}
  params = random_like(shapes, 0, 0.5)
  rng = np.random.default_rng(1)
  lengths, tokens = [6, 3, 5], rng.integers(0, 7, (3, 6))
  valid = np.arange(6) < np.array(lengths)[:, None]
  found = lth.calibrate(
    transformer, params, tokens, valid, stat=lth.stats.gram, token_mask=valid
  )
  alone = [
    lth.calibrate(
      transformer,
      params,
      tokens[i : i + 1, :n],
      valid[i : i + 1, :n],
      stat=lth.stats.gram,
    )
    for i, n in enumerate(lengths)
  ]
  whole = alone[0] + alone[1] + alone[2]
  for name, x in whole.sums.items():
    scale = np.abs(x).max()
    np.testing.assert_allclose(found.sums[name] / scale, x / scale, atol=3e-6)
  assert jax.tree.map(int, found.counts['head']) == sum(lengths)
  assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, whole)


PLAIN = {'w': np.ones((4, 2), np.float32), 'b': np.ones(2, np.float32)}


def plain(params, x):
  return x @ params['w'] + params['b']


def sums_first(params, x):
  return x.sum(0) @ params['w'] + params['b']


@pytest.mark.parametrize(
  ('apply', 'options', 'text'),
  [
    (plain, {'where': 'v*'}, "match no leaf: 'v"),
    (plain, {'where': 'b*'}, r"nothing that the program multiplies.*'b\*'"),
    (lambda p, x: x, {'where': 'w'}, 'never multiplies with w'),
    (plain, {'token_mask': np.ones(3, bool)}, r'shape \(3,\)'),
    (plain, {'token_mask': np.zeros(5, bool)}, 'those of w are all zero'),
    (sums_first, {'token_mask': np.ones(5, bool)}, 'not certain.* at w'),
  ],
)
def test_bad_input(apply, options, text):
  with pytest.raises(ValueError, match=text):
    lth.calibrate(apply, PLAIN, rows(0, 5, 4), **options)


def test_what_is_not_finite_is_named():
  with pytest.raises(ValueError, match=r'shape \(0, 4\), so there are no tok'):
    lth.calibrate(plain, PLAIN, rows(0, 0, 4))
  x = rows(0, 5, 4)
  x[0, 0] = np.nan
  with pytest.raises(ValueError, match='those of w are not finite'):
    lth.calibrate(plain, PLAIN, x)
  with pytest.raises(TypeError, match='must be a bool array'):
    lth.calibrate(plain, PLAIN, rows(0, 5, 4), token_mask=np.ones(5))
  one = lth.calibrate(plain, PLAIN, rows(0, 5, 4))
  other = lth.calibrate(plain, PLAIN, rows(0, 5, 4), stat=lth.stats.gram)
  with pytest.raises(ValueError, match='differ in w'):
    _ = one + other
