"""Low-rank adapters beside and under masks, on arrays and on 8 bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import bits, keys, random_like, random_masks

import lthjax as lth
from lthjax import adapters

SHAPES = {
  'blocks': {'query': {'kernel': (2, 6, 2, 4)}},
  'output': {'kernel': (8, 3), 'bias': (3,)},
}
MASKS = random_masks(SHAPES, 1, 0.5)
MASKS['output']['bias'] = None
CORE = jax.tree.map(
  lambda m, p: p if m is None else np.where(m, p, np.float32(0)),
  MASKS,
  random_like(SHAPES, 0),
  is_leaf=lambda m: m is None,
)
X = random_like((5, 6), 2)


def apply(params, x):
  query = params['blocks']['query']['kernel']
  h = jnp.einsum('bi,lihk->blhk', x, query).sum(1).reshape(len(x), -1)
  return jnp.tanh(h) @ params['output']['kernel'] + params['output']['bias']


def make(**changes):
  return adapters.lora(keys(0), CORE, **{'rank': 2} | changes)


def trained(adapter, core=CORE, masks=None):
  """The adapter after a few steps."""
  tx = optax.adam(0.05)

  def loss(adapter):
    return jnp.mean((apply(adapters.weights(core, adapter, masks), X) - 1) ** 2)

  @jax.jit
  def step(adapter, state):
    updates, state = tx.update(jax.grad(loss)(adapter), state)
    return optax.apply_updates(adapter, updates), state

  state, losses = tx.init(adapter), [float(loss(adapter))]
  for _ in range(5):
    adapter, state = step(adapter, state)
  assert loss(adapter) < losses[0]
  return adapter


def test_at_first_nothing_changes():
  for adapter, masks in ((make(), None), (make(masked=True), MASKS)):
    assert bits(adapters.weights(CORE, adapter, masks)) == bits(
      jax.tree.map(lambda x: x + np.float32(0), CORE)
    )
  grads = jax.grad(lambda core: apply(adapters.weights(core, make()), X).sum())
  assert not any(np.any(g) for g in jax.tree.leaves(grads(CORE)))


def test_only_the_adapter_moves_and_by_the_formula():
  before = make(alpha=3.0)
  adapter = trained(before)
  leaves = zip(*map(jax.tree.leaves, (adapter, before)), strict=True)
  assert all((a != b).all() for a, b in leaves)
  found = adapters.weights(CORE, adapter)
  for layer in range(2):
    low = (
      adapter.down['blocks/query/kernel'][layer]
      @ adapter.up['blocks/query/kernel'][layer]
    )
    wanted = CORE['blocks']['query']['kernel'][layer] + 1.5 * low.reshape(
      6, 2, 4
    )
    np.testing.assert_allclose(
      found['blocks']['query']['kernel'][layer], wanted, rtol=1e-5, atol=1e-6
    )
  assert bits(found['output']['bias']) == bits(CORE['output']['bias'])
  # y = x (w m) + (alpha / r) x a b: merging fills the zeros.
  assert bits(adapters.merge(CORE, adapter)) == bits(found)
  assert np.count_nonzero(found['output']['kernel']) == 24


def test_a_masked_merge_is_the_masked_forward_pass():
  adapter = trained(make(masked=True), masks=MASKS)
  merged = adapters.merge(CORE, adapter, MASKS)
  assert bits(merged) == bits(adapters.weights(CORE, adapter, MASKS))
  dead = ~MASKS['output']['kernel']
  assert bits(np.asarray(merged['output']['kernel'])[dead]) == bits(
    np.zeros(dead.sum(), np.float32)
  )
  kernel = adapter.down['output/kernel'][0] @ adapter.up['output/kernel'][0]
  wanted = np.where(dead, 0, CORE['output']['kernel'] + kernel)
  np.testing.assert_allclose(merged['output']['kernel'], wanted, atol=1e-6)


def test_on_eight_bits():
  small = lth.quantization.quantize(CORE, masks=MASKS)
  core = lth.quantization.dequantize(small)
  adapter = trained(make(masked=True), small, MASKS)
  found = adapters.weights(small, adapter, MASKS)
  assert bits(found) == bits(adapters.weights(core, adapter, MASKS))
  assert bits(make().down) == bits(adapters.lora(keys(0), small, rank=2).down)


def test_of_as_many_numbers_as_a_mask():
  each = 2 * (6 + 8) + (8 + 3)
  for count, rank in (
    (1, 1),
    (each, 1),
    (3 * each + 19, 3),
    (3 * each + 20, 4),
  ):
    assert adapters.rank_of_count(CORE, count) == rank
  numbers = sum(x.size for x in jax.tree.leaves(make(rank=3)))
  assert numbers == 3 * each


def test_low_precision_is_kept():
  core = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), CORE)
  found = adapters.weights(core, make())
  assert bits(found) == bits(core)


def test_bad_arguments():
  with pytest.raises(ValueError, match=r'rank of 4 .*: output/kernel \(8 inpu'):
    make(rank=4)
  other = CORE | {'output': {'kernel': np.ones((9, 3)), 'bias': np.ones(3)}}
  with pytest.raises(
    ValueError, match=r'output/kernel \(of shape \(9, 3\), ad'
  ):
    adapters.weights(other, make())
  with pytest.raises(ValueError, match=r'query/kernel \(unknown\)'):
    adapters.weights({'output': CORE['output']}, make())
  with pytest.raises(ValueError, match='needs the masks of the core'):
    adapters.weights(CORE, make(masked=True))
  with pytest.raises(ValueError, match='masks` were given, but the adapter is'):
    adapters.weights(CORE, make(), MASKS)
  with pytest.raises(ValueError, match='trained beside the masks, and not und'):
    adapters.merge(CORE, make(), MASKS)
  with pytest.raises(
    TypeError, match=r'`adapter` was .*, but must be an adapter'
  ):
    adapters.weights(CORE, MASKS)
  with pytest.raises(ValueError, match='do not say which axes'):
    functools.partial(adapters.lora, keys(0), rank=1)({'w': np.ones((2, 3, 3))})
