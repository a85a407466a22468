"""The search for supermasks as people run it: started, killed, and resumed."""

import csv
import dataclasses
import json
import math
import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lthjax as lth
import supermasks
from common import running
from lthjax import checkpoints
from lthjax.models import Model
from methods import supermask as supermask_methods
from reports import supermasks as supermask_report

METHODS = ['dense', 'edge_popup_constant']
TINY = [
  *('--dataset', 'digits', '--steps', '20', '--seeds', '2'),
  *('--methods', *METHODS, '--kept', '0.5', '--read-kept', '0.3'),
  *('--eval-every', '10', '--batch-size', '60'),
]
READ = [
  f'{criterion}_{weights}'
  for criterion in ('large_final', 'large_final_same_sign')
  for weights in ('initial', 'signed_constant')
]


@pytest.fixture(scope='module')
def experiment():
  return supermasks.Experiment(parse(*TINY))


def parse(*arguments):
  return running.parse(arguments, supermasks.PRESETS, 'help')


def load(folder, name, experiment):
  """The networks of a cell, one entry a seed."""
  tree = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype),
    experiment.dense[1].params,
  )
  if name == 'dense':
    like = {'initial': tree, 'params': tree}
  else:
    masks = jax.eval_shape(jax.vmap(lth.masks.full), tree)
    trained = jax.tree.map(
      lambda m, x: None if m is None else x,
      masks,
      tree,
      is_leaf=lambda m: m is None,
    )
    like = {'trained': trained, 'weights': tree, 'masks': masks}
  return checkpoints.load(folder / 'networks' / name, like)


def bits(tree):
  return jax.tree.map(lambda x: np.asarray(x).tobytes(), tree)


