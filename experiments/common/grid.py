"""A grid of trainings, each of which is kept as soon as it is done."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import chex
import numpy as np

from common import running
from lthjax import checkpoints

Result = dict[str, Any]
Results = dict[Any, Result | None]


class Cell(Protocol):
  """One training: something that can be a key of a dict."""

  @property
  def name(self) -> str:
    """Names its files."""
    ...

  @property
  def label(self) -> str:
    """Names it for people."""
    ...

  @property
  def steps(self) -> int:
    """How long it trains."""
    ...


class Progress(running.Progress):
  """A progress bar for people, and files for what comes after."""

  def __init__(
    self,
    cells: Iterable[Cell],
    rows: Callable[[Result], list[dict[str, Any]]],
  ):
    """Begins with no cell done; a result makes rows of the summary."""
    self.results: Results = dict.fromkeys(cells)
    super().__init__(sum(cell.steps for cell in self.results))
    self._rows = rows

  def begin(self, folder: Path) -> None:
    """Takes over what an earlier run has done."""
    self._folder = folder
    for cell in self.results:
      if (path := network_folder(folder, cell)).exists():
        self.results[cell] = checkpoints.read_metadata(path)
    done = [cell for cell, result in self.results.items() if result is not None]
    goes_on = len(done) < len(self.results)
    steps = sum(cell.steps for cell in done)
    self.done(steps, 'compiling' if goes_on else 'done')
    if done:
      self.say(
        f'{len(done)} of {len(self.results)} trainings are there already'
        + ('; going on with the others.' if goes_on else '.')
      )
      self._write()

  def evaluated(self, cell: Cell, evaluation: dict[str, Any]) -> None:
    """Shows where the run is."""
    number = list(self.results).index(cell) + 1
    self.advance(
      evaluation['step'],
      f'{number}/{len(self.results)}  {cell.label}'
      f'  validation {100 * np.mean(evaluation["accuracy"]):.1f} %',
    )

  def cell_done(self, cell: Cell, result: Result) -> None:
    """Writes the files anew, with one training more."""
    self.results[cell] = result
    self.done(cell.steps)
    self.say(f'{cell.label:34} {spread(result)}', style='dim')
    self._write()

  def finished(self) -> list[Result]:
    """What has been trained so far, in order."""
    return [result for result in self.results.values() if result is not None]

  def _write(self) -> None:
    done = self.finished()
    rows = [row for result in done for row in self._rows(result)]
    running.write_csv(self._folder / 'summary.csv', list(rows[0]), rows)
    running.write_jsonl(self._folder / 'metrics.jsonl', done)


def spread(result: Result) -> str:
  """Test accuracy of the seeds in %: mean and standard deviation."""
  accuracy = 100 * np.array(result['test_accuracy'])
  return f'{accuracy.mean():.2f} ± {accuracy.std():.2f}'


def run(
  folder: Path,
  train: Callable[..., tuple[Result, chex.ArrayTree]],
  report: Progress,
) -> None:
  """Trains the cells that are missing.

  Args:
    folder: folder of the run.
    train: ``train(cell, evaluated) -> (result, networks)``; ``evaluated(step,
      metrics)`` is to be called after every evaluation.
    report: what is done so far.
  """
  report.begin(folder)
  for cell, known in report.results.items():
    if known is not None:
      continue
    curve: list[dict[str, Any]] = []

    def evaluated(step, metrics, cell=cell, curve=curve):
      values = {name: x.tolist() for name, x in metrics.items()}
      curve.append({'step': step, **values})
      report.evaluated(cell, curve[-1])

    result, networks = train(cell, evaluated)
    result = {**result, 'curve': curve}
    checkpoints.save(network_folder(folder, cell), networks, result)
    report.cell_done(cell, result)


def network_folder(folder: Path, cell: Cell) -> Path:
  """Where the trained networks of a cell are kept."""
  return folder / 'networks' / cell.name
