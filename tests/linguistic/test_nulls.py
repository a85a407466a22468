"""Edges without meaning, heads, and verdicts over models."""

import numpy as np
import pytest
from linguistic_cases import batch, edges_of
from scipy import stats

from lthjax import linguistic
from lthjax.linguistic import _seeds


def excess(attention, edges, tags):
  r = linguistic.region(tags)
  return linguistic.mass_overlap(attention, edges, r).excess


def test_controls_keep_what_they_say():
  tags, _ = batch(0, lengths=(7, 4, 9, 4, 4, 1))
  edges, r = edges_of(tags), linguistic.region(tags)
  permuted = linguistic.permuted_tags(tags, 1)
  other = linguistic.other_tags(tags, 1)
  drawn = linguistic.row_matched(edges, tags, 1)
  assert (permuted != tags).any()
  np.testing.assert_array_equal(np.sort(permuted), np.sort(tags))
  np.testing.assert_array_equal(permuted < 0, tags < 0)
  same = (1, 3, 4)
  for b in range(6):
    others = [c for c in same if c != b] if b in same else [b]
    assert other[b].tolist() in tags[others].tolist()
  assert (drawn != edges).any()
  np.testing.assert_array_equal((drawn & r).sum(-1), (edges & r).sum(-1))
  np.testing.assert_array_equal(drawn | r, edges | r)


@pytest.mark.parametrize(
  'kind', ['permuted', 'other', 'relabelled', 'row_matched']
)
def test_draws_are_excesses_of_such_edges(kind):
  """Each draw is one of those that the public functions make."""
  tags, attention = batch(1, lengths=(3, 3, 3), channels=(2,))
  found = linguistic.null(attention, tags, kind, draws=300, seed=3)
  edges = edges_of(tags)
  np.testing.assert_allclose(
    found.statistic, excess(attention, edges, tags), atol=1e-12
  )
  made = {
    'permuted': lambda s: edges_of(linguistic.permuted_tags(tags, s)),
    'other': lambda s: edges_of(linguistic.other_tags(tags, s)),
    'relabelled': lambda s: edges_of(tags, linguistic.relabelled(s)),
    'row_matched': lambda s: linguistic.row_matched(edges, tags, s),
  }[kind]
  values = np.stack([excess(attention, made(s), tags) for s in range(300)])
  assert found.draws.shape == (300, 2)
  # The same distribution, with 300 draws of each; equal ones are equal.
  samples = (x[:, 0].round(9) for x in (found.draws, values))
  assert stats.ks_2samp(*samples).pvalue > 1e-3
  reached = (found.draws >= found.statistic - 1e-12).sum(0)
  np.testing.assert_allclose(found.p, (1 + reached) / 301)
  np.testing.assert_allclose(found.sd, found.draws.std(0, ddof=1))
  again = linguistic.null(attention, tags, kind, draws=300, seed=3)
  np.testing.assert_array_equal(found.draws, again.draws)


def test_attention_that_follows_the_masks_is_found():
  tags, attention = batch(2, lengths=(9,) * 30, channels=())
  follows = attention * (1 + edges_of(tags))
  for kind in ('permuted', 'other', 'row_matched'):
    assert linguistic.null(follows, tags, kind).p == 0.001
  neither = [
    linguistic.null(attention, tags, kind, draws=199).p
    for kind in ('permuted', 'other', 'relabelled', 'row_matched')
  ]
  assert min(neither) > 0.01
  drawn = linguistic.null(attention, tags, 'row_matched')
  assert abs(drawn.mean) < 4 * drawn.sd / 999**0.5  # Its mean is zero.


def test_edges_that_come_from_elsewhere():
  tags, attention = batch(3)
  edges = np.random.default_rng(0).random((4, 10, 10)) < 0.3
  found = linguistic.null(attention, tags, 'row_matched', edges=edges, draws=9)
  np.testing.assert_allclose(found.statistic, excess(attention, edges, tags))
  with pytest.raises(ValueError, match='`edges` go'):
    linguistic.null(attention, tags, edges=edges)
  with pytest.raises(ValueError, match=r'"permuted".*"row_matched"'):
    linguistic.null(attention, tags, 'random')
  with pytest.raises(ValueError, match='from 1 to 1000000'):
    linguistic.null(attention, tags, draws=0)


def test_fitted_matrix_beats_compatibility_with_as_many_edges():
  tags, attention = batch(4, lengths=(12,) * 40, channels=())
  wanted = np.random.default_rng(5).random((17, 17)) < 0.35
  tags_ = np.maximum(tags, 0)
  follows = attention * (1 + wanted[tags_[:, :, None], tags_[:, None]])
  fitted = linguistic.fit_matrix(follows, tags)
  r = linguistic.region(tags)
  edges = edges_of(tags, fitted) & r
  limit = (edges_of(tags) & r).sum()
  assert 0.98 * limit < edges.sum() <= limit
  assert (
    excess(follows, edges, tags) > 0.05 > excess(follows, edges_of(tags), tags)
  )
  seen = np.zeros((17, 17), bool)
  b, i, j = np.nonzero(r)
  seen[tags[b, i], tags[b, j]] = True
  assert not (fitted & ~seen).any()


