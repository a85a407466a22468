"""Random masks: exact budgets, drawn by the key and the name alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lthjax as lth
from lthjax.counts import layer_counts
from lthjax.patterns import NM

KEY = jax.random.key(0)
SMALL = {
  'fc': {'kernel': jnp.ones((12, 10)), 'bias': jnp.ones(10)},
  'output': {'kernel': jnp.ones((10, 6)), 'bias': jnp.ones(6)},
}


def masks_of(params, **options):
  tx = lth.static_sparse(
    optax.sgd(0.1), **{'sparsity': 0.9, 'key': KEY, **options}
  )
  return lth.get_masks(tx.init(params))


def test_budgets_are_exact():
  alive = lth.masks.alive_by_name(masks_of(SMALL, sparsity=0.7))
  assert alive == {'fc/kernel': 36, 'output/kernel': 18}
  masks = masks_of(SMALL, sparsity=0.7, densities=lth.densities.erk)
  assert masks['fc']['bias'] is None
  # 54 weights in proportion to 22 and 16: 31.26 and 22.74.
  alive = lth.masks.alive_by_name(masks)
  assert alive == {'fc/kernel': 31, 'output/kernel': 23}


def test_masks_are_of_the_key_and_the_name():
  params = {'a': jnp.ones((30, 30)), 'c': jnp.ones((30, 30))}
  masks = masks_of(params)
  alone = masks_of({'c': jnp.zeros((30, 30), jnp.bfloat16)})
  np.testing.assert_array_equal(masks['c'], alone['c'])
  assert lth.masks.jaccard(masks['a'], masks['c']) < 0.3
  other = masks_of(params, key=jax.random.key(1))
  assert lth.masks.jaccard(masks['a'], other['a']) < 0.3


def test_training_leaves_them():
  tx = lth.static_sparse(
    optax.adam(0.1), sparsity=0.5, key=KEY, pattern=NM(2, 4)
  )
  params = {'w': jnp.ones((8, 4))}
  state = tx.init(params)
  first = lth.get_masks(state)['w']
  assert (first.reshape(2, 4, 4).sum(1) == 2).all()
  for _ in range(3):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(lth.get_masks(state)['w'], first)
  np.testing.assert_array_equal(params['w'] != 0, first)


def test_layers_left_empty_are_named_with_the_floor():
  params = {
    'fc1': {'kernel': jnp.ones((4, 4))},
    'fc2': {'kernel': jnp.ones((100, 10))},
    'output': {'kernel': jnp.ones((3, 2))},
  }
  message = (
    'A sparsity of 0.99 leaves no weight alive in fc1/kernel (of 16 weights;'
    ' keeping one is a sparsity of 0.9375), output/kernel (of 6 weights;'
    ' keeping one is a sparsity of 0.833333). Lower it, spread it with'
    ' `densities=`, or leave these layers dense with `where=`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    masks_of(params, sparsity=0.99)
  assert layer_counts({'w': (4, 4), 'v': (3, 2)}, 0.9375)['w'] == 1
  assert layer_counts({'v': (3, 2)}, 0.833333) == {'v': 1}


def test_the_floor_of_large_layers_is_below_one():
  params = {'w': jnp.ones((784, 300))}
  with pytest.raises(ValueError, match=r'is a sparsity of 0\.999995'):
    masks_of(params, sparsity=0.999999)
  assert layer_counts({'w': (784, 300)}, 0.999995) == {'w': 1}


@pytest.mark.parametrize('sparsity', [1.0, -0.1, float('nan')])
def test_sparsity_is_in_range(sparsity):
  with pytest.raises(ValueError, match=r'must be in \[0, 1\)'):
    masks_of(SMALL, sparsity=sparsity)
