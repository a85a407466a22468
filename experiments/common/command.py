"""From a command line to a folder with networks, tables, figures and a page."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure

from common import figures, grid, tables
from common.config import BaseConfig, parse
from common.provenance import write_page
from lthjax import checkpoints


class Run(NamedTuple):
  """What a report shows.

  Attributes:
    folder: folder of the run.
    config: its options.
    title: what was trained, in words.
    results: what came out of each training, in order.
    measured: what the experiment has measured beside.
  """

  folder: Path
  config: Any
  title: str
  results: list[grid.Result]
  measured: Any = None


class Experiment(Protocol):
  """What is compiled once: networks, their data and their training."""

  def train(self, cell: Any, store: grid.Store, report: Any) -> Any:
    """Trains a cell; returns what came out, and the networks to keep."""
    ...

  def finish(self, store: grid.Store, results: list[grid.Result]) -> Any:
    """Checks and measures what is there when all cells are trained."""
    ...


class Report(Protocol):
  """A module that knows how to show what came out."""

  HEAD: str
  rows: Callable[[grid.Result], list[dict[str, Any]]]
  draw: Callable[[Run], Mapping[str, Figure]]
  page: Callable[[Run], Sequence[str | tables.Table]]
  terminal: Callable[[Run], Sequence[str | tables.Table]]


def run(
  config: Any,
  cells: Callable[[Any], Sequence[grid.Cell]],
  experiment: Callable[[Any], Experiment],
  report: Any,
  progress: grid.Progress | None = None,
) -> Run:
  """Trains what is missing, and writes everything that a run leaves behind."""
  progress = progress or grid.Progress(cells(config), report.rows)
  with progress:
    made = experiment(config)
    store = open_store(config)
    grid.run(store, made.train, progress)
    results = progress.finished()
    measured = made.finish(store, results)
    found = Run(store.folder, config, config.title, results, measured)
    for name, figure in report.draw(found).items():
      figures.save(figure, store.folder, name)
    head = f'{report.HEAD}: {config.title}'
    page = store.folder / 'results.md'
    write_page(page, head, config.seeds, *report.page(found))
  return found


def main(
  presets: Mapping[str, BaseConfig],
  cells: Callable[[Any], Sequence[grid.Cell]],
  experiment: Callable[[Any], Experiment],
  report: Any,
  doc: str | None,
) -> None:
  """Runs an experiment from the command line and shows what came out."""
  logging.getLogger('absl').setLevel(logging.CRITICAL)  # Our line is enough.
  with friendly_exit():
    config = parse(sys.argv[1:], presets, doc)
    progress = grid.Progress(cells(config), report.rows)
    found = run(config, cells, experiment, report, progress)
    terminal = getattr(report, 'terminal', report.page)
    show = progress.console.print
    for part in terminal(found):
      if isinstance(part, tables.Table):
        show(tables.for_terminal(part))
      elif not part.startswith('!['):
        show(part)
    show(f'Figures, tables and networks: {found.folder}', soft_wrap=True)
    grid.check_converged(progress.results)


@contextlib.contextmanager
def friendly_exit() -> Iterator[None]:
  """Ends the command with one line where the user can do something about it."""
  try:
    yield
  except (ValueError, OSError, ImportError, FloatingPointError) as error:
    sys.exit(f'error: {error}')


def open_store(config: Any) -> grid.Store:
  """The folder of a run, new or found again.

  Raises:
    ValueError: if checkpoints could not be read back from there. Then nothing
      is left behind.
  """
  known = config.output.exists()
  folder = checkpoints.open_run(config.output, config.name, config)
  probe = folder / '.probe'
  shutil.rmtree(probe, ignore_errors=True)
  if {path.name for path in folder.iterdir()} == {'config.json'}:
    # Some names of folders can be written to, but not be read from.
    try:
      checkpoints.save(probe, np.zeros(1, np.float32))
      checkpoints.load(probe, np.zeros(1, np.float32))
    except Exception as error:
      shutil.rmtree(folder)
      if not known:
        config.output.rmdir()
      raise ValueError(
        f'Checkpoints below {folder} cannot be written and read back. Choose'
        ' an --output without special characters, such as [ and *.'
      ) from error
    shutil.rmtree(probe)
  return grid.Store(folder)
