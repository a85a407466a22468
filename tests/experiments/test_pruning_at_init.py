"""Pruning at initialization: what methods and controls keep."""

import dataclasses
import functools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_experiments import TINY

import lthjax as lth
import pruning_at_init
from common import config
from lthjax import checkpoints
from methods import collapse

# LeNet-300-100 on 8x8 images.
SIZE = 64 * 300 + 300 * 100 + 100 * 10
CELLS = [
  'dense-1',
  *(f'random-{ratio}' for ratio in (4, 16)),
  *(
    f'snip-{ratio}{check}'
    for ratio in (4, 16)
    for check in (
      '',
      '-shuffled',
      '-shuffled_input',
      '-reinit',
      '-inverted',
    )
  ),
  *(
    f'imp-{ratio}{check}'
    for ratio in (4, 16)
    for check in ('', '-shuffled', '-shuffled_input', '-reinit')
  ),
]


def parse(*arguments):
  return config.parse(arguments, pruning_at_init.PRESETS, 'help')


@pytest.fixture(scope='module')
def experiment():
  return pruning_at_init.Experiment(parse(*TINY['pruning_at_init']))


@pytest.fixture(scope='module')
def networks(unbroken, experiment):
  """Reads a network of the run, by the name of its cell."""
  start = jax.eval_shape(experiment.trainer.init, experiment.keys)
  like = {
    'params': start.params,
    'masks': jax.eval_shape(lth.get_masks, start.opt_state),
    'model_state': start.model_state,
  }
  return functools.cache(
    lambda name: checkpoints.load(unbroken.folder / 'networks' / name, like)
  )


def first(tree):
  return jax.tree.map(lambda x: x[0], tree)


def test_there_is_a_row_per_network(unbroken):
  rows = unbroken.rows()
  names = [
    f'{row["method"]}-{float(row["ratio"]):g}'
    + (row['check'] and f'-{row["check"]}')
    for row in rows
  ]
  assert names == [name for name in CELLS for _ in range(2)]
  for row in rows:
    assert abs(int(row['alive']) - SIZE / float(row['ratio'])) < 1
    assert 0 <= float(row['test_accuracy']) <= 1


def test_compute_counts_scores_and_earlier_rounds(unbroken):
  """In multiply-adds of training the dense network; each weight is one."""
  found = {
    (row['method'], row['check'], round(float(row['ratio']))): row
    for row in unbroken.rows()
    if row['seed'] == '1'
  }
  own = {arm: int(row['alive']) / SIZE for arm, row in found.items()}
  scored = 2 * 100 / (20 * 60)  # Batches of 100, steps of 60 examples.
  for arm, extra in {
    ('dense', '', 1): 0.0,
    ('random', '', 4): 0.0,
    ('snip', '', 16): scored,
    ('snip', 'reinit', 16): scored,
    ('imp', '', 4): 1.0,
    ('imp', '', 16): 1.0 + own['imp', '', 4],
    ('imp', 'shuffled', 16): 1.0 + own['imp', '', 4],
  }.items():
    assert float(found[arm]['compute']) == pytest.approx(extra + own[arm])


@pytest.mark.slow
def test_random_masks_with_chosen_layer_sizes(experiment):
  key = jax.random.key(3)
  sizes = {'fc1/kernel': 19_200, 'fc2/kernel': 30_000, 'output/kernel': 1_000}
  budget = SIZE / 20
  # Smart ratios: 30 % of the output, and k^2 + k with k = 3 and 2 before it.
  parts = {'fc1/kernel': 19_200 * 12, 'fc2/kernel': 30_000 * 6}
  rest = budget - 300
  smart = {name: rest * x / sum(parts.values()) for name, x in parts.items()}
  masks = experiment.draw('smart_ratio', 20.0, key)
  alive = lth.masks.alive_by_name(masks)
  assert alive == {
    **{name: round(count) for name, count in smart.items()},
    'output/kernel': 300,
  }
  # ERK: in proportion to inputs plus outputs.
  sums = {'fc1/kernel': 364, 'fc2/kernel': 400, 'output/kernel': 110}
  masks = experiment.draw('erk', 20.0, key)
  alive = lth.masks.alive_by_name(masks)
  for name, total in sums.items():
    assert abs(alive[name] - budget * total / 874) < 1
    assert alive[name] < sizes[name]


