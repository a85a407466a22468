"""What experiments have in common as commands: options, progress, files."""

import argparse
import contextlib
import csv
import datetime
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib

matplotlib.use('agg')

import rich.console
import rich.progress
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import timing
from lthjax import checkpoints

Config = TypeVar('Config')


def parse(
  arguments: Sequence[str], presets: Mapping[str, Config], doc: str | None
) -> Config:
  """Reads a command line: a preset, the first one by default, and changes."""
  if {'-h', '--help'} & set(arguments):
    print(doc)  # Tyro would break its lines elsewhere.
  first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  first.add_argument('--preset')
  preset = first.parse_known_args(arguments)[0].preset
  usual = next(iter(presets.values()))
  default = presets.get(preset, usual)  # Tyro complains about others.
  return tyro.cli(type(usual), default=default, args=arguments)


def at_least(config: Any, **least: int) -> None:
  """Refuses options that are too small; those that are `None` are fine."""
  for name, smallest in least.items():
    value = getattr(config, name)
    if value is not None and value < smallest:
      raise ValueError(f'{name} was {value}, but must be at least {smallest}.')


def each_once(config: Any, *names: str, none: bool = False) -> None:
  """Refuses options with a value twice, or without one where that is bad."""
  for name in names:
    values = getattr(config, name)
    if not (values or none) or len(set(values)) < len(values):
      raise ValueError(
        f'{name} were {" ".join(map(str, values)) or "none"}, but must be'
        f' {"none" if none else "one"} or more, each of them once.'
      )


def rewindable(config: Any, name: str) -> None:
  """Refuses steps to rewind to that leave nothing to train."""
  steps = getattr(config, name)
  said, steps = ('had', steps) if isinstance(steps, tuple) else ('was', [steps])
  if wrong := [k for k in steps if not 0 <= k < config.steps]:
    raise ValueError(
      f'{name} {said} {wrong[0]}, but must be from 0 to {config.steps - 1}:'
      f' training ends at step {config.steps}.'
    )


@contextlib.contextmanager
def friendly_exit(again: str) -> Iterator[None]:
  """Ends the command with one line where the user can do something about it."""
  try:
    yield
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit(f'Stopped. The same command {again} and goes on.')


@contextlib.contextmanager
def blaming(option: str) -> Iterator[None]:
  """Says which option an error comes from."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{option}: {error}') from error


class Progress:
  """A bar over all training steps of a command."""

  def __init__(self, steps: int):
    """Begins at none of so many steps."""
    self.console = rich.console.Console()
    self._done = 0
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn('{task.description}'),
      rich.progress.BarColumn(bar_width=None),
      rich.progress.TimeElapsedColumn(),
      rich.progress.TextColumn('/'),
      rich.progress.TimeRemainingColumn(),
      console=self.console,
    )
    self._task = self._bar.add_task('reading data', total=steps)

  def __enter__(self):
    """Shows the bar."""
    self._bar.start()
    return self

  def __exit__(self, *error):
    """Leaves the bar as it is."""
    self._bar.stop()

  def say(self, *words: str, style: str | None = None) -> None:
    """Prints a line above the bar."""
    self._bar.console.print(
      *words, sep='  ', style=style, highlight=False, soft_wrap=True
    )

  def advance(self, step: int, text: str) -> None:
    """Shows the present training at a step."""
    self._bar.update(self._task, completed=self._done + step, description=text)

  def done(self, steps: int, text: str | None = None) -> None:
    """Counts finished trainings of so many steps together."""
    self._done += steps
    self._bar.update(self._task, completed=self._done)
    if text is not None:
      self._bar.update(self._task, description=text)


def write_csv(
  path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
  """Writes a table of results anew."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(columns), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  checkpoints.write_text(path, text.getvalue())


def write_jsonl(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
  """Writes one JSON object a line anew."""
  checkpoints.write_text(path, ''.join(json.dumps(x) + '\n' for x in lines))


def decorate(ax: Axes) -> None:
  """Leaves out what is not needed to read a plot."""
  ax.spines[['top', 'right']].set_visible(False)
  ax.grid(axis='y', color='0.9', lw=0.8)


def save_figure(fig: Figure, folder: Path, name: str) -> None:
  """Writes a figure as PNG and SVG, each whole or not at all."""
  for suffix in ('png', 'svg'):
    temporary = folder / f'.{name}.{suffix}'
    fig.savefig(temporary, format=suffix, dpi=160)
    temporary.replace(folder / f'{name}.{suffix}')


def write_page(path: Path, title: str, seeds: int, *parts: str) -> None:
  """Writes a page of results, with where they come from."""
  page = [f'# {title}', provenance(seeds), *parts]
  checkpoints.write_text(path, '\n\n'.join(page) + '\n')


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Writes a table in Markdown."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def seeds(number: int) -> str:
  """Says how many seeds there are."""
  return '1 seed' if number == 1 else f'{number} seeds'


def provenance(seeds: int) -> str:
  """The head of a table of results: where its numbers come from."""
  script, *options = sys.argv
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument('--output')  # A path of this machine.
  options = parser.parse_known_args(options)[1]
  command = shlex.join(['python', f'experiments/{Path(script).name}', *options])
  git = ['git', '-C', str(Path(__file__).parent)]
  describe = subprocess.run(
    [*git, 'describe', '--always', '--dirty'],
    capture_output=True,
    text=True,
    check=False,
  )
  lines = {
    'command': f'`{command}`',
    'commit': describe.stdout.strip() or 'unknown',
    'machine': timing.machine(),
    'date': datetime.date.today().isoformat(),
    'seeds': ', '.join(map(str, range(seeds))),
  }
  rows = [f'| {name} | {value} |' for name, value in lines.items()]
  return '\n'.join(['| | |', '|---|---|', *rows])
