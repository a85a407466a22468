"""Faults for experiments, and one oracle for all of them.

  python tests/faults/harness.py EXPERIMENT FAULTS FOLDER

gives the command of an experiment again and again, with a fault each time, and
flips a bit in as many of the files that it leaves. Commands are forked, so that
nothing is imported twice; no array is made in the process that forks.
"""

import errno
import functools
import hashlib
import importlib
import os
import pathlib
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / x) for x in ('.', 'experiments', 'tests')]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from orbax.checkpoint import v1 as ocp  # noqa: E402
from tiny_experiments import timeless  # noqa: E402

from common import command, grid  # noqa: E402
from common.config import parse  # noqa: E402

TINY = {
  name: options.split()
  for name, options in {
    'lottery_ticket': '--levels 3 --steps 40 --seeds 1 --eval-every 10'
    ' --controls reinit --control-every 1',
    'dynamic_sparse_training': '--dataset digits --validation 180 --steps 40'
    ' --seeds 1 --sparsities 0.9 --methods dense set rigl --eval-every 10'
    ' --update-every 10 --batch-size 60',
    'supermasks': '--dataset digits --steps 40 --seeds 1 --eval-every 10'
    ' --methods dense edge_popup_constant --kept 0.5 --read-kept 0.3'
    ' --batch-size 60',
  }.items()
}
KINDS = ('tickets', 'controls', 'networks')  # of cells
WRITES = {'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.link'}
OPERATIONS = 150  # on files, about as many as a few cells take


# Faults: what a process does to itself before the command begins.


def at_operation(number: int, act: Callable[[], None], folder: str) -> None:
  """Acts at the nth operation on files of a folder, and at all later ones."""
  left = [number]

  def hook(event, arguments):
    opens = event == 'open' and isinstance(arguments[2], int)
    writes = event in WRITES or (opens and arguments[2] & os.O_ACCMODE)
    if writes and str(arguments[0]).startswith(folder):
      left[0] -= 1
      if left[0] < 0:
        act()

  sys.addaudithook(hook)


def fail(code: int) -> None:
  raise OSError(code, os.strerror(code))


def killed(rng, folder):
  kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
  at_operation(rng.randrange(OPERATIONS), kill, folder)


def killed_at_any_time(rng, folder):
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.1, 5))


def terminated(rng, folder):
  """SIGTERM after some evaluation."""
  left, evaluated = [rng.randrange(1, 12)], grid.Progress.evaluated

  def count(self, cell, evaluation):
    evaluated(self, cell, evaluation)
    left[0] -= 1
    if left[0] == 0:
      os.kill(os.getpid(), signal.SIGTERM)

  grid.Progress.evaluated = count


def full_disk(rng, folder):
  full = functools.partial(fail, errno.ENOSPC)
  at_operation(rng.randrange(OPERATIONS), full, folder)


def files_too_large(rng, folder):
  """As on a full disk, but also where C++ writes."""
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  most = int(10 ** rng.uniform(2, 6))
  resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def read_only(rng, folder):
  at_operation(0, functools.partial(fail, errno.EROFS), folder)


def clock_set_back(rng, folder):
  """All files come from the future; and a kill."""
  future = time.time() + 1e8
  for path in pathlib.Path(folder).rglob('*'):
    os.utime(path, (future, future))
  killed(rng, folder)


def at_once(rng, folder):
  """Nothing, in two processes."""


# How a process may end, beside 0 where it was done before.
FAULTS: dict[Callable[..., None], int] = {
  killed: -signal.SIGKILL,
  terminated: 0,
  full_disk: 1,
  killed_at_any_time: -signal.SIGALRM,
  at_once: 1,
  files_too_large: 1,
  clock_set_back: -signal.SIGKILL,
  read_only: 1,
}


# Processes.


class Process(NamedTuple):
  id: int
  output: int

  def wait(self) -> tuple[int, str]:
    """The exit code, negative if a signal ended it, and what was printed."""
    with os.fdopen(self.output, 'rb') as file:
      said = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1]), said


def fork(function: Callable[[], Any]) -> Process:
  """Calls a function in a process of its own, which exits as a script does."""
  read, write = os.pipe()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # No thread of JAX runs yet.
    child = os.fork()
  if child:
    os.close(write)
    return Process(child, read)
  code = 0
  try:
    os.dup2(write, 1)
    os.dup2(write, 2)
    function()
  except SystemExit as stop:
    code = stop.code or 0
    if isinstance(code, str):
      print(code)
      code = 1
  except BaseException:
    traceback.print_exc()
    code = 1
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def give_command(
  name: str, runs: pathlib.Path, arm: Callable[[], None]
) -> None:
  """Gives the command of an experiment, under a fault."""
  module = importlib.import_module(name)
  sys.argv = [f'{name}.py', *TINY[name], '--output', str(runs)]
  module.report.draw = lambda run: {}  # Figures take most of the time.
  arm()
  command.main(
    module.PRESETS, module.cells, module.Experiment, module.report, None
  )


# The oracle.


