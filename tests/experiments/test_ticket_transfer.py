"""Tickets for other data, as people run the experiment."""

import csv
import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest

import lthjax as lth
import ticket_transfer
from common import running
from lthjax import data
from methods import transfer as transfer_data
from reports import ticket_transfer as transfer_report
from ticket_transfer import Cell

TINY = [
  *('--datasets', 'digits', 'digits_permuted', '--steps', '20'),
  *('--seeds', '2', '--levels', '2', '--eval-every', '20'),
]
NAMES = ['digits', 'digits_permuted']
CELLS = [
  *(f'imp-{name}-{level}' for name in NAMES for level in ('00', '01')),
  *(
    f'{kind}-{source}-{target}'
    for target in NAMES
    for kind, source in [
      ('random', target),
      *(('masks', name) for name in NAMES),
      *(('weights', name) for name in NAMES),
    ]
  ),
]


def parse(*arguments):
  return running.parse(arguments, ticket_transfer.PRESETS, 'help')


class Untrained(ticket_transfer.Experiment):
  """The experiment, with networks that stay as they start."""

  def train(self, name, state, report=None, *, until=None):
    return state


@pytest.fixture(scope='module')
def untrained():
  return Untrained(parse(*TINY))


def bits(tree):
  return jax.tree.map(lambda x: np.asarray(x).tobytes(), tree)


def test_summary_has_a_row_a_network(unbroken):
  with (unbroken.folder / 'summary.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  names = [
    Cell(row['kind'], row['source'], row['target'], int(row['level']), 0).name
    for row in rows
  ]
  assert names == [name for name in CELLS for _ in range(2)]
  # Of 19,200, 30,000 and 1,000 weights, 15,360, 24,000 and 900 are left.
  for row in rows:
    density = 40_260 / 50_200 if row['level'] == '1' else 1
    assert float(row['density']) == pytest.approx(density, rel=1e-6)
    assert 0.2 < float(row['test_accuracy']) <= 1


@pytest.mark.usefixtures('compiled')
def test_where_tickets_start(untrained):
  """With the weights of the source, or those drawn for the target."""
  source, target = NAMES
  init = untrained.loops[target].trainer.init
  own, new = init(untrained.keys).params, init(untrained.new_keys).params
  masks = jax.vmap(lth.masks.full)(own)
  masks['fc1']['kernel'] = own['fc1']['kernel'] > 0
  for kind, params in [('weights', own), ('masks', new), ('random', new)]:
    state = untrained.ticket(Cell(kind, source, target, 1, 20), masks, None)
    found = lth.get_masks(state.opt_state)
    assert bits(state.params) == bits(lth.masks.apply(found, params))
    if kind != 'random':
      assert bits(found) == bits(masks)
      continue
    for seed in (0, 1):
      one, other = (
        jax.tree.map(lambda x, i=seed: x[i], tree) for tree in (masks, found)
      )
      alive = lth.masks.alive_by_name(one)
      assert lth.masks.alive_by_name(other) == alive
      assert lth.masks.hamming(other, one) > 0.1


def test_layers_that_are_not_transferred(untrained, monkeypatch):
  config = parse(*TINY, '--fresh', 'output/*')
  monkeypatch.setattr(untrained, 'config', config)
  source, target = NAMES
  start = untrained.start(source)
  masks = jax.tree.map(np.zeros_like, lth.get_masks(start.opt_state))
  cell = Cell('weights', source, target, 1, 20)
  state = untrained.ticket(cell, masks, None)
  new = untrained.start(target, new=True)
  assert bits(state.params['output']) == bits(new.params['output'])
  found = lth.get_masks(state.opt_state)
  assert found['output']['kernel'].all()
  assert not found['fc1']['kernel'].any()


def test_derived_images():
  images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1)
  assert (transfer_data.transpose(images)[1, 0, 2] == images[1, 2, 0]).all()
  permuted = transfer_data.permute(images)
  assert (permuted[1] - permuted[0] == 9).all()  # The same places in each.
  assert (permuted != images).any()
  assert (np.sort(permuted, axis=None) == np.sort(images, axis=None)).all()
  colors = np.zeros((1, 32, 32, 3), np.uint8)
  colors[0, 2, 2], colors[0, 29, 29], colors[0, 1, 1] = 200, (1, 0, 0), 255
  grey = transfer_data.grey_28(colors)
  assert grey.shape == (1, 28, 28, 1)
  assert grey.dtype == np.uint8
  assert grey[0, 0, 0, 0] == grey.sum() == 200


def test_derived_data_sets():
  before, after = map(transfer_data.load, NAMES)
  assert isinstance(after, data.Dataset)
  assert (before.train.labels == after.train.labels).all()
  assert (before.test.images != after.test.images).any()
  for name in ('mean', 'std'):
    found, expected = (np.asarray(getattr(x, name)) for x in (after, before))
    assert found == pytest.approx(expected, abs=1e-6)


