"""Early-bird tickets: costs, distances, and the rule that draws them."""

import functools
import json

import jax
import numpy as np
import pytest
from tiny_experiments import TINY

import early_bird
from common import config
from lthjax import checkpoints, models
from reports import early_bird as early_bird_report

CELLS = [
  (None, 0, ''),
  (0.5, 1, ''),
  (0.5, 1, 'random'),
  (0.5, 1, 'slim'),
  (0.5, 2, ''),
]


def parse(*arguments):
  return config.parse(arguments, early_bird.PRESETS, 'help')


def results(folder):
  """What is kept of each cell."""
  return [
    checkpoints.read_metadata(folder / cell.name)
    for cell in early_bird.cells(parse(*TINY['early_bird']))
  ]


def test_there_is_a_row_per_network(unbroken):
  rows = unbroken.rows()
  names = ('sparsity', 'draw', 'arm', 'seed')
  assert [tuple(row[name] for name in names) for row in rows] == [
    (str(sparsity or 0), str(draw), arm, seed)
    for sparsity, draw, arm in CELLS
    for seed in '01'
  ]
  assert all(float(row['test_accuracy']) > 0.5 for row in rows)
  assert [row['settled'] for row in rows[:3]] == ['1', '1', '']


def test_costs(unbroken):
  """Dense until the draw, then as the ticket; or all of both."""
  dense, ticket, random, slim, last = results(unbroken.folder)
  tickets = ticket, random, last
  assert dense['cost'] == dense['forward'] == [1.0] * 2
  for ticket in tickets:
    before, after = {1: (0.5, 0.5), 2: (1, 1)}[ticket['draw']]
    for cost, forward in zip(ticket['cost'], ticket['forward'], strict=True):
      assert 0.05 < forward < 0.6
      assert cost == pytest.approx(before + after * forward)
  # Slim networks train for whole epochs, about as long as tickets cost.
  epochs = np.divide(slim['cost'], slim['forward']) * 2
  assert epochs == pytest.approx([slim['curve'][-1]['step']] * 2)
  half = 0.5 * np.mean(slim['forward'])
  assert abs(np.mean(slim['cost']) - np.mean(random['cost'])) < half / 2 + 0.02
  assert slim['forward'] == random['forward']


@pytest.mark.slow
def test_arms_have_as_many_channels_in_each_layer():
  experiment = early_bird.Experiment(parse(*TINY['early_bird']))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.random((2, *x.shape), np.float32), experiment.task.params
  )
  ticket, random, slim = (
    jax.tree.map(
      np.asarray,
      experiment.masks(early_bird.Cell(0.5, 1, 1, arm), params),
    )
    for arm in ('', 'random', 'slim')
  )

  def channels(masks):
    names = ('stem', 'layer1', 'layer2', 'layer3')
    scales = [masks[name]['scale'] for name in names]
    return np.stack([x.sum(-1) for x in scales]), np.concatenate(scales, -1)

  (counts, kept), (others, chosen) = channels(ticket), channels(random)
  np.testing.assert_array_equal(counts, others)
  assert (kept != chosen).any()
  jax.tree.map(np.testing.assert_array_equal, random, slim)


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


def test_layers_are_in_order():
  params, _ = jax.eval_shape(models.vgg_11().init, jax.random.key(0))
  names = ['1_1', '2_1', '3_1', '3_2', '4_1', '4_2', '5_1', '5_2']
  pairs = [(f'conv{name}', f'norm{name}') for name in names]
  expected = [*(layer for pair in pairs for layer in pair), 'output']
  assert early_bird.layers(params) == expected
  small = early_bird.Experiment(parse(*TINY['early_bird'])).task.params
  assert early_bird.layers(small) == [
    'stem',
    'layer1',
    'layer2',
    'layer3',
    'output',
  ]


@pytest.mark.optimized
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


@pytest.mark.slow
def test_tickets_train_on_without_their_channels(main, unbroken, tmp_path):
  """They are smaller, learn what masked ones do, and their steps are timed."""
  tiny = TINY['early_bird']
  tiny = [x for x in tiny if x not in ('--arms', 'random', 'slim')]
  code, _, errors = main(*tiny, '--smaller', '--output', str(tmp_path))
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  masked = [x for x in results(unbroken.folder)[1:] if not x['arm']]
  smaller = [
    checkpoints.read_metadata(folder / cell.name)
    for cell in early_bird.cells(parse(*tiny))[1:]
  ]
  for one, other in zip(masked, smaller, strict=True):
    assert one['forward'] == other['forward']
    np.testing.assert_allclose(other['test_loss'], one['test_loss'], rtol=2e-2)
    before, after = {1: (0.5, 0.5), 2: (1, 1)}[one['draw']]
    spent = before + after * other['step_time']
    assert other['training_time'] == pytest.approx(spent)
  page = (folder / 'results.md').read_text()
  assert 'step, time | training, time' in page
  assert 'as shares of the wall-clock time' in page.replace('\n', ' ')


def test_channels_are_removed_from_slots_and_statistics():
  from methods.smaller import without

  experiment = early_bird.Experiment(parse(*TINY['early_bird']))
  state = jax.eval_shape(experiment.trainer.init, experiment.keys)
  numbers = np.random.default_rng(0)

  def drawn(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return np.zeros(x.shape)
    if x.dtype == bool:
      return np.ones(x.shape[1:], bool)
    return numbers.uniform(0.5, 1, x.shape[1:]).astype(x.dtype)

  state = jax.tree.map(drawn, state._replace(best=None, step=state.diverged))
  channels = early_bird.channels_of(0.5, state.params)
  small = without(state, channels, early_bird.layers(state.params))
  slots = small.opt_state
  kept = {
    n: int(x['scale'].sum()) for n, x in channels.items() if n != 'output'
  }
  assert sum(kept.values()) == 64
  for name, count in kept.items():
    assert small.params[name]['kernel'].shape[1] == count
    assert small.model_state[name]['var'].shape == (count,)
  shapes = [x.shape for x in jax.tree.leaves(small.params)]
  moments = [x.shape for x in jax.tree.leaves(slots) if x.ndim]
  assert moments == shapes
  scales = np.asarray(channels['stem']['scale'])
  for whole, cut in [
    (state.params['stem']['scale'], small.params['stem']['scale']),
    (state.model_state['stem']['mean'], small.model_state['stem']['mean']),
  ]:
    np.testing.assert_array_equal(cut, whole[scales])
