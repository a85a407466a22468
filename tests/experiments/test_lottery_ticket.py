"""The experiment as people use it: started, killed, and started again."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from helpers import bits, slow_but
from tiny_experiments import TINY, timeless

import lottery_ticket
import lthjax as lth
from common import command, figures, grid
from common.config import parse
from lthjax import checkpoints, runs
from lthjax.tickets import Ticket
from reports import lottery_ticket as report

LEVELS, SEEDS = 4, 2
CONFIG = parse(TINY['lottery_ticket'], lottery_ticket.PRESETS, '')
CONTROLS = {'reinit', 'shuffled', 'sign_preserved', 'signed_constant'}
# LeNet-300-100 on 8x8 images: 20 % per level, 10 % of the output layer.
ALIVE = [
  [19200, 30000, 1000],
  [15360, 24000, 900],
  [12288, 19200, 810],
  [9830, 15360, 729],
]


def contents(folder):
  """Digests of all files below a folder."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


def results(folder):
  """What came out of each training."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def mean_accuracy(folder):
  """Test accuracy at the best step in %, by level and control."""
  return {
    (x['level'], x['control']): 100 * np.mean(x['test_accuracy_at_best'])
    for x in results(folder)
  }


def load_tickets(folder, config):
  """All tickets of a run."""
  experiment = lottery_ticket.Experiment(config)
  store = grid.Store(folder)
  return [experiment.ticket(level, store) for level in range(config.levels)]


def alive(masks):
  """Alive weights of each replicate, layer by layer."""
  counts = jax.vmap(lth.masks.alive_by_name)(masks)
  return np.stack(list(counts.values()), axis=1).tolist()


@pytest.fixture(scope='session')
def launch(start):
  """Starts the experiment in a process of its own."""
  return functools.partial(start, 'lottery_ticket')


def finish(process):
  """What it prints, once it has succeeded."""
  printed, errors = process.communicate()
  assert process.returncode == 0, errors
  return printed


@pytest.fixture
def copied(unbroken, tmp_path):
  """A copy of that run, to be damaged."""
  return shutil.copytree(unbroken.folder, tmp_path / unbroken.folder.name)


# What a run leaves behind.


def test_folder(unbroken):
  assert unbroken.folder.parent == unbroken.cwd / 'runs'
  name = f'digits-lenet_300_100-{runs.config_hash(CONFIG)}'
  assert unbroken.folder.name == name
  assert {path.name for path in unbroken.folder.glob('[!.]*')} == {
    'accuracy.png',
    'accuracy.svg',
    'config.json',
    'controls',
    'metrics.jsonl',
    'report.html',
    'results.csv',
    'results.md',
    'tickets',
  }
  tickets = sorted(
    path.name for path in (unbroken.folder / 'tickets').iterdir()
  )
  assert tickets == ['00', '01', '02', '03']


def test_numbers_of_each_seed(unbroken):
  rows = unbroken.rows()
  keys = [(int(r['level']), r['control'], int(r['seed'])) for r in rows]
  assert len(keys) == len(set(keys))
  assert set(keys) == {
    (level, control, seed)
    for level in range(LEVELS)
    for control in {'ticket', *(CONTROLS if level in (1, 3) else ())}
    for seed in range(SEEDS)
  }
  for row in rows:
    assert float(row['density']) == sum(ALIVE[int(row['level'])]) / 50200
    assert int(row['best_step']) in (20, 40, 60)
    assert 0.2 < float(row['test_accuracy']) <= 1
    assert 0.2 < float(row['test_accuracy_at_best']) <= 1


def test_metrics(unbroken):
  metrics = results(unbroken.folder)
  rows = iter(unbroken.rows())
  assert len(metrics) == LEVELS + 2 * len(CONTROLS)
  for line in metrics:
    curve = line['curve']
    assert [evaluation['step'] for evaluation in curve] == [20, 40, 60]
    losses = np.array([evaluation['loss'] for evaluation in curve])
    assert losses.shape == (3, SEEDS)
    best = np.array([20, 40, 60])[losses.argmin(axis=0)]
    assert line['best_step'] == best.tolist()
    for seed in range(SEEDS):
      row = next(rows)
      for name in ['level', 'density', 'control']:
        assert row[name] == str(line[name])
      for name in ['best_step', 'test_accuracy', 'test_accuracy_at_best']:
        assert row[name] == str(line[name][seed])
      assert row['seed'] == str(seed)
      for name in ('loss', 'accuracy'):
        assert row[f'validation_{name}'] == str(curve[-1][name][seed])


def test_config(unbroken):
  config = json.loads((unbroken.folder / 'config.json').read_text())
  assert config['dataset'] == 'digits'
  assert (config['levels'], config['steps']) == (4, 60)
  assert config['fraction'] == [['output/*', 0.1], ['*', 0.2]]
  assert 'output' not in config


def test_page_says_what_each_control_keeps(unbroken):
  page = (unbroken.folder / 'results.md').read_text()
  for line in [
    'winning ticket | yes | yes | yes |',
    'new magnitudes, same signs | yes | no | yes |',
    'random reinitialization | no | no | yes |',
    'shuffled mask | yes | yes | no |',
  ]:
    assert f'\n| {line} ' in page
  # One caption for each table.
  assert page.count(' ± ') == 2 + 4 + 2 * 2 * len(CONTROLS) + 2


def test_report(unbroken):
  text = (unbroken.folder / 'report.html').read_text(encoding='utf-8')
  assert '>25,919 of 50,200 weights alive: 51.63 %.<' in text
  assert 'from each of 8 × 8 × 1 inputs' in text
  assert '<th scope="row">seed 1</th>' in text
  ratio = re.search(
    r'Movement.*?fc1/kernel.*?data-value="([\d.]+)"', text, re.S
  )
  assert float(ratio[1]) > 0


def test_what_is_printed(unbroken):
  lines = unbroken.printed.splitlines()
  end = lines[lines.index(f'Figures, tables and networks: {unbroken.folder}') :]
  assert [line for line in end if line.endswith(':')] == ['Open:', 'Try next:']
  for name in ('accuracy.png', 'report.html', 'results.md'):
    assert any(f'{unbroken.folder}/{name}  ' in line for line in end)
  for line in end[end.index('Try next:') + 1 :]:
    opened = line.split('  ')[1].removeprefix('python ').split()[0]
    assert (pathlib.Path(__file__).parents[2] / opened).exists()
  table = next(
    i for i, line in enumerate(lines) if 'Test accuracy in %' in line
  )
  for name in ['ticket', 'reinit', 'shuffled', 'preserved', '51.63 %', '±']:
    assert any(name in line for line in lines[table:])
  assert any('dense network' in line for line in lines[table:])


def test_tickets(unbroken):
  tickets = load_tickets(unbroken.folder, CONFIG)
  dense = tickets[0]
  for level, ticket in enumerate(tickets):
    assert ticket.level == level
    assert alive(ticket.masks) == [ALIVE[level]] * SEEDS
    assert bits(ticket.start) == bits(dense.start)
    params = ticket.trained.params
    assert bits(lth.masks.apply(ticket.masks, params)) == bits(params)
    if level:
      before = tickets[level - 1].masks
      assert lth.masks.count(lth.masks.difference(ticket.masks, before)) == 0
      one, other = jax.tree.leaves(ticket.masks)[0]
      assert (one != other).any()


# Killing and starting again.


def check_same(folder, unbroken):
  """A resumed run leaves what an undisturbed one leaves, to the bit."""
  files = ['results.csv', 'metrics.jsonl', 'config.json', 'report.html']
  for name in [*files, 'accuracy.png', 'accuracy.svg']:
    assert timeless(folder / name) == timeless(unbroken.folder / name)
  assert {path.name for path in folder.rglob('.*')} <= {'.lock'}
  pairs = zip(
    load_tickets(folder, CONFIG),
    load_tickets(unbroken.folder, CONFIG),
    strict=True,
  )
  for ticket, expected in pairs:
    for name in ['masks', 'start', 'trained']:
      assert bits(getattr(ticket, name)) == bits(getattr(expected, name))


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_same_bits(
  launch, main, unbroken, tmp_path
):
  moments = random.Random(0)
  arguments = [*TINY['lottery_ticket'], '--output', str(tmp_path)]
  folder = tmp_path / unbroken.folder.name
  for mark in ['config.json', 'tickets/00', 'controls/01-reinit']:
    process = launch(*arguments)
    while process.poll() is None and not (folder / mark).exists():
      time.sleep(0.01)
    if not mark.startswith('controls'):
      time.sleep(moments.uniform(0, 0.6))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  assert not (folder / 'tickets' / '03').exists()
  code, printed, errors = main(*arguments)
  assert code == 0, errors
  assert ' of 12 trainings are there already; going on with the' in printed
  check_same(folder, unbroken)


@pytest.mark.parametrize(
  'damage', slow_but(['delete', 'cut', 'foreign'], ['cut'])
)
@pytest.mark.usefixtures('no_training')
def test_a_report_that_is_lost_is_made_again(damage, copied, main):
  path = copied / 'report.html'
  before = contents(copied)
  if damage == 'delete':
    path.unlink()
  elif damage == 'cut':
    path.write_text(path.read_text()[:1000])
  else:
    path.write_text('something else')
  output = ['--output', str(copied.parent)]
  code, _, errors = main(*TINY['lottery_ticket'], *output)
  assert code == 0, errors
  after = contents(copied)
  assert {name for name in after if after[name] != before[name]} <= {
    'results.md'
  }


# Other settings.


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Runs a small setting in this process; returns its folder and tickets."""
  # Figures are those of the run that nobody disturbed.
  monkeypatch.setattr(figures, 'save', lambda fig, *_: figures.plt.close(fig))

  def run(**changes):
    changes = {'levels': 3, 'steps': 40, 'output': tmp_path, **changes}
    config = dataclasses.replace(CONFIG, **changes)
    made = lottery_ticket.Experiment(config)
    found = command.run(config, lottery_ticket.cells, lambda _: made, report)
    assert made.task.compilations == 1
    return found.folder, load_tickets(found.folder, config), made

  return run


