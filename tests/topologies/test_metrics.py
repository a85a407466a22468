"""Metrics of moving masks."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import random_masks

import lthjax as lth
from lthjax.topologies import metrics

SHAPES = {
  'layers': {'kernel': (3, 8, 4)},
  'out': {'kernel': (4, 6), 'bias': (6,)},
}


def masks(seed, density=0.5):
  tree = random_masks(SHAPES, seed, density)
  tree['out']['bias'] = None
  return tree


def test_numbers_by_hand():
  def tree(*alive):
    return {'w': np.isin(np.arange(8), alive).reshape(2, 4), 'b': None}

  found = metrics(tree(0, 1, 2), tree(2, 3, 4, 5), history=tree(0, 1, 2, 3, 7))
  # 3, 4 and 5 grow, of which 3 was alive before; 0 and 1 are dropped.
  assert {name: float(x) for name, x in found.items()} == {
    'density': 0.5,
    'grown': 3,
    'dropped': 2,
    'moved': 5,
    'churn': np.float32(5 / 6),
    'density/w': 0.5,
    'churn/w': np.float32(5 / 6),
    'revisited': 1,
    'explored': 7 / 8,
  }


def test_every_layer_of_a_stack_has_a_line():
  before, after = masks(0), masks(1, 0.2)
  found = metrics(before, after)
  kernels = before['layers']['kernel'], after['layers']['kernel']
  for i, (a, b) in enumerate(zip(*kernels, strict=True)):
    assert found[f'density/layers/kernel[{i}]'] == np.float32(b.mean())
    churn = np.float32((a ^ b).sum() / (a | b).sum())
    assert found[f'churn/layers/kernel[{i}]'] == churn
  assert 'density/layers/kernel' not in found
  assert len(found) == 5 + 2 * (3 + 1)
  axes = {'layers/*': lth.axes.Axes(inputs=(0, 1), outputs=(2,))}
  assert 'density/layers/kernel' in metrics(before, after, axes=axes)


def test_churn_is_the_distance_of_jaccard():
  before, after = masks(0), masks(1)
  churn = float(metrics(before, after)['churn'])
  assert churn == pytest.approx(1 - lth.masks.jaccard(before, after), rel=1e-6)
  same = metrics(before, before)
  assert same['churn'] == same['moved'] == 0


def test_under_jit_and_in_nnx():
  before, after = masks(0), masks(1)
  expected = metrics(before, after, history=before)
  found = jax.jit(lambda a, b: metrics(a, b, history=a))(before, after)
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_allclose(found[name], x, rtol=1e-6)
  state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
  full = lth.masks.full(state)
  assert metrics(full, full)['density/kernel'] == 1
  assert (
    metrics(full, {'kernel': np.eye(2, 3) > 0, 'bias': None})['dropped'] == 4
  )


def test_masks_that_do_not_fit():
  with pytest.raises(TypeError, match='`before` must be a tree of bool arrays'):
    metrics({'w': np.ones(3)}, {'w': np.ones(3, bool)})
  with pytest.raises(ValueError, match='w: mask of shape'):
    metrics({'w': np.ones(3, bool)}, {'w': np.ones(4, bool)})
  with pytest.raises(ValueError, match='w is None in the masks before'):
    metrics({'w': None}, {'w': np.ones(4, bool)})
