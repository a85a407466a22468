"""Groups, churn, exemplars and errors under shifts."""

import numpy as np
import pytest

from lthjax import evaluation as ev


def sure(predictions, classes=3):
  """Probabilities of a network that is quite sure."""
  one = np.eye(classes)[np.asarray(predictions)]
  return 0.7 * one + 0.1 if classes == 3 else one


def test_groups_by_hand():
  p, y = sure([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
  found = ev.accuracy_by_group(p, y)
  assert found.names == (0, 1, 2)
  assert found.n.tolist() == [2, 2, 1]
  assert found.accuracy.tolist() == [0.5, 0.5, 1.0]
  assert (found.worst, found.worst_index) == (0.5, 0)
  found = ev.accuracy_by_group(p, y, ['b', 'a', 'b', 'b', 'b'])
  assert found.names == ('a', 'b')
  assert found.accuracy.tolist() == [0.0, 0.75]
  dense = ev.accuracy_by_group(sure(y), y, ['b', 'a', 'b', 'b', 'b'])
  assert found.gap(dense).tolist() == [1.0, 0.25]
  assert ev.accuracy(p, y) == 0.6


def test_groups_against_loops():
  draws = np.random.default_rng(0)
  p = draws.dirichlet(np.ones(4), (3, 100))
  y = draws.integers(0, 4, 100)
  groups = draws.choice(['x', 'y', 'zz'], 100)
  found = ev.accuracy_by_group(p, y, groups)
  for seed in range(3):
    for i, name in enumerate(found.names):
      members = [k for k in range(100) if groups[k] == name]
      hits = [p[seed, k].argmax() == y[k] for k in members]
      assert found.n[i] == len(members)
      np.testing.assert_allclose(found.accuracy[seed, i], np.mean(hits))
  np.testing.assert_allclose(
    (found.accuracy * found.n).sum(-1) / 100, ev.accuracy(p, y)
  )


def test_churn():
  a, b = sure([0, 1, 2, 0]), sure([0, 2, 2, 1])
  assert ev.churn(a, b) == ev.churn(b, a) == 0.5
  assert ev.churn(a, ev.temper(a, 3.0)) == 0
  assert ev.churn(np.stack([a, b]), a).tolist() == [0.0, 0.5]
  # A triangle: no further apart than the sum of both sides.
  c = sure([1, 1, 1, 1])
  assert ev.churn(a, c) <= ev.churn(a, b) + ev.churn(b, c)


def test_exemplars_by_hand():
  y = np.array([0, 1, 2, 2])
  dense = [[0, 1, 2, 2], [0, 1, 1, 2], [0, 0, 2, 2]]
  pruned = [[0, 2, 2, 1], [0, 2, 2, 1], [0, 1, 0, 2]]
  found = ev.exemplars(sure(pruned), sure(dense), y)
  assert found.dense.tolist() == [0, 1, 2, 2]
  assert found.pruned.tolist() == [0, 2, 2, 1]
  assert found.indices.tolist() == [1, 3]
  np.testing.assert_allclose(found.dense_accuracy, (5 / 6, 5 / 6))
  np.testing.assert_allclose(found.pruned_accuracy, (2 / 6, 5 / 6))
  same = ev.exemplars(sure(dense), sure(dense), y)
  assert not len(same.indices)
  assert np.isnan(same.dense_accuracy[0])
  # Of a tie, the first class.
  tie = ev.exemplars(sure([[1], [2]]), sure([[2], [1]]), np.array([0]))
  assert (tie.pruned.tolist(), tie.dense.tolist()) == ([1], [1])


def test_corruption_error():
  dense = {'a': np.array([0.1, 0.3]), 'b': np.array([0.2, 0.2])}
  twice = {k: 2 * v for k, v in dense.items()}
  np.testing.assert_allclose(ev.mean_corruption_error(dense, dense), 1)
  np.testing.assert_allclose(ev.mean_corruption_error(twice, dense), 2)
  both = {k: np.stack([v, 2 * v]) for k, v in dense.items()}
  np.testing.assert_allclose(ev.mean_corruption_error(both, dense), [1, 2])
  with pytest.raises(ValueError, match='no error under a, so nothing can'):
    ev.mean_corruption_error(dense, {**dense, 'a': np.zeros(2)})
  with pytest.raises(ValueError, match='`dense` a, but both need the same'):
    ev.mean_corruption_error(dense, {'a': dense['a']})
  with pytest.raises(ValueError, match=r'error rates in \[0, 1\]'):
    ev.mean_corruption_error({'a': np.array([50.0])}, {'a': np.array([0.5])})


def test_bad_input():
  p, y = sure([0, 1, 2]), np.array([0, 1, 2])
  with pytest.raises(ValueError, match='`groups` has 2 entries, but there'):
    ev.accuracy_by_group(p, y, ['a', 'b'])
  for groups in ([0.5, 1.0, 1.0], 'abc', {'a': 1}, [0, 'a', 1], [[0], [1]]):
    with pytest.raises(TypeError, match=r'`groups` was .* one for each exa'):
      ev.accuracy_by_group(p, y, groups)
  with pytest.raises(ValueError, match='must be about the same examples and'):
    ev.churn(p, p[:2])
  with pytest.raises(ValueError, match='in front, but must have the same'):
    ev.churn(np.stack([p] * 3), np.stack([p] * 2))
  with pytest.raises(ValueError, match=r'needs .* with at least two'):
    ev.exemplars(p[None], np.stack([p] * 2), y)
  with pytest.raises(ValueError, match='but must be the same, with as many'):
    ev.accuracy_by_group(p, y).gap(ev.accuracy_by_group(p[:2], y[:2]))