def test_summary_has_a_row_a_network(unbroken):
  with (unbroken.folder / 'summary.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  found = [(row['method'], row['kept'], row['seed']) for row in rows]
  shares = {'dense': '1.0', 'edge_popup_constant': '0.5'}
  assert found == [
    (method, shares.get(method, '0.3'), seed)
    for method in ['dense', *READ, 'edge_popup_constant']
    for seed in '01'
  ]
  accuracy = {row['method']: float(row['test_accuracy']) for row in rows}
  assert accuracy['edge_popup_constant'] > 0.7
  assert all(0 < x <= 1 for x in accuracy.values())


def test_no_weight_was_trained(unbroken, experiment):
  """Weights have one magnitude a layer, to the bit, and half of them run."""
  networks = load(unbroken.folder, 'edge_popup_constant-0.5', experiment)
  alive = {}
  for name, inputs in {'fc1': 64, 'fc2': 300, 'output': 100}.items():
    weights = np.asarray(networks['weights'][name]['kernel'])
    assert (np.abs(weights) == np.float32(math.sqrt(2 / inputs))).all()
    assert 0.4 < (weights > 0).mean() < 0.6
    assert not networks['weights'][name]['bias'].any()
    alive[name] = networks['masks'][name]['kernel'].sum((1, 2)).tolist()
  assert alive == {'fc1': [9_600] * 2, 'fc2': [15_000] * 2, 'output': [500] * 2}


def test_kept_networks_have_the_accuracy_told(unbroken, experiment):
  """Masks and weights alone make the network that was tested."""
  networks = load(unbroken.folder, 'edge_popup_constant-0.5', experiment)
  params = lth.masks.apply(networks['masks'], networks['weights'])
  result = checkpoints.read_metadata(
    unbroken.folder / 'networks' / 'edge_popup_constant-0.5'
  )
  found = experiment.dense[1].test_accuracy(params, {})
  assert found == pytest.approx(result['test_accuracy'])


def test_masks_drawn_and_likely(unbroken, experiment):
  """With all probabilities at three quarters, all weights are likely."""
  weights = load(unbroken.folder, 'dense', experiment)['initial']
  logits = lth.supermasks.init_logits(
    weights, probability=0.75, where='*/kernel'
  )
  frozen = supermask_methods.Frozen(weights, {}, experiment.keys)
  state = types.SimpleNamespace(params=logits, model_state=frozen)
  cell = supermasks.Cell('bernoulli', None, 1, 1)
  (drawn, likely), networks = experiment.choose(cell, state)
  assert (drawn['method'], likely['method'], likely['kept']) == (
    *('bernoulli', 'bernoulli_likely'),
    1,
  )
  assert drawn['kept'] == lth.masks.density(networks['masks'])
  # Five standard errors of a share of 100,400 weights.
  assert abs(drawn['kept'] - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 100_400)
  whole = experiment.dense[1].test_accuracy(weights, {})
  assert likely['test_accuracy'] == pytest.approx(whole)


def test_a_new_draw_every_step():
  """Training goes on from key to key; evaluation stays where it is."""
  network = Model(
    lambda key: ({'kernel': jax.random.normal(key, (40, 5))}, {}),
    lambda params, state, x, *, train=False: (x @ params['kernel'], state),
  )
  method = supermask_methods.METHODS['bernoulli']
  model = supermask_methods.hidden(network, method, None)
  logits, frozen = model.init(jax.random.key(0))
  x = jnp.ones((1, 40))
  first, after = model.apply(logits, frozen, x, train=True)
  second, _ = model.apply(logits, after, x, train=True)
  assert (first != second).any()
  again, same = model.apply(logits, after, x)
  assert (again == first).all()
  assert same is not frozen
  assert same.key == after.key
  assert bits(after.weights) == bits(frozen.weights)


def test_rates_of_the_paper():
  scores = {
    'fc1': {'kernel': jnp.ones((40, 50))},
    'output': {'kernel': jnp.ones((20, 50))},
  }
  masks = supermask_methods.large(scores, 0.8**2)
  assert lth.masks.alive_by_name(masks) == {
    'fc1/kernel': 2000 * 0.64,
    'output/kernel': 1000 * 0.81,
  }


def test_metrics_and_pictures(unbroken):
  lines = (unbroken.folder / 'metrics.jsonl').read_text().splitlines()
  results = [json.loads(line) for line in lines]
  assert [result['method'] for result in results] == METHODS
  for result in results:
    assert [x['step'] for x in result['curve']] == [10, 20]
    assert all(len(x['accuracy']) == 2 for x in result['curve'])
  png = (unbroken.folder / 'accuracy.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert '</svg>' in (unbroken.folder / 'accuracy.svg').read_text()


def test_results_say_where_they_come_from(unbroken):
  page = (unbroken.folder / 'results.md').read_text()
  command = '`python experiments/supermasks.py --dataset digits'
  assert f'| command | {command}' in page
  assert '\n| seeds | 0, 1 |' in page
  assert page.count('\n| large final same sign, ') == 2
  assert '\n| edge-popup, signed constant | 50 | ' in page


@pytest.mark.usefixtures('compiled')
def test_unfinished_run_ends_with_the_same_bits(
  main, unbroken, tmp_path, experiment
):
  folder = shutil.copytree(unbroken.folder, tmp_path / unbroken.folder.name)
  shutil.rmtree(folder / 'networks' / 'edge_popup_constant-0.5')
  code, printed, errors = main(*TINY, '--output', str(tmp_path))
  assert code == 0, errors
  assert '1 of 2 trainings are there already; going on' in printed
  for name in ('summary.csv', 'metrics.jsonl', 'config.json'):
    assert (folder / name).read_bytes() == (unbroken.folder / name).read_bytes()
  again, before = (
    load(f, 'edge_popup_constant-0.5', experiment)
    for f in (folder, unbroken.folder)
  )
  assert bits(again) == bits(before)


@pytest.mark.usefixtures('no_training')
def test_finished_run_is_only_shown_again(unbroken, main):
  code, printed, errors = main(*TINY, '--output', str(unbroken.folder.parent))
  assert code == 0, errors
  assert '2 of 2 trainings are there already.' in printed


def test_help(main):
  code, printed, _ = main('--help')
  assert code == 0
  assert 'python experiments/supermasks.py' in printed
  for name in supermasks.PRESETS:
    assert f'\n  {name} ' in f'{printed} '.replace('\n  conv8\n', '\n  conv8 ')


@pytest.mark.parametrize('name', supermasks.PRESETS)
def test_presets(name):
  config = parse('--preset', name)
  preset = supermasks.PRESETS[name]
  assert config == preset
  cells = supermasks.cells(config)
  assert cells[0].method == 'dense'
  assert len({cell.name for cell in cells}) == len(cells)
  assert len(cells) == (16 if name == 'mnist_widths' else 12)
  other = parse('--preset', name, '--seeds', '7')
  assert other == dataclasses.replace(preset, seeds=7)


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    ('--kept 1.0', 'kept was 1.0, but must be between 0 and 1: with all'),
    ('--read-kept 0.5 0', 'read_kept was 0.0, but must be between 0 and 1'),
    ('--kept 0.5 0.5', 'kept were 0.5 0.5, but must be one or more'),
    ('--validation 0', 'validation was 0, but must be at least 1'),
    ('--steps 0', 'steps was 0, but must be at least 1'),
    (
      '--model resnet_20 --widths 1 2',
      'widths were 1.0 2.0, but resnet_20 has one width only',
    ),
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
def test_too_few_weights_before_anything_is_done(main, tmp_path):
  code, _, errors = main(*TINY, '--kept', '0.0001', '--output', str(tmp_path))
  assert code == 1
  assert errors.startswith('error: A sparsity of 0.9999 leaves no weight alive')
  assert 'output/kernel (of 1000 weights; keeping one is' in errors
  assert not list(tmp_path.iterdir())


def test_widths(tmp_path):
  """Every method runs at every width, and both figures show it."""
  config = parse(*TINY, '--widths', '1', '0.5')
  experiment = supermasks.Experiment(config)
  found = supermasks.cells(config)
  assert [cell.name for cell in found] == [
    *('dense-width-0.5', 'dense'),
    *('edge_popup_constant-0.5-width-0.5', 'edge_popup_constant-0.5'),
  ]
  assert found[2].label == 'edge-popup, signed constant  50 %  width 0.5'
  hidden = {
    cell.width: experiment.task(cell).params['fc1']['kernel'].shape
    for cell in found
  }
  assert hidden == {0.5: (64, 150), 1: (64, 300)}
  results = [
    {
      **cell._asdict(),
      'kept': cell.kept or 1.0,
      'test_accuracy': [0.9, 0.8],
      'found': [],
    }
    for cell in found
  ]
  supermask_report.figures(results, 'title', tmp_path)
  supermask_report.markdown(results, 'title', tmp_path, 2)
  assert {path.name for path in tmp_path.iterdir()} == {
    *('accuracy.png', 'accuracy.svg', 'results.md'),
    *('widths.png', 'widths.svg'),
  }
  lines = (tmp_path / 'results.md').read_text().splitlines()
  assert '| dense, trained | 0.5 | 100 | 85.00 ± 5.00 |' in lines
  assert '![Test accuracy over the width](widths.png)' in lines
  alone = [result for result in results if result['width'] == 1]
  head, dense, _ = supermask_report.lines(alone)
  assert head == ['method', 'kept, %', 'test accuracy, %']
  assert dense == ['dense, trained', '100', '85.00 ± 5.00']


@pytest.mark.slow
def test_mnist(main, tmp_path, tfds_data_dir):
  """Strong tickets of LeNet-300-100 in 6,000 steps (mean of 3 seeds)."""
  del tfds_data_dir
  code, _, errors = main(
    *('--methods', *METHODS, 'bernoulli', '--kept', '0.5'),
    *('--output', str(tmp_path)),
  )
  assert code == 0, errors
  (folder,) = tmp_path.iterdir()
  best = {}
  with (folder / 'summary.csv').open(newline='') as file:
    for row in csv.DictReader(file):
      accuracy = best.setdefault(row['method'], {})
      seeds = accuracy.setdefault(row['kept'], [])
      seeds.append(100 * float(row['test_accuracy']))
  best = {
    method: max(np.mean(seeds) for seeds in accuracy.values())
    for method, accuracy in best.items()
  }
  assert best['edge_popup_constant'] >= 97.0
  assert best['bernoulli'] >= 96.0
  assert best['large_final_same_sign_signed_constant'] >= 80.0