@pytest.mark.slow
def test_late_rewinding(run):
  folder, tickets, experiment = run(rewind_step=20, controls=('shuffled',))
  for result in results(folder):
    assert [x['step'] for x in result['curve']] == [40]
  initial = experiment.trainer.init(experiment.keys)
  rewound = experiment.fit(initial, until=20)
  for ticket in tickets:
    assert bits(ticket.start) == bits(rewound.params) != bits(initial.params)


@pytest.mark.slow
def test_learning_rate_rewinding_and_resuming(run):
  change = {'rewind': 'learning_rate', 'rewind_step': 20, 'controls': ()}
  folder, tickets, _ = run(**change)
  assert bits(tickets[1].start) == bits(tickets[0].trained.params)
  assert bits(tickets[2].start) == bits(tickets[1].trained.params)
  numbers = timeless(folder / 'results.csv')
  shutil.rmtree(folder / 'tickets' / '02')
  _, again, _ = run(**change)
  assert bits(again[2].trained) == bits(tickets[2].trained)
  assert timeless(folder / 'results.csv') == numbers


@pytest.mark.slow
def test_frozen_weights_beside_a_ticket(run):
  folder, _, experiment = run(levels=2, controls=('frozen',))
  assert set(mean_accuracy(folder)) == {
    *((0, 'ticket'), (1, 'ticket'), (1, 'frozen'))
  }
  assert experiment.frozen[0].compilations == 1


