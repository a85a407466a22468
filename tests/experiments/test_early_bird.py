"""The early-bird experiment as people run it: started, and resumed."""

import csv
import dataclasses
import functools
import json
import re
import shutil

import jax
import numpy as np
import pytest

import early_bird
from common import running
from lthjax import checkpoints, models
from reports import early_bird as early_bird_report

TINY = [
  *('--epochs', '2', '--draws', '1', '--sparsities', '0.5'),
  *('--seeds', '2', '--window', '2', '--threshold', '0.9'),
]
CELLS = [(None, 0), (0.5, 1), (0.5, 2)]


def parse(*arguments):
  return running.parse(arguments, early_bird.PRESETS, 'help')


def results(folder):
  """What is kept of each cell."""
  return [
    checkpoints.read_metadata(folder / 'networks' / cell.name)
    for cell in early_bird.cells(parse(*TINY))
  ]


def test_summary_has_a_row_a_network(unbroken):
  with (unbroken.folder / 'summary.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  found = [(row['sparsity'], row['draw'], row['seed']) for row in rows]
  assert found == [
    (str(sparsity or 0), str(draw), seed)
    for sparsity, draw in CELLS
    for seed in '01'
  ]
  assert all(float(row['test_accuracy']) > 0.5 for row in rows)
  assert [row['settled'] for row in rows[:3]] == ['1', '1', '']


def test_costs(unbroken):
  """Dense until the draw, then as the ticket; or all of both."""
  dense, *tickets = results(unbroken.folder)
  assert dense['cost'] == dense['forward'] == [1.0] * 2
  for ticket in tickets:
    before, after = {1: (0.5, 0.5), 2: (1, 1)}[ticket['draw']]
    for cost, forward in zip(ticket['cost'], ticket['forward'], strict=True):
      assert 0.05 < forward < 0.6
      assert cost == pytest.approx(before + after * forward)


def test_distances_and_when_they_settle(unbroken):
  (dense, *_) = results(unbroken.folder)
  apart = np.array(dense['distances']['0.5'])
  assert apart.shape == (2, 3, 3)
  np.testing.assert_array_equal(apart, apart.transpose(0, 2, 1))
  np.testing.assert_array_equal(np.diagonal(apart, 0, 1, 2), 0)
  # All scales are one at first, and all channels kept are in early layers.
  assert apart[:, 0, 1:].min() > apart[:, 1, 2].max()
  assert dense['settled'] == {'0.5': [1, 1]}


def test_settled_as_numpy_has_it():
  """The first epoch whose mask agrees with the four before."""
  moved = np.cumsum([9] * 8 + [4] * 4 + [2] * 8)
  masks = np.arange(200) < moved[None, :, None]
  (apart,) = early_bird_report.distances(masks)
  expected = next(e for e in range(4, 20) if moved[e] - moved[e - 4] <= 20)
  find = functools.partial(early_bird_report.settled, window=5, threshold=0.1)
  assert find(apart) == expected == 11
  assert find(apart[:expected, :expected]) is None


def test_tickets_of_the_rule():
  """Each seed has the first ticket drawn once its masks had settled."""
  dense = {'settled': {'0.5': [3, 4]}}
  names = ('test_accuracy', 'forward', 'cost')
  tickets = [
    {'sparsity': 0.5, 'draw': n, **{name: [n, 10 * n] for name in names}}
    for n in (2, 4, 6)
  ]
  ruled = early_bird_report.by_rule(dense, tickets)
  assert ruled == {name: [4, 40] for name in names}
  dense['settled']['0.5'] = [2, 5]
  assert early_bird_report.by_rule(dense, tickets)['cost'] == [2, 60]
  dense['settled']['0.5'] = [2, None]
  assert early_bird_report.by_rule(dense, tickets) is None


def test_pages_and_pictures(unbroken):
  page = (unbroken.folder / 'results.md').read_text()
  assert '| command | `python experiments/early_bird.py --epochs 2' in page
  assert '\n| 50 % | rule: 1, 1 | ' in page
  png = (unbroken.folder / 'early_bird.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert '</svg>' in (unbroken.folder / 'early_bird.svg').read_text()
  lines = (unbroken.folder / 'metrics.jsonl').read_text().splitlines()
  curves = [json.loads(line)['curve'] for line in lines]
  assert [[x['step'] for x in curve] for curve in curves] == [
    *([1, 2], [1], [1, 2])
  ]


@pytest.mark.usefixtures('compiled')
def test_unfinished_run_ends_with_the_same_bits(main, unbroken, tmp_path):
  folder = shutil.copytree(unbroken.folder, tmp_path / unbroken.folder.name)
  for name in ('networks/0.5-001', 'networks/dense', 'drawn/002'):
    shutil.rmtree(folder / name)
  code, printed, errors = main(*TINY, '--output', str(tmp_path))
  assert code == 0, errors
  assert '1 of 3 trainings are there already; going on' in printed
  for name in ('summary.csv', 'metrics.jsonl', 'config.json'):
    assert (folder / name).read_bytes() == (unbroken.folder / name).read_bytes()


@pytest.mark.usefixtures('no_training')
def test_finished_run_is_only_shown_again(unbroken, main):
  code, printed, errors = main(*TINY, '--output', str(unbroken.folder.parent))
  assert code == 0, errors
  assert '3 of 3 trainings are there already.' in printed


def test_layers_are_in_order():
  params, _ = jax.eval_shape(models.vgg_11().init, jax.random.key(0))
  names = ['1_1', '2_1', '3_1', '3_2', '4_1', '4_2', '5_1', '5_2']
  pairs = [(f'conv{name}', f'norm{name}') for name in names]
  expected = [*(layer for pair in pairs for layer in pair), 'output']
  assert early_bird.layers(params) == expected
  small = early_bird.Experiment(parse(*TINY)).task.params
  assert early_bird.layers(small) == [
    'stem',
    'layer1',
    'layer2',
    'layer3',
    'output',
  ]


def test_help(main):
  code, printed, _ = main('--help')
  assert code == 0
  assert 'python experiments/early_bird.py' in printed
  for name in early_bird.PRESETS:
    assert f'\n  {name} ' in printed


@pytest.mark.parametrize('name', early_bird.PRESETS)
def test_presets(name):
  preset = early_bird.PRESETS[name]
  assert parse('--preset', name) == preset
  cells = early_bird.cells(preset)
  assert len({cell.name for cell in cells}) == len(cells)
  assert len(cells) == 1 + 3 * (len(preset.draws) + 1)
  other = parse('--preset', name, '--seeds', '7')
  assert other == dataclasses.replace(preset, seeds=7)


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    ('--sparsities 1.0', 'sparsities had 1.0, but must be between 0 and 1'),
    ('--draws 2', 'draws had 2, but must be between 0 and the number of'),
    ('--draws 2 1', 'draws were 2 1, but must be in order.'),
    ('--window 1', '`window` was 1, but must be at least 2'),
    ('--epochs 0', 'epochs was 0, but must be at least 1'),
    ('--validation 0', 'validation was 0, but must be at least 1'),
    ('--model conv_2', "invalid choice 'conv_2' for argument '--model'"),
  ],
)
def test_bad_command_line(arguments, text, main, tmp_path):
  code, printed, errors = main(
    *TINY, *arguments.split(), '--output', str(tmp_path)
  )
  assert (code, printed) == (2, '')
  assert text in re.sub(r'[│╭╮╰╯─\s]+', ' ', errors)
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('no_training')
@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    ('--sparsities 0.99', '--sparsities 0.99: This sparsity leaves 1 weights'),
    ('--batch-size 5000', 'batch_size was 5000, but there are 1257 training'),
    ('--patch 3', 'cannot be cut into patches of 3 x 3'),
  ],
)
def test_bad_values_before_anything_is_done(arguments, text, main, tmp_path):
  code, _, errors = main(*TINY, *arguments.split(), '--output', str(tmp_path))
  assert code == 1
  assert errors.startswith('error: ')
  assert text in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_digits(main, tmp_path):
  code, _, errors = main('--sparsities', '0.5', '--output', str(tmp_path))
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  dense, *tickets = [
    json.loads(line)
    for line in (folder / 'metrics.jsonl').read_text().splitlines()
  ]
  ruled = early_bird_report.by_rule(dense, tickets)
  whole, found = (np.mean(x['test_accuracy']) for x in (dense, ruled))
  assert found >= whole - 0.03
  assert max(ruled['cost']) < 0.6
