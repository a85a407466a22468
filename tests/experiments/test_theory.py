"""Formulas of theory and what is measured beside them."""

import csv
import itertools
import math

import numpy as np
import pytest

import theory
from theories import chaos, draws, extremes, sums
from theories.intervals import Point, half_width


def rng(seed=0):
  return np.random.default_rng(seed)


# Draws of a ticket.


def test_one_draw_has_the_chance_p():
  assert draws.at_least_one(0.3, 1) == pytest.approx(0.3, rel=1e-15)
  assert draws.at_least_one(0.5, 2) == 0.75
  hits = rng().random((3, 64)) < 0.1
  assert draws.found_within(hits, 1) == hits.mean()


def test_blocks_of_draws_by_hand():
  hits = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], bool)
  assert [draws.found_within(hits, n) for n in (1, 2, 3, 4)] == [
    1 / 8,
    1 / 4,
    1 / 2,
    1 / 2,
  ]


def test_xor_beside_an_independent_network():
  """One mask at a time, with the numbers drawn in the same order."""
  count, width = 400, 40
  found = draws.solves_xor(rng(3), width, count, fresh=True)
  again, layers = rng(3), []
  for units in (width, width, width, width, 1):
    weights = again.standard_normal((count, 1, units), dtype=np.float32)
    keep = again.integers(0, 2, (count, 1, units), dtype=np.bool_)
    layers.append((weights * keep)[:, 0].astype(float))
  first, second, bias, output, last = layers
  for i, solved in enumerate(found):
    signs = []
    for a, b in itertools.product((0, 1), repeat=2):
      hidden = [max(0, x) for x in a * first[i] + b * second[i] + bias[i]]
      signs.append(np.sign(np.dot(hidden, output[i]) + last[i, 0]))
    assert solved == (signs == [-1, 1, 1, -1])


def test_fresh_networks_follow_the_formula_and_masks_of_one_do_not():
  fresh, one = (
    draws.measure(0, 3, 16, 12, 1024, fresh=how) for how in (True, False)
  )
  assert [x.x for x in one.points] == [1, 4, 16, 64, 256, 1024]
  for found in (fresh, one):  # At N = 1, the formula is p.
    assert found.points[0].measured == pytest.approx(found.chance)
    p = np.mean(found.chance)
    assert found.points[0].predicted == pytest.approx(p)
  last = fresh.points[-1]
  assert last.mean == pytest.approx(last.predicted, abs=0.15)
  assert one.points[-1].mean < one.points[-1].predicted


# Subset sums.


def test_subset_sums_by_hand():
  weights = np.array([1.0, 2.0, 4.0])
  assert sorted(sums.subset_sums(weights)) == list(range(8))
  assert sums.best_subset(weights, np.array(5.2)) == 5
  assert sums.best_single(weights, np.array(5.2)) == 4
  # From 0 to 7, all targets of [-1, 1]: -1 is the farthest from a sum.
  assert sums.covering_radius(weights) == 1


def test_a_single_weight_leaves_the_distance_to_it_or_to_nothing():
  weights, targets = rng().uniform(-1, 1, (2, 50))
  error = np.abs(sums.best_subset(weights[:, None], targets) - targets)
  both = np.abs(targets), np.abs(targets - weights)
  np.testing.assert_array_equal(error, np.minimum(*both))


def test_subsets_beside_all_combinations():
  weights, targets = rng(1).normal(size=(5, 6)), rng(2).normal(size=5)
  found = sums.best_subset(weights, targets)
  for w, t, mine in zip(weights, targets, found, strict=True):
    every = [
      sum(subset) for n in range(7) for subset in itertools.combinations(w, n)
    ]
    assert abs(mine - t) == pytest.approx(min(abs(x - t) for x in every))


def test_the_covering_radius_is_the_largest_error():
  weights = rng(4).uniform(-1, 1, 6)
  grid = np.linspace(-1, 1, 20_001)
  found = sums.best_subset(np.broadcast_to(weights, (20_001, 6)), grid)
  largest = np.abs(found - grid).max()
  assert sums.covering_radius(weights) == pytest.approx(largest, abs=1e-4)


def test_errors_of_subsets_halve_with_each_weight():
  points = sums.errors(0, 2, 200, (4, 8, 12), sums.best_subset)
  expected = (6.0e-2, 5.9e-3, 3.4e-4)  # Of another run.
  for point, value in zip(points, expected, strict=True):
    assert point.mean == pytest.approx(value, rel=0.4)
    assert point.predicted == pytest.approx(value, rel=0.4)
  for point in sums.errors(0, 2, 500, (4, 16), sums.best_single):
    assert point.mean == pytest.approx(point.predicted, rel=0.25)


