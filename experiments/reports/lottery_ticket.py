"""What the lottery-ticket experiment shows and writes."""

from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import rich.table

import lthjax as lth
from common import running
from lthjax import checkpoints
from lthjax.tickets import Ticket
from methods.controls import ARMS

Level = dict[str, Any]

COLUMNS: tuple[str, ...] = (
  'level',
  'density',
  'control',
  'seed',
  'test_accuracy',
  'best_step',
  'test_accuracy_at_best',
)


def rows(levels: list[Level]) -> list[dict[str, Any]]:
  """One row a level, control and seed."""
  return [
    {
      'level': level['level'],
      'density': level['density'],
      'control': result['control'],
      'seed': seed,
      **{name: result[name][seed] for name in COLUMNS[4:]},
    }
    for level in levels
    for result in level['results']
    for seed in range(len(result['best_step']))
  ]


def accuracy(level: Level) -> dict[str, np.ndarray]:
  """Test accuracy at the best validation step, in percent: seeds by control."""
  found = {
    result['control']: 100 * np.array(result['test_accuracy_at_best'])
    for result in level['results']
  }
  return {name: found[name] for name in ARMS if name in found}


class Progress(running.Progress):
  """A progress bar for people, and files for what comes after."""

  def __init__(self, trainings: dict[int, int], steps: int):
    """Counts the trainings of each level, of so many steps each."""
    super().__init__(steps * sum(trainings.values()))
    self._trainings, self._steps, self._level = trainings, steps, 0

  def begin(self, folder: Path, levels: list[Level]) -> None:
    """Takes over what an earlier run has done."""
    self._folder, self.levels = folder, levels
    self._level = len(levels)
    trained = sum(self._trainings[x['level']] for x in levels)
    goes_on = len(levels) < len(self._trainings)
    self.done(trained * self._steps, 'compiling' if goes_on else 'done')
    if levels:
      self.say(
        f'Levels 0 to {len(levels) - 1} are there already'
        + (f'; going on with level {len(levels)}.' if goes_on else '.')
      )
      self._write(levels)

  def evaluated(
    self, control: str, density: float, evaluation: dict[str, Any]
  ) -> None:
    """Shows where the run is: level, density, accuracy so far."""
    self.advance(
      evaluation['step'],
      f'level {self._level}/{len(self._trainings) - 1}'
      f'  {100 * density:.1f} % of weights'
      f'  {control}: validation'
      f' {100 * np.mean(evaluation["accuracy"]):.1f} %',
    )

  def training_done(self) -> None:
    """Counts a training."""
    self.done(self._steps)

  def level_done(self, levels: list[Level]) -> None:
    """Writes the files anew, with one level more."""
    level = levels[-1]
    means = [f'{c} {x.mean():.1f}' for c, x in accuracy(level).items()]
    self.say(
      f'level {level["level"]:2d}  {100 * level["density"]:6.2f} %',
      *means,
      style='dim',
    )
    self._level = level['level'] + 1
    self._write(levels)

  def _write(self, levels: list[Level]) -> None:
    running.write_csv(self._folder / 'summary.csv', COLUMNS, rows(levels))
    lines = [
      {'level': level['level'], 'density': level['density'], **result}
      for level in levels
      for result in level['results']
    ]
    running.write_jsonl(self._folder / 'metrics.jsonl', lines)


def table(levels: list[Level]) -> rich.table.Table:
  """Accuracy of every arm at every level, with its spread over seeds."""
  out = rich.table.Table(
    title='Test accuracy in % at the best validation step',
    caption='mean ± standard deviation over the seeds; a dash: not trained',
  )
  out.add_column('weights', justify='right')
  for control in (controls := list(accuracy(levels[-1]))):
    out.add_column(control.replace('_', '\n'), justify='right')
  for level in levels:
    found = accuracy(level)
    cells = [
      f'{found[c].mean():.1f} ± {found[c].std():.1f}' if c in found else '–'
      for c in controls
    ]
    out.add_row(f'{100 * level["density"]:.2f} %', *cells)
  return out