class Kept(NamedTuple):
  """What a run has kept: digests of networks, and files without times."""

  networks: dict[str, str]
  files: dict[str, Any]


def kept(runs: pathlib.Path) -> Kept:
  cells = sorted(x for kind in KINDS for x in runs.glob(f'*/{kind}/[!.]*'))
  files = sorted(runs.glob('*/[!.]*.json*'))
  files += sorted(runs.glob('*/[!.]*.csv'))
  return Kept(
    {f'{x.parent.name}/{x.name}': digest(x) for x in cells},
    {x.name: timeless(x) for x in files},
  )


def digest(path: pathlib.Path) -> str:
  """A digest of all arrays of a checkpoint, and of their paths."""
  found = hashlib.sha256()
  for name, x in jax.tree_util.tree_leaves_with_path(ocp.load(os.fspath(path))):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    found.update(f'{name} {x.dtype} {x.shape}'.encode())
    found.update(np.asarray(x).tobytes())
  return found.hexdigest()


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
  """What a function returns in another process, which may make arrays."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'found')
    process = fork(lambda: path.write_bytes(pickle.dumps(function(*arguments))))
    code, said = process.wait()
    assert code == 0, said
    return pickle.loads(path.read_bytes())


class Run:
  """Commands with faults: nothing is lost, and all ends with the same bits."""

  def __init__(self, name: str, folder: pathlib.Path):
    self.name, self.folder, self.count = name, folder, 0
    self.runs = folder / 'unbroken'
    self.give()
    self.expected = elsewhere(kept, self.runs)
    self.begin()

  def begin(self) -> None:
    self.count += 1
    self.runs = self.folder / str(self.count)
    self.runs.mkdir()

  def give(self, fault: Callable[..., None] | None = None, seed: int = 0):
    """Gives the command, which must end in a clear way."""

    def arm():
      if fault is not None:
        # What breaks off here must not be in the cache of later tests.
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 1e9)
        fault(random.Random(seed), str(self.runs))

    give = functools.partial(give_command, self.name, self.runs, arm)
    both = [fork(give) for _ in range(2 if fault is at_once else 1)]
    codes = []
    for process in both:
      code, said = process.wait()
      codes.append(code)
      what = f'{self.name}, {fault}, {seed}: {code}\n{said}'
      assert code in ({0, FAULTS[fault]} if fault else {0}), what
      assert 'Traceback' not in said, what
      assert code != 1 or 'error: ' in said, what
      if fault is at_once and code:
        assert 'Another process works in' in said, what
    assert fault is not at_once or 0 in codes, codes

  def suffer(self, fault: Callable[..., None], seed: int) -> None:
    """After a fault, what was there is there, and what is there is right."""
    before = elsewhere(kept, self.runs).networks
    self.give(fault, seed)
    after = elsewhere(kept, self.runs).networks
    wanted = self.expected.networks
    assert before.items() <= after.items() <= wanted.items(), (fault, seed)
    if len(after) == len(wanted):
      self.finish()

  def finish(self) -> None:
    """Without a fault, the same command ends with the same bits."""
    self.give()
    assert elsewhere(kept, self.runs) == self.expected
    hidden = [x.name for x in self.runs.glob('*/**/.*')]
    assert [x for x in hidden if '.tmp-' not in x] == ['.lock']
    assert not [*self.runs.glob('*/interrupted')]
    self.begin()


def flip_bits(name: str, runs: pathlib.Path, number: int) -> int:
  """Flips a bit in so many files of networks: their cells must be named."""
  rng, module = random.Random(0), importlib.import_module(name)
  options = [*TINY[name], '--output', str(runs)]
  config = parse(options, module.PRESETS, None)
  with command.open_store(config) as store:
    files = sorted(
      x for kind in KINDS for x in store.folder.glob(f'{kind}/**/*')
    )
    files = [x for x in files if x.is_file() and x.stat().st_size]
    files = rng.sample(files, min(number, len(files)))
    for path in files:
      content = path.read_bytes()
      damaged = bytearray(content)
      damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
      path.write_bytes(damaged)
      cell = '/'.join(path.relative_to(store.folder).parts[:2])
      said = refusal(store, cell)
      assert str(store.folder / cell) in said, (path, said)
      assert path.read_bytes() == damaged
      path.write_bytes(content)
  return len(files)


def refusal(store: grid.Store, cell: str) -> str:
  """What is said about a damaged cell, or that nothing is."""
  try:
    store.read(cell)
  except ValueError as error:
    return str(error)
  return 'nothing was noticed'


def main(name: str, number: str, folder: str) -> None:
  importlib.import_module(name)
  run = Run(name, pathlib.Path(folder))
  faults = [*FAULTS]
  first = [*TINY].index(name) * int(number)  # Others for each experiment.
  for i in range(first, first + int(number)):
    run.suffer(faults[i % len(faults)], seed=i)
  run.finish()
  flipped = elsewhere(flip_bits, name, run.folder / 'unbroken', int(number))
  print(number, 'faults,', flipped, 'bits,', run.count, 'runs')


if __name__ == '__main__':
  main(*sys.argv[1:])