def test_a_rebuilt_layer_is_close_and_made_of_random_weights():
  kernel = rng(5).normal(size=(7, 3)).astype(np.float32)
  assert sums.rebuild(rng(), kernel, 10, sums.best_subset) == pytest.approx(
    kernel, abs=0.2
  )
  again = rng().uniform(-1, 1, (21, 2)) * np.abs(kernel).max()
  rebuilt = sums.rebuild(rng(), kernel, 2, sums.best_single)
  distance = np.abs(rebuilt.ravel()[:, None] - again).min(1)
  np.testing.assert_allclose(distance, 0, atol=1e-6)


# Edge of chaos.


def test_masks_that_keep_everything_keep_the_moment():
  width, again = 16, rng(6)
  found = chaos.relu_moments(rng(6), (1.0, 0.5), depth=3, width=width, inputs=4)
  x = again.standard_normal((width, 4), dtype=np.float32)
  first, whole = (x**2).mean(), []
  for _ in range(3):
    weights = again.standard_normal((width, width), dtype=np.float32)
    again.random((width, width), dtype=np.float32)  # the mask
    before = weights @ x * (2 / width) ** 0.5
    whole.append((before**2).mean() / 2 / first)
    x = np.maximum(before, 0)
  np.testing.assert_allclose(found[0], whole, rtol=1e-5)


def test_moments_fall_by_the_density_per_layer():
  points = chaos.relu(0, 3, (1.0, 0.5), 256)
  for point in points:
    if point.x <= 6:
      assert point.mean == pytest.approx(point.predicted, rel=0.3)
  assert [x.predicted for x in points[:20]] == [1] * 20


def test_chi_of_tanh():
  assert chaos.fixed_point(0.9) == 0
  assert chaos.tanh_chi(0.5) == pytest.approx(0.5)
  assert chaos.tanh_chi(1.0) == pytest.approx(1)
  q = chaos.fixed_point(3.0)
  z = rng(7).normal(size=400_000)
  assert 3 * np.mean(np.tanh(np.sqrt(q) * z) ** 2) == pytest.approx(q, rel=0.01)
  slopes = 3 * np.mean(np.cosh(np.sqrt(q) * z) ** -4.0)
  assert chaos.tanh_chi(3.0) == pytest.approx(slopes, rel=0.01)
  (low, high) = chaos.measured_tanh_chi(rng(8), 0.5, (0.5, 3.0), width=200)
  assert low == pytest.approx(0.5, rel=0.15)
  assert high == pytest.approx(chaos.tanh_chi(3.0), rel=0.15)


# Extreme values.


@pytest.mark.parametrize(
  ('draws', 'expected'), [(1, 0.0), (10, 1.539), (100, 2.508), (1000, 3.241)]
)
def test_expected_maximum_of_normals(draws, expected):
  assert extremes.normal_maximum(draws) == pytest.approx(expected, abs=5e-4)


def test_the_best_of_all_subsets():
  values = rng(9).normal(size=7)
  for n in (1, 3, 7):
    best = [max(x) for x in itertools.combinations(values, n)]
    assert extremes.expected_best(values, n) == pytest.approx(np.mean(best))


def test_a_fitted_law_knows_other_numbers_of_draws():
  law = extremes.Law(0.0, 5.0, 2.0)  # Gumbel's
  mean = 5 + 2 * np.euler_gamma
  assert law.expected(extremes.BLOCK) == pytest.approx(mean)
  assert law.expected(1000) == pytest.approx(mean + 2 * math.log(10))
  small = extremes.Law(1e-6, 5.0, 2.0)
  assert small.expected(1000) == pytest.approx(law.expected(1000), rel=1e-4)
  samples = rng(10).exponential(size=20_000)
  found = extremes.fit(samples).expected(1000)
  assert found == pytest.approx(sum(1 / i for i in range(1, 1001)), rel=0.06)


def test_masks_of_an_untrained_network():
  images = rng(11).normal(size=(60, 5))
  labels = np.arange(60) % 3
  found = extremes.mask_accuracies(rng(), images, labels, 150)
  assert found.shape == (150,)
  again = extremes.mask_accuracies(rng(), images, labels, 150)
  np.testing.assert_array_equal(found, again)
  hits = found * 60 / 100
  np.testing.assert_allclose(hits, hits.round(), atol=1e-3)


# Intervals, and the command.


def test_where_formula_and_measurement_part():
  assert half_width([1.0, 3.0]) == pytest.approx(12.706, abs=1e-3)
  assert math.isnan(half_width([1.0]))
  values = [1.0, 1.1, 0.9]  # 1 ± 0.25
  assert not Point('', 1, values, [1.2] * 3).parts
  assert Point('', 1, values, [1.3] * 3).parts
  assert not Point('', 1, values, []).parts


@pytest.fixture
def run(call, tmp_path):
  def run(*options):
    return call('theory', '--output', str(tmp_path), *options)

  return run