def verdict(levels: list[Level]) -> str:
  """The last level in words."""
  dense = accuracy(levels[0])['ticket'].mean()
  lines = [f'With {100 * levels[-1]["density"]:.2f} % of the weights:']
  for name, values in accuracy(levels[-1]).items():
    lines.append(f'  {values.mean():5.1f} %  {ARMS[name].label} ({name})')
  return '\n'.join(
    [*lines, f'  {dense:5.1f} %  dense network, with all weights']
  )


def page(
  dense: Ticket, ticket: Ticket, pixels: tuple[int, ...] | None, path: Path
) -> None:
  """Shows where the capacity of a ticket lives, that of the first seed."""
  seeds = {
    f'seed {i}': jax.tree.map(lambda m, i=i: m[i], ticket.masks)
    for i in range(len(jax.tree.leaves(ticket.masks)[0]))
  }
  params = dense.start, dense.trained.params
  initial, final = jax.tree.map(lambda x: x[0], params)
  found = lth.report.capacity(
    seeds['seed 0'],
    initial=initial,
    final=final,
    input_layers='fc1/kernel' if pixels else (),
    input_shape=pixels,
    compared=seeds if len(seeds) > 1 else None,
  )
  text = lth.report.html(found, title='Where the capacity of seed 0 lives')
  checkpoints.write_text(path, text)


CAPTION = (
  'What each training keeps of the ticket, and its test accuracy in % at the'
  ' best validation step: mean ± standard deviation over the seeds.'
)


def markdown(levels: list[Level], title: str, folder: Path, seeds: int) -> None:
  """Writes what sign, magnitude and mask are worth, at two densities."""
  found = [(f'{100 * x["density"]:.2f} %', accuracy(x)) for x in levels]
  whole = spread(found[0][1]['ticket'])
  found = [(name, arms) for name, arms in found if len(arms) > 1] or found[-1:]
  found = [found[i] for i in sorted({(len(found) - 1) // 2, len(found) - 1})]
  lines = []
  for name in found[-1][1]:
    arm = ARMS[name]
    keeps = ['yes' if x else 'no' for x in (arm.sign, arm.magnitude, arm.mask)]
    lines.append(
      [arm.label, *keeps, *(spread(arms[name]) for _, arms in found)]
    )
  running.write_page(
    folder / 'results.md',
    f'Lottery tickets: {title}',
    seeds,
    f'{CAPTION} The dense network has {whole}.',
    running.markdown_table(
      ['', 'sign', 'magnitude', 'mask', *(name for name, _ in found)], lines
    ),
    '![Test accuracy against weights remaining](accuracy.png)',
  )


def spread(values: np.ndarray) -> str:
  """Mean and standard deviation over the seeds."""
  return f'{values.mean():.2f} ± {values.std():.2f}'


def figure(levels: list[Level], title: str, folder: Path) -> None:
  """Draws accuracy against weights remaining, as PNG and SVG."""
  fig, ax = plt.subplots(figsize=(7.2, 4.4), layout='constrained')
  dense = accuracy(levels[0])['ticket']
  ax.axhline(dense.mean(), color='0.45', lw=1, ls='--', label='dense network')
  for control in accuracy(levels[-1]):
    found = [
      (100 * level['density'], accuracy(level)[control])
      for level in levels
      if control in accuracy(level)
    ]
    x = np.array([density for density, _ in found])
    y = np.array([values for _, values in found])
    label, color = ARMS[control][:2]
    ax.plot(x, y.mean(1), 'o-', ms=3.5, lw=1.6, color=color, label=label)
    ax.fill_between(x, y.min(1), y.max(1), color=color, alpha=0.15, lw=0)
  ax.set_xscale('log')
  ax.invert_xaxis()
  ticks = [100, 50, 20, 10, 5, 2, 1, 0.5]
  lowest = 100 * levels[-1]['density']
  ax.set_xticks([t for t in ticks if t >= 0.9 * lowest])
  ax.xaxis.set_major_formatter('{x:g}')
  ax.minorticks_off()
  ax.set_xlabel('weights remaining (%)')
  ax.set_ylabel('test accuracy (%)')
  ax.set_title(
    f'{title} (mean; band: lowest to highest)', fontsize=10, loc='left'
  )
  running.decorate(ax)
  ax.legend(frameon=False, fontsize=8.5, loc='lower left')
  running.save_figure(fig, folder, 'accuracy')
  plt.close(fig)
