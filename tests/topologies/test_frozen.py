"""Weights that wait at their values, to the bit, under any optimizer."""

import collections
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import bits, eager_step, random_like, random_masks

import lthjax as lth
from lthjax.topologies import FrozenState

SHAPES = {'a': {'kernel': (4, 3), 'bias': (3,)}, 'b': {'kernel': (3, 2)}}
PARAMS = random_like(SHAPES, 0)
PARAMS['a']['kernel'][0, 0] = -0.0
MASKS = random_masks(SHAPES, 1, 0.5)
MASKS['a']['bias'] = None
MASKS['a']['kernel'][0, 0] = False
OPTIMIZERS = {
  'momentum': optax.sgd(0.1, momentum=0.9),
  'adam': optax.adam(0.1),
  'adamw': optax.adamw(0.1, weight_decay=0.1),
  'rmsprop': optax.rmsprop(0.1),
  'clipped': optax.chain(
    optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0.1)
  ),
}


def dead(tree):
  """The weights that must not move, as bytes."""
  return [
    np.asarray(x)[~m if m is not None else ...].tobytes()
    for m, x in zip(
      jax.tree.leaves(MASKS, is_leaf=lambda m: m is None),
      jax.tree.leaves(tree),
      strict=True,
    )
  ]


@functools.cache
def step(name):
  tx, traces = lth.frozen(OPTIMIZERS[name], MASKS), []

  @jax.jit
  def train(params, state, grads):
    traces.append(1)
    return eager_step(tx, params, state, grads)

  return tx, train, traces


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_dead_weights_keep_their_bits(name):
  tx, train, traces = step(name)
  params, state = PARAMS, tx.init(PARAMS)
  for i in range(3):
    params, state = train(params, state, random_like(SHAPES, 10 + i))
  assert dead(params) == dead(PARAMS)
  for layer in 'ab':
    mask, old = MASKS[layer]['kernel'], PARAMS[layer]['kernel']
    assert (np.asarray(params[layer]['kernel']) != old)[mask].all()
  # A warmed state: all weights have trained, and then some stop.
  full = jax.tree.map(np.ones_like, MASKS)
  warm = lth.set_masks(tx.init(PARAMS), full)
  params, warm = train(PARAMS, warm, random_like(SHAPES, 5))
  before = dead(params)
  warm = lth.set_masks(warm, MASKS)
  for i in range(3):
    params, warm = train(params, warm, random_like(SHAPES, 20 + i))
  assert dead(params) == before
  assert len(traces) == 1


def test_masking_gradients_alone_drifts():
  """Worked out by hand for AdamW: weight decay moves what has no gradient."""
  w = {'w': np.array([1.0, 2.0, 3.0, 4.0], np.float32)}
  masks = {'w': np.array([True, False, True, False])}
  inner = optax.adamw(0.1, weight_decay=0.1)
  tx = lth.frozen(inner, masks)
  naive, held = (w, inner.init(w)), (w, tx.init(w))
  for _ in range(5):
    grads = {'w': jnp.where(masks['w'], 2 * (naive[0]['w'] - 5), 0)}
    naive = eager_step(inner, *naive, grads)
    held = eager_step(tx, *held, {'w': 2 * (held[0]['w'] - 5)})
  drift = np.abs(naive[0]['w'] - w['w'])[~masks['w']].max()
  assert drift == pytest.approx(4 - 4 * 0.99**5, abs=1e-5)  # 0.196
  assert bits(held[0]['w'][1::2]) == bits(w['w'][1::2])
  np.testing.assert_array_equal(held[0]['w'][::2], naive[0]['w'][::2])


def test_clipping_counts_weights_that_train():
  w = {'w': np.zeros(2, np.float32)}
  tx = lth.frozen(
    optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)),
    {'w': np.array([True, False])},
  )
  grads = {'w': np.array([2.0, 1e6], np.float32)}
  assert eager_step(tx, w, tx.init(w), grads)[0]['w'].tolist() == [-1, 0]


def test_with_all_masks_true_it_is_the_optimizer():
  full = jax.tree.map(lambda x: np.ones(x.shape, bool), PARAMS)
  tx, inner = lth.frozen(OPTIMIZERS['clipped'], full), OPTIMIZERS['clipped']
  grads = random_like(SHAPES, 3)
  found = eager_step(tx, PARAMS, tx.init(PARAMS), grads)[0]
  wanted = eager_step(inner, PARAMS, inner.init(PARAMS), grads)[0]
  assert bits(found) == bits(wanted)


def test_whole_leaves_have_no_slots():
  tx = lth.frozen(optax.adam(0.1), MASKS)
  state = tx.init(PARAMS)
  assert isinstance(state.topology_state, FrozenState)
  moments = jax.tree.leaves(optax.tree.get(state, 'mu'))
  assert sorted(x.size for x in moments) == [6, 12]
  chex.assert_trees_all_equal(lth.get_masks(state), MASKS)


def test_the_network_runs_with_all_weights():
  tx = lth.frozen(optax.adam(0.1), MASKS)
  state = tx.init(PARAMS)
  assert bits(lth.forward_params(state, PARAMS)) == bits(PARAMS)
  train = lth.TrainState(
    np.int32(0), PARAMS, state, {}, jax.random.key(0), None
  )
  others = jax.tree.map(np.logical_not, MASKS)
  changed = lth.with_masks(train, others)
  assert bits(changed.params) == bits(PARAMS)
  chex.assert_trees_all_equal(lth.get_masks(changed.opt_state), others)
  params, inner = lth.strip(state, PARAMS)
  assert bits(params) == bits(PARAMS)
  assert type(inner) is type(optax.adam(0.1).init(PARAMS))