@pytest.mark.slow
def test_the_command(run, tmp_path):
  small = '--seeds', '2', '--size', '0.02', '--parts', 'draws', 'subsets'
  code, printed, errors = run(*small)
  assert code == 0, errors
  assert 'They part ' in printed
  (folder,) = tmp_path.iterdir()
  assert folder.name.startswith('theory-digits-')
  page = (folder / 'results.md').read_text()
  assert page.startswith('# Theory and measurement: digits, 2 seeds\n')
  assert '![Chance of a ticket against N](draws.png)' in page
  for text in ('O(d⁴ l²)', 'log(d l / min(ε, δ))', 'Spin glasses, a metaphor'):
    assert text in ' '.join(page.split())
  rows = list(csv.DictReader((folder / 'results.csv').read_text().splitlines()))
  assert {row['part'] for row in rows} == {'draws', 'subsets'}
  assert {row['seed'] for row in rows} == {'0', '1'}
  assert all(float(row['measured']) >= 0 for row in rows)
  code, printed, errors = run(*small)
  assert '2 of 2 trainings are there already.' in printed


def test_the_command_names_its_parts(run):
  code, printed, _ = run('--help')
  assert code == 0
  assert 'python experiments/theory.py' in printed
  for part in theory.PARTS:
    assert f'\n  {part} ' in printed


@pytest.mark.parametrize(
  ('options', 'code', 'text'),
  [
    ('--size 0', 2, 'size was 0.0, but must be above 0'),
    ('--size nan', 2, 'size had nan, but must be a finite number'),
    ('--parts chi chi', 2, 'parts were chi chi, but must be one or more'),
    ('--parts spins', 2, "invalid choice 'spins' for argument '--parts'"),
    ('--seeds 0', 2, 'seeds was 0, but must be at least 1'),
    ('--dataset none --parts layer', 1, 'none'),
  ],
)
def test_bad_options(run, tmp_path, options, code, text):
  found, printed, errors = run(*options.split())
  assert found == code
  assert '┏' not in printed  # no table
  words = ' '.join(errors.replace('│', ' ').split())
  assert text in words
  assert 'Traceback' not in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tickets_of_one_size_from_several_widths(run, tmp_path, monkeypatch):
  monkeypatch.setattr(theory, 'NETWORKS', (0.1, 0.2))
  options = '--seeds 2 --steps 100 --parts widths --weights 400 --pruned 0.6'
  code, printed, errors = run(*options.split())
  assert code == 0, errors
  # 64 x 30, 30 x 10 and 10 x 10; then 60 and 20 units.
  assert 'They part' not in printed
  (folder,) = tmp_path.iterdir()
  page = ' '.join((folder / 'results.md').read_text().split())
  assert '400 weights of 2,320 at width 0.1, 5,240 at width 0.2.' in page
  rows = list(csv.DictReader((folder / 'results.csv').read_text().splitlines()))
  arms = ['dense', 'ticket', 'new weights', 'shuffled']
  assert [(x['setting'], x['x'], x['seed']) for x in rows] == [
    (arm, width, seed)
    for width in ('0.1', '0.2')
    for arm in arms
    for seed in '01'
  ]
  mean = dict.fromkeys(arms, 0.0)
  for row in rows:
    mean[row['setting']] += float(row['measured']) / 4
  assert mean['dense'] > 60
  assert mean['ticket'] > mean['shuffled']


def test_tickets_are_smaller_than_their_networks(run):
  code, _, errors = run('--parts', 'widths', '--weights', '6925')
  assert code == 1
  assert 'weights was 6,925, but the narrowest network has 6,925.' in errors


@pytest.mark.slow
def test_parts_that_train(run, tmp_path):
  options = '--seeds 2 --size 0.2 --steps 150 --parts layer supermasks'
  code, _, errors = run(*options.split(), 'extremes')
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  rows = list(csv.DictReader((folder / 'results.csv').read_text().splitlines()))

  def mean(part, setting, x):
    found = [
      float(row['measured'])
      for row in rows
      if (row['part'], row['setting'], float(row['x'])) == (part, setting, x)
    ]
    assert len(found) == 2
    return sum(found) / 2

  whole = float(next(r for r in rows if r['part'] == 'layer')['formula'])
  assert mean('layer', 'best subset', 10) == pytest.approx(whole, abs=2)
  assert mean('layer', 'best subset', 4) > mean('layer', 'best subset', 1)
  random = mean('supermasks', 'random masks, normal, fc2', 0.5)
  assert random == pytest.approx(1, abs=0.2)
  assert mean('supermasks', 'edge-popup, constant, output', 0.5) > 1.1
  assert mean('extremes', 'normal law', 1000) > mean(
    'extremes', 'normal law', 10
  )
