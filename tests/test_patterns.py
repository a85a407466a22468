"""Patterns: n of every m along the axis that a layer sums over."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

import lthjax as lth
from lthjax import patterns, trees

# Names and shapes as Flax has them, with the axis that the layer sums over.
KERNELS = [
  ('fc/kernel', (8, 3), 0),
  ('conv/kernel', (3, 3, 4, 2), 2),
  ('conv1d/kernel', (5, 8, 2), 1),
  ('attention/query/kernel', (8, 2, 3), 0),
  ('attention/key/kernel', (8, 3, 2), 0),
  ('attention/value/kernel', (4, 2, 5), 0),
  ('attention/out/kernel', (2, 4, 5), 1),
  ('blocks/fc/kernel', (3, 8, 2), 1),  # scanned: layers come first
  ('blocks/conv/kernel', (3, 1, 1, 4, 2), 3),
  ('blocks/attention/query/kernel', (3, 8, 2, 5), 1),
  ('blocks/attention/out/kernel', (3, 2, 8, 5), 2),
  ('query/kernel', (8, 3), 0),  # a linear layer of that name
  ('w', (4, 3), 0),
  ('', (4, 3), 0),
  ('scores', (8,), 0),
]


def oracle(scores, alive, n, m, axis):
  """The n largest of every m by a stable sort, one group at a time."""
  moved = np.moveaxis(scores, axis, -1)
  groups = moved.reshape(-1, m)
  allowed = np.moveaxis(alive, axis, -1).reshape(-1, m)
  keep = np.zeros(groups.shape, bool)
  for i, (group, ok) in enumerate(zip(groups, allowed, strict=True)):
    order = [j for j in np.argsort(-group, kind='stable') if ok[j]]
    keep[i, order[:n]] = True
  return np.moveaxis(keep.reshape(moved.shape), -1, axis)


def ties(seed, shape):
  """Scores of which many are equal."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).round(0).astype(np.float32)


@pytest.mark.parametrize(('name', 'shape', 'axis'), KERNELS)
def test_contraction_axis(name, shape, axis):
  assert patterns.contraction_axis(name, shape) == axis - len(shape)


@pytest.mark.parametrize(('name', 'shape', 'axis'), KERNELS)
@pytest.mark.parametrize(('n', 'm'), [(2, 4), (1, 4), (1, 2)])
def test_groups_against_sort(name, shape, axis, n, m):
  scores = ties(len(name), shape)
  full = np.ones(shape, bool)
  keep = np.asarray(patterns.NM(n, m).select(name, scores, full, None))
  assert keep.dtype == bool
  np.testing.assert_array_equal(keep, oracle(scores, full, n, m, axis))
  groups = np.moveaxis(keep, axis, -1).reshape(-1, m)
  assert (groups.sum(1) == n).all()


def test_dead_weights_stay_dead():
  scores = ties(0, (8, 6))
  alive = np.random.default_rng(1).random((8, 6)) < 0.5
  keep = patterns.NM(2, 4).select('w', scores, alive, None)
  np.testing.assert_array_equal(keep, oracle(scores, alive, 2, 4, 0))
  assert not (np.asarray(keep) & ~alive).any()
  groups = alive.reshape(2, 4, 6).sum(1)
  found = np.asarray(keep).reshape(2, 4, 6).sum(1)
  np.testing.assert_array_equal(found, np.minimum(groups, 2))


@pytest.mark.parametrize(('n', 'm'), [(4, 4), (3, 32), (16, 32)])
def test_other_sizes(n, m):
  scores = ties(2, (64, 3))
  full = np.ones(scores.shape, bool)
  keep = patterns.NM(n, m).select('w', scores, full, None)
  np.testing.assert_array_equal(keep, oracle(scores, full, n, m, 0))


@pytest.mark.parametrize('axis', [1, -1])
def test_another_axis(axis):
  scores = ties(3, (3, 8))
  full = np.ones(scores.shape, bool)
  keep = patterns.NM(2, 4, axis).select('w', scores, full, None)
  np.testing.assert_array_equal(keep, oracle(scores, full, 2, 4, 1))