def test_table_and_picture_by_hand():
  def result(kind, source, target, *accuracy):
    return {
      'kind': kind,
      'source': source,
      'target': target,
      'level': 0,
      'density': 0.25,
      'test_accuracy': accuracy,
    }

  results = [
    *(result('imp', name, name, 0.9, 1.0) for name in 'ab'),
    *(result('random', name, name, 0.5, 0.7) for name in 'ab'),
    *(
      result(kind, source, target, 0.7, 0.7 + 0.2 * (source == target))
      for kind in ('masks', 'weights')
      for source in 'ab'
      for target in 'ab'
    ),
  ]
  for kind in ('masks', 'weights'):
    above = transfer_report.above_random(results, kind)
    assert above == pytest.approx(np.array([[20, 10], [10, 20]]))
  assert transfer_report.lines(results)[:3] == [
    ['none: dense', '', '95.00 ± 5.00', '95.00 ± 5.00'],
    ['random', '', '60.00 ± 10.00', '60.00 ± 10.00'],
    ['of a', 'masks', '80.00 ± 10.00', '70.00 ± 0.00'],
  ]
  assert 'tickets have 25.00 % of' in transfer_report.caption(results)


def test_pages_and_pictures(unbroken):
  page = (unbroken.folder / 'results.md').read_text()
  command = '`python experiments/ticket_transfer.py --datasets digits'
  assert f'| command | {command}' in page
  assert page.count('\n| of digits | ') == 2
  assert '](transfer.png)' in page
  png = (unbroken.folder / 'transfer.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert '</svg>' in (unbroken.folder / 'transfer.svg').read_text()


@pytest.mark.slow
@pytest.mark.usefixtures('compiled')
def test_unfinished_run_ends_with_the_same_bits(main, unbroken, tmp_path):
  folder = shutil.copytree(unbroken.folder, tmp_path / unbroken.folder.name)
  for name in CELLS[-2:]:
    shutil.rmtree(folder / 'networks' / name)
  code, printed, errors = main(*TINY, '--output', str(tmp_path))
  assert code == 0, errors
  assert '12 of 14 trainings are there already; going on' in printed
  for name in ('summary.csv', 'metrics.jsonl', 'config.json'):
    assert (folder / name).read_bytes() == (unbroken.folder / name).read_bytes()


@pytest.mark.usefixtures('no_training')
def test_finished_run_is_only_shown_again(unbroken, main):
  code, printed, errors = main(*TINY, '--output', str(unbroken.folder.parent))
  assert code == 0, errors
  assert '14 of 14 trainings are there already.' in printed


def test_help(main):
  code, printed, _ = main('--help')
  assert code == 0
  assert 'python experiments/ticket_transfer.py' in printed
  for name in ticket_transfer.PRESETS:
    assert f'\n  {name} ' in printed


@pytest.mark.parametrize('name', ticket_transfer.PRESETS)
def test_presets(name):
  config = parse('--preset', name)
  assert config == ticket_transfer.PRESETS[name]
  cells = ticket_transfer.cells(config)
  assert len({cell.name for cell in cells}) == len(cells) == 3 * 16 + 3 * 7
  other = parse('--preset', name, '--seeds', '7')
  assert other == dataclasses.replace(config, seeds=7)


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    ('--levels 1', 'levels was 1, but must be at least 2'),
    ('--validation 0', 'validation was 0, but must be at least 1'),
    ('--steps 0', 'steps was 0, but must be at least 1'),
    (
      '--datasets digits digits',
      'datasets were digits digits, but must be one',
    ),
    ('--rewind-step 20', 'rewind_step was 20, but must be from 0 to 19'),
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
    (
      ['--fresh', 'head/*'],
      '`fresh` has patterns that match no leaf: ',
    ),
    (['--fraction', '*', '1.0'], '`fraction` was 1.0, but must be in [0, 1)'),
    (
      ['--datasets', 'digits', 'wide'],
      'The images have several shapes, (8, 8, 1) in digits, (8, 16, 1) in wide,'
      ' but a ticket fits networks of one shape. Choose',
    ),
  ],
)
def test_bad_values_before_anything_is_done(
  arguments, text, main, tmp_path, monkeypatch
):
  wide = ('digits', lambda images: images.repeat(2, axis=2))
  monkeypatch.setitem(transfer_data.DERIVED, 'wide', wide)
  code, _, errors = main(*TINY, *arguments, '--output', str(tmp_path))
  assert code == 1
  assert errors.startswith('error: ')
  assert text in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_digits(main, tmp_path):
  """A ticket with its weights wins, and on its own pixels only."""
  code, _, errors = main('--output', str(tmp_path))
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  accuracy = {}
  with (folder / 'summary.csv').open(newline='') as file:
    for row in csv.DictReader(file):
      key = row['kind'], row['source'], row['target']
      accuracy.setdefault(key, []).append(100 * float(row['test_accuracy']))
  accuracy = {key: np.mean(seeds) for key, seeds in accuracy.items()}
  for target in ('digits', 'digits_transposed', 'digits_permuted'):
    ticket = accuracy['weights', target, target]
    assert ticket - accuracy['random', target, target] >= 4
    assert ticket - accuracy['masks', target, target] >= 1
  stranger = accuracy['weights', 'digits', 'digits_permuted']
  assert (
    accuracy['weights', 'digits_permuted', 'digits_permuted'] > stranger + 4
  )
