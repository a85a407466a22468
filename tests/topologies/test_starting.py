"""First masks: handed in, or at random by a number or a schedule."""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import lthjax as lth
from tests.topologies.test_moving import (
  OPTIONS,
  PARAMS,
  as_bytes,
  compiled_once,
  counts,
  make,
  random_like,
  start,
)

MASKS = {
  'fc': {'kernel': jnp.arange(120).reshape(12, 10) % 4 < 2, 'bias': None},
  'output': {'kernel': None, 'bias': None},
}
GIVEN = {'sparsity': None, 'masks': MASKS}


@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs', 'srigl'])
def test_masks_to_start_from(method):
  key = OPTIONS['key'] if method == 'set' else None
  masks = jax.tree.map(jnp.array, MASKS)
  tx = make(method, **GIVEN | {'masks': masks, 'key': key})
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
  params, state = start(make('rigl', **GIVEN | {'masks': masks}))
  first = counts(state)
  assert first == lth.masks.alive_by_name(masks)
  for i in range(4):
    params, state = step(params, state, random_like(i))
    assert counts(state) == first
  assert lth.masks.jaccard(lth.get_masks(state), masks) < 1


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'masks': MASKS},
      'Give either `sparsity`, for random first masks, or `masks` to start'
      ' from; both were given.',
    ),
    ({'sparsity': None}, 'to start from; neither were given.'),
    (
      GIVEN | {'densities': lth.densities.erk},
      '`masks` fix the density of every layer, so they take no `densities`',
    ),
    (
      GIVEN | {'where': 'fc/*'},
      '`masks` tell which layers are dense, by None, so they take no `where`'
      ' beside them. Leave it out.',
    ),
    ({'key': None}, 'The first masks are random, so they need a `key`, such'),
    (
      {'sparsity': lambda step: step / 50},
      '`sparsity` was 1.0 at step 50, but must be in [0, 1).',
    ),
    (
      {'sparsity': lambda step: step / 50 - 0.1},
      '`sparsity` was -0.1 at step 0, but must be in [0, 1).',
    ),
  ],
)
@pytest.mark.parametrize('method', ['set', 'rigl', 'snfs', 'srigl'])
def test_what_says_the_first_masks(method, options, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    make(method, **options)


def test_a_total_that_stays_takes_no_schedule():
  sparsity = optax.constant_schedule(0.5)
  with pytest.raises(ValueError, match='must be a number then, not a schedule'):
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
  dead['output']['kernel'] = jnp.zeros((10, 6), bool)
  wide = jax.tree.map(lambda x: jnp.ones((12, 11), bool), MASKS)
  # Of the groups of four rows, three have 1, 0 and 3 alive instead of 2.
  odd = jax.tree.map(lambda x: x.at[0, 0].set(False), MASKS)
  odd['fc']['kernel'] = odd['fc']['kernel'].at[4:8, 1].set(False)
  odd['fc']['kernel'] = odd['fc']['kernel'].at[8:11, 9].set(True)
  rigl = functools.partial(make, 'rigl')
  snfs = functools.partial(make, 'snfs')
  nm = functools.partial(make, 'rigl', pattern=lth.patterns.NM(2, 4))
  for tx, masks, message in [
    (rigl, none, 'cannot start from these `masks`: every one is None. Mend'),
    (rigl, wide, 'fc/kernel: mask of shape (12, 11), params of shape (12, 10)'),
    (snfs, {'fc': MASKS['fc']}, 'output/kernel has no mask'),
    (
      snfs,
      dead,
      'Training cannot start from these `masks`: fc/kernel has none alive;'
      ' output/kernel has none alive. Mend them, or leave a layer dense with'
      ' None.',
    ),
    (nm, dead, r'output/kernel (10, 6) has 10 on axis -2'),
    (
      nm,
      odd,
      'fc/kernel has 3 groups of 4 on axis -2 without exactly 2 alive.',
    ),
  ]:
    given = tx(sparsity=None, masks=masks, key=None)
    for init in (given.init, jax.jit(given.init)):
      with pytest.raises(ValueError, match=re.escape(message)):
        init(PARAMS)
