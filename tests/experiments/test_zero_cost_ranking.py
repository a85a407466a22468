"""Zero-cost ranking: rows, searches, and the small networks."""

import csv
import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zero_cost_ranking
from common import config
from common import networks as small_networks
from common.networks import Network
from lthjax import proxies
from methods import proxy_search
from methods.proxy_search import Trained

NAMES = ['d1-w3-k1-p4-n0-s0', 'd1-w3-k1-p4-n0-s1']
NAMES += ['d1-w3-k1-p4-n1-s0', 'd1-w3-k1-p4-n1-s1']


def parse(*arguments):
  return config.parse(arguments, zero_cost_ranking.PRESETS, 'help')


def read_summary(folder):
  with (folder / 'summary.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_there_is_a_row_per_training(unbroken):
  rows = unbroken.rows()
  assert [(row['name'], row['seed']) for row in rows] == [
    (name, seed) for name in NAMES for seed in '01'
  ]
  # 16 * 3 + 3, 3 * 3 + 3 and 3 * 10 + 10, and twice 3 scales.
  assert [row['num_params'] for row in rows[::4]] == ['103.0', '109.0']
  # Shortcuts change scores and accuracies, though networks train side by side.
  assert rows[0]['snip'] == rows[1]['snip'] != rows[2]['snip']
  accuracies = [row['test_accuracy'] for row in rows]
  assert len(set(accuracies)) > 4
  assert all(0 < float(x) < 1 for x in accuracies)


def test_page_has_the_correlations(unbroken):
  test, snip = {}, {}
  for row in unbroken.rows():
    test.setdefault(row['name'], []).append(float(row['test_accuracy']))
    snip[row['name']] = float(row['snip'])
  test = {name: float(np.mean(x)) for name, x in test.items()}
  rho, tau = proxies.spearman(snip, test), proxies.kendall(snip, test)
  best = 100 * test[max(snip, key=lambda name: snip[name])]
  page = (unbroken.folder / 'results.md').read_text()
  assert f'\n| snip | {rho:.3f} | {tau:.3f} | {best:.2f} | ' in page


def test_searches_are_kept(unbroken):
  lines = (unbroken.folder / 'searches.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [(x['search'], x['repeat']) for x in found] == [
    *((name, i) for name in ('random', 'Bayesian') for i in (0, 1)),
    *(('Bayesian after snip', i) for i in (0, 1)),
    ('by snip alone', 0),
  ]
  assert {len(x['test_accuracy']) for x in found} == {3}
  assert found[4]['test_accuracy'][0] == found[6]['test_accuracy'][0]


def test_networks_are_convolutions():
  network = Network(depth=1, width=3, kernel=3, patch=2, norm=False, skip=True)
  model = small_networks.build(network, (6, 8, 2), 4)
  params, state = model.init(jax.random.key(0))
  x = np.random.default_rng(0).normal(size=(5, 6, 8, 2)).astype('f4')

  def conv(x, layer, size, stride):
    kernel = layer['kernel'].reshape(size, size, -1, 3)
    out = jax.lax.conv_general_dilated(
      *(x, kernel, (stride, stride), 'SAME'),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return jax.nn.relu(out + layer['bias'])

  h = conv(x, params['stem'], 2, 2)
  h = conv(h, params['layer1'], 3, 1) + h
  expected = h.mean((1, 2)) @ params['output']['kernel']
  found, same = model.apply(params, state, x)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert same == state == {'skip': 1}


def test_forms_of_normalization():
  network = Network(depth=1, width=3, kernel=1, patch=1, norm=True, skip=False)
  model = small_networks.build(network, (2, 2, 1), 4)
  params, state = model.init(jax.random.key(0))
  x = np.random.default_rng(0).normal(2, 3, size=(50, 2, 2, 1)).astype('f4')
  _, trained = model.apply(params, state, x, train=True)
  stem = x @ np.asarray(params['stem']['kernel'])
  expected = 0.9 * 1 + 0.1 * stem.var((0, 1, 2))
  np.testing.assert_allclose(trained['stem']['var'], expected, rtol=1e-5)
  mean = 0.1 * stem.mean((0, 1, 2))
  np.testing.assert_allclose(trained['stem']['mean'], mean, rtol=1e-5)
  scaled, _ = model.apply(params, state, 5 * x, train=True)
  plain, _ = model.apply(params, state, x, train=True)
  np.testing.assert_allclose(scaled, plain, atol=1e-4)
  _, kept = model.apply(params, state, x)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, kept, state))


class Choice(NamedTuple):
  a: int
  b: int


# The best on the validation set is the second best on the test set.
SPACE = {
  Choice(a, b): Trained(0.1 * a + 0.02 * b, 0.5 - 0.1 * a + 0.01 * b)
  for a in range(3)
  for b in range(4)
}


@pytest.mark.parametrize('bayesian', [True, False])
def test_searches_train_nothing_twice(bayesian, monkeypatch):
  seen = []
  tell = proxy_search.optuna.Study.tell

  def spy(self, trial, value=None, **options):
    if value is not None:
      seen.append(Choice(**trial.params))
    return tell(self, trial, value, **options)

  monkeypatch.setattr(proxy_search.optuna.Study, 'tell', spy)
  first = [Choice(1, 3), Choice(0, 2)]
  curve = proxy_search.search(SPACE, 99, 7, first=first, bayesian=bayesian)
  assert seen[:2] == first
  assert len(seen) == len(curve) == 12
  assert set(seen) == set(SPACE)
  best = [max(seen[: i + 1], key=lambda n: SPACE[n][0]) for i in range(12)]
  assert curve == [SPACE[network].test for network in best]
  again = proxy_search.search(SPACE, 99, 7, first=first, bayesian=bayesian)
  assert curve == again


def test_trained_in_a_given_order():
  order = [Choice(1, 1), Choice(0, 3), Choice(2, 0), Choice(2, 3)]
  found = proxy_search.in_order(SPACE, order, 3)
  assert found == pytest.approx([0.41, 0.41, 0.3])


@pytest.mark.slow
def test_networks_of_one_size():
  """Each choice gets the width that brings it close to the number."""
  arguments = [
    '--preset',
    'equal_size',
    '--dataset',
    'digits',
    '--patches',
    '1',
    '2',
  ]
  found = zero_cost_ranking.space(parse(*arguments))
  assert len(set(found)) == 64
  for network in found:
    sizes = []
    for width in (network.width - 1, network.width, network.width + 1):
      model = small_networks.build(network._replace(width=width), (8, 8, 1), 10)
      params, _ = jax.eval_shape(model.init, jax.random.key(0))
      kernels = [layer['kernel'].shape for layer in params.values()]
      sizes.append(sum(math.prod(shape) for shape in kernels))
    assert sizes[0] < 4_000 < sizes[2]
    assert abs(sizes[1] - 4_000) < 500
