"""Initial masks: drawn at random, by a function of params, or given."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax.counts import layer_counts
from lthjax.patterns import NM
from tests.topologies.test_moves import (
  PARAMS,
  as_bytes,
  compiled_once,
  counts,
  make,
  random_like,
  start,
)

SMALL = {
  'fc': {'kernel': np.ones((12, 10)), 'bias': np.ones(10)},
  'output': {'kernel': np.ones((10, 6)), 'bias': np.ones(6)},
}
MASKS = {
  'fc': {'kernel': np.arange(120).reshape(12, 10) % 4 < 2, 'bias': None},
  'output': {'kernel': None, 'bias': None},
}


def draw(params, seed=0, sparsity: float | None = 0.9, **options):
  key = jax.random.key(seed)
  return lth.random_masks(key, sparsity=sparsity, **options)(params)


def test_budgets_are_exact():
  alive = lth.masks.alive_by_name(draw(SMALL, sparsity=0.7))
  assert alive == {'fc/kernel': 36, 'output/kernel': 18}
  masks = draw(SMALL, sparsity=0.7, densities=lth.densities.erk)
  assert masks['fc']['bias'] is None
  # 54 weights in proportion to 22 and 16: 31.26 and 22.74.
  alive = lth.masks.alive_by_name(masks)
  assert alive == {'fc/kernel': 31, 'output/kernel': 23}


def test_masks_depend_on_the_key_and_the_name():
  params = {'a': np.ones((30, 30)), 'c': np.ones((30, 30))}
  masks = draw(params)
  alone = draw({'c': jnp.zeros((30, 30), jnp.bfloat16)})
  np.testing.assert_array_equal(masks['c'], alone['c'])
  assert lth.masks.jaccard(masks['a'], masks['c']) < 0.3
  other = draw(params, seed=1)
  assert lth.masks.jaccard(masks['a'], other['a']) < 0.3


def test_where_selects_layers():
  masks = draw(SMALL, where=['fc/*', 'fc/bias'])
  assert lth.masks.alive_by_name(masks) == {'fc/bias': 1, 'fc/kernel': 12}


@pytest.mark.parametrize('sparsity', [None, 0.5])
def test_a_pattern_that_fixes_the_sparsity(sparsity):
  masks = draw({'w': np.ones((8, 4))}, sparsity=sparsity, pattern=NM(2, 4))
  assert (masks['w'].reshape(2, 4, 4).sum(1) == 2).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'sparsity': 0.9}, 'has a sparsity of 0.5, but `sparsity` was 0.9.'),
    ({'sparsity': float('nan')}, 'but `sparsity` was nan. Leave it out.'),
    (
      {'densities': lth.densities.erk},
      'so it takes no schedule of `sparsity` and no `densities`.',
    ),
  ],
)
def test_a_pattern_fixes_the_sparsity_alone(options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    draw(
      {'w': np.ones((8, 4))}, pattern=NM(2, 4), **{'sparsity': 0.5} | options
    )


def test_a_sparsity_is_needed_without_such_a_pattern():
  with pytest.raises(ValueError, match='`sparsity` was not given, but'):
    draw(SMALL, sparsity=None)


def test_layers_left_empty_are_named_with_the_floor():
  params = {
    'fc1': {'kernel': np.ones((4, 4))},
    'fc2': {'kernel': np.ones((100, 10))},
    'output': {'kernel': np.ones((3, 2))},
  }
  message = (
    'A sparsity of 0.99 leaves no weight alive in fc1/kernel (of 16 weights;'
    ' keeping one is a sparsity of 0.9375), output/kernel (of 6 weights;'
    ' keeping one is a sparsity of 0.833333). Lower it, spread it with'
    ' `densities=`, or leave these layers dense with `where=`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    draw(params, sparsity=0.99)
  assert layer_counts({'w': (4, 4), 'v': (3, 2)}, 0.9375)['w'] == 1
  assert layer_counts({'v': (3, 2)}, 0.833333) == {'v': 1}


def test_the_floor_of_large_layers_is_below_one():
  params = {'w': np.ones((784, 300))}
  with pytest.raises(ValueError, match=r'is a sparsity of 0\.999995'):
    draw(params, sparsity=0.999999)
  assert layer_counts({'w': (784, 300)}, 0.999995) == {'w': 1}


@pytest.mark.parametrize('sparsity', [1.0, -0.1, float('nan')])
def test_sparsity_is_in_range(sparsity):
  with pytest.raises(ValueError, match=r'must be in \[0, 1\)'):
    draw(SMALL, sparsity=sparsity)


@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs', 'srigl'])
def test_masks_to_start_from(method):
  masks = jax.tree.map(jnp.array, MASKS)
  for given in (masks, lambda params: masks):
    tx = make(method, masks=given)
    state = tx.init(PARAMS)
    assert as_bytes(lth.get_masks(state)) == as_bytes(MASKS)
    assert as_bytes(jax.jit(tx.init)(PARAMS)) == as_bytes(state)
    for x in jax.tree.leaves(state):
      x.delete()
    assert as_bytes(tx.init(PARAMS).topology_state.masks) == as_bytes(masks)


def test_masks_to_start_from_move():
  _, step = compiled_once('rigl')
  masks = jax.tree.map(lambda x: random_like(5)['fc']['kernel'] > 0, MASKS)
  masks['output'] = {'kernel': random_like(5)['output']['kernel'] > 1}
  masks['output']['bias'] = None
  params, state = start(make('rigl', masks=masks))
  first = counts(state)
  assert first == lth.masks.alive_by_name(masks)
  for i in range(4):
    params, state = step(params, state, random_like(i))
    assert counts(state) == first
  assert lth.masks.jaccard(lth.get_masks(state), masks) < 1


def test_masks_may_depend_on_the_values_of_params():
  def masks(params):
    scores = lth.scores.magnitude(params)
    return lth.prune(scores, lth.masks.full(params), sparsity=0.5)

  tx = make('rigl', masks=masks)
  expected = as_bytes(masks(PARAMS))
  assert as_bytes(lth.get_masks(tx.init(PARAMS))) == expected
  assert as_bytes(lth.get_masks(jax.jit(tx.init)(PARAMS))) == expected


def test_a_module_of_masks_that_can_be_called_is_a_tree():
  @jax.tree_util.register_pytree_node_class
  class Module:
    def __init__(self, w):
      self.w = w

    def __call__(self, x):
      raise AssertionError

    def tree_flatten(self):
      return (self.w,), None

    @classmethod
    def tree_unflatten(cls, _, children):
      return cls(*children)

  mask = np.eye(4, dtype=bool)
  state = make('rigl', masks=Module(mask)).init(Module(np.ones((4, 4))))
  np.testing.assert_array_equal(lth.get_masks(state).w, mask)


@pytest.mark.parametrize(
  ('options', 'error', 'message'),
  [
    (
      {'sparsity': 0.9},
      TypeError,
      '`sparsity` was 0.9, but must be an optax schedule, such as'
      ' `lthjax.schedules.polynomial_sparsity(0.9, 0, 1000)`. A fixed sparsity'
      ' belongs to the initial masks: `lthjax.random_masks(key, sparsity=...',
    ),
    (
      {'densities': lth.densities.erk},
      ValueError,
      '`densities` spread a schedule of `sparsity` over layers, but there is'
      ' none.',
    ),
    (
      {'sparsity': lambda step: step / 50},
      ValueError,
      '`sparsity` was 1.0 at step 50, but must be in [0, 1).',
    ),
    (
      {'sparsity': lambda step: step / 50 - 0.1},
      ValueError,
      '`sparsity` was -0.06 at step 2, but must be in [0, 1).',
    ),
  ],
)
@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs', 'srigl'])
def test_schedules_of_sparsity(method, options, error, message):
  with pytest.raises(error, match=re.escape(message)):
    make(method, **options)


def test_a_schedule_spreads_as_random_masks_do():
  def masks(**options):
    return lth.random_masks(jax.random.key(0), sparsity=0.5, **options)

  def tables(masks, **options):
    options |= {'sparsity': optax.linear_schedule(0.5, 0.8, 60)}
    state = make('rigl', masks=masks, **options).init(PARAMS)
    return as_bytes(state.topology_state.counts)

  erk = lth.densities.erk
  assert tables(masks(densities=erk)) == tables(masks(), densities=erk)
  assert tables(masks(densities=erk)) != tables(masks())


def test_a_total_that_stays_takes_no_schedule():
  sparsity = optax.constant_schedule(0.5)
  with pytest.raises(ValueError, match='takes no schedule of `sparsity`'):
    make('snfs_redistributed', sparsity=sparsity)


@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs'])
def test_layers_that_a_schedule_empties_are_named(method):
  tx = make(method, sparsity=optax.linear_schedule(0.5, 0.995, 9))
  message = 'A sparsity of 0.995 leaves no weight alive in output/kernel'
  with pytest.raises(ValueError, match=re.escape(message)):
    tx.init(PARAMS)


def test_masks_that_do_not_fit():
  none = jax.tree.map(lambda x: None, MASKS)
  dead = jax.tree.map(lambda x: x & False, MASKS)
  dead['output']['kernel'] = np.zeros((10, 6), bool)
  wide = jax.tree.map(lambda x: np.ones((12, 11), bool), MASKS)
  # Of the groups of four rows, three have 1, 0 and 3 alive instead of 2.
  odd = jax.tree.map(np.array, MASKS)
  odd['fc']['kernel'][0, 0] = odd['fc']['kernel'][4:8, 1] = False
  odd['fc']['kernel'][8:11, 9] = True
  rigl = functools.partial(make, 'rigl')
  snfs = functools.partial(make, 'snfs')
  nm = functools.partial(make, 'rigl', pattern=NM(2, 4))
  for tx, masks, message in [
    (rigl, none, 'cannot start from these `masks`: every one is None. Correct'),
    (rigl, wide, 'fc/kernel: mask of shape (12, 11), params of shape (12, 10)'),
    (snfs, {'fc': MASKS['fc']}, 'output/kernel has no mask'),
    (
      snfs,
      dead,
      'Training cannot start from these `masks`: fc/kernel has none alive;'
      ' output/kernel has none alive. Correct them, or leave a layer dense with'
      ' None.',
    ),
    (nm, dead, r'output/kernel (10, 6) has 10 on axis 0'),
    (
      nm,
      odd,
      'fc/kernel has 3 groups of 4 on axis 0 without exactly 2 alive.',
    ),
  ]:
    given = tx(masks=masks)
    for init in (given.init, jax.jit(given.init)):
      with pytest.raises(ValueError, match=re.escape(message)):
        init(PARAMS)
