"""SRigL: moves by hand, against an oracle in NumPy, and over many steps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax import trees
from lthjax.topologies.srigl import move_layer


def matrix(columns):
  """An array from the inputs of each neuron."""
  return np.array(columns, np.float32).T


def neurons(*inputs, size=4):
  """A mask from the alive inputs of each neuron."""
  return np.array([[i in alive for i in range(size)] for alive in inputs]).T


MOVES = {
  # Keeps 5, 4, 3, 2 of all; the third neuron gets two from its gradient.
  'nothing ablated': (
    neurons([0, 1], [0, 1], [0, 1]),
    [[5, 4, 0, 0], [3, 2, 0, 0], [0.1, 0.2, 0, 0]],
    [[0, 0, 1, 0], [0, 0, 7, 0], [0, 6, 1, 3]],
    {'drop': 2, 'min_salient': None},
    neurons([0, 1], [0, 1], [1, 3]),
  ),
  # Salient are 2, 2 + 1 and 1: the third neuron has too few, and its share of
  # the budget of 6 goes to the other two.
  'one ablated': (
    neurons([0, 1], [0, 1], [0, 1]),
    [[5, 4, 0, 0], [3, 2, 0, 0], [0.1, 0.2, 0, 0]],
    [[0, 0, 1, 0], [0, 0, 7, 0], [9, 9, 1, 3]],
    {'drop': 2, 'min_salient': 2},
    neurons([0, 1, 2], [0, 1, 2], []),
  ),
  # From there: 9 and 8 are the largest gradients of all dead weights.
  'one revived': (
    neurons([0, 1, 2], [0, 1, 2], []),
    [[5, 4, 0.3, 0], [3, 2, 0.1, 0], [0, 0, 0, 0]],
    [[9, 9, 9, 1], [9, 9, 9, 1], [9, 8, 1, 0]],
    {'drop': 2, 'min_salient': 2},
    neurons([0, 1], [0, 1], [0, 1]),
  ),
  # Six weights need two neurons of four inputs, however few are salient.
  'never fewer neurons than the budget needs': (
    neurons([0, 1], [0, 1], [0, 1]),
    [[5, 4, 0, 0], [1, 2, 0, 0], [3, 6, 0, 0]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 1]],
    {'drop': 2, 'min_salient': 100},
    neurons([0, 1, 2], [], [0, 1, 2]),
  ),
  # Ablating the second makes room; it does not bring dead weights in as kept:
  # what grows is where the gradients of the others are.
  'ablated weights are not kept': (
    neurons([0, 1], [0], [0, 1, 2], size=4),
    [[5, 4, 0, 0], [9, 0, 0, 0], [3, 2, 1, 0]],
    [[0, 0, 1, 2], [0, 0, 0, 0], [0, 0, 0, 1]],
    {'drop': 0, 'min_salient': 2},
    neurons([0, 1, 3], [], [0, 1, 2]),
  ),
  # The first neuron has four kept weights for a fan-in of two.
  'the smallest are cut': (
    neurons([0, 1, 2, 3], [0], [0]),
    [[1, 4, 2, 3], [5, 0, 0, 0], [5, 0, 0, 0]],
    [[9, 9, 9, 9], [0, 1, 2, 0], [0, 0, 2, 1]],
    {'drop': 0, 'min_salient': None},
    neurons([1, 3], [0, 2], [0, 2]),
  ),
}


@pytest.mark.parametrize('name', MOVES)
def test_moves_by_hand(name):
  mask, weights, growth, options, expected = MOVES[name]
  magnitude = np.where(mask, matrix(weights), 0)
  found = move_layer(mask, magnitude, matrix(growth), budget=6, **options)
  np.testing.assert_array_equal(found, expected)


def largest(scores, count, allowed):
  """The ``count`` largest of the allowed scores; ties to the lowest index."""
  keep = np.zeros(scores.size, bool)
  order = np.argsort(-scores.ravel().astype(np.float64), kind='stable')
  keep[[i for i in order if allowed.ravel()[i]][: max(count, 0)]] = True
  return keep.reshape(allowed.shape)


def oracle(mask, w, g, drop, budget, min_salient):
  """The steps of the paper, a neuron at a time."""
  fan_ins, n = mask.shape
  kept = mask.sum() - drop
  active = list(range(n))
  if min_salient is not None:
    salient = largest(w, kept, mask) | largest(g, drop, ~mask)
    counts = salient.sum(0)
    enough = min_salient
    if min_salient < 1:
      enough = max(1, round(min_salient * 100) * (budget // n) // 100)
    most = np.argsort(-counts, kind='stable')[: -(-budget // fan_ins)]
    active = [i for i in range(n) if counts[i] >= enough or i in most]
  fan_in = budget // len(active)
  allowed = mask.copy()
  allowed[:, [i for i in range(n) if i not in active]] = False
  keep = largest(w, kept, allowed)
  new = np.zeros_like(mask)
  for i in active:
    column = largest(w[:, i], fan_in, keep[:, i])
    grown = largest(g[:, i], fan_in - column.sum(), ~column)
    new[:, i] = column | grown
  return new


@pytest.mark.parametrize('min_salient', [None, 0.29, 0.3, 0.95, 1, 7, 1000])
def test_moves_against_an_oracle_with_ties(min_salient):
  rng = np.random.default_rng(0)
  compiled = jax.jit(move_layer, static_argnames='min_salient')
  ablated = 0
  for i in range(40):
    budget = int(rng.integers(24, 12 * 20))
    mask = rng.random((20, 12)) < rng.random()
    if i % 2:
      mask[:, rng.random(12) < 0.4] = False
    w = np.where(mask, rng.integers(0, 5, mask.shape), 0).astype(np.float32)
    g = rng.integers(0, 5, mask.shape).astype(np.float32)
    drop = int(rng.integers(0, mask.sum() + 1))
    found = np.asarray(
      compiled(mask, w, g, drop, budget, min_salient=min_salient)
    )
    expected = oracle(mask, w, g, drop, budget, min_salient)
    np.testing.assert_array_equal(found, expected)
    fan_in = found.sum(0)
    assert len(set(fan_in[fan_in > 0])) == 1
    assert fan_in.sum() <= budget
    ablated += (fan_in == 0).sum()
  assert (ablated > 0) == (min_salient is not None)


def make(inner=None, **options):
  return lth.srigl(
    inner or optax.sgd(0.1, momentum=0.9),
    **{
      'sparsity': 0.9,
      'key': jax.random.key(0),
      'update_every': 2,
      'stop_step': 40,
      'min_salient': 0.95,
      **options,
    },
  )


PARAMS = {
  'conv': {'kernel': jnp.ones((3, 3, 4, 8)), 'bias': jnp.ones(8)},
  'fc': {'kernel': jnp.ones((60, 30))},
  'output': {'kernel': jnp.ones((30, 5))},
}


def fan_ins(masks, layer):
  mask = np.asarray(masks[layer]['kernel'])
  return mask.reshape(-1, mask.shape[-1]).sum(0)


@pytest.mark.parametrize('never_ablate', ['output/*', ['fc/*', 'out*']])
def test_fan_in_is_constant_and_some_layers_are_protected(never_ablate):
  tx = make(never_ablate=never_ablate)
  rng = np.random.default_rng(0)
  params, state, update = PARAMS, tx.init(PARAMS), jax.jit(tx.update)
  # 288, 1800 and 150 weights, of which a tenth: 28, 180 and 15.
  budgets = {'conv': 28, 'fc': 180, 'output': 15}
  found = {k: int(n) for k, n in state.topology_state.budgets.items()}
  assert found == {f'{layer}/kernel': n for layer, n in budgets.items()}
  inactive = dict.fromkeys(budgets, 0)
  revived = 0
  before = lth.get_masks(state)
  for layer, fan_in in [('conv', 3), ('fc', 6), ('output', 3)]:
    assert (fan_ins(before, layer) == fan_in).all()
  for i in range(42):
    scale = 10.0 ** rng.integers(-3, 2)
    grads = jax.tree.map(
      lambda x, s=scale: jnp.asarray(rng.normal(size=x.shape) * s, x.dtype),
      PARAMS,
    )
    if i == 9:  # At this move nothing has a gradient to grow by.
      grads = jax.tree.map(
        lambda m, g: g if m is None else jnp.where(m, g, jnp.nan),
        before,
        grads,
        is_leaf=trees.is_none,
      )
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    masks = lth.get_masks(state)
    for layer, budget in budgets.items():
      now, old = fan_ins(masks, layer), fan_ins(before, layer)
      active = now[now > 0]
      assert (active == budget // active.size).all()
      inactive[layer] += (now == 0).sum()
      revived += ((now > 0) & (old == 0)).sum()
      dead = ~np.asarray(masks[layer]['kernel'])
      assert not any(np.asarray(params[layer]['kernel'])[dead].tobytes())
    before = masks
  assert revived
  assert inactive['conv']
  assert not inactive['output']
  assert bool(inactive['fc']) == (never_ablate == 'output/*')


def test_the_same_fan_in_for_all_without_ablation():
  tx = make(min_salient=None, drop_fraction=1.0, update_every=1)
  state, update = tx.init(PARAMS), jax.jit(tx.update)
  first = lth.get_masks(state)
  for i in range(3):
    grads = jax.tree.map(
      lambda x, i=i: jax.random.normal(jax.random.key(i), x.shape), PARAMS
    )
    _, state = update(grads, state, PARAMS)
    for layer, fan_in in [('conv', 3), ('fc', 6), ('output', 3)]:
      assert (fan_ins(lth.get_masks(state), layer) == fan_in).all()
  assert lth.masks.overlap(first, lth.get_masks(state)) < 0.5


def test_layers_below_one_weight_a_neuron_are_named():
  message = (
    'A constant fan-in needs at least one weight a neuron, but fc/kernel has 18'
    ' weights for 30 neurons; one each is a sparsity of 0.983333; output/kernel'
    ' has 1 weights for 5 neurons; one each is a sparsity of 0.966666. Lower'
    ' the sparsity, spread it with `densities=`, or leave these layers dense'
    ' with `where=`.'
  )
  params = {layer: PARAMS[layer] for layer in ('fc', 'output')}
  with pytest.raises(ValueError, match=re.escape(message)):
    make(sparsity=0.99).init(params)
  # What it says is possible, if barely.
  for layer, sparsity in [('fc', 0.983333), ('output', 0.966666)]:
    masks = lth.get_masks(make(sparsity=sparsity).init({layer: params[layer]}))
    assert (fan_ins(masks, layer) == 1).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'sparsity': 1.0}, '`sparsity` was 1.0, but must be in [0, 1)'),
    ({'sparsity': -0.1}, '`sparsity` was -0.1, but must be in [0, 1)'),
    ({'min_salient': 0}, '`min_salient` was 0, but must be positive.'),
    ({'drop_fraction': 2.0}, '`drop_fraction` was 2.0, but must be in [0, 1]'),
    ({'update_every': 0}, '`update_every` was 0, but must be at least 1 step.'),
  ],
)
def test_out_of_range(options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(**options)
