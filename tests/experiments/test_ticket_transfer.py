"""Tickets for other data: where they start, and the data."""

import csv

import jax
import numpy as np
import pytest
from helpers import bits
from tiny_experiments import TINY

import lthjax as lth
import ticket_transfer
from common import config
from common import images as made
from lthjax import data
from reports import ticket_transfer as transfer_report
from ticket_transfer import Cell

NAMES = ['digits', 'digits_permuted']
CELLS = [
  *(f'networks/imp-{name}-{level}' for name in NAMES for level in ('00', '01')),
  *(
    f'networks/{kind}-{source}-{target}'
    for target in NAMES
    for kind, source in [
      ('random', target),
      *(('masks', name) for name in NAMES),
      *(('weights', name) for name in NAMES),
    ]
  ),
]


def parse(*arguments):
  return config.parse(arguments, ticket_transfer.PRESETS, 'help')


class Untrained(ticket_transfer.Experiment):
  """The experiment, with networks that stay as they start."""

  def fit(self, name, state, report=None, *, until=None):
    return state


@pytest.fixture(scope='module')
def untrained():
  return Untrained(parse(*TINY['ticket_transfer']))


def test_there_is_a_row_per_network(unbroken):
  rows = unbroken.rows()
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_layers_that_are_not_transferred(untrained, monkeypatch):
  config = parse(*TINY['ticket_transfer'], '--fresh', 'output/*')
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
  assert (made.transpose(images)[1, 0, 2] == images[1, 2, 0]).all()
  permuted = made.permute(images)
  assert (permuted[1] - permuted[0] == 9).all()  # The same places in each.
  assert (permuted != images).any()
  assert (np.sort(permuted, axis=None) == np.sort(images, axis=None)).all()
  colors = np.zeros((1, 32, 32, 3), np.uint8)
  colors[0, 2, 2], colors[0, 29, 29], colors[0, 1, 1] = 200, (1, 0, 0), 255
  grey = made.grey_28(colors)
  assert grey.shape == (1, 28, 28, 1)
  assert grey.dtype == np.uint8
  assert grey[0, 0, 0, 0] == grey.sum() == 200


def test_derived_data_sets():
  before, after = map(made.load, NAMES)
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
    ['none: dense', '', '95.00 ± 7.07', '95.00 ± 7.07'],
    ['random', '', '60.00 ± 14.14', '60.00 ± 14.14'],
    ['of a', 'masks', '80.00 ± 14.14', '70.00 ± 0.00'],
  ]
  assert 'tickets have 25.00 % of' in transfer_report.caption(results)


@pytest.mark.optimized
@pytest.mark.slow
def test_digits(main, tmp_path):
  """A ticket with its weights wins, and on its own pixels only."""
  code, _, errors = main('--output', str(tmp_path))
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  accuracy = {}
  with (folder / 'results.csv').open(newline='') as file:
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