def test_a_leaf_frozen_whole_stays_so():
  state = lth.frozen(optax.adam(0.1), MASKS).init(PARAMS)
  masks = jax.tree.map(np.ones_like, MASKS)
  masks['a']['bias'] = np.ones(3, bool)
  with pytest.raises(ValueError, match='a/bias is None in the masks in the op'):
    lth.set_masks(state, masks)


@pytest.mark.parametrize('wrap', ['accumulated', 'lookahead', 'nnx', 'bf16'])
def test_inside_and_around_other_transformations(wrap):
  inner = optax.adamw(0.1, weight_decay=0.1)
  params, masks = PARAMS, MASKS
  if wrap == 'bf16':
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)
  if wrap == 'nnx':
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    masks = {'kernel': MASKS['a']['kernel'], 'bias': None}
    old = np.asarray(model.kernel[...]).copy()
    tx = nnx.Optimizer(model, lth.frozen(inner, masks), wrt=nnx.Param)
    grads = nnx.grad(lambda m: jnp.sum((m(np.ones((2, 4))) - 1) ** 2))(model)
    tx.update(model, grads)
    new, mask = np.asarray(model.kernel[...]), MASKS['a']['kernel']
    assert bits(new[~mask]) == bits(old[~mask])
    assert (new[mask] != old[mask]).all()
    return
  tx = lth.frozen(inner, masks)
  if wrap == 'accumulated':
    tx = optax.MultiSteps(tx, 2)
  if wrap == 'lookahead':
    tx = lth.frozen(optax.lookahead(inner, 2, 0.5), masks)
    params = optax.LookaheadParams.init_synced(params)
  before, state = params, tx.init(params)
  for i in range(2):
    params, state = eager_step(tx, params, state, random_like(SHAPES, i))
  for new, old in zip(
    *(
      [x.fast, x.slow] if wrap == 'lookahead' else [x] for x in (params, before)
    ),
    strict=True,
  ):
    assert dead(new) == dead(old)
    assert not np.array_equal(new['b']['kernel'], old['b']['kernel'])


def test_bad_masks():
  with pytest.raises(TypeError, match=r'`masks` was 0\.9, but must be a tree'):
    lth.frozen(optax.adam(0.1), 0.9)
  none = jax.tree.map(lambda x: None, PARAMS)
  with pytest.raises(ValueError, match='every one is None'):
    lth.frozen(optax.adam(0.1), none).init(PARAMS)
  tx = lth.frozen(optax.adam(0.1), MASKS)
  with pytest.raises(ValueError, match='`frozen` needs the current params'):
    tx.update(PARAMS, tx.init(PARAMS))


ELEMENTWISE = {
  *('add', 'and', 'bitcast', 'bitcast-convert', 'broadcast', 'call', 'compare'),
  *('constant', 'convert', 'divide', 'fusion', 'get-tuple-element', 'maximum'),
  *('minimum', 'multiply', 'negate', 'not', 'or', 'parameter', 'power'),
  *('reshape', 'rsqrt', 'select', 'sqrt', 'subtract', 'tuple'),
}


@pytest.mark.optimized
def test_it_reads_and_writes_as_little_as_static_masks():
  """The compiled step of Adam moves the masks besides what it moves anyway.

  All that masks add is elementwise.
  """
  shapes = {'kernel': (64, 64), 'other': (64,)}
  params, masks = random_like(shapes, 0), random_masks(shapes, 1)

  def compiled(tx):
    step = jax.jit(functools.partial(eager_step, tx), donate_argnums=(0, 1))
    return step.lower(params, tx.init(params), params).compile()

  def moved(program):
    return program.cost_analysis()['bytes accessed']

  def others(program):
    """How many operations of each kind are not elementwise."""
    kinds = re.findall(r'= .*? ([a-z][a-z-]*)\(', program.as_text())
    assert 'multiply' in kinds
    return collections.Counter(x for x in kinds if x not in ELEMENTWISE)

  adam = optax.adam(0.1)
  plain = compiled(adam)
  found = compiled(lth.frozen(adam, masks))
  assert moved(found) <= moved(compiled(lth.static(adam, masks)))
  assert moved(found) < 1.1 * moved(plain)
  assert others(found) <= others(plain)


@pytest.mark.parametrize('whole', [True, False])
def test_other_optimizers_train_their_part(whole):
  masks = MASKS if whole else {'a': MASKS['a'], 'b': {'kernel': None}}
  tx = optax.partition(
    {'some': lth.frozen(optax.adam(0.1), masks), 'all': optax.sgd(0.1)},
    {'a': 'some', 'b': 'all'},
  )
  params, state = PARAMS, tx.init(PARAMS)
  for i in range(2):
    params, state = eager_step(tx, params, state, random_like(SHAPES, i))
  mask = MASKS['a']['kernel']
  new, old = (np.asarray(p['a']['kernel']) for p in (params, PARAMS))
  assert bits(new[~mask]) == bits(old[~mask])
  assert (new[mask] != old[mask]).all()
  assert bits(params['a']['bias']) == bits(PARAMS['a']['bias'])
  assert (params['b']['kernel'] != PARAMS['b']['kernel']).all()
  named = lth.masks.alive_by_name(lth.get_masks(state))
  assert named == {'a/kernel': mask.sum()}
  assert bits(lth.forward_params(state, params)) == bits(params)
