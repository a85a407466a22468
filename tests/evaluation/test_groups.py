"""Groups, churn, exemplars and errors under shifts."""

import warnings

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


def test_table_by_hand():
  p, y = sure([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
  groups = ['b', 'a', 'b', 'b', 'b']
  found = ev.table_by_group(
    p, y, groups, measures={'hits': ev.accuracy, 'misses': miss}
  )
  assert found.names == ('a', 'b')
  assert found.n.tolist() == [1, 4]
  assert found.by_group['hits'].tolist() == [0.0, 0.75]
  assert found.overall == {'hits': 0.6, 'misses': pytest.approx(0.4)}
  assert found.lowest() == {'hits': 0, 'misses': 0.25}
  assert found.highest() == {'hits': 0.75, 'misses': 1}
  assert found.difference() == {'hits': 0.75, 'misses': 0.75}
  apart = {'hits': pytest.approx(0.6), 'misses': pytest.approx(0.6)}
  assert found.difference('overall') == apart
  assert found.ratio() == {'hits': 0, 'misses': 0.25}
  assert found.ratio('overall') == {'hits': 0, 'misses': pytest.approx(0.4)}
  assert str(found).splitlines() == [
    'group       n   hits  misses',
    'a           1  0.000   1.000',
    'b           4  0.750   0.250',
    'all         5  0.600   0.400',
    'difference     0.750   0.750',
  ]


def miss(p, y):
  return 1 - ev.accuracy(p, y)


def test_table_keeps_seeds_and_is_that_of_each_group_alone():
  draws = np.random.default_rng(3)
  p, y = draws.dirichlet(np.ones(4), (3, 90)), draws.integers(0, 4, 90)
  found = ev.table_by_group(p, y)
  assert list(found.by_group) == [
    'accuracy',
    'ece',
    'log_loss',
    'overconfidence',
  ]
  for name, values in found.by_group.items():
    assert values.shape == (3, 4)
    for i, label in enumerate(found.names):
      alone = getattr(ev, name)(p[:, y == label], y[y == label])
      np.testing.assert_array_equal(values[:, i], alone)
  np.testing.assert_array_equal(
    found.by_group['accuracy'], ev.accuracy_by_group(p, y).accuracy
  )
  assert str(found).count(' ± ') == 4 * 6


def test_table_is_that_of_fairlearn():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    metrics = pytest.importorskip('fairlearn.metrics')
    draws = np.random.default_rng(4)
    p, y = draws.dirichlet(np.ones(3), 120), draws.integers(0, 3, 120)
    groups = draws.choice(['x', 'y', 'zz'], 120)
    measures = {'hits': ev.accuracy, 'misses': miss}
    found = ev.table_by_group(p, y, groups, measures=measures)
    hits = lambda y, z: np.mean(y == z)  # noqa: E731
    frame = metrics.MetricFrame(
      metrics={'hits': hits, 'misses': lambda y, z: 1 - hits(y, z)},
      y_true=y,
      y_pred=p.argmax(-1),
      sensitive_features=groups,
    )
    for name in measures:
      by_group = frame.by_group[name]
      assert tuple(by_group.index) == found.names
      np.testing.assert_allclose(found.by_group[name], by_group)
      np.testing.assert_allclose(found.overall[name], frame.overall[name])
      np.testing.assert_allclose(found.lowest()[name], frame.group_min()[name])
      np.testing.assert_allclose(found.highest()[name], frame.group_max()[name])
      for mine, theirs in (
        ('groups', 'between_groups'),
        ('overall', 'to_overall'),
      ):
        for method in ('difference', 'ratio'):
          np.testing.assert_allclose(
            getattr(found, method)(mine)[name],
            getattr(frame, method)(method=theirs)[name],
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
  for measures in ({}, {'a': 1}, [ev.accuracy], {'a': lambda p, y: y}):
    with pytest.raises((TypeError, ValueError), match='measures'):
      ev.table_by_group(p, y, measures=measures)
  with pytest.raises(ValueError, match='`to` was'):
    ev.table_by_group(p, y).ratio('dense')
  with pytest.raises(ValueError, match='must be about the same examples and'):
    ev.churn(p, p[:2])
  with pytest.raises(ValueError, match='in front, but must have the same'):
    ev.churn(np.stack([p] * 3), np.stack([p] * 2))
  with pytest.raises(ValueError, match=r'needs .* with at least two'):
    ev.exemplars(p[None], np.stack([p] * 2), y)
  with pytest.raises(ValueError, match='but must be the same, with as many'):
    ev.accuracy_by_group(p, y).gap(ev.accuracy_by_group(p[:2], y[:2]))
