"""Linear mode connectivity: masks, barriers and summaries."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linear_mode_connectivity
from common import config
from lthjax import checkpoints, data
from lthjax.models import Model
from methods.connectivity import Line, TextLine
from reports import linear_mode_connectivity as connectivity_report

COPIES = [
  f'{network}-{k}-{copy:02d}'
  for k in (0, 10)
  for network in ('dense', 'ticket', 'shuffled', 'reinit')
  for copy in (0, 1)
]
CELLS = [
  'imp-0-00',
  *('imp-0-01', 'imp-0-02', *COPIES[:8]),
  *('imp-10-01', 'imp-10-02', *COPIES[8:]),
]


def parse(*arguments):
  return config.parse(arguments, linear_mode_connectivity.PRESETS, 'help')


@pytest.fixture(scope='module')
def networks(unbroken):
  """Params and masks of all trainings, by the name of the cell."""
  shapes = {'fc1': (64, 300), 'fc2': (300, 100), 'output': (100, 10)}

  def zeros(*shape, dtype=np.float32):
    return np.zeros((2, *shape), dtype)

  like = {
    'params': {
      name: {'kernel': zeros(*shape), 'bias': zeros(shape[1])}
      for name, shape in shapes.items()
    },
    'masks': {
      name: {'kernel': zeros(*shape, dtype=bool), 'bias': None}
      for name, shape in shapes.items()
    },
    'model_state': {},
  }
  return {
    name: checkpoints.load(unbroken.folder / 'networks' / name, like)
    for name in CELLS
  }


def results(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return dict(zip(CELLS, map(json.loads, lines), strict=True))


def kernels(tree):
  return [np.asarray(tree[name]['kernel']) for name in ('fc1', 'fc2', 'output')]


def test_there_is_a_row_per_training_and_seed(unbroken):
  rows = unbroken.rows()
  names = [
    f'{row["network"]}-{row["rewind_step"]}-{int(row["number"]):02d}'
    for row in rows
  ]
  assert names == [name for name in CELLS for _ in range(2)]
  assert [row['seed'] for row in rows] == ['0', '1'] * len(CELLS)
  for name, row in zip(names, rows, strict=True):
    second = name in COPIES and name.endswith('01')
    assert row['other'] == ('0' if second else '')
    assert (row['test_barrier'] != '') == (row['cosine'] != '') == second


def test_what_is_trained_under_which_mask(networks):
  # Of 19,200, 30,000 and 1,000 weights a fifth, or a tenth, twice.
  alive = [12_288, 19_200, 810]
  for k in (0, 10):
    masks = kernels(networks[f'imp-{k}-02']['masks'])
    assert [m.sum((1, 2)).tolist() for m in masks] == [[n, n] for n in alive]
    before = networks[f'imp-{k}-01' if k else 'imp-0-01']
    for m, b in zip(masks, kernels(before['masks']), strict=True):
      assert not (m & ~b).any()
    for copy in ('00', '01'):
      found = {
        name: kernels(networks[f'{name}-{k}-{copy}']['masks'])
        for name in ('dense', 'ticket', 'shuffled', 'reinit')
      }
      assert all(m.all() for m in found['dense'])
      for name in ('ticket', 'reinit'):
        assert all(map(np.array_equal, found[name], masks))
      for m, s in zip(masks, found['shuffled'], strict=True):
        assert (m.sum((1, 2)) == s.sum((1, 2))).all()
        assert (m != s).any((1, 2)).all()
    first, second = (
      kernels(networks[f'shuffled-{k}-{copy}']['masks'])
      for copy in ('00', '01')
    )
    assert all(map(np.array_equal, first, second))


def test_level_0_is_one_run_for_all_and_is_pruned_as_told(networks):
  """Rewinding does not change what the dense network had learned."""
  trained = kernels(networks['imp-0-00']['params'])
  for k in (0, 10):
    for w, m in zip(
      trained, kernels(networks[f'imp-{k}-01']['masks']), strict=True
    ):
      for seed in (0, 1):
        size, alive = np.abs(w[seed]), m[seed]
        assert size[alive].min() >= size[~alive].max()


def test_barriers_are_those_of_the_copies(unbroken, networks):
  """By another forward pass, in NumPy and double precision."""
  dataset = data.load('digits')

  def error(params, split):
    x = np.asarray(split.images, np.float64) / 255
    x = (x - np.float64(dataset.mean)) / np.float64(dataset.std)
    x = x.reshape(len(x), -1)
    for name in ('fc1', 'fc2', 'output'):
      x = x @ params[name]['kernel'] + params[name]['bias']
      x = x if name == 'output' else np.maximum(x, 0)
    return np.mean(x.argmax(1) != np.asarray(split.labels))

  found = results(unbroken.folder)
  for name in ('dense-0', 'shuffled-10'):
    (pair,) = found[f'{name}-01']['pairs']
    a, b = (
      {
        layer: {k: np.float64(v[1]) for k, v in leaves.items()}
        for layer, leaves in networks[f'{name}-{copy}']['params'].items()
      }
      for copy in ('00', '01')
    )
    middle = {
      layer: {k: (v + b[layer][k]) / 2 for k, v in leaves.items()}
      for layer, leaves in a.items()
    }
    for split in ('test', 'train'):
      examples = getattr(dataset, split)
      errors = [error(x, examples) for x in (a, middle, b)]
      slack = 2 / len(examples.labels)  # Two close decisions may round apart.
      assert pair[f'{split}_errors'][1] == pytest.approx(errors, abs=slack)
      first, _, last = errors = pair[f'{split}_errors'][1]
      barrier = max(errors) - (first + last) / 2
      assert pair[f'{split}_barrier'][1] == pytest.approx(barrier, abs=1e-6)
    squares = [
      np.sum((a[layer][k] - b[layer][k]) ** 2) for layer in a for k in a[layer]
    ]
    assert pair['distance'][1] == pytest.approx(np.sqrt(sum(squares)), rel=1e-4)
    assert pair['disagreement'][1] > 0


def test_batch_statistics_are_those_of_the_examples():
  """A model that subtracts the running mean of its inputs."""

  def apply(params, state, x, *, train=False):
    x = x.reshape(len(x), -1) @ params['w']
    mean = x.mean(0) if train else state['mean']
    new = {'mean': 0.9 * state['mean'] + 0.1 * mean} if train else state
    return x - mean, new

  images = jnp.arange(12, dtype=jnp.uint8).reshape(6, 1, 2, 1)
  split = data.Split(images, jnp.zeros(6, int))
  task = types.SimpleNamespace(
    model=Model(lambda key: None, apply),
    model_state={'mean': jnp.zeros(2)},
    dataset=data.Dataset(split, split, split, jnp.zeros(1), jnp.ones(1)),
  )
  line = Line(task, points=3, train_examples=6, batch_size=3, augment=False)
  params = {'w': jnp.array([[1.0, 0.0], [0.0, -1.0]])}
  classes = line.classes(split, params)
  # Pixels 2i and 2i + 1 have means 5 and 6: class 0 where 2i - 5 > 5 - 2i.
  assert classes.tolist() == [1, 1, 1, 0, 0, 0]
  assert line.error(split, params) == 0.5


def test_errors_of_decoders_are_shares_of_wrong_guesses():
  """A decoder that always says what its params say."""
  tokens = {
    'test': jnp.array([[0, 1, 2], [2, 2, 2]]),
    'train': jnp.array([[1, 1, 1], [1, 1, 0]]),
  }

  def apply(params, x):
    return jnp.broadcast_to(params['w'], (*x.shape, 3))

  task = types.SimpleNamespace(
    model=types.SimpleNamespace(apply=apply), sequences=tokens.__getitem__
  )
  line = TextLine(task, points=5)
  one, two = ({'w': jnp.eye(3)[i]} for i in (1, 2))
  # Next tokens to test on: 1 2, 2 2; to train on: 1 1, 1 0.
  assert line.error(line.test, one) == 0.75
  assert line.error(line.test, two) == 0.25
  assert line.error(line.train, one) == 0.25
  a, b = (jax.tree.map(lambda x: x[None], params) for params in (one, two))
  found = line.between(a, b)
  assert found['disagreement'] == [1.0]
  # In the middle both are as likely, and the first wins.
  np.testing.assert_allclose(found['test_errors'], [[0.75] * 3 + [0.25] * 2])
  np.testing.assert_allclose(found['train_errors'], [[0.25] * 3 + [1.0] * 2])
  assert found['distance'] == [pytest.approx(2**0.5)]


def test_summaries_by_hand():
  def result(network, number, accuracy, pairs=()):
    return {
      'network': network,
      'rewind_step': 5,
      'number': number,
      'density': 1,
      'test_accuracy': accuracy,
      'pairs': pairs,
    }

  pair = {name: [0.01, 0.03] for name in connectivity_report.MEASURES}
  pair |= {'test_errors': [[0.1, 0.2]] * 2, 'train_errors': [[0.0, 0.0]] * 2}
  dense, ticket = connectivity_report.summarize(
    [
      result('imp', 0, [0.1, 0.1]),
      result('dense', 0, [0.8, 0.9]),
      result('dense', 1, [0.9, 0.9], [pair]),
      result('ticket', 0, [0.9, 0.7]),
      result('ticket', 1, [0.9, 0.8], [pair]),
    ]
  )
  assert dense.accuracy == pytest.approx([85, 90])
  assert dense.gain == pytest.approx([0, 0])
  assert ticket.gain == pytest.approx([5, -15])
  assert ticket.measures['test_barrier'] == pytest.approx(np.array([[1, 3]]))
  assert ticket.measures['distance'] == pytest.approx(np.array([[0.01, 0.03]]))
  line = connectivity_report.line(ticket)
  assert line[:5] == [
    *('winning ticket', '5', '82.50 ± 10.61', '-5.00 ± 14.14', '2.00 ± 1.41'),
  ]


@pytest.mark.optimized
@pytest.mark.slow
def test_mnist(main, tmp_path, tfds_data_dir):
  """LeNet and its ticket are stable from the start (mean of 2 seeds)."""
  del tfds_data_dir
  code, _, errors = main(
    *('--preset', 'mnist', '--rewind-steps', '0', '--networks', 'ticket'),
    *('--seeds', '2', '--output', str(tmp_path)),
  )
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  dense, ticket = connectivity_report.summarize([*map(json.loads, lines)])
  assert ticket.density == pytest.approx(3.58, abs=0.01)
  for found in (dense, ticket):
    for split in ('test', 'train'):
      assert found.measures[f'{split}_barrier'].mean() < 1
  assert ticket.gain.mean() > 0
