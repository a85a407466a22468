"""A grid of trainings, each of which is kept as soon as it is done."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import chex
import numpy as np

from common import interruption, progress, tables, tracking
from common.config import RunConfig
from lthjax import checkpoints
from lthjax.tickets import Ticket

Result = dict[str, Any]
ENDS = ('test_loss', 'test_accuracy', 'train_loss', 'train_accuracy')


class Cell(Protocol):
  """One training of all seeds; hashable, as a `NamedTuple` is."""

  @property
  def name(self) -> str: ...  # where it is kept, below the folder of the run

  @property
  def label(self) -> str: ...  # what people call it

  @property
  def steps(self) -> int: ...  # how long it trains


class Store(NamedTuple):
  """The folder of a run. Whatever it keeps says where it belongs."""

  folder: Path

  def save(self, name: str, tree: Any, result: Result | None = None) -> None:
    """Writes a tree or a ticket, with what came out, below the folder."""
    self.check_there()
    result = {**(result or {}), 'origin': self._origin(name)}
    path = self.folder / name
    if isinstance(tree, Ticket):
      checkpoints.save_ticket(path, tree._replace(metrics=result))
    else:
      checkpoints.save(path, tree, result)

  def has(self, name: str) -> bool:
    """Whether something is kept under a name."""
    return (self.folder / name).exists()

  def read(self, name: str) -> Result:
    """What came out; raises if it is damaged or was put there by hand."""
    path = self.folder / name
    found = checkpoints.read_metadata(path)
    found = found.get('metrics', found)
    origin = found.pop('origin', None) if isinstance(found, dict) else None
    if origin != self._origin(name):
      whose = 'does not say so' if origin is None else f'is that of {origin}'
      raise ValueError(
        f'{path} should be {self._origin(name)}, but {whose}: it was copied or'
        ' moved there. Move it away, and it will be trained again.'
      )
    return found

  def load(self, name: str, like: Any) -> Any:
    """The tree kept under a name, or the ticket if ``like`` is one."""
    self.read(name)
    path = self.folder / name
    if isinstance(like, Ticket):
      return checkpoints.load_ticket(path, like)
    return checkpoints.load(path, like)

  def check_there(self) -> None:
    """Raises if somebody has removed the folder."""
    if not (self.folder / 'config.json').exists():
      raise OSError(
        f'{self.folder} was removed or moved during the run, and nothing more'
        ' can be kept there. Start the same command again.'
      )

  def _origin(self, name: str) -> str:
    return f'{self.folder.name}/{name}'


class Progress(progress.Progress):
  """A progress bar for people, and files for what comes after."""

  def __init__(
    self,
    cells: Iterable[Cell],
    rows: Callable[[Result], list[dict[str, Any]]],
    config: RunConfig,
  ):
    """Begins with no cell done; ``rows`` are those of a result in the CSV."""
    self._config = config
    self.results: dict[Any, Result | None] = dict.fromkeys(cells)
    super().__init__(sum(cell.steps for cell in self.results))
    self._rows = rows
    self.tracker: tracking.Tracker = tracking.Nothing()

  def begin(self, store: Store) -> None:
    """Takes over what an earlier run has done."""
    self._store = store
    for cell in self.results:
      if store.has(cell.name):
        self.results[cell] = store.read(cell.name)
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
    tracking.log(self.tracker, cell.name, evaluation, evaluation['step'])
    number = list(self.results).index(cell) + 1
    accuracy = np.mean(np.asarray(evaluation['accuracy'], float))
    self.advance(
      evaluation['step'],
      f'{number}/{len(self.results)}  {cell.label}'
      f'  validation {100 * accuracy:.1f} %',
    )

  def cell_done(self, cell: Cell, result: Result) -> None:
    """Writes the files again, with one more training."""
    self.results[cell] = result
    tracking.log(self.tracker, cell.name, result, cell.steps)
    self.done(cell.steps)
    accuracy = spread(result) if 'test_accuracy' in result else 'done'
    self.say(f'{cell.label:34} {accuracy}', style='dim')
    self._write()

  def finished(self) -> list[Result]:
    """What has been trained so far, in order."""
    return [result for result in self.results.values() if result is not None]

  def _write(self) -> None:
    self._store.check_there()
    done, folder = self.finished(), self._store.folder
    rows = [
      row
      for result in done
      for row in whose(self._rows(result), result, self._config)
    ]
    tables.write_csv(folder / 'results.csv', rows)
    tables.write_jsonl(folder / 'metrics.jsonl', done)


def whose(
  rows: Iterable[dict[str, Any]], result: Result, config: RunConfig
) -> list[dict[str, Any]]:
  """Rows with their seed, their options, and seconds of all seeds together."""
  more = {
    'configuration': config.configuration,
    'seconds': result.get('seconds'),
  }
  return [
    {**row, 'seed': row['seed'] + config.first_seed, **more} for row in rows
  ]


def by_seed(result: Result, **columns: Any) -> list[dict[str, Any]]:
  """Rows of the CSV, one per seed; columns that are lists have seeds too."""
  last = {'step': None, 'loss': None, 'accuracy': None}
  last |= result['curve'][-1] if result.get('curve') else {}
  columns = {
    **columns,
    'step': last['step'],
    'validation_loss': last['loss'],
    'validation_accuracy': last['accuracy'],
    **{name: result[name] for name in ENDS if name in result},
  }
  if 'diverged' in result:
    columns['diverged_at_step'] = result['diverged']
  return [
    {
      'seed': seed,
      **{k: v[seed] if isinstance(v, list) else v for k, v in columns.items()},
    }
    for seed in range(len(result['test_accuracy']))
  ]


def spread(result: Result, name: str = 'test_accuracy') -> str:
  """Accuracy of the seeds in %, and how many of them have diverged."""
  return tables.spread(100 * np.array(result[name])) + mark([result])


def mark(results: Iterable[Result]) -> str:
  """How many of the trainings have diverged, to be put behind their numbers."""
  steps = [step for x in results for step in x.get('diverged', ())]
  count = sum(step is not None for step in steps)
  return f' ({count} of {len(steps)} diverged)' if count else ''


def run(
  store: Store,
  train: Callable[..., tuple[Result, chex.ArrayTree | Ticket]],
  report: Progress,
  stop: Callable[[int], bool] = lambda step: False,
) -> None:
  """Trains the cells that are missing, until it is told to stop.

  ``train(cell, store, evaluated) -> (result, networks)`` calls
  ``evaluated(step, metrics)`` after every evaluation.
  """
  report.begin(store)
  for cell, known in report.results.items():
    if known is not None:
      continue
    if stop(0):
      raise interruption.Terminated
    curve: list[dict[str, Any]] = []

    def evaluated(step, metrics, cell=cell, curve=curve):
      values = {name: x.tolist() for name, x in metrics.items()}
      curve.append(tables.finite({'step': int(step), **values}))
      report.evaluated(cell, curve[-1])

    started = time.perf_counter()
    try:
      with interruption.saved(store, cell.name, stop):
        result, networks = train(cell, store, evaluated)
    except ValueError:
      check_converged(report.results)  # Probably the cause.
      raise
    seconds = round(time.perf_counter() - started, 2)  # of all seeds
    result = {**diverged(curve), **result, 'curve': curve, 'seconds': seconds}
    store.save(cell.name, networks, result)
    interruption.forget(store)
    report.cell_done(cell, result)


def diverged(curve: list[dict[str, Any]]) -> Result:
  """The step at which each seed's loss was not finite, if that happened."""
  losses = [x['loss'] for x in curve if 'loss' in x]
  steps = [
    next((x['step'] for x in curve if x['loss'][seed] is None), None)
    for seed in range(len(losses[0]) if losses else 0)
  ]
  return {'diverged': steps} if set(steps) - {None} else {}


def check_converged(results: dict[Any, Result | None]) -> None:
  """Raises if trainings have diverged, with the step of each."""
  bad = []
  for cell, result in results.items():
    seeds = (result or {}).get('diverged', ())
    if steps := [step for step in seeds if step is not None]:
      count = f'{len(steps)} of {len(seeds)} seeds'
      bad.append(f'{cell.label} ({count}, the first at step {min(steps)})')
  if bad:
    more = f', and {len(bad) - 5} more' if len(bad) > 5 else ''
    raise ValueError(
      f'The loss became infinite or NaN in: {", ".join(bad[:5])}{more}. They'
      ' are marked in the tables. Lower the learning rate, or leave them out.'
    )
