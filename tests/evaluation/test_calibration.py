"""Calibration: by hand, against NumPy and against scikit-learn."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from lthjax import evaluation as ev

# Confidences .6, .6, .9, .9; the third and the fourth are right.
BY_HAND = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
LABELS = np.array([1, 1, 0, 1])


def some(seed=0, seeds=(), examples=200, classes=4):
  draws = np.random.default_rng(seed)
  logits = draws.normal(size=(*seeds, examples, classes)) * 2
  p = np.exp(logits)
  return p / p.sum(-1, keepdims=True), draws.integers(0, classes, examples)


def ece_by_loops(p, y, bins):
  total = 0.0
  for i in range(bins):
    low, high = i / bins, (i + 1) / bins
    inside = [k for k in range(len(y)) if low < p[k].max() <= high]
    if inside:
      hits = np.mean([p[k].argmax() == y[k] for k in inside])
      sure = np.mean([p[k].max() for k in inside])
      total += len(inside) / len(y) * abs(hits - sure)
  return total


def test_by_hand():
  # Two bins: .6 against accuracy 0, and .9 against accuracy 1.
  np.testing.assert_allclose(ev.ece(BY_HAND, LABELS), (0.6 + 0.1) / 2)
  np.testing.assert_allclose(
    ev.ece(BY_HAND, LABELS, equal_mass=True), (0.6 + 0.1) / 2
  )
  np.testing.assert_allclose(ev.ece(BY_HAND, LABELS, bins=1), 0.25)
  np.testing.assert_allclose(ev.overconfidence(BY_HAND, LABELS), 0.25)
  np.testing.assert_allclose(
    ev.brier(BY_HAND, LABELS), (2 * 0.72 + 2 * 0.02) / 4
  )
  np.testing.assert_allclose(
    ev.log_loss(BY_HAND, LABELS), -(np.log(0.4) + np.log(0.9)) / 2
  )
  found = ev.reliability(BY_HAND, LABELS)
  assert found.n.tolist() == [0] * 8 + [2] + [0] * 4 + [2, 0]
  assert found.accuracy[[8, 13]].tolist() == [0.0, 1.0]
  assert np.isnan(found.confidence[0])


def test_against_loops_and_seed_by_seed():
  p, y = some(seeds=(2, 3))
  for function in (ev.ece, ev.brier, ev.log_loss, ev.overconfidence):
    found = function(p, y)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[1, 2], function(p[1, 2], y))
  np.testing.assert_allclose(ev.ece(p, y)[0, 1], ece_by_loops(p[0, 1], y, 15))
  assert (np.abs(ev.overconfidence(p, y)) <= ev.ece(p, y) + 1e-12).all()


@pytest.mark.parametrize(
  ('equal_mass', 'strategy'), [(False, 'uniform'), (True, 'quantile')]
)
def test_bins_are_those_of_scikit_learn(equal_mass, strategy):
  p, y = some(1)
  hits, sure = p.argmax(-1) == y, p.max(-1)
  found = ev.reliability(p, y, equal_mass=equal_mass)
  filled = found.n > 0
  accuracy, confidence = calibration_curve(
    hits, sure, n_bins=15, strategy=strategy
  )
  np.testing.assert_allclose(found.accuracy[filled], accuracy)
  np.testing.assert_allclose(found.confidence[filled], confidence)
  error = (found.n[filled] * abs(accuracy - confidence)).sum() / 200
  np.testing.assert_allclose(ev.ece(p, y, equal_mass=equal_mass), error)
  if equal_mass:
    assert set(found.n.tolist()) <= {13, 14}


def test_scores_are_those_of_scikit_learn():
  p, y = some(2)
  np.testing.assert_allclose(ev.log_loss(p, y), metrics.log_loss(y, p))
  np.testing.assert_allclose(ev.brier(p, y), metrics.brier_score_loss(y, p))
  sure = np.eye(4)[(y + 1) % 4]  # Wrong and sure: clipped, not infinite.
  np.testing.assert_allclose(ev.log_loss(sure, y), metrics.log_loss(y, sure))
  half = jnp.asarray(p, jnp.bfloat16)
  assert np.isfinite(ev.log_loss(half, y))


def test_order_does_not_matter_to_the_bit_of_the_bins():
  p, y = some(3)
  p = np.floor(10 * p) / 10  # Ties.
  p[:, 0] += 1 - p.sum(-1)
  order = np.random.default_rng(0).permutation(len(y))
  for equal_mass in (False, True):
    a = ev.reliability(p, y, equal_mass=equal_mass)
    b = ev.reliability(p[order], y[order], equal_mass=equal_mass)
    assert a.n.tolist() == b.n.tolist()
    np.testing.assert_array_equal(a.accuracy, b.accuracy)


def test_temperature():
  # Right in three of four with logits 2 and 0: log(3) is best.
  p = np.asarray(jax.nn.softmax(np.array([[2.0, 0.0]] * 4)))
  found = ev.fit_temperature(p, np.array([0, 0, 0, 1]))
  np.testing.assert_allclose(found, 2 / np.log(3), rtol=1e-6)
  p, y = some(4, seeds=(2,))
  y[::2] = p[0, ::2].argmax(-1)
  t = ev.fit_temperature(p, y)
  grid = np.geomspace(0.1, 20, 400)
  losses = [ev.log_loss(ev.temper(p[0], x), y) for x in grid]
  assert ev.log_loss(ev.temper(p, t), y)[0] <= min(losses) + 1e-9
  np.testing.assert_allclose(t[0], grid[np.argmin(losses)], rtol=0.02)
  # Heating by a factor divides what is left to fit.
  again = ev.fit_temperature(ev.temper(p[0], 2.0), y)
  np.testing.assert_allclose(again, t[0] / 2)
  assert (ev.temper(p, t).argmax(-1) == p.argmax(-1)).all()
  assert ev.fit_temperature(p[0], p[0].argmax(-1)) == 0.02
  assert ev.fit_temperature(p[0], p[0].argmin(-1)) == 50.0


@pytest.mark.parametrize(
  ('p', 'y', 'error', 'text'),
  [
    (np.array([[2.0, 1.0]]), [0], ValueError, r'sums to 3\. For logits, use'),
    (np.array([[1.2, -0.2]]), [0], ValueError, 'are not negative and sum to'),
    (np.array([[np.nan, 1]]), [0], ValueError, 'those of 1 of 1 examples do'),
    (np.array([1.0]), [0], TypeError, r'array of floats, \[\.\.\., examples'),
    (np.array([[1, 0]]), [0], TypeError, 'was int64'),
    (np.zeros((0, 2)), [], ValueError, 'at least one example'),
    ([[0.5, 0.5]], [0], TypeError, 'be an array of numbers'),
    (BY_HAND, [0, 1, 0], ValueError, '3 entries, but there are 4 examples'),
    (BY_HAND, [0, 1, 2, 0], ValueError, 'classes from 0 to 2, but there are'),
    (BY_HAND, [0.0, 1, 1, 0], TypeError, 'be an array of integers'),
  ],
)
def test_bad_probabilities_and_labels(p, y, error, text):
  for function in (ev.ece, ev.smooth_ece, ev.log_loss, ev.fit_temperature):
    with pytest.raises(error, match=text):
      function(p, np.array(y))


def test_bad_options():
  with pytest.raises(ValueError, match='`bins` was 0'):
    ev.ece(BY_HAND, LABELS, bins=0)
  for t in (0.0, -1.0, np.ones(3)):
    with pytest.raises(ValueError, match='be positive, and one number or'):
      ev.temper(BY_HAND, t)
  with pytest.raises(TypeError, match='is traced, but evaluation takes place'):
    jax.jit(ev.ece)(BY_HAND, LABELS)


# Without bins.


def smooth_by_images(confidence, gaps, bandwidth):
  """The Gaussian and its mirror images, point by point."""
  t = (np.arange(4000) + 0.5)[:, None] / 4000
  total = np.zeros(4000)
  for turn in range(-6, 7):
    for center in (2 * turn + confidence, 2 * turn - confidence):
      total += np.exp(-(((t - center) / bandwidth) ** 2) / 2) @ gaps
  total /= np.sqrt(2 * np.pi) * bandwidth * len(gaps)
  return np.abs(total).mean()


def test_smooth_error_by_hand():
  # One confidence: the kernel moves the gap about, and it stays as large.
  one = np.array([[0.8, 0.2]] * 4)
  for labels, gap in (([0] * 4, -0.2), ([0, 0, 0, 1], 0.05), ([1] * 4, 0.8)):
    found = ev.smooth_ece(one, np.array(labels))
    np.testing.assert_allclose(found, abs(gap), atol=1e-9)
  # -.2 at the one confidence and +.2 at the other cancel the more, the wider.
  both = np.array([[0.6, 0.4], [0.6, 0.4], [0.8, 0.2], [0.8, 0.2]] * 5)
  found = ev.smooth_ece(both, np.array([0, 0, 0, 1] * 5))
  assert 0.1 < found < (0.4 + 0.3) / 2 - 1e-3
  assert ev.smooth_ece(np.eye(3), np.arange(3)) == 0
  assert ev.smooth_ece(np.eye(3), np.array([1, 2, 0])) == 1


def test_smooth_error_is_where_the_images_of_the_kernel_put_it():
  p, y = some(5, seeds=(2,))
  found = ev.smooth_ece(p, y)
  for one, error in zip(p, found, strict=True):
    sure = one.max(-1)
    gaps = sure - (one.argmax(-1) == y)
    np.testing.assert_allclose(
      smooth_by_images(sure, gaps, error), error, atol=2e-4
    )
    assert error == ev.smooth_ece(one, y)  # To the bit.
    assert abs(ev.overconfidence(one, y)) <= error <= np.abs(gaps).mean()


def test_smooth_error_is_that_of_relplot():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    relplot = pytest.importorskip('relplot')
  p, y = some(6, examples=2000)
  for t in (0.5, 1.0, 3.0):
    x = ev.temper(p, t)
    expected = relplot.smECE(x.max(-1), (x.argmax(-1) == y).astype(float))
    # It cuts wide kernels off, and tries bandwidths in steps of 1 / 1024.
    np.testing.assert_allclose(ev.smooth_ece(x, y), expected, atol=5e-3)