def test_what_each_control_keeps(networks):
  for method in ('snip', 'imp'):
    masks = first(networks(f'{method}-16')['masks'])
    alive = lth.masks.alive_by_name(masks)
    shuffled = first(networks(f'{method}-16-shuffled')['masks'])
    assert lth.masks.alive_by_name(shuffled) == alive
    assert lth.masks.hamming(shuffled, masks) > 0
    by_input = first(networks(f'{method}-16-shuffled_input')['masks'])
    assert lth.masks.alive_by_name(by_input) == alive
    a, b = (np.asarray(m['fc1']['kernel']) for m in (masks, by_input))
    assert (a.sum(1) == b.sum(1)).all()
    assert lth.masks.hamming(by_input, masks) > 0
    reinit = networks(f'{method}-16-reinit')
    assert lth.masks.hamming(first(reinit['masks']), masks) == 0


def test_inverted_masks_share_nothing_with_those_of_snip(networks):
  masks, inverted = (
    first(networks(f'snip-4{check}')['masks']) for check in ('', '-inverted')
  )
  assert lth.masks.count(lth.masks.intersect(masks, inverted)) == 0


def test_imp_prunes_the_smallest_weights_of_the_round_before(networks):
  before, after = networks('imp-4'), networks('imp-16')
  masks = first(before['masks'])
  expected = lth.prune(
    lth.scores.magnitude(first(before['params'])),
    masks,
    sparsity=1 - 1 / 16,
    scope='global',
  )
  assert lth.masks.hamming(expected, first(after['masks'])) == 0


def test_rounds_of_imp():
  found = pruning_at_init.imp_ratios((100.0, 10.0), 0.69)
  # Two rounds from 1 to 10, two from there to 100: 1 - 1/sqrt(10) is 0.684.
  assert found == pytest.approx([10**0.5, 10, 10**1.5, 100])
  assert pruning_at_init.imp_ratios((100.0, 10.0), 0.9) == [10, 100]
  config = dataclasses.replace(
    parse(*TINY['pruning_at_init']),
    ratios=(100.0, 10.0),
    imp_fraction=0.69,
    methods=('imp',),
  )
  on_the_way = [
    cell
    for cell in pruning_at_init.cells(config)
    if cell.ratio not in (1.0, 10.0, 100.0)
  ]
  assert len(on_the_way) == 2
  assert {cell.check for cell in on_the_way} == {''}


# Layer collapse.


def test_a_layer_is_emptied_once_its_best_weight_goes():
  scores = {
    'a': {'kernel': np.array([[9.0, 8.0], [7.0, 1.0]], np.float32)},
    'b': {'kernel': np.array([[2.0, 0.5]], np.float32)},
    'c': {'bias': np.array([100.0], np.float32)},  # Never pruned.
  }
  masks = lth.masks.full(scores)
  found = collapse.at_once(scores, masks, (1.2, 1.5, 3.0))
  # 9, 8 and 7 go before the best weight of b, which is the fourth of six.
  assert found == (6 / 4, 'b/kernel', [1, 1, 0])


@pytest.mark.slow
def test_at_once_is_what_prune_does():
  rng = np.random.default_rng(0)
  scores = {
    f'layer{i}': {'kernel': rng.normal(size=(6, n)).astype(np.float32)}
    for i, n in enumerate((20, 3, 1))
  }
  masks = lth.masks.full(scores)
  critical, emptied, _ = collapse.at_once(scores, masks, ())
  alive = {}
  for ratio in (critical, 144 / (144 / critical - 1)):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      kept = lth.prune(scores, masks, sparsity=1 - 1 / ratio, scope='global')
    alive[ratio] = lth.masks.alive_by_name(kept)
  last, beyond = alive.values()
  assert min(last.values()) == last[emptied] == 1
  assert beyond[emptied] == 0


