"""Pruning programs as they run, against pruning by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import bits, keys, largest, random_like

import lthjax as lth

WANDA = lth.rules.wanda(0.5)
SPARSE_GPT = lth.rules.sparse_gpt(0.5)
MAGNITUDE = lth.rules.magnitude(0.5)


def rows(seed, *shape):
  return random_like({'x': shape}, seed)['x']


def wanda(kernel, x, kept):
  """The mask of Wanda, with float64 activations."""
  scores = abs(kernel) * np.sqrt((x.astype(np.float64) ** 2).sum(0))[:, None]
  return np.stack([largest(s, kept) for s in scores.T], 1)


def scanned(params, x):
  def layer(x, p):
    return jnp.tanh(jnp.tanh(x @ p['a']) @ p['b']), None

  return jax.lax.scan(layer, x, params)[0]


def unrolled(params, x):
  for i in range(3):
    x = jnp.tanh(jnp.tanh(x @ params['a'][i]) @ params['b'][i])
  return x


LAYERS = {'a': rows(0, 3, 6, 8), 'b': rows(1, 3, 8, 6)}
X = rows(2, 40, 6)


@functools.cache
def scanned_by(rule, granularity='site'):
  return lth.prune_program(
    scanned, LAYERS, X, rule=rule, granularity=granularity
  )


def by_hand(granularity):
  masks, x = {'a': [], 'b': []}, X
  for a, b in zip(LAYERS['a'], LAYERS['b'], strict=True):
    masks['a'].append(wanda(a, x, 3))
    seen = np.tanh(x @ (a if granularity == 'block' else a * masks['a'][-1]))
    masks['b'].append(wanda(b, seen, 4))
    hidden = np.tanh(x @ (a * masks['a'][-1]))
    x = np.tanh(hidden @ (b * masks['b'][-1]))
  return jax.tree.map(np.stack, masks, is_leaf=lambda x: isinstance(x, list)), x


@pytest.mark.parametrize('granularity', ['site', 'block'])
def test_each_kernel_sees_what_the_pruned_part_computes(granularity):
  pruned = scanned_by(WANDA, granularity)
  masks, output = by_hand(granularity)
  for name, mask in masks.items():
    assert (pruned.masks[name] == mask).all()
    np.testing.assert_array_equal(pruned.params[name], LAYERS[name] * mask)
  np.testing.assert_allclose(pruned.output, output, atol=1e-5)


@pytest.mark.parametrize(
  'rule', [WANDA, pytest.param(SPARSE_GPT, marks=pytest.mark.slow)]
)
def test_scanned_is_unrolled_and_runs_repeat(rule):
  one = scanned_by(rule)
  assert bits(one) == bits(lth.prune_program(scanned, LAYERS, X, rule=rule))
  parts = {'a': [*LAYERS['a']], 'b': [*LAYERS['b']]}
  two = lth.prune_program(unrolled, parts, X, rule=rule)
  stacked = {name: np.stack(each) for name, each in two.masks.items()}
  assert bits(stacked) == bits(jax.tree.map(np.asarray, one.masks))
  np.testing.assert_allclose(one.output, two.output, atol=1e-4)
  np.testing.assert_allclose(scanned(one.params, X), one.output, atol=1e-5)


def test_slices_of_one_leaf_are_pruned_one_by_one():
  two = lth.prune_program(unrolled, LAYERS, X, rule=WANDA)
  assert bits(two.masks) == bits(scanned_by(WANDA).masks)


def test_pruning_all_at_once_differs_from_the_second_matmul_on():
  found = lth.calibrate(scanned, LAYERS, X[:20])
  found += lth.calibrate(scanned, LAYERS, X[20:])
  rule = lth.rules.wanda(0.8)
  pruned = lth.prune_program(scanned, LAYERS, X, rule=rule, calibration=found)
  x, layers = X, scanned_by(rule).masks
  for i, (a, b) in enumerate(zip(LAYERS['a'], LAYERS['b'], strict=True)):
    assert (pruned.masks['a'][i] == wanda(a, x, 1)).all()
    x = np.tanh(x @ a)
    assert (pruned.masks['b'][i] == wanda(b, x, 2)).all()
    x = np.tanh(x @ b)
  assert (pruned.masks['a'][0] == layers['a'][0]).all()
  later = [(pruned.masks[n] != layers[n])[1:].any() for n in ('a', 'b')]
  assert any(later)
  np.testing.assert_allclose(
    pruned.output, scanned(pruned.params, X), atol=1e-6
  )
  with pytest.raises(ValueError, match=r'a has the shape.*stat=gram'):
    lth.prune_program(scanned, LAYERS, X, rule=SPARSE_GPT, calibration=found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def jitted(apply, rule, params, x):
  return lth.prune_program(apply, params, x, rule=rule)


def test_under_jit_with_densities_of_layers():
  found = jitted(scanned, WANDA, LAYERS, X)
  assert bits(found.masks) == bits(scanned_by(WANDA).masks)
  sparsity = {'a': np.array([0, 0.5, 1]), 'b': 0.25}
  pruned = lth.prune_program(
    scanned, LAYERS, X, rule=MAGNITUDE, sparsity=sparsity
  )
  assert pruned.masks['a'].sum((1, 2)).tolist() == [48, 24, 0]
  assert pruned.masks['b'].sum((1, 2)).tolist() == [36, 36, 36]


def test_masks_nest():
  first = scanned_by(WANDA)
  again = lth.prune_program(
    scanned,
    first.params,
    X,
    rule=lth.rules.wanda(0.75),
    masks=first.masks | {'b': None},
  )
  assert again.masks['b'] is None
  assert bits(again.params['b']) == bits(first.params['b'])
  assert not (again.masks['a'] & ~first.masks['a']).any()
  assert again.masks['a'].sum() == 3 * 8 * 1  # 4.5 of 6 go, rounded up.


def test_frameworks():
  class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Dense(8)(x))
      return nn.Dense(2)(x)

  model = MLP()
  params = jax.device_get(model.init(keys(0), X))
  pruned = lth.prune_program(model.apply, params, X, rule=WANDA)
  kernel = params['params']['Dense_0']['kernel']
  mask = pruned.masks['params']['Dense_0']['kernel']
  assert (mask == wanda(kernel, X, 3)).all()
  assert pruned.masks['params']['Dense_0']['bias'] is None

  layer = nnx.LinearGeneral((2, 3), (2, 2), axis=(-2, -1), rngs=nnx.Rngs(0))
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

  def apply(params, x):
    return nnx.merge(graphdef, params, rest, copy=True)(x)

  pruned = lth.prune_program(apply, params, X.reshape(-1, 2, 3), rule=WANDA)
  kernel = np.asarray(params['kernel'][...]).reshape(6, 4)
  mask = np.asarray(pruned.masks['kernel'][...]).reshape(6, 4)
  assert (mask == wanda(kernel, X, 3)).all()


def test_fused_kernels_and_slices_that_nothing_reads():
  params = {'q': rows(0, 6, 2), 'k': rows(1, 6, 3), 'f': rows(3, 6, 7)}

  def apply(params, x):
    x = x @ jnp.concatenate([params['q'], params['k']], 1)
    x = x @ params['f'].T[:3, :5].T[:, :3]
    return x

  pruned = lth.prune_program(apply, params, X, rule=WANDA)
  assert (pruned.masks['q'] == wanda(params['q'], X, 3)).all()
  assert (pruned.masks['k'] == wanda(params['k'], X, 3)).all()
  unread = np.ones((6, 7), bool)
  unread[:5, :3] = False
  assert pruned.masks['f'][unread].all()
  assert bits(pruned.params['f'])[2] != bits(params['f'])[2]
  assert (np.asarray(pruned.params['f'])[unread] == params['f'][unread]).all()
  assert pruned.masks['f'][:5, :3].sum() == 3 * 2  # 2.5 of 5 go, rounded up.


def test_low_precision():
  def apply(params, x):
    return x.astype(jnp.bfloat16) @ params['w'].astype(jnp.bfloat16)

  params = {'w': rows(0, 6, 4)}
  pruned = lth.prune_program(apply, params, X, rule=WANDA)
  mask = np.asarray(pruned.masks['w'])
  assert mask.sum(0).tolist() == [3] * 4
  np.testing.assert_array_equal(pruned.params['w'], params['w'] * mask)
  updated = lth.prune_program(apply, params, X, rule=SPARSE_GPT).params['w']
  rounded = updated.astype(jnp.bfloat16).astype(jnp.float32)
  assert updated.dtype == jnp.float32
  assert (rounded == updated).all()


@pytest.mark.slow
def test_low_precision_keeps_as_many_weights():
  """Ties among scores of bfloat16 do not change the count."""

  def apply(dtype, params, x):
    return x.astype(dtype) @ params['w'].astype(dtype)

  params = {'w': rows(0, 6, 40)}
  for rule in (WANDA, lth.rules.magnitude(0.29)):
    kept = [
      int(lth.prune_program(f, params, X, rule=rule).masks['w'].sum())
      for f in (
        functools.partial(apply, jnp.bfloat16),
        functools.partial(apply, jnp.float32),
      )
    ]
    assert kept[0] == kept[1] == (120 if rule is WANDA else 170)


def test_padding_and_the_order_of_batches_do_not_matter():
  def apply(params, x):
    flat = x.reshape(-1, 6)
    return jnp.tanh(flat @ params['a']) @ params['b']

  params = {'a': rows(0, 6, 8), 'b': rows(1, 8, 6)}
  x, valid = X.reshape(4, 10, 6), np.arange(10) < np.array([[9], [3], [5], [7]])
  prune = functools.partial(
    lth.prune_program, apply, params, rule=lth.rules.wanda(0.5)
  )
  clean = prune(x, token_mask=valid).masks
  junk = np.where(valid[..., None], x, 100 * rows(5, 4, 10, 6))
  assert bits(prune(junk, token_mask=valid).masks) == bits(clean)
  order = [2, 0, 3, 1]
  assert bits(prune(x[order], token_mask=valid[order]).masks) == bits(clean)


def shared(params, x):
  return jax.lax.scan(lambda x, _: (x @ params['w'], None), x, length=2)[0]


SQUARE = {'w': rows(0, 6, 6), 'v': rows(1, 6, 6)}


@pytest.mark.parametrize(
  ('apply', 'rule', 'text'),
  [
    (shared, WANDA, 'w is shared by the turns of a loop'),
    (lambda p, x: x @ p['w'] @ p['w'], WANDA, 'w is used 2 times'),
    (
      lambda p, x: (x @ p['w'], p['w'][x[:, 0].astype(int)]),
      WANDA,
      'w is looked up as well',
    ),
    (lambda p, x: x @ jnp.tanh(p['w']), SPARSE_GPT, 'w is changed before its'),
    (lambda p, x: x @ (2 * p['w']), SPARSE_GPT, 'w is changed before its'),
    (
      lambda p, x: x @ p['w'],
      lth.rules.wanda(pattern=lth.patterns.NM(2, 4)),
      'w has 6 inputs, not a multiple of 4',
    ),
    (
      lambda p, x: x @ jnp.concatenate([p['w'], p['v']], 1),
      WANDA,
      'w meets `concatenate` with something else',
    ),
    (lambda p, x: (x * 0) @ p['w'], WANDA, 'those of w are all zero'),
    (lambda p, x: (x * np.nan) @ p['w'], WANDA, 'those of w are not finite'),
    (lambda p, x: (x / 0) @ p['w'], SPARSE_GPT, 'those of w are not finite'),
    (
      lambda p, x: x[:2] @ p['w'],
      lth.rules.sparse_gpt(0.5, damping=0),
      'those of w give no positive definite',
    ),
  ],
)
def test_bad_programs(apply, rule, text):
  with pytest.raises(ValueError, match=text):
    lth.prune_program(apply, SQUARE, X, rule=rule, where='w')


@pytest.mark.parametrize('rule', [lth.rules.magnitude(0.5), WANDA, SPARSE_GPT])
def test_kernels_that_are_not_finite(rule):
  broken = {**SQUARE, 'w': np.where(np.eye(6), np.nan, SQUARE['w'])}
  with pytest.raises(ValueError, match=r'but those of w hold NaN'):
    lth.prune_program(lambda p, x: x @ p['w'], broken, X, rule=rule, where='w')


def test_squashed_kernels_may_be_selected_from():
  def apply(params, x):
    return x @ jnp.tanh(params['w'])

  pruned = lth.prune_program(apply, SQUARE, X, rule=WANDA, where='w')
  assert (pruned.masks['w'] == wanda(np.tanh(SQUARE['w']), X, 3)).all()


def test_few_tokens_are_warned_of():
  def apply(params, x):
    return x @ params['w']

  with pytest.warns(UserWarning, match='fewer than 2 tokens per input for w'):
    lth.prune_program(apply, SQUARE, X[:8], rule=SPARSE_GPT)


def test_bad_arguments():
  prune = functools.partial(lth.prune_program, scanned, LAYERS, X)
  with pytest.raises(TypeError, match='must be a rule, such as'):
    prune(rule='wanda')
  with pytest.raises(ValueError, match='granularity'):
    prune(rule=WANDA, granularity='layer')
  with pytest.raises(ValueError, match=r'no loop over a, b.*prune_blocks'):
    lth.prune_program(
      lambda p, x: x @ p['a'][0] @ p['b'][0],
      LAYERS,
      X,
      rule=WANDA,
      granularity='block',
    )
  with pytest.raises(ValueError, match=r'`sparsity`.*c'):
    prune(rule=WANDA, sparsity={'c': 0.5})
  for wrong, error, text in [
    (1.5, ValueError, r"sparsity\['a'\]` was 1.5, but must be in \[0, 1\]"),
    ('half', TypeError, r"sparsity\['a'\]` was .*must be a share"),
    (np.ones(2) / 2, ValueError, r"sparsity\['a'\]` has the shape \(2,\)"),
  ]:
    with pytest.raises(error, match=text):
      prune(rule=WANDA, sparsity={'a': wrong})
  sums = lth.Calibration({'a': -np.ones((3, 6))}, {'a': np.full(3, 40)})
  with pytest.raises(ValueError, match=r'negative sums for a.*stats\.squares'):
    prune(rule=WANDA, calibration=sums)
  with pytest.raises(ValueError, match=r'cannot go with a rule for NM'):
    prune(
      rule=lth.rules.wanda(pattern=lth.patterns.NM(2, 4)), sparsity={'a': 0.5}
    )
  with pytest.raises(ValueError, match='prunes no leaf'):
    prune(rule=WANDA, masks={'a': None, 'b': None})
