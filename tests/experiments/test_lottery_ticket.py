"""The experiment as people use it: started, killed, and started again."""

import collections
import csv
import dataclasses
import functools
import hashlib
import json
import pathlib
import random
import re
import shutil
import signal
import sys
import time
import xml.etree.ElementTree

import jax
import numpy as np
import pytest

import lottery_ticket
import lthjax as lth
from lthjax import checkpoints
from lthjax.tickets import Ticket
from reports import lottery_ticket as ticket_report

ROOT = pathlib.Path(__file__).parents[2]
LEVELS, SEEDS = 4, 2
TINY = ['--levels', '4', '--steps', '60', '--seeds', '2', '--eval-every', '20']
CONFIG = lottery_ticket.parse(TINY)
CONTROLS = {'reinit', 'shuffled', 'sign_preserved', 'signed_constant'}
# Of LeNet-300-100 on 8x8 images: 20 % a level, of the output layer 10 %.
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
    if path.is_file()
  }


def read_summary(folder):
  with (folder / 'summary.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def mean_accuracy(folder):
  """Test accuracy at the best step in %, by level and control."""
  found = collections.defaultdict(list)
  for row in read_summary(folder):
    accuracy = 100 * float(row['test_accuracy_at_best'])
    found[int(row['level']), row['control']].append(accuracy)
  return {key: np.mean(values) for key, values in found.items()}


def bits(tree):
  return jax.tree.map(lambda x: (x.dtype, np.asarray(x).tobytes()), tree)


def load_tickets(folder, config):
  """All tickets of a run."""
  experiment = lottery_ticket.Experiment(config)
  state = jax.eval_shape(experiment.trainer.init, experiment.keys)
  trained = lottery_ticket.slim(state)
  like = Ticket(0, 0.0, experiment.masks(), state.params, trained, None)
  return [
    checkpoints.load_ticket(lottery_ticket.level_folder(folder, level), like)
    for level in range(config.levels)
  ]


def alive(masks):
  """Alive weights of each replicate, layer by layer."""
  counts = jax.vmap(lth.masks.alive_by_name)(masks)
  return np.stack(list(counts.values()), axis=1).tolist()


@pytest.fixture(scope='session')
def launch(start):  # Another `start` here would be that of `run_once` too.
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
  name = f'digits-lenet_300_100-{checkpoints.config_hash(CONFIG)}'
  assert unbroken.folder.name == name
  assert {path.name for path in unbroken.folder.iterdir()} == {
    'accuracy.png',
    'accuracy.svg',
    'config.json',
    'metrics.jsonl',
    'report.html',
    'results.md',
    'summary.csv',
    'tickets',
  }
  tickets = sorted(
    path.name for path in (unbroken.folder / 'tickets').iterdir()
  )
  assert tickets == ['00', '01', '02', '03']


def test_summary(unbroken):
  text = (unbroken.folder / 'summary.csv').read_bytes().decode()
  assert '\r' not in text
  header = 'level,density,control,seed,test_accuracy,best_step'
  assert text.startswith(f'{header},test_accuracy_at_best\n')
  rows = read_summary(unbroken.folder)
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
  lines = (unbroken.folder / 'metrics.jsonl').read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  rows = iter(read_summary(unbroken.folder))
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


def test_config(unbroken):
  config = json.loads((unbroken.folder / 'config.json').read_text())
  assert config['dataset'] == 'digits'
  assert (config['levels'], config['steps']) == (4, 60)
  assert config['fraction'] == [['output/*', 0.1], ['*', 0.2]]
  assert 'output' not in config


def test_page_says_what_each_control_keeps(unbroken):
  page = (unbroken.folder / 'results.md').read_text()
  assert '| command | `python experiments/lottery_ticket.py --levels 4' in page
  assert '|  | sign | magnitude | mask | 80.20 % | 51.63 % |' in page
  for line in [
    'winning ticket | yes | yes | yes |',
    'new magnitudes, same signs | yes | no | yes |',
    'random reinitialization | no | no | yes |',
    'shuffled mask | yes | yes | no |',
  ]:
    assert f'\n| {line} ' in page
  assert page.count(' ± ') == 2 + 2 * (1 + len(CONTROLS))


def test_pictures(unbroken):
  png = (unbroken.folder / 'accuracy.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert png.endswith(b'IEND\xaeB`\x82')
  svg = xml.etree.ElementTree.parse(unbroken.folder / 'accuracy.svg')
  assert svg.getroot().tag.endswith('svg')


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
  assert lines[-1] == f'Figure, tables and tickets: {unbroken.folder}'
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


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(launch, unbroken, tmp_path):
  moments = random.Random(0)
  arguments = [*TINY, '--output', str(tmp_path)]
  codes = []
  folder = tmp_path / unbroken.folder.name
  for mark in ['config.json', 'tickets/00', 'tickets/02']:
    process = launch(*arguments)
    while process.poll() is None and not (folder / mark).exists():
      time.sleep(0.01)
    time.sleep(moments.uniform(0, 0.6))
    process.kill()
    process.communicate()
    codes.append(process.returncode)
  assert codes[:2] == [-signal.SIGKILL] * 2
  finish(launch(*arguments))
  files = ['summary.csv', 'metrics.jsonl', 'config.json', 'report.html']
  for name in files:
    assert (folder / name).read_bytes() == (unbroken.folder / name).read_bytes()
  assert {path.name for path in folder.rglob('.*')} == set()
  pairs = zip(
    load_tickets(folder, CONFIG),
    load_tickets(unbroken.folder, CONFIG),
    strict=True,
  )
  for ticket, expected in pairs:
    for name in ['masks', 'start', 'trained']:
      assert bits(getattr(ticket, name)) == bits(getattr(expected, name))
    assert ticket.metrics == expected.metrics


@pytest.mark.usefixtures('no_training')
def test_finished_run_is_not_repeated(copied, main):
  before = contents(copied)
  code, printed, _ = main(*TINY, '--output', str(copied.parent))
  assert code == 0
  assert f'Figure, tables and tickets: {copied}' in printed
  assert 'Levels 0 to 3 are there already.' in printed
  assert '51.63 %' in printed
  after = contents(copied)
  changed = {x for x in after if after[x] != before[x]}
  assert changed <= {'accuracy.svg', 'results.md'}


# Other settings.


@pytest.fixture
def run(tmp_path, monkeypatch, compiled):
  """Runs a small setting in this process; returns its folder and tickets."""
  experiments = []

  class Counted(lottery_ticket.Experiment):
    def __init__(self, config):
      super().__init__(config)
      experiments.append(self)

  def run(**changes):
    changes = {'levels': 3, 'steps': 40, 'output': tmp_path, **changes}
    config = dataclasses.replace(CONFIG, **changes)
    with monkeypatch.context() as patch:
      patch.setattr(lottery_ticket, 'Experiment', Counted)
      with ticket_report.Progress(dict.fromkeys(range(3), 9), 40) as report:
        folder = lottery_ticket.run(config, report)
    assert experiments[-1].task.compilations == 1
    return folder, load_tickets(folder, config), experiments[-1]

  return run


def test_late_rewinding(run):
  folder, tickets, experiment = run(rewind_step=20, controls=('shuffled',))
  for line in (folder / 'metrics.jsonl').read_text().splitlines():
    assert [x['step'] for x in json.loads(line)['curve']] == [40]
  initial = experiment.trainer.init(experiment.keys)
  rewound = experiment.train(initial, until=20)
  for ticket in tickets:
    assert bits(ticket.start) == bits(rewound.params) != bits(initial.params)


def test_learning_rate_rewinding_and_resuming(run):
  change = {'rewind': 'learning_rate', 'rewind_step': 20, 'controls': ()}
  folder, tickets, _ = run(**change)
  assert bits(tickets[1].start) == bits(tickets[0].trained.params)
  assert bits(tickets[2].start) == bits(tickets[1].trained.params)
  summary = (folder / 'summary.csv').read_bytes()
  shutil.rmtree(folder / 'tickets' / '02')
  _, again, _ = run(**change)
  assert bits(again[2].trained) == bits(tickets[2].trained)
  assert (folder / 'summary.csv').read_bytes() == summary


def test_frozen_weights_beside_a_ticket(run):
  folder, _, experiment = run(levels=2, controls=('frozen',))
  assert set(mean_accuracy(folder)) == {
    *((0, 'ticket'), (1, 'ticket'), (1, 'frozen'))
  }
  assert experiment.frozen[0].compilations == 1


# The command line.


def unboxed(text):
  """The words of a message without their frame."""
  return re.sub(r'[│╭╮╰╯─\s]+', ' ', text)


def test_help(capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '80')
  monkeypatch.setattr(sys, 'argv', ['lottery_ticket.py'])  # for the usage line
  with pytest.raises(SystemExit) as stop:
    lottery_ticket.parse(['--preset', 'mnist', '--help'])
  assert stop.value.code in (0, None)
  printed = capsys.readouterr().out
  assert max(map(len, printed.splitlines())) <= 80
  text = unboxed(printed)
  assert 'python experiments/lottery_ticket.py --preset mnist' in text
  for field in dataclasses.fields(lottery_ticket.Config):
    assert f'--{field.name.replace("_", "-")}' in text
  for name in lottery_ticket.PRESETS:
    assert f' {name} ' in text
  assert '(default: mnist)' in text
  assert "(default: 'output/*' 0.1 '*' 0.2)" in text
  assert 'default: )' not in text


@pytest.mark.parametrize('name', lottery_ticket.PRESETS)
def test_presets(name):
  preset = lottery_ticket.PRESETS[name]
  assert lottery_ticket.parse(['--preset', name]) == preset
  changed = lottery_ticket.parse(['--seeds', '8', f'--preset={name}'])
  assert changed == dataclasses.replace(preset, seeds=8)


def test_defaults_are_the_first_preset():
  assert lottery_ticket.parse([]) == lottery_ticket.PRESETS['digits']
  assert checkpoints.config_hash(lottery_ticket.parse([])) == '44136fa3'


def test_controls_are_counted_back_from_the_last_level():
  config = dataclasses.replace(CONFIG, levels=8, control_every=3)
  with_controls = [
    level
    for level in range(config.levels)
    if lottery_ticket.controls_at(config, level)
  ]
  assert with_controls == [1, 4, 7]


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    ('--rewind-step 300', 'rewind_step was 300, but must be from 0 to 299'),
    ('--rewind-step -1', 'rewind_step was -1, but must be from 0 to 299'),
    ('--rewind-step 299 --eval-every 301', 'There is no evaluation from step'),
    ('--controls reinit reinit', 'but must be none or more, each of them once'),
    ('--steps 49', 'There is no evaluation from step 0 to step 49 when eval_'),
    ('--levels 0', 'levels was 0, but must be at least 1'),
    ('--seeds 0', 'seeds was 0, but must be at least 1'),
    ('--validation 0', 'validation was 0, but must be at least 1'),
    ('--preset nonsense', "invalid choice 'nonsense' for argument '--preset'"),
    ('--preset', 'argument --preset: expected one argument'),
    ('--model mlp', "invalid choice 'mlp' for argument '--model'"),
    ('--controls rewind', "invalid choice 'rewind' for argument '--controls'"),
    ('--fraction 0.2', '--fraction'),
    ('--sparsity 0.9', '--sparsity'),
  ],
)
def test_bad_command_line(arguments, text, main, tmp_path):
  output = ['--output', str(tmp_path)]
  code, printed, errors = main(*output, *arguments.split())
  assert (code, printed) == (2, '')
  assert text in unboxed(errors)
  assert 'Traceback' not in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('no_training')
@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    (['--fraction', '*', '1.0'], '`fraction` was 1.0, but must be in [0, 1)'),
    (['--fraction', 'conv*', '0.2'], "match no prunable leaf: 'conv*'"),
    (['--validation', '1437'], 'validation=1437 examples cannot be held out'),
  ],
)
def test_bad_values_before_anything_is_done(arguments, text, main, tmp_path):
  code, _, errors = main(
    *arguments, '--rewind-step', '20', '--output', str(tmp_path)
  )
  assert code == 1
  assert errors.startswith('error: ')
  assert text in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('mnist', "error: Data set 'mnist' is not prepared: "),
    ('mnits', "Did you mean 'mnist'"),
  ],
)
def test_data_that_is_not_there(name, text, launch, tmp_path):
  arguments = ['--dataset', name, '--output', str(tmp_path / 'runs')]
  process = launch(*arguments, TFDS_DATA_DIR=str(tmp_path / 'data'))
  _, errors = process.communicate()
  assert process.returncode == 1
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
  return 'masks/w: uint8[1] there, nothing in `like`'


@pytest.mark.usefixtures('no_training')
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
  ],
)
def test_damaged_run(damage, copied, main):
  text = damage(copied)
  before = contents(copied)
  code, _, errors = main(*TINY, '--output', str(copied.parent))
  assert code == 1
  assert errors.startswith('error: ')
  assert text in errors
  assert contents(copied) == before


# The numbers of the papers.


@pytest.mark.slow
def test_digits(launch, tmp_path):
  finish(launch('--output', str(tmp_path)))
  (folder,) = tmp_path.iterdir()
  last = read_summary(folder)[-1]
  assert abs(float(last['density']) - 0.02) < 0.001
  accuracy = mean_accuracy(folder)
  level = int(last['level'])
  assert accuracy[level, 'ticket'] - accuracy[level, 'reinit'] >= 2
  assert accuracy[level, 'ticket'] - accuracy[level, 'shuffled'] >= 10


@pytest.mark.slow
def test_mnist(launch, tmp_path, tfds_data_dir):
  arguments = ['--preset', 'mnist', '--output', str(tmp_path)]
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
  tickets = load_tickets(folder, lottery_ticket.PRESETS['mnist'])
  assert alive(tickets[1].masks) == [[188160, 24000, 900]] * 3
  assert alive(tickets[15].masks) == [[8275, 1056, 206]] * 3