def test_attention_to_popular_tags_is_told_from_that_to_pairs():
  tags, attention = batch(6, lengths=(12,) * 30, channels=())
  r, keys = linguistic.region(tags), np.maximum(tags, 0)
  liked = np.random.default_rng(7).uniform(0.2, 3, 17)
  rows = attention.sum(-1, keepdims=True)
  alone = np.where(r, liked[keys][:, None], 0)
  alone = rows * alone / np.maximum(alone.sum(-1, keepdims=True), 1e-9)
  found = linguistic.key_tag_attention(alone, tags)
  np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-12)
  # Any attention keeps the mass of its rows, and what each tag receives.
  found = linguistic.key_tag_attention(attention, tags)
  inside = np.where(r, attention, 0)
  np.testing.assert_allclose(found.sum(-1), inside.sum(-1))
  for tag in np.unique(tags[tags >= 0]):
    to = (tags == tag)[:, None] & r
    np.testing.assert_allclose(found[to].sum(), inside[to].sum(), rtol=1e-6)


def test_published_control_has_half_the_density():
  tags, _ = batch(5, lengths=(20,) * 200, channels=())
  uniform = np.tril(np.ones((200, 21, 21)))
  found = linguistic.published_protocol(uniform, tags)
  # Below a diagonal of 20, 190 edges; masks hold a share d of them.
  d = (edges_of(tags) & linguistic.region(tags)).sum() / (200 * 190)
  assert found.masks == pytest.approx((20 + 190 * d) / 210)
  assert found.row_matched == pytest.approx(found.masks)
  half = (20 + 190 * d) / 400
  assert found.control == pytest.approx((20 + 190 * half) / 210, abs=0.01)
  assert found.relabelled == pytest.approx(found.masks, abs=0.1)


def test_densities_and_norms_of_heads():
  rng = np.random.default_rng(6)
  mask = rng.random((2, 5, 12)) < 0.5  # layers, inputs, 3 heads of width 4
  by_hand = mask.reshape(2, 5, 3, 4).mean((1, 3))
  found = linguistic.head_density(mask, 3, axis=-1, layers=True)
  np.testing.assert_allclose(found, by_hand)
  np.testing.assert_allclose(
    linguistic.head_density(mask[0].reshape(5, 3, 4), 3, axis=1), by_hand[0]
  )
  kernel = rng.standard_normal((12, 5))
  np.testing.assert_allclose(
    linguistic.head_norm(kernel, 3, axis=0),
    np.linalg.norm(kernel.reshape(3, 20), axis=1),
  )
  with pytest.raises(ValueError, match='not 5 heads'):
    linguistic.head_density(mask, 5, axis=-1, layers=True)
  with pytest.raises(ValueError, match='Name the axis'):
    linguistic.head_norm(kernel, 3, axis=2)
  with pytest.raises(TypeError, match='bool mask'):
    linguistic.head_density(kernel, 3, axis=0)


def test_rank_correlation_is_that_of_scipy():
  rng = np.random.default_rng(7)
  x, y = rng.integers(0, 5, (2, 3, 8))
  expected = stats.spearmanr(x.ravel(), y.ravel()).statistic
  assert linguistic.spearman(x, y) == pytest.approx(expected)
  assert np.isnan(linguistic.spearman([1, 1], [1, 2]))
  with pytest.raises(ValueError, match='must have the same'):
    linguistic.spearman([1, 2], [1, 2, 3])


def test_verdicts_are_those_of_scipy():
  rng = np.random.default_rng(8)
  for n in (2, 3, 5, 6, 30):
    values = rng.normal(0.3, 1, n)
    found = linguistic.over_seeds(values)
    expected = stats.ttest_1samp(values, 0)
    ends = expected.confidence_interval(0.95)
    np.testing.assert_allclose(
      [found.t, found.p, *found.interval],
      [expected.statistic, expected.pvalue, ends.low, ends.high],
      rtol=1e-9,
    )
    assert found.sd == pytest.approx(values.std(ddof=1))
  for degrees in (1, 2, 3, 10, 31):
    for t in (-3.0, 0.0, 0.2, 5.0):
      expected = stats.t.cdf(t, degrees)
      assert _seeds.student_cdf(t, degrees) == pytest.approx(expected)
  same = linguistic.over_seeds([0.5, 0.5])
  assert (same.interval, same.p) == ((0.5, 0.5), 0)
  assert linguistic.over_seeds([0.0, 0.0]).p == 1


def test_one_model_gives_no_verdict():
  with pytest.raises(ValueError, match=r'1 trained model, .* two or more'):
    linguistic.over_seeds([0.1])
  with pytest.raises(ValueError, match='finite number per trained model'):
    linguistic.over_seeds([0.1, float('nan')])
  with pytest.raises(TypeError, match='finite number per trained model'):
    linguistic.over_seeds('x')
