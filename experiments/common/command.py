"""From a command line to a folder with networks, tables, figures and a page."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import (
  figures,
  grid,
  interruption,
  stopping,
  tables,
  tracking,
)
from common.config import RunConfig, parse
from common.provenance import write_page
from lthjax import checkpoints, files, runs


class Advice(NamedTuple):
  """What to look at when a command is done, and what to try then."""

  files: Mapping[str, str]  # in the folder of the run: what each shows
  commands: Mapping[str, str]  # or other things to open: what each is for


class Run(NamedTuple):
  """What a report shows."""

  folder: Path
  config: Any
  title: str
  results: list[grid.Result]
  measured: Any = None  # by the experiment, once all cells are trained


class Experiment:
  """What is compiled once: networks, their data and their training."""

  def train(self, cell: Any, store: grid.Store, evaluated: Any) -> Any:
    """Trains a cell; returns what came out, and what to keep."""
    raise NotImplementedError

  def finish(self, store: grid.Store, results: list[grid.Result]) -> Any:
    """Checks and measures what is there when all cells are trained."""


def run(
  config: Any,
  cells: Callable[[Any], Sequence[grid.Cell]],
  experiment: Callable[[Any], Experiment],
  report: Any,
  progress: grid.Progress | None = None,
  stop: Callable[[int], bool] = lambda step: False,
) -> Run:
  """Trains what is missing, and writes everything that a run leaves behind."""
  progress = progress or grid.Progress(cells(config), report.rows, config)
  with progress:
    made = experiment(config)
    with open_store(config) as store:
      progress.tracker = tracking.start(config.track, store.folder, config)
      with contextlib.closing(progress.tracker):
        grid.run(store, made.train, progress, stop)
      results = progress.finished()
      measured = made.finish(store, results)
      found = Run(store.folder, config, config.title, results, measured)
      for name, figure in report.draw(found).items():
        figures.save(figure, store.folder, name)
      head = f'{report.HEAD}: {config.title}'
      page = store.folder / 'results.md'
      used = range(config.first_seed, config.first_seed + config.seeds)
      write_page(page, head, used, *report.page(found))
  return found


def main(
  presets: Mapping[str, RunConfig],
  cells: Callable[[Any], Sequence[grid.Cell]],
  experiment: Callable[[Any], Experiment],
  report: Any,
  doc: str | None,
) -> None:
  """Runs an experiment from the command line and shows what came out.

  ``cells(config)`` are all trainings, in an order in which they can be done. An
  ``experiment`` raises on bad options before anything is written. The module
  ``report`` has ``rows(result)`` for the CSV, ``draw(run)`` for figures by
  name, ``page(run)`` for text and tables, and perhaps ``terminal(run)``; and
  perhaps ``advice(run)``, an `Advice` for the end.
  """
  logging.getLogger('absl').setLevel(logging.CRITICAL)  # Our line is enough.
  with friendly_exit(), runs.termination() as stop:
    config = parse(sys.argv[1:], presets, doc)
    progress = grid.Progress(cells(config), report.rows, config)
    found = run(config, cells, experiment, report, progress, stop)
    terminal = getattr(report, 'terminal', report.page)
    show = progress.console.print
    for part in terminal(found):
      if isinstance(part, tables.Table):
        show(tables.for_terminal(part))
      elif not part.startswith('!['):
        show(part)
    show(f'Figures, tables and networks: {found.folder}', soft_wrap=True)
    if advice := getattr(report, 'advice', None):
      for line in said(found.folder, advice(found)):
        show(line, soft_wrap=True)
    grid.check_converged(progress.results)


def said(folder: Path, advice: Advice) -> list[str]:
  """Lines that say what to open, as far as it is there, and what to try."""
  there = {
    str(folder / name): text
    for name, text in advice.files.items()
    if (folder / name).exists()
  }
  lines = []
  for head, found in (('Open:', there), ('Try next:', advice.commands)):
    if found:
      lines.append(f'\n{head}')
      width = max(map(len, found))
      lines += [f'  {name:{width}}  {text}' for name, text in found.items()]
  return lines


@contextlib.contextmanager
def friendly_exit() -> Iterator[None]:
  """Ends the command with one line instead of a traceback."""
  try:
    yield
  except BrokenPipeError:  # Whoever reads this, such as `less`, is gone.
    with contextlib.suppress(OSError):  # The last flush would fail, too.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
  except (ValueError, OSError, ImportError, FloatingPointError) as error:
    sys.exit(f'error: {error}')
  except interruption.Terminated:
    print(stopping.STOPPED, file=sys.stderr)
    sys.exit(0)


@contextlib.contextmanager
def open_store(config: Any) -> Iterator[grid.Store]:
  """Opens the folder of a run, new or found again, for this process alone."""
  # Refuses what could not be read back before anything is trained.
  checkpoints.check_path(files.local_path(config.output) / config.name)
  folder = runs.open_run(config.output, config.name, config)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(runs.only_process(folder))
    except RuntimeError as error:
      raise ValueError(error) from error
    yield grid.Store(folder)