def test_controls_are_counted_back_from_the_last_level():
  config = dataclasses.replace(CONFIG, levels=8, control_every=3)
  with_controls = [
    level
    for level in range(config.levels)
    if lottery_ticket.controls_at(config, level)
  ]
  assert with_controls == [1, 4, 7]


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('mnist', "error: Data set 'mnist' is not prepared: "),
    ('mnits', "Did you mean 'mnist'"),
  ],
)
def test_data_that_is_not_there(name, text, main, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  output = ['--output', str(tmp_path / 'runs')]
  code, _, errors = main('--dataset', name, *output)
  assert code == 1
  assert text in errors
  assert 'Traceback' not in errors
  assert not (tmp_path / 'runs').exists()


def damage_array(folder):
  (file,) = (folder / 'tickets' / '03' / 'state' / 'ocdbt.process_0').glob(
    'd/*'
  )
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  return f'{folder}/tickets/03 is damaged: state/ocdbt.process_0/d/{file.name}'


def damage_early_ticket(folder):
  file = folder / 'tickets' / '01' / '_CHECKPOINT_METADATA'
  file.write_text(file.read_text()[:100])
  return f'{folder}/tickets/01 is damaged: _CHECKPOINT_METADATA changed'


def foreign_ticket(folder):
  shutil.rmtree(folder / 'tickets' / '02')
  (folder / 'tickets' / '02').mkdir()
  return f'{folder}/tickets/02 is not a checkpoint'


def missing_ticket(folder):
  shutil.rmtree(folder / 'tickets' / '01')
  return f'{folder}/tickets/01 is missing, but later levels are there: 02, 03'


def another_configuration(folder):
  file = folder / 'config.json'
  file.write_text(file.read_text().replace('"steps": 60', '"steps": 61'))
  return f'{folder} was written by another configuration (steps: 61 there, 60'


def no_configuration(folder):
  (folder / 'config.json').unlink()
  return f'{folder} exists, but is not the folder of a run'


def another_network(folder):
  ticket = Ticket(3, 0.5, {'w': np.ones((2, 2), bool)}, None, None, [])
  shutil.rmtree(folder / 'tickets' / '03')
  checkpoints.save_ticket(folder / 'tickets' / '03', ticket)
  return f'{folder}/tickets/03 should be {folder.name}/tickets/03, but does not'


def another_level(folder):
  shutil.rmtree(folder / 'tickets' / '02')
  shutil.copytree(folder / 'tickets' / '01', folder / 'tickets' / '02')
  return f'tickets/02, but is that of {folder.name}/tickets/01: it was copied'


def another_control(folder):
  shutil.rmtree(folder / 'controls' / '03-reinit')
  (folder / 'controls' / '01-reinit').rename(folder / 'controls' / '03-reinit')
  return f'03-reinit, but is that of {folder.name}/controls/01-reinit'


@pytest.mark.parametrize(
  'damage',
  [
    damage_array,
    damage_early_ticket,
    foreign_ticket,
    missing_ticket,
    another_configuration,
    no_configuration,
    another_network,
    another_level,
    another_control,
  ],
)
def test_damaged_run(damage, copied, main, monkeypatch):
  monkeypatch.setattr(lottery_ticket.Experiment, 'fit', None)
  text = damage(copied)
  before = contents(copied)
  output = ['--output', str(copied.parent)]
  code, _, errors = main(*TINY['lottery_ticket'], *output)
  assert code == 1
  assert errors.startswith('error: ')
  assert text in errors
  after = contents(copied)
  changed = {name for name in after if after[name] != before[name]}
  if damage is missing_ticket:  # All but the level that is missing.
    changed -= {'results.csv', 'metrics.jsonl'}
  assert not changed


# The numbers of the papers.


# Only the controls that are compared, and only at these levels.
ASSERTED = '--controls', 'reinit', 'shuffled', '--control-every'


@pytest.mark.optimized
@pytest.mark.slow
def test_digits(launch, tmp_path):
  finish(launch(*ASSERTED, '18', '--output', str(tmp_path)))
  (folder,) = tmp_path.iterdir()
  last = results(folder)[-1]
  assert abs(last['density'] - 0.02) < 0.001
  accuracy = mean_accuracy(folder)
  level = last['level']
  assert accuracy[level, 'ticket'] - accuracy[level, 'reinit'] >= 2
  assert accuracy[level, 'ticket'] - accuracy[level, 'shuffled'] >= 10


@pytest.mark.optimized
@pytest.mark.slow
def test_mnist(launch, tmp_path, tfds_data_dir):
  arguments = ['--preset', 'mnist', *ASSERTED, '8', '--seeds', '2']
  arguments += ['--output', str(tmp_path)]
  finish(launch(*arguments, TFDS_DATA_DIR=str(tfds_data_dir)))
  (folder,) = tmp_path.iterdir()
  check_mnist(folder)


def check_mnist(folder):
  accuracy = mean_accuracy(folder)
  # 21.07 %, 13.52 % and 3.58 % of the weights.
  for level, reinit, shuffled in [(7, 0.8, 1.2), (15, 1.5, 3.5)]:
    ticket = accuracy[level, 'ticket']
    assert ticket - accuracy[level, 'reinit'] >= reinit
    assert ticket - accuracy[level, 'shuffled'] >= shuffled
  assert accuracy[9, 'ticket'] - accuracy[0, 'ticket'] >= 0.5
  mnist = dataclasses.replace(lottery_ticket.PRESETS['mnist'], seeds=2)
  tickets = load_tickets(folder, mnist)
  assert alive(tickets[1].masks) == [[188160, 24000, 900]] * 2
  assert alive(tickets[15].masks) == [[8275, 1056, 206]] * 2


# Alive weights only.


@pytest.mark.slow
def test_alive_weights_alone_train_to_the_same_tickets(run):
  """From 64 % on: the levels before are the same, those after nearly so."""
  options = {'levels': 4, 'steps': 60, 'controls': ('shuffled',)}
  folder, tickets, made = run(**options, sparse_from=0.65)
  accuracy = mean_accuracy(folder)
  plain, others, _ = run(**options)
  expected = mean_accuracy(plain)
  assert accuracy[1, 'ticket'] == expected[1, 'ticket']
  assert bits(tickets[2].masks) == bits(others[2].masks)
  for cell in [(2, 'ticket'), (3, 'ticket'), (3, 'shuffled')]:
    assert abs(accuracy[cell] - expected[cell]) < 3
  largest = jax.tree.map(
    lambda a, b: float(abs(a - b).max()),
    tickets[2].trained.params,
    others[2].trained.params,
  )
  assert max(jax.tree.leaves(largest)) < 1e-3
  alive = made._alive
  assert alive.task.compilations == 1
  assert alive.capacity == {
    'fc1/kernel': 12288,
    'fc2/kernel': 19200,
    'output/kernel': 810,
  }
  page = (folder / 'results.md').read_text().replace('\n', ' ')
  assert 'of at most 65 % were trained on alive weights only.' in page
  assert re.search(r'takes [\d.]+ ms with masks and [\d.]+ ms so: ', page)
  shutil.rmtree(folder / 'tickets' / '03')
  _, again, made = run(**options, sparse_from=0.65)
  assert made._alive.capacity == alive.capacity
  assert bits(again[3].trained) == bits(tickets[3].trained)


@pytest.mark.slow
def test_convolutions_do_not_train_on_alive_weights_alone(main, tmp_path):
  options = ['--model', 'conv_2', '--sparse-from', '0.5']
  code, _, errors = main(*options, '--output', str(tmp_path))
  assert code == 1
  assert 'conv1/kernel, conv2/kernel cannot be trained on alive' in errors
