"""From a command line to a folder with networks, tables, figures and a page."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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


def run(
  config: Any,
  cells: Callable[[Any], Sequence[grid.Cell]],
  experiment: Callable[[Any], Any],
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
  experiment: Callable[[Any], Any],
  report: Any,
  doc: str | None,
) -> None:
  """Runs an experiment from the command line and shows what came out.

  Args:
    presets: configurations by name; the first one is the default.
    cells: ``cells(config)``, all trainings, in an order in which they can be
      done.
    experiment: ``experiment(config)``, which raises on bad options before
      anything is written. It has ``train(cell, store, evaluated) -> (result,
      networks)``, as in `grid.run`, and ``finish(store, results)``, which
      checks and measures what is there when all cells are trained.
    report: a module that shows what came out: ``rows(result)`` for the CSV,
      ``draw(run)`` for figures by name, ``page(run)`` for text and tables, and
      perhaps ``terminal(run)`` for what is shown there instead.
    doc: what the experiment is about.
  """
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
