"""Pruning at initialization and its controls, as people run them."""

import csv
import dataclasses
import json
import re
import time

import jax
import numpy as np
import pytest

import lthjax as lth
import pruning_at_init
from common import running
from lthjax import checkpoints
from pruning_at_init import Cell

TINY = [
  *('--dataset', 'digits', '--steps', '20', '--seeds', '2'),
  *('--methods', 'random', 'snip', 'imp', '--ratios', '4', '16'),
  *('--checks', 'shuffled', 'shuffled_input', 'reinit', 'inverted'),
  *('--eval-every', '20', '--score-batches', '2', '--score-steps', '5'),
  *('--imp-fraction', '0.75'),
]
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
  return running.parse(arguments, pruning_at_init.PRESETS, 'help')


@pytest.fixture(scope='module')
def experiment():
  return pruning_at_init.Experiment(parse(*TINY))


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


def test_summary_has_a_row_a_network(unbroken):
  with (unbroken.folder / 'summary.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
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
    parse(*TINY),
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


def test_pages_and_pictures(unbroken):
  page = (unbroken.folder / 'results.md').read_text()
  command = '`python experiments/pruning_at_init.py --dataset digits'
  assert f'| command | {command}' in page
  assert page.count('\n| SNIP | ') == 2
  png = (unbroken.folder / 'accuracy.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  lines = (unbroken.folder / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == len(CELLS)
  assert [x['step'] for x in json.loads(lines[0])['curve']] == [20]


@pytest.mark.slow
@pytest.mark.usefixtures('compiled')
def test_killed_run_ends_with_the_same_bits(start, main, unbroken, tmp_path):
  process = start('pruning_at_init', *TINY, '--output', str(tmp_path))
  folder = tmp_path / unbroken.folder.name
  while process.poll() is None and not (folder / 'networks/snip-4').exists():
    time.sleep(0.02)
  process.kill()
  process.communicate()
  assert not (folder / 'networks/imp-16').exists()
  code, printed, errors = main(*TINY, '--output', str(tmp_path))
  assert code == 0, errors
  assert 'are there already; going on with the others' in printed
  for name in ('summary.csv', 'metrics.jsonl', 'config.json'):
    assert (folder / name).read_bytes() == (unbroken.folder / name).read_bytes()


@pytest.mark.usefixtures('no_training')
def test_finished_run_is_only_shown_again(unbroken, main):
  code, printed, errors = main(*TINY, '--output', str(unbroken.folder.parent))
  assert code == 0, errors
  assert f'{len(CELLS)} of {len(CELLS)} trainings are there' in printed


def test_help(main):
  code, printed, _ = main('--help')
  assert code == 0
  for name in pruning_at_init.PRESETS:
    assert re.search(rf'\n  ([a-z0-9_]+, )*{name}\b', printed)


@pytest.mark.parametrize('name', pruning_at_init.PRESETS)
def test_presets(name):
  config = parse('--preset', name)
  assert config == pruning_at_init.PRESETS[name]
  cells = pruning_at_init.cells(config)
  assert cells[0] == Cell('dense', 1.0, '', config.steps)
  assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    ('--ratios 1', 'ratios were 1.0, but must be above 1'),
    ('--checks reinit reinit', 'checks were reinit reinit, but must be none'),
    ('--validation 0', 'validation was 0, but must be at least 1'),
    ('--ratios 10 10', 'ratios were 10.0 10.0, but must be one or more'),
    ('--imp-fraction 1', 'imp_fraction was 1.0, but must be in (0, 1)'),
    ('--score-batches 0', 'score_batches was 0, but must be at least 1'),
    ('--methods rigl', "invalid choice 'rigl' for argument '--methods'"),
  ],
)
def test_bad_command_line(arguments, text, main, tmp_path):
  code, printed, errors = main(*arguments.split(), '--output', str(tmp_path))
  assert (code, printed) == (2, '')
  assert text in re.sub(r'[│╭╮╰╯─\s]+', ' ', errors)
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('no_training')
def test_too_high_a_ratio_before_anything_is_done(main, tmp_path):
  code, _, errors = main(*TINY, '--ratios', '30000', '--output', str(tmp_path))
  assert code == 1
  assert errors.startswith('error: --ratios 30000: This sparsity leaves 2 ')
  assert 'weights for 3 layers (fc1/kernel,' in errors
  assert not list(tmp_path.iterdir())


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
