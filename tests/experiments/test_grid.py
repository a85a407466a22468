"""A grid of trainings: resumed, moved, removed, diverged, and its options."""

import contextlib
import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import slow_but
from tiny_experiments import TINY, timeless

from common import command, figures, grid, progress, provenance, tables
from common.config import BaseConfig, seeds, titled


class Cell(NamedTuple):
  number: int

  @property
  def name(self):
    return f'networks/{self.number}'

  @property
  def label(self):
    return f'cell [bold]{self.number}[/b]'

  @property
  def steps(self):
    return 10


LIKE = np.zeros(2, np.float32)
CELLS = [Cell(number) for number in range(4)]


def train(cell, store, evaluated, loss=0.5):
  """Sums up what came before, so that a wrong order would be seen."""
  before = sum(store.load(x.name, LIKE) for x in CELLS[: cell.number])
  evaluated(10, {'loss': np.array([0.5, loss]), 'accuracy': np.ones(2)})
  tree = np.full(2, 1 + np.max(before), np.float32)
  return {'number': cell.number, 'test_accuracy': [0.25, 0.75]}, tree


def rows(result):
  return grid.by_seed(result, number=result['number'])


@dataclasses.dataclass(frozen=True)
class Config(BaseConfig):
  PREFIX = 'grid'


@pytest.fixture
def opened():
  """Opens folders of runs, as a process does."""
  with contextlib.ExitStack() as stack:

    def open_store(output, **options):
      config = Config(output=output, **options)
      return stack.enter_context(command.open_store(config))

    yield open_store