@pytest.mark.parametrize(
  'axis',
  [
    {'*a': -1},  # what no glob matches has the default
    {'*/x': 0, 'f*': 1, '*': 0},
    lambda name, shape: len(shape) - 1 if name == 'fc/a' else 0,
  ],
)
def test_another_axis_by_leaf(axis):
  scores = {'fc': {'a': ties(3, (3, 8)), 'x': ties(4, (8, 3))}}
  masks = lth.masks.full(scores)
  keep = lth.prune(scores, masks, pattern=patterns.NM(2, 4, axis))['fc']
  full = {name: np.ones(x.shape, bool) for name, x in scores['fc'].items()}
  for name, i in [('a', 1), ('x', 0)]:
    expected = oracle(scores['fc'][name], full[name], 2, 4, i)
    np.testing.assert_array_equal(keep[name], expected)


def test_filling_groups_by_hand():
  scores = np.array([[5, 1, 9, 7], [0, 2, 2, 1], [3, 4, 1, 2]], np.float32)
  keep = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], bool)
  full = patterns.NM(2, 4, axis=-1).fill('w', scores, keep, None)
  # The first grows 9, the second the first of two that tie, the third nothing.
  expected = [[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
  np.testing.assert_array_equal(full, expected)
  scores[0, 2] = scores[1] = np.nan  # NaN never grows.
  full = patterns.NM(2, 4, axis=-1).fill('w', scores, keep, None)
  expected = [[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1]]
  np.testing.assert_array_equal(full, expected)


@pytest.mark.parametrize(
  ('name', 'shape', 'axis'), [KERNELS[0], KERNELS[3], KERNELS[6]]
)
@pytest.mark.parametrize(('n', 'm'), [(2, 4), (1, 2)])
def test_filling_groups_against_sort(name, shape, axis, n, m):
  pattern = patterns.NM(n, m)
  scores = ties(1, shape)
  some = np.random.default_rng(2).random(shape) < 0.5
  keep = oracle(ties(3, shape), some, n, m, axis)
  full = np.asarray(pattern.fill(name, scores, keep, None))
  # The kept ones come first, and then the largest of the others.
  first = np.where(keep, np.float32(100), scores)
  expected = oracle(first, np.ones(shape, bool), n, m, axis)
  np.testing.assert_array_equal(full, expected)
  assert not (keep & ~full).any()
  again = pattern.fill(name, ties(4, shape), full, None)
  np.testing.assert_array_equal(again, full)
  assert pattern.faults({name: full}) == []
  assert keep.sum() < full.sum()


def test_unstructured_fill():
  scores = np.array([[1, 3, 3, 9]], np.float32)
  keep = np.array([[True, False, False, False]])
  fill = patterns.Unstructured().fill
  np.testing.assert_array_equal(fill('w', scores, keep, 3), [[1, 1, 0, 1]])
  np.testing.assert_array_equal(fill('w', scores, keep, 1), keep)


def test_masks_at_fault():
  masks = {
    'a': np.eye(4, dtype=bool),
    'b': np.tile([[True], [True], [False], [False]], (2, 3)),
    'c': np.zeros((4, 2), bool),
  }
  assert patterns.Unstructured().faults(masks) == ['c has none alive']
  assert patterns.NM(2, 4).faults(masks) == [
    'a has 4 groups of 4 on axis -2 without exactly 2 alive',
    'c has 2 groups of 4 on axis -2 without exactly 2 alive',
  ]
  del masks['b'], masks['c']
  assert patterns.NM(1, 4, axis={'a': -1}).faults(masks) == []
  with pytest.raises(ValueError, match=r'a \(4, 4\) has 4 on axis -2'):
    patterns.NM(2, 3).faults(masks)


@pytest.mark.parametrize(
  'pattern', [patterns.Unstructured(), patterns.NM(2, 4)]
)
def test_traced_masks_are_not_looked_into(pattern):
  def number_of_faults(mask):
    return len(pattern.faults({'w': mask}))

  assert jax.jit(number_of_faults)(np.zeros((4, 2), bool)) == 0


@pytest.mark.parametrize(('name', 'shape', 'axis'), KERNELS)
def test_neuron_axes(name, shape, axis):
  axes = patterns.neuron_axes(name, shape)
  inside = [i for i in range(len(shape)) if i - len(shape) not in axes]
  if len(shape) > 1:
    # The axis that is summed over is inside; the last never is.
    assert axis in inside
  assert len(shape) - 1 not in inside
  projects = name.split('/')[-2:-1] in (['query'], ['key'], ['value'])
  assert len(axes) == 1 + (projects and len(shape) >= 3)


def test_prune_a_network():
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
      self.conv = nnx.Conv(4, 3, (2, 2), rngs=rngs)

  shapes = nnx.state(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), nnx.Param)
  scores = jax.tree.map(lambda x: ties(x.size, x.shape), shapes)
  masks = lth.masks.full(shapes)
  pruned = lth.prune(scores, masks, pattern=patterns.NM(2, 4))
  assert lth.masks.density(pruned) == 0.5
  axes = {
    'attention/key/kernel': 0,
    'attention/out/kernel': 1,
    'attention/query/kernel': 0,
    'attention/value/kernel': 0,
    'conv/kernel': 2,
  }
  named = trees.by_name(pruned)
  assert {n for n, m in named.items() if m is not None} == set(axes)
  for name, axis in axes.items():
    values = np.asarray(trees.by_name(scores)[name])
    expected = oracle(values, np.ones(values.shape, bool), 2, 4, axis)
    np.testing.assert_array_equal(named[name], expected)
  # Twice the same is once; and one of four is a subset.
  again = lth.prune(scores, pruned, pattern=patterns.NM(2, 4))
  assert lth.masks.hamming(again, pruned) == 0
  fewer = lth.prune(scores, pruned, pattern=patterns.NM(1, 4))
  assert lth.masks.density(fewer) == 0.25
  assert lth.masks.count(lth.masks.difference(fewer, pruned)) == 0


def test_unstructured():
  scores, alive = ties(5, (6, 7)), np.ones((6, 7), bool)
  pattern = patterns.Unstructured()
  assert pattern.density is None
  assert pattern.check({'w': (3, 5)}) is None
  np.testing.assert_array_equal(
    pattern.select('w', scores, alive, 11),
    lth.keep_largest(scores, 11, alive),
  )


def test_density_of_nm():
  assert patterns.NM(2, 4).density == 0.5
  assert patterns.NM(1, 4).density == 0.25


def test_every_leaf_that_does_not_fit_is_named():
  shapes = {
    'fc1/kernel': (6, 4),
    'fc2/kernel': (8, 3),
    'conv/kernel': (3, 3, 3, 16),
    'attention/query/kernel': (10, 4, 4),
  }
  message = (
    '2:4 sparsity needs the contraction axis to be a multiple of 4, but'
    ' fc1/kernel (6, 4) has 6 on axis -2; conv/kernel (3, 3, 3, 16) has 3 on'
    ' axis -2; attention/query/kernel (10, 4, 4) has 10 on axis -3. Leave them'
    ' dense with `lthjax.masks.full(params, where=...)`, or choose another'
    ' axis with `NM(n, m, axis=...)`.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    patterns.NM(2, 4).check(shapes)
  scores = {n: np.ones(s, np.float32) for n, s in shapes.items()}
  masks = lth.masks.full(scores)
  with pytest.raises(ValueError, match=r'fc1/kernel \(6, 4\) has 6'):
    lth.prune(scores, masks, pattern=patterns.NM(2, 4))


@pytest.mark.parametrize(('n', 'm'), [(5, 4), (0, 4), (-1, 4), (0, 0)])
def test_n_of_m(n, m):
  with pytest.raises(
    ValueError, match=f'needs 1 <= n <= m, but n is {n} and m is {m}'
  ):
    patterns.NM(n, m).check({'w': (8, 8)})


def test_axis_that_is_not_there():
  with pytest.raises(ValueError, match=r'b \(4,\) has no axis 1'):
    patterns.NM(2, 4, axis=1).check({'a': (4, 4), 'b': (4,)})
  with pytest.raises(ValueError, match=r'a \(4, 4\) has no axis -3'):
    patterns.NM(2, 4, axis=-3).check({'a': (4, 4)})


def test_axis_of_a_glob_that_matches_nothing():
  with pytest.raises(ValueError, match='`axis` has patterns that match no'):
    patterns.NM(2, 4, axis={'fc/*': 0}).check({'conv/kernel': (4, 4)})