def test_steps_of_compression():
  seen = []

  def prune(ratio):
    seen.append(ratio)
    return {'a': round(64 / ratio), 'b': round(3 / ratio)}

  found = collapse.walk(prune, (4.0, 64.0), steps=6)
  # Of three weights, one is left at 4, none at 10, and nothing is tried beyond.
  np.testing.assert_allclose(
    seen, [4 ** (1 / 3), 4 ** (2 / 3), 4, 4 * 16 ** (1 / 3)], rtol=1e-6
  )
  assert found == (pytest.approx(4), 'b', [1, 0])
  assert collapse.walk(lambda ratio: {'a': 1}, (2.0,), 1) == (2, '', [1])


def test_a_layer_without_any_score_counts_as_empty():
  params = {n: jnp.ones((2, 2)) for n in ('a/kernel', 'b/kernel')}
  masks = lth.masks.full(params)

  def score(left):  # All of b's weights die with the first two of a.
    cut = jnp.sum(left['a/kernel']) < 3
    return {
      'a/kernel': jnp.float32([[1, 2], [3, 4]]),
      'b/kernel': jnp.where(cut, 0.0, jnp.full((2, 2), 5.0)),
    }

  found = collapse.step_by_step(score, params, masks, (8 / 6, 8 / 5, 4), 3)
  assert found == (pytest.approx(8 / 6), 'b/kernel', [2, 0, 0])


@pytest.mark.slow
def test_synflow_never_empties_a_layer_and_erk_neither():
  small = parse(
    *('--dataset', 'digits', '--measure', 'collapse', '--seeds', '2'),
    *('--methods', 'random', 'erk', 'magnitude', 'synflow'),
    *('--ratios', '10', '1000', '--score-steps', '20', '--score-batches', '1'),
  )
  cells = pruning_at_init.cells(small)
  assert [cell.name for cell in cells] == [
    f'collapse/{method}' for method in small.methods
  ]
  experiment = pruning_at_init.Experiment(small)
  rows = []
  for cell in cells:
    result, _ = experiment.train(cell, None, None)
    rows += pruning_at_init.report.rows(result)
  assert len(rows) == 4 * 2 * 2
  critical = {(row['method'], row['seed']): row['critical'] for row in rows}
  smallest = {
    (row['method'], row['seed']): row['smallest_layer'] for row in rows
  }  # at 1,000
  for seed in range(2):
    for method in ('erk', 'synflow'):
      assert critical[method, seed] == pytest.approx(1000)
      assert smallest[method, seed] > 0
    # Glorot's scale is the smallest in the second layer, which goes first.
    assert critical['magnitude', seed] < 500
    # The output is a fiftieth of the weights: one in a thousand may miss it.
    assert 100 < critical['random', seed] < 10_000


def test_collapse_is_about_untrained_networks(capsys):
  with pytest.raises(SystemExit):
    parse('--measure', 'collapse', '--methods', 'imp')
  assert 'imp, which empties no layer' in capsys.readouterr().err


@pytest.mark.optimized
@pytest.mark.slow
def test_mnist(main, tmp_path, tfds_data_dir):
  """Masks at initialization are no better than their shuffles; IMP's are."""
  del tfds_data_dir
  arguments = '--ratios 20 --methods synflow --checks shuffled reinit --output'
  code, _, errors = main(*arguments.split(), str(tmp_path))
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  accuracy = {
    (result['method'], result['check']): 100 * np.mean(result['test_accuracy'])
    for result in map(
      json.loads, (folder / 'metrics.jsonl').read_text().splitlines()
    )
  }
  real = accuracy['synflow', '']
  assert real > 95
  assert abs(real - accuracy['synflow', 'reinit']) < 0.7
  assert abs(real - accuracy['synflow', 'shuffled']) < 0.7
