"""Folders of runs: named by configuration, found again, one process each."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from helpers import contents, names
from jax.experimental import multihost_utils

from lthjax import runs

ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Config:
  steps: int = 100
  rate: float = 0.1
  shares: tuple[tuple[str, float], ...] = (('out/*', 0.1), ('*', 0.2))
  nested: dict[str, Any] = dataclasses.field(
    default_factory=lambda: {'a': 1, 'b': 2}
  )
  name: str | None = None
  output: pathlib.Path = dataclasses.field(
    default=pathlib.Path('runs'), compare=False
  )


@dataclasses.dataclass(frozen=True)
class Longer(Config):
  """As a later version of the same program would have it."""

  momentum: float = 0.9
  output: pathlib.Path = dataclasses.field(
    default=pathlib.Path('elsewhere'), compare=False
  )


CONFIGS = [
  Config(),
  Config(steps=7),
  Config(steps=8),
  Config(rate=7.0),
  Config(shares=(('*', 0.2), ('out/*', 0.1))),
  Config(shares=(('out/*', 0.1), ('*', 0.3))),
  Config(nested={}),
  Config(nested={'b': 2, 'a': 1}),
  Config(nested={'a': {'b': 2}}),
  Config(name=''),
  Config(name='None'),
]


def test_hash_tells_configurations_apart():
  hashes = {runs.config_hash(config) for config in CONFIGS}
  assert len(hashes) == len(CONFIGS)
  assert all(len(x) == 8 and int(x, 16) >= 0 for x in hashes)


def test_hash_never_changes():
  """Folders of runs that people have are found by it: do not edit these."""
  assert runs.config_hash(Config()) == '44136fa3'
  changed = Config(steps=7, rate=0.5, shares=(('*', 0.3),), nested={'a': None})
  assert runs.config_hash(changed) == 'c59f5630'


@pytest.mark.parametrize(
  'change', [{}, {'steps': 7}, {'shares': (('*', 0.3),)}]
)
def test_hash_stays_when_a_field_is_added(change):
  before = runs.config_hash(Config(**change))
  assert runs.config_hash(Longer(**change)) == before
  more = Longer(momentum=0.5, **change)
  assert runs.config_hash(more) != before


def test_hash_ignores_what_does_not_count():
  moved = Config(output=pathlib.Path('/elsewhere'))
  assert runs.config_hash(moved) == runs.config_hash(Config())


def test_open_run_creates_and_finds(tmp_path):
  parent = tmp_path / 'new' / 'runs'
  config = Config(steps=7, nested={'a': (1, 2)}, output=parent)
  folder = runs.open_run(parent, 'mnist', config)
  assert folder == parent / f'mnist-{runs.config_hash(config)}'
  assert json.loads((folder / 'config.json').read_text()) == {
    'steps': 7,
    'rate': 0.1,
    'shares': [['out/*', 0.1], ['*', 0.2]],
    'nested': {'a': [1, 2]},
    'name': None,
  }
  (folder / 'result').write_text('hello')
  before = contents(parent)
  assert runs.open_run(parent, 'mnist', config) == folder
  elsewhere = dataclasses.replace(config, output=pathlib.Path('elsewhere'))
  assert runs.open_run(parent, 'mnist', elsewhere) == folder
  longer = Longer(steps=7, nested={'a': (1, 2)})
  assert runs.open_run(parent, 'mnist', longer) == folder
  assert contents(parent) == before
  other = runs.open_run(parent, 'mnist', Config())
  assert names(parent) == sorted([folder.name, other.name])


def test_folder_of_a_run_can_be_read_by_others(tmp_path):
  folder = runs.open_run(tmp_path, 'mnist', Config())
  (tmp_path / 'plain').mkdir()
  assert folder.stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_folder_of_another_configuration(tmp_path):
  folder = runs.open_run(tmp_path, 'mnist', Config())
  written = json.loads((folder / 'config.json').read_text())
  written.update(steps=7, old=True)
  (folder / 'config.json').write_text(json.dumps(written))
  before = contents(tmp_path)
  with pytest.raises(ValueError, match='another configuration') as caught:
    runs.open_run(tmp_path, 'mnist', Config())
  text = '(old: True there, nothing here; steps: 7 there, 100 here)'
  assert text in str(caught.value)
  assert str(folder) in str(caught.value)
  assert contents(tmp_path) == before


@pytest.mark.parametrize('text', [None, '', '{"steps": 1', '[]', '\0\xff'])
def test_folder_that_is_no_run(text, tmp_path):
  folder = tmp_path / f'mnist-{runs.config_hash(Config())}'
  folder.mkdir()
  (folder / 'thesis.txt').write_text('hello')
  if text is not None:
    (folder / 'config.json').write_bytes(text.encode('latin-1'))
  before = contents(tmp_path)
  with pytest.raises(ValueError, match='is not the folder of a run') as caught:
    runs.open_run(tmp_path, 'mnist', Config())
  assert str(folder) in str(caught.value)
  assert contents(tmp_path) == before


# Text files.


@pytest.mark.parametrize('name', ['', '.', '..', 'a/b', '../../x', 'a\0b'])
def test_names_that_leave_the_folder(name, tmp_path):
  with pytest.raises(ValueError, match='must be the name of one folder'):
    runs.open_run(tmp_path, name, Config())
  assert names(tmp_path) == []


def test_fields_that_json_cannot_hold(tmp_path):
  config = Config(steps=np.int64(7), rate=np.float32(0.5))
  folder = runs.open_run(tmp_path, 'x', config)
  assert json.loads((folder / 'config.json').read_text())['steps'] == 7
  with pytest.raises(TypeError, match="The field 'name' of the configuration"):
    runs.open_run(tmp_path, 'x', Config(name={1, 2}))
  for odd in (np.timedelta64(3), np.complex64(1j), jax.random.key(0)):
    with pytest.raises(TypeError, match="The field 'name' of the configurat"):
      runs.open_run(tmp_path, 'x', Config(name=odd))
  for name, keys in (({1: 2}, '1'), ([{'a': {None: 2, 0.5: 1}}], 'None, 0.5')):
    with pytest.raises(TypeError, match=f"'name' .* has the key {keys}, which"):
      runs.open_run(tmp_path, 'x', Config(name=name))


def test_every_field_needs_a_default():
  lacking = dataclasses.make_dataclass('Lacking', ['steps', ('rate', float)])
  with pytest.raises(
    ValueError, match=r'need defaults, .*but steps, rate came'
  ):
    runs.config_hash(lacking(1, 0.5))


def test_deeply_nested_configuration(tmp_path):
  folder = runs.open_run(tmp_path, 'x', Config())
  (folder / 'config.json').write_text('[' * 100_000)
  with pytest.raises(ValueError, match='is not the folder of a run'):
    runs.open_run(tmp_path, 'x', Config())


@pytest.mark.slow
def test_two_processes_open_one_run(tmp_path):
  """Both find it, whoever was first."""
  source = """