@pytest.fixture
def store(opened, tmp_path):
  return opened(tmp_path / 'runs')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The networks of a run that nobody disturbed."""
  config = Config(output=tmp_path_factory.mktemp('runs'))
  with command.open_store(config) as store:
    run(store)
  return store.folder / 'networks'


@pytest.fixture
def done(store, finished):
  """An open folder with these networks."""
  shutil.copytree(finished, store.folder / 'networks')
  return store


def run(store, train=train):
  with grid.Progress(CELLS, rows, Config()) as report:
    grid.run(store, train, report)
  return report


def numbers(store):
  return [store.load(cell.name, LIKE).tolist() for cell in CELLS]


@pytest.mark.slow
def test_an_unfinished_run_ends_with_the_same_files(store, opened, tmp_path):
  run(store)
  assert numbers(store) == [[1, 1], [2, 2], [4, 4], [8, 8]]
  other = opened(tmp_path / 'other')
  trained = []

  def stops(cell, *arguments):
    trained.append(cell.number)
    if cell.number == 2 and trained.count(2) == 1:
      raise KeyboardInterrupt
    return train(cell, *arguments)

  with pytest.raises(KeyboardInterrupt):
    run(other, stops)
  run(other, stops)
  assert trained == [0, 1, 2, 2, 3]
  assert numbers(other) == numbers(store)
  for name in ('results.csv', 'metrics.jsonl', 'config.json'):
    before, after = (timeless(x.folder / name) for x in (store, other))
    assert before == after
  shutil.rmtree(other.folder / 'networks' / '1')
  run(other, stops)
  assert trained == [0, 1, 2, 2, 3, 1]
  assert numbers(other) == numbers(store)


def test_a_finished_run_trains_nothing(done):
  before = run(done, None).finished()
  assert [x['number'] for x in before] == [0, 1, 2, 3]
  assert run(done, None).finished() == before


def test_rows_say_which_seed_and_where_it_ended(done):
  name = Config().configuration
  run(done, None)
  text = (done.folder / 'results.csv').read_text()
  assert text.splitlines()[:3] == [
    'seed,number,step,validation_loss,validation_accuracy,test_accuracy,'
    'configuration,seconds',
    f'0,0,10,0.5,1.0,0.25,{name},0.0',
    f'1,0,10,0.5,1.0,0.75,{name},0.0',
  ]


@pytest.mark.parametrize('onto', [0, 1, 3])
def test_a_cell_in_the_place_of_another_is_refused(done, onto):
  places = [done.folder / 'networks' / str(n) for n in (2, onto)]
  shutil.rmtree(places[1])
  shutil.copytree(*places)
  with pytest.raises(ValueError, match=f'networks/{onto}, but is that of gri'):
    run(done)
  with pytest.raises(ValueError, match='it was copied or moved there'):
    done.load(f'networks/{onto}', LIKE)


def test_a_cell_of_another_run_is_refused(finished, opened, tmp_path):
  other = opened(tmp_path, seeds=7)
  shutil.copytree(finished, other.folder / 'networks')
  name = finished.parent.name
  with pytest.raises(ValueError, match=f'but is that of {name}/'):
    run(other)


@pytest.mark.parametrize('removed', ['folder', 'parent', 'moved'])
def test_a_run_whose_folder_is_gone_stops(store, removed):
  def removes(cell, *arguments):
    assert cell.number == 0, 'training went on'
    found = train(cell, *arguments)
    if removed == 'moved':
      store.folder.rename(store.folder.with_name('moved'))
    else:
      up = store.folder.parent if removed == 'parent' else store.folder
      shutil.rmtree(up)
    return found

  with pytest.raises(OSError, match='was removed or moved during the run'):
    run(store, removes)
  assert not store.folder.exists()


@pytest.mark.parametrize(
  'loss', slow_but([math.nan, math.inf, -math.inf], [math.inf])
)
def test_what_has_diverged_is_marked_and_named(store, loss):
  def diverges(cell, store, evaluated):
    bad = loss if cell.number == 1 else 0.5
    return train(cell, store, evaluated, bad)

  for report in (run(store, diverges), run(store, None)):  # Resumed as well.
    results = report.finished()
    assert [x.get('diverged') for x in results] == [
      None,
      [None, 10],
      None,
      None,
    ]
    assert grid.spread(results[0]) == '50.00 ± 35.36'
    assert grid.spread(results[1]) == '50.00 ± 35.36 (1 of 2 diverged)'
    with pytest.raises(ValueError, match=r'1 of 2 seeds, the first at step 10'):
      grid.check_converged(report.results)
  grid.check_converged({CELLS[0]: results[0]})
  lines = (store.folder / 'metrics.jsonl').read_text().splitlines()
  assert 'NaN' not in lines[1]
  assert 'Infinity' not in lines[1]
  assert json.loads(lines[1])['curve'][0]['loss'] == [0.5, None]
  table = (store.folder / 'results.csv').read_text().splitlines()
  assert table[0].endswith(',diverged_at_step')
  assert [x.rpartition(',')[2] for x in table[3:5]] == ['', '10']


def test_no_number_is_written_that_json_does_not_have(tmp_path):
  row = {'a': math.nan, 'b': [1.5, math.inf], 'c': {'d': (-math.inf,)}}
  tables.write_jsonl(tmp_path / 'x', [row])
  found = json.loads((tmp_path / 'x').read_text(), parse_constant=pytest.fail)
  assert found == {'a': None, 'b': [1.5, None], 'c': {'d': [None]}}


# Folders and text that people choose.


@pytest.mark.parametrize('name', ['m[red]', 'a*b', 'x?', '[a-z]'])
def test_folders_that_cannot_be_read_back_are_refused(name, opened, tmp_path):
  with pytest.raises(ValueError, match=r'could not be read again. Choose anot'):
    opened(tmp_path / name)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_others_work(opened, tmp_path):
  store = opened(tmp_path.joinpath('a b', 'ä', '%d', 'a:b', '{x}', "'", '-'))
  run(store)
  assert numbers(store)[-1] == [8, 8]


def test_a_second_process_is_refused(store, opened, tmp_path):
  with pytest.raises(ValueError, match='Another process works in'):
    opened(tmp_path / 'runs')
  opened(tmp_path / 'runs', seeds=7)  # Another run is no matter.


@pytest.mark.parametrize('text', ['m[/b]', '[red]x', ':smile:', '[/]', '{x}'])
def test_text_is_printed_as_it_is(text, capsys):
  with progress.Progress(1) as bar:
    bar.say(text)
    bar.advance(0, text)
    bar.console.print(tables.for_terminal(tables.Table([text], [[text]], text)))
  assert capsys.readouterr().out.count(text) >= 4


def test_pages_keep_columns_apart():
  table = tables.Table(['a', 'b'], [['x|y', 'z']], 'Caption')
  assert tables.markdown(table).splitlines() == [
    *('Caption', '', '| a | b |', '| --- | --- |', '| x\\|y | z |')
  ]


@pytest.mark.parametrize('output', ['--output /a/path', '--output=/a/path'])
def test_provenance_holds_the_command_without_paths(output, monkeypatch):
  options = f'--kept 0.5 {output} --steps=9'
  monkeypatch.setattr(sys, 'argv', ['/somewhere/else.py', *options.split()])
  page = tables.markdown(provenance.provenance(range(2)))
  assert '| `python experiments/else.py --kept 0.5 --steps=9` |' in page
  assert '| seeds | 0, 1 |' in page
  assert '/a/path' not in page


def test_names_in_text():
  assert [seeds(Config(seeds=n)) for n in (1, 3)] == ['1 seed', '3 seeds']
  names = ('fashion_mnist', 'conv_4', 'digits', 'my_own')
  assert [*map(titled, names)] == [
    'Fashion-MNIST',
    'Conv-4',
    'digits',
    'my_own',
  ]


def test_figures_are_reproducible_and_replace_links(tmp_path):
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.write_text('mine')
  folder = tmp_path / 'run'
  folder.mkdir()
  found = []
  for _ in range(2):
    for name in ('.a.png', 'a.png'):
      (folder / name).unlink(missing_ok=True)
      (folder / name).symlink_to(elsewhere)
    fig, axes = figures.panels()
    figures.band(axes[0, 0], [1, 2], [[1, 2], [3, 4]], label='x')
    figures.save(fig, folder, 'a')
    found.append([(folder / f'a.{x}').read_bytes() for x in ('png', 'svg')])
  assert found[0] == found[1]
  assert b'<dc:date>' not in found[0][1]
  assert elsewhere.read_text() == 'mine'
  assert not plt.get_fignums()


def test_intervals_in_figures_by_hand():
  # Student's t has 12.706 at one degree of freedom, and 2.776 at four.
  assert figures.half_width([1.0, 3.0]) == pytest.approx(12.706, abs=1e-3)
  five = [1.0, 2.0, 3.0, 4.0, 5.0]
  expected = 2.776 * 2.5**0.5 / 5**0.5
  assert figures.half_width(five) == pytest.approx(expected, abs=1e-3)
  assert figures.half_width([7.0]) == 0
  fig, axes = figures.panels()
  figures.bars(axes[0, 0], [1, 2, 3], [[1, 2], [3, 4], [5]], color='k')
  figures.band(axes[0, 0], [1, 2], [[1], [2]], color='k', label='x')
  drawn = [len(line.get_ydata()) for line in axes[0, 0].lines]
  assert sorted(drawn) == [2, 2, 2, 3]  # two means, and seeds of two points
  plt.close(fig)


# Ctrl-C.


@pytest.mark.parametrize('name', slow_but(TINY, ['lottery_ticket', 'lota']))
def test_an_interrupt_is_one_line_even_during_imports(name, tmp_path):
  """`jax` stands for whatever is imported when the signal comes."""
  (tmp_path / 'jax.py').write_text(
    'import signal\n'
    # In the background, signals may be ignored.
    'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    'signal.raise_signal(signal.SIGINT)\n'
  )
  script = figures.__file__.replace('common/figures', name)
  done = subprocess.run(
    [sys.executable, script],
    env={'PYTHONPATH': str(tmp_path), 'PATH': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == -signal.SIGINT
  assert done.stderr == (
    'Stopped. What is finished is kept: the same command goes on there.\n'
  )
