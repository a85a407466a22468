"""Pruning at initialization: what methods and controls keep."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_experiments import TINY

import lthjax as lth
import pruning_at_init
from common import config
from lthjax import checkpoints

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
  """All networks of the run, by the name of their cell."""
  start = jax.eval_shape(experiment.trainer.init, experiment.keys)
  like = {
    'params': start.params,
    'masks': jax.eval_shape(lth.get_masks, start.opt_state),
    'model_state': start.model_state,
  }
  return {
    name: checkpoints.load(unbroken.folder / 'networks' / name, like)
    for name in CELLS
  }


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


def test_what_each_control_keeps(networks):
  for method in ('snip', 'imp'):
    masks = first(networks[f'{method}-16']['masks'])
    alive = lth.masks.alive_by_name(masks)
    shuffled = first(networks[f'{method}-16-shuffled']['masks'])
    assert lth.masks.alive_by_name(shuffled) == alive
    assert lth.masks.hamming(shuffled, masks) > 0
    by_input = first(networks[f'{method}-16-shuffled_input']['masks'])
    assert lth.masks.alive_by_name(by_input) == alive
    a, b = (np.asarray(m['fc1']['kernel']) for m in (masks, by_input))
    assert (a.sum(1) == b.sum(1)).all()
    assert lth.masks.hamming(by_input, masks) > 0
    reinit = networks[f'{method}-16-reinit']
    assert lth.masks.hamming(first(reinit['masks']), masks) == 0


def test_inverted_masks_share_nothing_with_those_of_snip(networks):
  masks, inverted = (
    first(networks[f'snip-4{check}']['masks']) for check in ('', '-inverted')
  )
  assert lth.masks.count(lth.masks.intersect(masks, inverted)) == 0


def test_imp_prunes_the_smallest_weights_of_the_round_before(networks):
  before, after = networks['imp-4'], networks['imp-16']
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


@pytest.mark.optimized
@pytest.mark.slow
def test_mnist(main, tmp_path, tfds_data_dir):
  """Masks at initialization are no better than their shuffles; IMP's are."""
  del tfds_data_dir
  arguments = ['--ratios', '20', '--methods', 'synflow', '--output']
  code, _, errors = main(*arguments, str(tmp_path))
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