import dataclasses, sys
sys.path.insert(0, '.')
from lthjax import runs
@dataclasses.dataclass(frozen=True)
class Config:
  steps: int = 100
for i in range(100):
  runs.open_run(sys.argv[1], f'run{i}', Config())
"""
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', source, str(tmp_path)],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  for process in processes:
    _, errors = process.communicate()
    assert process.returncode == 0, errors
  assert len(names(tmp_path)) == 100


@pytest.mark.slow
def test_only_one_process_trains(tmp_path):
  source = f"""
import sys
sys.path.insert(0, '.')
from lthjax import runs
with runs.only_process({str(tmp_path)!r}):
  print('holding', flush=True)
  sys.stdin.read()
"""
  process = subprocess.Popen(
    [sys.executable, '-c', source],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'holding\n'
  held = pytest.raises(RuntimeError, match=f'process {process.pid} on ')
  with held, runs.only_process(tmp_path):
    raise AssertionError('two at once')
  process.kill()
  process.communicate()
  with runs.only_process(tmp_path):
    pass


def test_sigterm_is_noted_once():
  """The second one does what it did before."""
  noted = []
  before = signal.signal(signal.SIGTERM, lambda *_: noted.append('before'))
  try:
    with runs.termination() as stop:
      assert not stop(10)
      for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(20)
    assert noted == ['before']
    with runs.termination() as stop:
      assert not stop(0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert noted == ['before'] * 2
  finally:
    signal.signal(signal.SIGTERM, before)


def test_signals_are_for_the_main_thread():
  with concurrent.futures.ThreadPoolExecutor() as pool:
    error = pool.submit(runs.termination().__enter__).exception()
  assert isinstance(error, RuntimeError)
  assert 'Only the main thread receives signals' in str(error)


def test_processes_of_one_job_agree(monkeypatch, tmp_path):
  """As if another process had these values."""
  monkeypatch.setattr(runs.jax.distributed, 'is_initialized', lambda: True)
  others = [np.zeros(4, np.uint8)]
  monkeypatch.setattr(
    multihost_utils, 'process_allgather', lambda x: np.stack([x, *others])
  )
  text = f'the hashes {runs.config_hash(Config())}, 00000000. Start'
  with pytest.raises(ValueError, match=text):
    runs.open_run(tmp_path, 'x', Config())
  assert names(tmp_path) == []
  others[0] = np.int32(1)
  with (
    pytest.raises(RuntimeError, match='The first process cannot hold'),
    runs.only_process(tmp_path),
  ):
    raise AssertionError('held by another job')
  others[0] = np.int32(0)
  with runs.only_process(tmp_path):
    pass


def test_processes_find_each_other(monkeypatch):
  asked = []
  monkeypatch.setattr(
    runs.jax.distributed, 'initialize', lambda *x, **how: asked.append((x, how))
  )
  runs.connect()
  runs.connect('localhost:1', 2, 0, timeout=5)  # The first one listens.
  with socket.create_server(('localhost', 0)) as server:
    place = f'localhost:{server.getsockname()[1]}'
    runs.connect(place, processes=2, process=1, timeout=5)
  assert [x for x, _ in asked] == [
    (None, None, None),
    ('localhost:1', 2, 0),
    (place, 2, 1),
  ]
  assert [how['initialization_timeout'] for _, how in asked] == [60, 5, 5]
  assert {how['heartbeat_timeout_seconds'] for _, how in asked} == {30}

  def fail(*_, **__):
    raise ValueError('coordinator_address should be defined')

  monkeypatch.setattr(runs.jax.distributed, 'initialize', fail)
  text = r'did not find each other: coordinator_address should be defined\. St'
  with pytest.raises(OSError, match=text):
    runs.connect()
  for name, wrong in {
    'coordinator': 'localhost',
    'processes': 0,
    'process': -1,
    'timeout': 0.5,
    'silence': None,
  }.items():
    with pytest.raises((TypeError, ValueError), match=f'`{name}` was'):
      runs.connect(**{name: wrong})
