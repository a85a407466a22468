"""What all tests share: a quiet backend, real data, and many devices."""

import gc
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

import pytest

OPTIMIZATION = 'JAX_DISABLE_MOST_OPTIMIZATIONS'

# Subprocesses (experiments, notebooks, many devices) inherit all of this.
os.environ.setdefault('MPLBACKEND', 'Agg')  # Figures go to files.
# Programs are compiled once for all workers and later runs. JAX keys them by
# program, flags and version, so a stale entry cannot be used.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  os.path.join(
    os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache')),
    'lthjax-tests',
  ),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# A process that was killed leaves half an entry; it is compiled again.
os.environ.setdefault(
  'PYTHONWARNINGS',
  'ignore:Error reading persistent compilation cache:UserWarning',
)
# Most tests run each program for milliseconds, so XLA does not optimize them,
# which takes a third of the time. With 0, all is compiled as for users.
os.environ.setdefault(OPTIMIZATION, '1')
QUICK = os.environ[OPTIMIZATION] == '1'
# A flag that XLA does not know ends the process: only where it is known. There
# is a worker for every core, so that a program is not compiled in many parts.
COMPILER = (
  '--xla_cpu_use_fusion_emitters=false',
  '--xla_cpu_parallel_codegen_split_count=1',
)
FLAGS = os.environ.get('XLA_FLAGS', '').split()
KNOWN = metadata.version('jaxlib').startswith('0.10.')
if QUICK and KNOWN:
  os.environ['XLA_FLAGS'] = ' '.join(dict.fromkeys([*FLAGS, *COMPILER]))
# Lines of Python in programs, which only debuggers of XLA read.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')

import jax  # noqa: E402  The variables are read when it is imported.

ROOT = pathlib.Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts tests marked `optimized` last, so that caches are cleared once."""
  items.sort(key=lambda item: item.get_closest_marker('optimized') is not None)


def pytest_collection_finish() -> None:
  """Takes the tests and all modules out of what Python looks through."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 20)  # Traces make many objects, few cycles.


TESTS = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
  """Has XLA optimize the programs of tests marked `optimized`.

  Programs of earlier tests are forgotten now and then: all together would take
  gigabytes.
  """
  if next(TESTS) % 800 == 0:
    jax.clear_caches()
  wanted = '1' if QUICK and not item.get_closest_marker('optimized') else '0'
  if os.environ[OPTIMIZATION] != wanted:
    os.environ[OPTIMIZATION] = wanted
    jax.config.update('jax_disable_most_optimizations', wanted == '1')
    jax.clear_caches()


@pytest.fixture(scope='session')
def tfds_data_dir() -> pathlib.Path:
  """The folder of prepared data sets; skips the test where there is none."""
  value = os.environ.get('TFDS_DATA_DIR')
  if not value:
    pytest.skip(
      'needs real data: set TFDS_DATA_DIR to a folder of data sets that'
      ' tensorflow-datasets has prepared'
    )
  path = pathlib.Path(value).expanduser()
  if not path.is_dir():
    pytest.skip(f'needs real data, but TFDS_DATA_DIR={value} is no folder')
  return path


@pytest.fixture(scope='session')
def text_data_dir(tfds_data_dir: pathlib.Path) -> pathlib.Path:
  """The folder of treebanks and lexicons beside that of prepared data sets."""
  path = tfds_data_dir.parent / 'text'
  if not path.is_dir():
    pytest.skip(f'needs treebanks and lexicons, but {path} is no folder')
  return path


@pytest.fixture(scope='session')
def run_python() -> Callable[..., str]:
  """Runs Python source in a fresh process and returns what it prints.

  ``run_python(source, devices=8)`` sees eight CPU devices. Not all tests get
  them: on two cores, eight devices make every training step a third slower.
  """

  def run(source: str, *options: str, devices: int | None = None) -> str:
    environment = dict(os.environ)
    # As in this process, where pytest has it from its configuration.
    given = environment.get('PYTHONPATH')
    path = [str(ROOT / 'tests'), *([given] if given else [])]
    environment['PYTHONPATH'] = os.pathsep.join(path)
    if devices:
      environment['JAX_PLATFORMS'] = 'cpu'
      environment['XLA_FLAGS'] = (
        os.environ.get('XLA_FLAGS', '')
        + f' --xla_force_host_platform_device_count={devices}'
      )
    done = subprocess.run(
      [sys.executable, *options, '-c', source],
      cwd=ROOT,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  return run


@pytest.fixture(scope='module')
def browser():
  """Debian's chromium."""
  api = pytest.importorskip(
    'playwright.sync_api', reason='needs a browser: `pip install playwright`'
  )
  chromium = shutil.which('chromium')
  if chromium is None:
    pytest.skip('needs a browser: `apt-get install chromium`')
  with api.sync_playwright() as playwright:
    # Containers run tests as root, whom chromium's sandbox refuses.
    browser = playwright.chromium.launch(
      executable_path=chromium, args=['--no-sandbox']
    )
    yield browser
    browser.close()
