"""How the experiments are run in tests: as commands, and in this process."""

import dataclasses
import fcntl
import functools
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass
class Finished:
  cwd: pathlib.Path
  folder: pathlib.Path
  printed: str


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
  """A folder that all workers of this session have in common."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  (folder / 'experiments').mkdir(exist_ok=True)
  return folder / 'experiments'


@pytest.fixture(scope='session')
def start(shared):
  """Starts an experiment in a process of its own."""
  environment = {
    **os.environ,
    'PYTHONPATH': str(ROOT),
    'COLUMNS': '120',
    # A program is compiled once for all of these processes.
    'JAX_COMPILATION_CACHE_DIR': str(shared / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }

  def start(script, *arguments, cwd=ROOT, **variables):
    return subprocess.Popen(
      [sys.executable, ROOT / 'experiments' / f'{script}.py', *arguments],
      cwd=cwd,
      env={**environment, **variables},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.fixture(scope='session')
def run_once(start, shared):
  """Runs an experiment that nobody disturbs, once for all workers."""

  def run(script, arguments):
    cwd, log = shared / script, shared / f'{script}.txt'
    with (shared / f'{script}.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)  # One worker runs it, the others wait.
      if not log.exists():
        cwd.mkdir(exist_ok=True)
        process = start(script, *arguments, cwd=cwd)
        printed, errors = process.communicate()
        assert process.returncode == 0, errors
        log.write_text(printed)
    (folder,) = (cwd / 'runs').iterdir()
    return Finished(cwd, folder, log.read_text())

  return run


@pytest.fixture
def call(monkeypatch, capsys):
  """Calls a script in this process; returns exit code and what it prints."""

  def call(module, *arguments):
    monkeypatch.setattr(sys, 'argv', [f'{module.__name__}.py', *arguments])
    monkeypatch.setenv('COLUMNS', '100')
    try:
      module.main()
      code = 0
    except SystemExit as stop:
      code = stop.code
    printed, errors = capsys.readouterr()
    if isinstance(code, str):  # Python prints it and exits with 1.
      code, errors = 1, errors + code
    return code, printed, errors

  return call


@pytest.fixture(scope='module')
def script(request):
  """The experiment that a module of tests is named after, and imports."""
  name = request.module.__name__.rpartition('.test_')[2]
  return getattr(request.module, name)


@pytest.fixture(scope='module')
def unbroken(run_once, script, request):
  """A run that nobody disturbed, with the options TINY of the module."""
  return run_once(script.__name__, request.module.TINY)


@pytest.fixture
def main(call, script):
  """Calls the script in this process; returns exit code and what it prints."""
  return functools.partial(call, script)


@pytest.fixture
def no_training(monkeypatch, script):
  """Lets nothing be trained."""

  def train(*arguments, **options):
    raise AssertionError('nothing should be trained here')

  monkeypatch.setattr(script.Experiment, 'train', train)


@pytest.fixture
def compiled(shared):
  """Lets this process use what the others have compiled."""

  def use(settings):
    for name, value in settings.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()

  settings = {
    'jax_compilation_cache_dir': str(shared / 'compiled'),
    'jax_persistent_cache_min_compile_time_secs': 0,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  use(settings)
  yield
  use(before)
