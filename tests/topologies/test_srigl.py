"""SRigL: moves by hand, against an oracle in NumPy, and over many steps."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import slow_but

import lthjax as lth
from lthjax import trees
from lthjax.axes import Axes
from lthjax.topologies._srigl import move_layers


def move_layer(mask, magnitude, growth, drop, budget, min_salient):
  """Moves the mask of one layer ``[inputs, neurons]``."""
  tables = [
    {'w': jnp.asarray(x)} for x in (mask, magnitude, growth, drop, budget)
  ]
  least = {} if min_salient is None else {'w': min_salient}
  axes = {'w': lth.axes.Axes(inputs=(0,), outputs=(1,))}
  return move_layers(*tables, least, axes)['w']


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
  kept = min(mask.sum(), budget) - drop
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


@pytest.mark.parametrize(
  'min_salient', slow_but([None, 0.29, 0.3, 0.95, 1, 7, 1000], [None, 0.3, 7])
)
def test_moves_against_an_oracle_with_ties(min_salient):
  rng = np.random.default_rng(0)
  ablated = 0
  for i in range(40):
    budget = int(rng.integers(24, 12 * 20))
    mask = rng.random((20, 12)) < rng.random()
    if i % 2:
      mask[:, rng.random(12) < 0.4] = False
    w = np.where(mask, rng.integers(0, 5, mask.shape), 0).astype(np.float32)
    g = rng.integers(0, 5, mask.shape).astype(np.float32)
    drop = int(rng.integers(0, min(mask.sum(), budget) + 1))
    found = np.asarray(move_layer(mask, w, g, drop, budget, min_salient))
    expected = oracle(mask, w, g, drop, budget, min_salient)
    np.testing.assert_array_equal(found, expected)
    fan_in = found.sum(0)
    assert len(set(fan_in[fan_in > 0])) == 1
    assert fan_in.sum() <= budget
    ablated += (fan_in == 0).sum()
  assert (ablated > 0) == (min_salient is not None)


def make(inner=None, masks=None, first=0.9, **options):
  return lth.srigl(
    inner or optax.sgd(0.1, momentum=0.9),
    masks or lth.random_masks(jax.random.key(0), sparsity=first),
    **{
      'update_every': 2,
      'stop_step': 40,
      'min_salient': 0.95,
      **options,
    },
  )


PARAMS = {
  'conv': {'kernel': jnp.ones((3, 3, 4, 8)), 'bias': jnp.ones(8)},
  'fc': {'kernel': jnp.ones((60, 30))},
  'output': {'kernel': jnp.ones((60, 30))},
}
COMPILED = jax.jit(
  make().update
)  # Budgets and drop fractions are in the state.


def fan_ins(masks, layer):
  mask = np.asarray(masks[layer]['kernel'])
  return mask.reshape(-1, mask.shape[-1]).sum(0)


def random_grads(rng, params=PARAMS):
  scale = 10.0 ** rng.integers(-3, 2)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) * scale, x.dtype), params
  )


def test_fan_in_is_constant_and_the_output_is_protected():
  rng = np.random.default_rng(0)
  params, state = PARAMS, make().init(PARAMS)
  # A tenth of 288 and of 1800 weights.
  budgets = {'conv': 28, 'fc': 180, 'output': 180}
  for layer, budget in budgets.items():
    found = state.topology_state.budgets[f'{layer}/kernel']
    assert found.tolist() == [budget]
  inactive = dict.fromkeys(budgets, 0)
  revived = 0
  before = lth.get_masks(state)
  for layer, fan_in in [('conv', 3), ('fc', 6), ('output', 6)]:
    assert (fan_ins(before, layer) == fan_in).all()
  for i in range(42):
    grads = random_grads(rng)
    if i == 9:  # At this move nothing has a gradient to grow by.
      grads = jax.tree.map(
        lambda m, g: g if m is None else jnp.where(m, g, jnp.nan),
        before,
        grads,
        is_leaf=trees.is_none,
      )
    updates, state = COMPILED(grads, state, params)
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
  assert inactive['fc']
  assert not inactive['output']


@pytest.mark.slow
def test_budgets_follow_a_schedule():
  def schedule(step):
    return jnp.where(step < 6, 0.5, jnp.where(step < 10, 0.9, 0.8))

  rng = np.random.default_rng(1)
  params, state = PARAMS, make(first=0.5, sparsity=schedule).init(PARAMS)
  for layer, fan_in in [('conv', 18), ('fc', 30), ('output', 30)]:
    assert (fan_ins(lth.get_masks(state), layer) == fan_in).all()
  for step in range(1, 13):
    updates, state = COMPILED(random_grads(rng), state, params)
    params = optax.apply_updates(params, updates)
    if step % 2 == 0:
      share = 0.5 if step < 6 else 0.1 if step < 10 else 0.2
      for layer, size in [('conv', 288), ('fc', 1800), ('output', 1800)]:
        now = fan_ins(lth.get_masks(state), layer)
        active = now[now > 0]
        assert (active == int(size * share) // active.size).all(), step


@pytest.mark.slow
def test_neurons_of_attention_and_of_other_layouts():
  rng = np.random.default_rng(0)
  # The last neuron is ablated.
  mask = neurons(*(rng.permutation(6)[:2] for _ in range(7)), [], size=6)
  w, g = rng.normal(size=(2, 6, 8)).astype(np.float32)

  def layouts(x):
    return {
      'torch': jnp.asarray(x.T),
      'query': {'kernel': jnp.asarray(x.reshape(6, 2, 4))},
      'out': {'kernel': jnp.asarray(x.reshape(2, 3, 8))},
    }

  tx = make(
    optax.sgd(0.0),
    layouts(mask),
    update_every=1,
    drop_fraction=optax.constant_schedule(0.5),
    axes={'torch': Axes(inputs=(1,), outputs=(0,))},
  )
  params = layouts(np.where(mask, w, 0))
  state = tx.init(params)
  chex.assert_trees_all_equal(lth.get_masks(state), layouts(mask))
  _, state = jax.jit(tx.update)(layouts(g), state, params)
  expected = oracle(mask, np.where(mask, abs(w), 0), abs(g), 7, 14, 0.95)
  assert (expected != mask).any()
  chex.assert_trees_all_equal(lth.get_masks(state), layouts(expected))


def test_layers_below_one_weight_a_neuron_are_named():
  params = {
    'fc': jnp.ones((60, 30)),
    'output': jnp.ones((30, 5)),
    'query': {'kernel': jnp.ones((10, 2, 4))},
  }
  message = (
    'A constant fan-in needs at least one weight per neuron, but fc has 18'
    ' weights for 30 neurons; one each is a sparsity of 0.983333; output has 1'
    ' weights for 5 neurons; one each is a sparsity of 0.966666; query/kernel'
    ' has 0 weights for 8 neurons; one each is a sparsity of 0.9. Lower the'
    ' sparsity, spread it with `densities=`, or leave these layers dense with'
    ' `where=`.'
  )
  falling = optax.linear_schedule(0.5, 0.99, 20)
  for options in ({'first': 0.99}, {'first': 0.5, 'sparsity': falling}):
    with pytest.raises(ValueError, match=re.escape(message)):
      make(**options).init(params)
  # What it says is possible, if barely.
  masks = lth.get_masks(make(first=0.983333).init({'fc': params['fc']}))
  assert (masks['fc'].sum(0) == 1).all()


def test_masks_that_cannot_be_started_from_are_named():
  params = {
    'empty': jnp.ones((4, 3)),
    'fc': jnp.ones((4, 3)),
    'output/x': jnp.ones((4, 3)),
    'uneven': jnp.ones((4, 3)),
    'query': {'kernel': jnp.ones((4, 3, 2))},
  }
  # As many weights as neurons, but not one each.
  ablated = jnp.asarray(neurons([0, 1, 2], [], []))
  masks = {
    'empty': jnp.zeros((4, 3), bool),
    'fc': ablated,
    'output/x': ablated,
    'uneven': jnp.asarray(neurons([0, 1], [0, 1, 2], [])),
    'query': {'kernel': jnp.ones((4, 3, 2), bool).at[0, 0, 0].set(False)},
  }
  empty = 'empty has none alive; '
  lacking = (
    '{} has 2 of 3 neurons without a weight, none of which may be ablated; '
  )
  uneven = (
    '{} has fan-ins from {} to {}, but neurons need the same unless they are'
    ' ablated'
  )
  for options, protected in [
    ({}, ['output/x']),
    ({'never_ablate': ['fc*', 'o*']}, ['fc', 'output/x']),
    ({'min_salient': None}, ['fc', 'output/x']),
  ]:
    tx = make(masks=masks, **options)
    message = (
      'Training cannot start from these `masks`: '
      + empty
      + ''.join(lacking.format(name) for name in protected)
      + uneven.format('query/kernel', 3, 4)
      + '; '
      + uneven.format('uneven', 2, 3)
      + '. Correct them, or leave a layer dense with None.'
    )
    for init in (tx.init, jax.jit(tx.init)):
      with pytest.raises(ValueError, match=re.escape(message)):
        init(params)


def test_more_salient_weights_than_a_neuron_has():
  shapes = {'a': (8, 6), 'c': (8, 4), 'output/x': (8, 6)}
  params = {name: jnp.ones(shape) for name, shape in shapes.items()}
  message = (
    '`min_salient` was 10, more weights than a neuron has: a has a fan-in of 4;'
    ' c has a fan-in of 4. Lower it, give a share of the fan-in below 1, or'
    ' lower the sparsity.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    make(first=0.5, min_salient=10).init(params)
  masks = lth.get_masks(make(first=0.5, min_salient=4).init(params))
  message = (
    '`masks`: a has a fan-in of 4, less than the `min_salient` of 5; c has a'
    ' fan-in of 4, less than the `min_salient` of 5. Correct them'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    make(masks=masks, min_salient=5).init(params)


@pytest.mark.slow
def test_each_layer_of_a_stack_moves_on_its_own():
  rng = np.random.default_rng(1)
  masks = [
    rng.permuted(np.arange(48).reshape(6, 8) < 16, axis=0) for _ in 'abc'
  ]
  w, g = rng.normal(size=(2, 3, 6, 8)).astype(np.float32)
  w = np.where(masks, w, 0)
  for axis in (0, 1):
    tx = make(
      optax.sgd(0.0),
      {'w': jnp.asarray(np.stack(masks, axis))},
      update_every=1,
      drop_fraction=optax.constant_schedule(0.5),
      axes=lth.axes.by_layout(
        {'w': np.moveaxis(w, 0, axis).shape}, stacked={'w': axis}
      ),
    )
    params = {'w': jnp.asarray(np.moveaxis(w, 0, axis))}
    grads = {'w': jnp.asarray(np.moveaxis(g, 0, axis))}
    _, state = jax.jit(tx.update)(grads, tx.init(params), params)
    found = np.moveaxis(lth.get_masks(state)['w'], axis, 0)
    for i in range(3):
      expected = oracle(masks[i], abs(w[i]), abs(g[i]), 8, 16, 0.95)
      np.testing.assert_array_equal(found[i], expected)
  params = {'layers/w': jnp.ones((3, 6, 8))}
  drawn = lth.get_masks(make(first=0.5).init(params))['layers/w']
  assert (drawn.sum(1) == 3).all()


@pytest.mark.slow
def test_empty_leaves():
  params = {'a': jnp.ones((8, 4)), 'v': jnp.ones((0, 4)), 'w': jnp.ones((4, 0))}
  for min_salient in (None, 0.3, 1):
    tx = make(first=0.5, min_salient=min_salient, update_every=1)
    state = tx.init(params)
    for _ in range(2):
      _, state = jax.jit(tx.update)(params, state, params)
      alive = lth.masks.alive_by_name(lth.get_masks(state))
      assert alive == {'a': 16, 'v': 0, 'w': 0}
    tx = make(masks=lth.get_masks(state), min_salient=min_salient)
    assert lth.masks.alive_by_name(lth.get_masks(tx.init(params))) == alive


def test_kernels_that_can_be_read_in_two_ways_are_refused():
  with pytest.raises(
    ValueError, match=r'stack of layers in w \(4, 3, 3\)\. Ask'
  ):
    make().init({'w': jnp.ones((4, 3, 3))})


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'min_salient': 0}, '`min_salient` was 0, but must be positive.'),
    ({'drop_fraction': 2.0}, '`drop_fraction` was 2.0, but must be in [0, 1]'),
    ({'update_every': 0}, '`update_every` was 0, but must be at least 1.'),
  ],
)
def test_out_of_range(options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(**options)
