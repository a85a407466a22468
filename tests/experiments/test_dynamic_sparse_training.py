"""Sparse training as people compare it: started, killed, and started again."""

import csv
import dataclasses
import json
import re
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynamic_sparse_training
import lthjax as lth
from common import running
from dynamic_sparse_training import Cell
from lthjax import accounting, checkpoints, trees
from lthjax.counts import layer_counts
from methods import sparse as sparse_methods

METHODS = ['dense', 'rigl', 'sr_ste']
TINY = [
  *('--dataset', 'digits', '--validation', '180'),
  *('--steps', '40', '--seeds', '2'),
  *('--sparsities', '0.8', '0.9', '--methods', *METHODS),
  *('--eval-every', '20', '--update-every', '10', '--batch-size', '60'),
]
# LeNet-300-100 on 8x8 images, with the ERK budget of 80 and 90 %.
SHAPES = {
  'fc1/kernel': (64, 300),
  'fc2/kernel': (300, 100),
  'output/kernel': (100, 10),
}
DENSE = 50_200


@pytest.fixture(scope='module')
def experiment():
  return dynamic_sparse_training.Experiment(parse(*TINY))


def parse(*arguments):
  return running.parse(arguments, dynamic_sparse_training.PRESETS, 'help')


def stacked(tree, seeds):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), tree
  )


def one_of(tree, seed):
  return jax.tree.map(lambda x: x[seed], tree)


def load_networks(folder, experiment):
  """All networks of a run, by the name of their cell."""
  seeds = experiment.config.seeds
  like = {
    'params': stacked(experiment.task.params, seeds),
    'masks': stacked(experiment.masks, seeds),
    'model_state': experiment.task.model_state,
  }
  return {
    path.name: checkpoints.load(path, like)
    for path in sorted((folder / 'networks').iterdir())
  }


def bits(tree):
  return jax.tree.map(lambda x: np.asarray(x).tobytes(), tree)


