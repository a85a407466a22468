"""Every file of a finished run, damaged in every way, and the command again."""

import importlib
import shutil

import pytest
from helpers import contents
from tiny_experiments import TINY

from common import provenance, tables

pytestmark = pytest.mark.slow

RUNS = ['lottery_ticket', 'dynamic_sparse_training', 'zero_cost_ranking']
KEPT = ('tickets', 'controls', 'networks', 'scores')  # folders of cells


def cut(content, other):
  return content[: len(content) // 2]


def flip(content, other):
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def digit(content, other):
  """Changes the digit that is nearest to the end."""
  for i in range(len(content) - 1, -1, -1):
    if content[i : i + 1].isdigit():
      return (
        content[:i] + (b'7' if content[i] != 55 else b'3') + content[i + 1 :]
      )
  return content


def empty(content, other):
  return b''


def exchange(content, other):
  return other


def delete(content, other):
  return None


WAYS = [cut, flip, digit, empty, exchange, delete]


def cell_of(path, folder):
  """The name of the training that a file belongs to, if it does."""
  parts = path.relative_to(folder).parts
  return '/'.join(parts[:2]) if parts[0] in KEPT else None


def damages(path, other):
  """What a file can become, by name; `None` is a file that is gone."""
  content = path.read_bytes()
  found = {}
  for way in WAYS:
    if content or way in (exchange, delete):
      found[way.__name__] = way(content, other)
  return {name: x for name, x in found.items() if x != content}


def some(found, number, turn):
  """As many of them, but others for every file."""
  found = [*found.items()]
  return [found[(turn + i) % len(found)] for i in range(len(found))][:number]


def put(path, content):
  if content is None:
    path.unlink()
  else:
    path.write_bytes(content)


def of_another_cell(path, folder, cell):
  """The same file of the cell next to this one."""
  group = (folder / cell).parent
  cells = sorted(x.name for x in group.iterdir())
  name = cell.rpartition('/')[2]
  neighbor = group / cells[cells.index(name) - 1]
  place = path.relative_to(folder / cell)
  files = sorted((neighbor / place.parent).iterdir())
  files = [x for x in files if x.is_file() and x.name == place.name] or files
  return next(x for x in files if x.is_file()).read_bytes()


def of_another_run(path, runs):
  """A file of the same kind that belongs to another experiment."""
  for run in runs:
    for other in sorted(run.iterdir()):
      same = other.suffix == path.suffix and other.is_file()
      if same and other.read_bytes() != path.read_bytes():
        return other.read_bytes()
  return b'4711 on another-machine\n'


class Reached(Exception):
  """Nothing was noticed: the run would go on."""


class Nothing:
  """An experiment that is not needed where damages are noticed."""

  def __init__(self, config):
    pass

  def train(self, *arguments):
    raise Reached

  finish = train


def stats(folder):
  """Sizes and times of all files except the lock."""
  return {
    str(path): (path.stat().st_size, path.stat().st_mtime_ns)
    for path in folder.rglob('*')
    if path.is_file() and path.name != '.lock'
  }


@pytest.fixture
def copied(name, run_once, tmp_path):
  """A copy of a finished run, to be damaged."""
  folder = run_once(name).folder
  return shutil.copytree(folder, tmp_path / 'runs' / folder.name)


@pytest.fixture
def again(name, copied, call):
  """Gives the same command again."""
  return lambda: call(name, *TINY[name], '--output', str(copied.parent))


@pytest.mark.parametrize(
  ('name', 'ways', 'least'),
  # Tickets take long to read: one way for each of their many files.
  [(RUNS[0], 1, 110), (RUNS[1], 3, 90), (RUNS[2], 3, 110)],
)
def test_damages_of_what_is_kept_are_named(
  name, ways, least, copied, again, run_once, monkeypatch
):
  module = importlib.import_module(name)
  monkeypatch.setattr(module, 'Experiment', Nothing)
  others = [run_once(x).folder for x in RUNS if x != name]
  all_cells, first, count, wrong = module.cells, '', 0, []
  # The damaged one is read first, which takes less time.
  monkeypatch.setattr(
    module,
    'cells',
    lambda config: sorted(all_cells(config), key=lambda x: x.name != first),
  )
  files = sorted(x for x in copied.rglob('*') if x.is_file())
  for i, path in enumerate(files):
    first = cell_of(path, copied)
    if first:
      other = of_another_cell(path, copied, first)
      place = str(path.relative_to(copied / first))
      said = f'{copied / first} is '
      named = '' if place == 'SHA256SUMS' else place
    elif path.name == 'config.json':
      other, said, named = of_another_run(path, others), f'{copied} ', 'config'
    else:
      continue
    content = path.read_bytes()
    for way, damaged in some(damages(path, other), ways, i):
      put(path, damaged)
      before = stats(copied)
      try:
        code, _, errors = again()
      except Reached:
        code, errors = 0, 'not noticed'
      if not (code == 1 and said in errors and named in errors):
        wrong.append(f'{way} {path.relative_to(copied)}: {errors}')
      if stats(copied) != before:
        wrong.append(f'{way} {path.relative_to(copied)}: touched')
      path.write_bytes(content)
      count += 1
  assert wrong == []
  assert count >= least


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.usefixtures('no_training')
def test_all_else_is_made_again(name, copied, again, run_once, monkeypatch):
  head = tables.Table(['', ''], [['date', 'today']])
  monkeypatch.setattr(provenance, 'provenance', lambda seeds: head)
  code, printed, _ = again()
  assert code == 0
  paths = sorted(
    path
    for path in copied.iterdir()
    if path.is_file() and path.name != 'config.json'
  )
  expected = contents(copied)
  others = [run_once(x).folder for x in RUNS if x != name]
  ways = {
    path: [*damages(path, of_another_run(path, others)).items()]
    for path in paths
  }
  count, wrong = 0, []
  # Each time all of them are damaged, every one in another way.
  for turn in range(len(WAYS)):
    done = {}
    for i, path in enumerate(paths):
      done[path.name], damaged = ways[path][(turn + i) % len(ways[path])]
      put(path, damaged)
      count += 1
    code, again_printed, errors = again()
    after = contents(copied)
    wrong += [
      f'{done.get(x)} {x}: {errors or "not made again"}'
      for x in sorted(expected.keys() | after.keys())
      if after.get(x) != expected.get(x)
    ]
    if (code, again_printed) != (0, printed):
      wrong.append(f'{done}: {errors or "prints something else"}')
  assert wrong == []
  assert count == len(WAYS) * len(paths)
