"""How the experiments are run in tests: as commands, and in this process."""

import contextlib
import csv
import dataclasses
import fcntl
import importlib
import io
import os
import pathlib
import subprocess
import sys

import pytest
from tiny_experiments import LONG, TINY

from common import command

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass
class Finished:
  cwd: pathlib.Path
  folder: pathlib.Path
  printed: str

  def rows(self, name='results.csv'):
    with (self.folder / name).open(newline='') as file:
      return list(csv.DictReader(file))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Marks what needs a tiny run that takes long as `slow`."""
  for item in items:
    if 'run_once' in getattr(item, 'fixturenames', ()):
      _, _, name = item.module.__name__.rpartition('.test_')
      if hasattr(item, 'callspec'):  # One test for all experiments.
        name = item.callspec.params.get('name', name)
      if name in LONG:
        item.add_marker('slow')


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
  """A folder that all workers of this session have in common."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  (folder / 'experiments').mkdir(exist_ok=True)
  return folder / 'experiments'


@pytest.fixture(scope='session')
def start():
  """Starts an experiment in a process of its own."""

  def start(script, *arguments, cwd=ROOT, **variables):
    return subprocess.Popen(
      [sys.executable, ROOT / 'experiments' / f'{script}.py', *arguments],
      cwd=cwd,
      # As it is now: tests marked `optimized` have another one.
      env={
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'COLUMNS': '120',
        **variables,
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.fixture(scope='session')
def run_once(start, shared):
  """Runs an experiment that nobody disturbs, once for all workers."""

  def run(script):
    arguments, cwd = TINY[script], shared / script
    log = shared / f'{script}.txt'
    with (shared / f'{script}.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)  # One worker runs it, the others wait.
      if not log.exists():
        cwd.mkdir(exist_ok=True)
        if script == 'lottery_ticket':  # One of them as people run it.
          process = start(script, *arguments, cwd=cwd)
          printed, errors = process.communicate()
          code = process.returncode
        else:
          arguments = [*arguments, '--output', str(cwd / 'runs')]
          code, printed, errors = call_main(script, arguments)
        assert code == 0, errors
        log.write_text(printed)
    (folder,) = (cwd / 'runs').iterdir()
    return Finished(cwd, folder, log.read_text())

  return run


def call_main(script, arguments):
  """Calls a script in this process; returns exit code and what it prints."""
  module = importlib.import_module(script)
  printed, errors, code = io.StringIO(), io.StringIO(), 0
  with (
    pytest.MonkeyPatch.context() as patch,
    contextlib.redirect_stdout(printed),
    contextlib.redirect_stderr(errors),
  ):
    patch.setattr(sys, 'argv', [f'{script}.py', *arguments])
    patch.setenv('COLUMNS', '120')
    try:
      command.main(
        module.PRESETS,
        module.cells,
        module.Experiment,
        module.report,
        module.__doc__,
      )
    except SystemExit as stop:
      code = stop.code or 0
  text = errors.getvalue()
  if isinstance(code, str):  # Python prints it and exits with 1.
    code, text = 1, text + code
  return code, printed.getvalue(), text


@pytest.fixture
def call():
  """Calls a script, by name, in this process."""
  return lambda script, *arguments: call_main(script, arguments)


@pytest.fixture(scope='module')
def script(request):
  """The name of the experiment that a module of tests is about."""
  return request.module.__name__.rpartition('.test_')[2]


@pytest.fixture(scope='module')
def unbroken(run_once, script):
  """A run that nobody disturbed."""
  return run_once(script)


@pytest.fixture
def main(script):
  """Calls the script in this process; returns exit code and what it prints."""
  return lambda *arguments: call_main(script, arguments)


@pytest.fixture
def no_training(monkeypatch):
  """Lets nothing be trained."""

  def train(*arguments, **options):
    raise AssertionError('nothing should be trained here')

  for name in TINY:
    experiment = importlib.import_module(name).Experiment
    monkeypatch.setattr(experiment, 'train', train)