def read_summary(folder):
  with (folder / 'summary.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_summary_has_a_row_a_network(unbroken):
  rows = read_summary(unbroken.folder)
  cells = [(row['method'], row['sparsity'], row['seed']) for row in rows]
  assert cells == [
    (method, sparsity, seed)
    for method in METHODS
    for sparsity in (['0.0'] if method == 'dense' else ['0.8', '0.9'])
    for seed in '01'
  ]
  assert {row['steps'] for row in rows} == {'40'}
  assert all(0.3 < float(row['test_accuracy']) <= 1 for row in rows)


def test_costs_by_hand(unbroken):
  found = {
    (row['method'], row['sparsity']): (
      float(row['inference_cost']),
      float(row['training_cost']),
    )
    for row in read_summary(unbroken.folder)
  }
  assert found['dense', '0.0'] == (1, 1)
  counts = layer_counts(SHAPES, 0.9, lth.densities.erk)
  sparse = sum(counts.values()) / DENSE
  rigl = accounting.step_cost.rigl(1, sparse, 10) / 3
  assert found['rigl', '0.9'] == pytest.approx((sparse, rigl))
  assert found['sr_ste', '0.9'] == pytest.approx((sparse, (1 + 2 * sparse) / 3))


def test_cost_of_gradual_pruning_by_hand():
  plan = sparse_methods.Plan(0.9, lth.densities.erk, 40, 30, 10, 0.3, 0.0)
  forward = sparse_methods.Cost(1, 0.1, lambda sparsity: 1 - sparsity)
  cost = sparse_methods.METHODS['gradual'].cost(forward, plan)
  # Moves after steps 10, 20 and 30; the last ten steps are at 90 %.
  past = np.array([0, 1, 2, 3]) / 3
  density = 1 - (0.9 - 0.9 * (1 - past) ** 3)
  assert cost == pytest.approx(3 * density.mean())


def test_networks_are_kept_with_exact_budgets(unbroken, experiment):
  networks = load_networks(unbroken.folder, experiment)
  dense = experiment.masks
  for method in METHODS[1:]:
    for sparsity in (0.8, 0.9):
      network = networks[f'{method}-{sparsity}-40']
      counts = layer_counts(SHAPES, sparsity, lth.densities.erk)
      for seed in range(experiment.config.seeds):
        masks = one_of(network['masks'], seed)
        assert lth.masks.alive_by_name(masks) == counts, method
        dead = lth.masks.difference(jax.tree.map(jnp.ones_like, dense), masks)
        zeros = lth.masks.apply(dead, one_of(network['params'], seed))
        named = trees.by_name(zeros)
        assert not any(named[name].any() for name in SHAPES), method


def test_seeds_start_from_masks_of_their_own(experiment):
  state = experiment.trainer(Cell('rigl', 0.9, 40)).init(experiment.keys)
  a, b = (one_of(lth.get_masks(state.opt_state), seed) for seed in (0, 1))
  assert lth.masks.hamming(a, b) > 0.1


def test_metrics_and_pictures(unbroken):
  lines = (unbroken.folder / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == 5
  for line in map(json.loads, lines):
    assert [x['step'] for x in line['curve']] == [20, 40]
    assert all(len(x['accuracy']) == 2 for x in line['curve'])
  png = (unbroken.folder / 'accuracy.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert '</svg>' in (unbroken.folder / 'accuracy.svg').read_text()


def test_results_say_where_they_come_from(unbroken):
  page = (unbroken.folder / 'results.md').read_text()
  command = '`python experiments/dynamic_sparse_training.py --dataset digits'
  assert f'| command | {command}' in page
  for name in ('commit', 'machine', 'date'):
    assert re.search(rf'\n\| {name} \| \S+', page)
  assert '\n| seeds | 0, 1 |' in page
  assert page.count('\n| RigL | ') == 2


@pytest.mark.usefixtures('compiled')
def test_killed_run_ends_with_the_same_bits(
  start, main, unbroken, experiment, tmp_path, monkeypatch
):
  process = start('dynamic_sparse_training', *TINY, '--output', str(tmp_path))
  folder = tmp_path / unbroken.folder.name
  while process.poll() is None and not list(folder.glob('networks/[a-z]*')):
    time.sleep(0.02)
  process.kill()
  process.communicate()
  assert 1 <= len(list(folder.glob('networks/[a-z]*'))) < 5

  made = []
  init = dynamic_sparse_training.Experiment.__init__

  def spy(self, config):
    init(self, config)
    made.append(self)

  monkeypatch.setattr(dynamic_sparse_training.Experiment, '__init__', spy)
  code, printed, errors = main(*TINY, '--output', str(tmp_path))
  assert code == 0, errors
  assert ' of 5 trainings are there already; going on' in printed
  assert 'SR-STE' in printed
  for name in ('summary.csv', 'metrics.jsonl', 'config.json'):
    assert (folder / name).read_bytes() == (unbroken.folder / name).read_bytes()
  assert bits(load_networks(folder, experiment)) == bits(
    load_networks(unbroken.folder, experiment)
  )
  # Both sparsities of a method share its program.
  assert made[0].task.compilations <= len(METHODS)


@pytest.mark.usefixtures('no_training')
def test_finished_run_is_only_shown_again(unbroken, main):
  code, printed, errors = main(*TINY, '--output', str(unbroken.folder.parent))
  assert code == 0, errors
  assert '5 of 5 trainings are there already.' in printed


@pytest.mark.usefixtures('no_training')
def test_damaged_network_is_an_error(unbroken, main, tmp_path):
  folder = shutil.copytree(unbroken.folder, tmp_path / unbroken.folder.name)
  (folder / 'networks' / 'rigl-0.8-40' / 'SHA256SUMS').write_text('')
  code, _, errors = main(*TINY, '--output', str(tmp_path))
  assert code == 1
  assert 'rigl-0.8-40' in errors


def test_help(main):
  code, printed, _ = main('--help')
  assert code == 0
  assert 'python experiments/dynamic_sparse_training.py' in printed
  for name in dynamic_sparse_training.PRESETS:
    assert f'\n  {name} ' in printed


@pytest.mark.parametrize('name', dynamic_sparse_training.PRESETS)
def test_presets(name):
  config = parse('--preset', name)
  preset = dynamic_sparse_training.PRESETS[name]
  assert config == preset
  cells = dynamic_sparse_training.cells(config)
  assert cells[0].method == 'dense'
  assert len({cell.name for cell in cells}) == len(cells)
  other = parse('--preset', name, '--seeds', '7')
  assert other == dataclasses.replace(preset, seeds=7)


def test_ac_dc_phases():
  plan = sparse_methods.Plan(0.9, lth.densities.erk, 100, 75, 10, 0.3, 0.0)
  assert sparse_methods.phases(plan) == ([10, 30, 50, 70], [20, 40, 60])
  assert sparse_methods.dense_share(plan) == pytest.approx(0.4)


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    ('--sparsities 1.0', 'sparsities were 1.0, but must be between 0 and'),
    ('--sparsities 0.9 0.9', 'sparsities were 0.9 0.9, but must be'),
    ('--lengths 0.001', 'lengths were 0.001, but 0.001 of 40 steps'),
    ('--stop-share 1.5', 'stop_share was 1.5, but must be in (0, 1]'),
    ('--validation 0', 'validation was 0, but must be at least 1'),
    ('--update-every 0', 'update_every was 0, but must be at least 1'),
    ('--methods snip', "invalid choice 'snip' for argument '--methods'"),
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
    (['--update-every', '35'], '`stop_step` was 30, before the first move'),
    (['--drop-fraction', '1.2'], '`drop_fraction` was 1.2, but must be in'),
    (['--sparsities', '0.99999'], 'leaves no weight alive in fc'),
  ],
)
def test_bad_values_before_anything_is_done(arguments, text, main, tmp_path):
  code, _, errors = main(*TINY, *arguments, '--output', str(tmp_path))
  assert code == 1
  assert errors.startswith('error: ')
  assert text in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_mnist(main, tmp_path, tfds_data_dir):
  """RigL beats static masks, and SRigL keeps up with it (mean of 3 seeds)."""
  del tfds_data_dir
  methods = ['dense', 'static', 'set', 'rigl']
  for arguments in (
    ['--methods', *methods, '--sparsities', '0.98'],
    ['--methods', 'rigl', 'srigl', '--sparsities', '0.9'],
  ):
    code, _, errors = main(*arguments, '--output', str(tmp_path))
    assert code == 0, errors
  accuracy = {}
  for folder in tmp_path.iterdir():
    for line in (folder / 'metrics.jsonl').read_text().splitlines():
      result = json.loads(line)
      mean = 100 * np.mean(result['test_accuracy'])
      accuracy[result['method'], result['sparsity']] = mean
  assert accuracy['rigl', 0.98] >= accuracy['static', 0.98] + 1.2
  assert accuracy['rigl', 0.98] >= accuracy['set', 0.98]
  assert accuracy['srigl', 0.9] >= accuracy['rigl', 0.9] - 0.5
