"""Tables and figures of the experiment on linear mode connectivity."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.tables import Table, spread

HEAD = 'Linear mode connectivity'
NETWORKS = {
  'dense': ('dense network', '#555555'),
  'ticket': ('winning ticket', '#1b6ca8'),
  'reinit': ('its mask on new weights', '#e9a03b'),
  'shuffled': ('its mask shuffled', '#c8553d'),
}
MEASURES = [
  'test_barrier',
  'test_above_line',
  'train_barrier',
  'train_above_line',
  'distance',
  'cosine',
  'disagreement',
]
STABLE = 2  # Percentage points; below them the paper calls a network stable.


class Summary(NamedTuple):
  """All copies of one network from one step, numbers in percent."""

  network: str
  rewind_step: int
  density: float
  accuracy: np.ndarray  # [seeds], mean of the copies
  gain: np.ndarray  # [seeds], accuracy minus that of the dense network
  measures: dict[str, np.ndarray]  # [pairs, seeds] each
  errors: dict[str, np.ndarray]  # [pairs, seeds, points], test and train
  mark: str  # how many have diverged


def summarize(results: list[grid.Result]) -> list[Summary]:
  """Groups the copies, with the dense network from the same step."""
  copies: dict[tuple[str, int], list[grid.Result]] = {}
  for result in results:
    if result['network'] != 'imp':
      key = result['network'], result['rewind_step']
      copies.setdefault(key, []).append(result)

  def accuracy(network, step):
    found = [x['test_accuracy'] for x in copies[network, step]]
    return 100 * np.mean(found, axis=0)

  def pairs(found, name):
    return np.array([pair[name] for x in found for pair in x['pairs']], float)

  return [
    Summary(
      network,
      step,
      100 * found[0]['density'],
      accuracy(network, step),
      accuracy(network, step) - accuracy('dense', step),
      {
        name: pairs(found, name)
        * (1 if name in ('distance', 'cosine') else 100)
        for name in MEASURES
      },
      {x: 100 * pairs(found, f'{x}_errors') for x in ('test', 'train')},
      grid.mark(found),
    )
    for (network, step), found in copies.items()
  ]


def rows(result: grid.Result) -> list[dict[str, Any]]:
  """One row per trained network and copy it is compared with, if any."""
  names = ('network', 'rewind_step', 'number', 'density')
  return [
    row
    for pair in result['pairs'] or [{}]
    for row in grid.by_seed(
      result,
      **{name: result[name] for name in names},
      **{name: pair.get(name, '') for name in (*MEASURES, 'other')},
    )
  ]


HEADS = [
  'network',
  'from step',
  'test accuracy, %',
  'above dense',
  'test barrier',
  'train barrier',
  'weights',
  'distance',
  'cosine',
  'disagreement, %',
]
CAPTION = (
  'Mean ± standard deviation over the seeds, and over the pairs of copies. A'
  ' barrier is how many points the error on the line between two copies rises'
  ' above the mean of their errors. Accuracy is that of the copies; the column'
  ' beside it compares it with dense copies from the same step. All train up to'
  ' the same step. Disagreement is the share of test examples that two'
  ' copies classify differently.'
)


def line(found: Summary) -> list[str]:
  """A row of the tables for people."""
  measures = found.measures
  return [
    NETWORKS[found.network][0] + found.mark,
    f'{found.rewind_step:,}',
    spread(found.accuracy),
    '' if found.network == 'dense' else spread(found.gain, '+'),
    *(spread(measures[f'{split}_barrier']) for split in ('test', 'train')),
    f'{found.density:.3g} %',
    *(spread(measures[x]) for x in ('distance', 'cosine', 'disagreement')),
  ]


def page(run: Run) -> list[str | Table]:
  lines = [line(found) for found in summarize(run.results)]
  return [
    Table(HEADS, lines, CAPTION, printed=HEADS.index('weights')),
    '![Error barrier, and accuracy beside the dense network, over the step that'
    ' copies start from](barriers.png)',
    'Below, the error on the line between two copies, above the straight line'
    ' between their own errors.',
    '![Error on the line between two copies](paths.png)',
  ]


def terminal(run: Run) -> list[str | Table]:
  return page(run)[:1]


def draw(run: Run) -> dict[str, Figure]:
  found = summarize(run.results)
  draw_in = {'barriers': barriers, 'paths': paths}
  return {name: draw(found, run) for name, draw in draw_in.items()}


def barriers(found: list[Summary], run: Run) -> Figure:
  """Draws over the step of the start: the barrier, and the gain in accuracy."""
  fig, ((top,), (bottom,)) = figures.panels(2, 1, (7.2, 6.2), sharex=True)
  steps = sorted({x.rewind_step for x in found})
  for network, (label, color) in NETWORKS.items():
    mine = [x for x in found if x.network == network]
    if not mine:
      continue
    style: Any = {'color': color, 'label': label}
    places = [steps.index(x.rewind_step) for x in mine]
    heights = [x.measures['test_barrier'].ravel() for x in mine]
    figures.bars(top, places, heights, **style)
    if network == 'dense':
      bottom.axhline(0, lw=1, ls='--', **style)
    else:
      figures.bars(bottom, places, [x.gain for x in mine], **style)
  for ax in (top, bottom):
    figures.decorate(ax)
  top.axhline(STABLE, color='0.7', lw=1, ls=':')
  place: Any = {'transform': top.get_yaxis_transform(), 'ha': 'right'}
  top.text(1, STABLE, 'stable below', va='top', fontsize=8, c='0.5', **place)
  top.set_ylim(bottom=min(0, top.get_ylim()[0]))
  top.set_ylabel('test error barrier (points)')
  bottom.set_ylabel('test accuracy minus dense (points)')
  bottom.set_xticks(range(len(steps)), [f'{k:,}' for k in steps])
  bottom.set_xlabel('step that copies start from, and tickets are rewound to')
  figures.title(top, f'{run.title} {figures.BARS}\n{run.config.budget}')
  figures.legend(fig, top, ncols=4)
  return fig


def paths(found: list[Summary], run: Run) -> Figure:
  """Draws how the error rises between two copies: a column per start."""
  steps = sorted({x.rewind_step for x in found})
  size = (1.2 + 2.3 * len(steps), 5)
  fig, axes = figures.panels(2, len(steps), size, sharex=True, sharey='row')
  for summary in found:
    column = axes[:, steps.index(summary.rewind_step)]
    for ax, split in zip(column, ('test', 'train'), strict=True):
      path(ax, summary, split)
  for ax, step in zip(axes[0], steps, strict=True):
    figures.title(ax, f'from step {step:,}', 9)
  for ax, split in zip(axes[:, 0], ('test', 'train'), strict=True):
    ax.set_ylabel(f'rise of the {split} error\n(points)', fontsize=9)
  for ax in axes[-1]:
    ax.set_xlabel('from copy to copy', fontsize=9)
    ax.set_xticks([0, 0.5, 1], ['0', '½', '1'])
  figures.title_all(fig, f'{run.title} {figures.RANGE}\n{run.config.budget}')
  figures.legend(fig, axes[0, 0], ncols=2 if len(steps) < 3 else 4)
  return fig


def path(ax: Axes, summary: Summary, split: str) -> None:
  """Draws the error of one network, above the line between its ends."""
  errors = summary.errors[split]
  errors = errors.reshape(-1, errors.shape[-1])
  alphas = np.linspace(0, 1, errors.shape[-1])
  ends = np.outer(errors[:, 0], 1 - alphas) + np.outer(errors[:, -1], alphas)
  above = errors - ends
  label, color = NETWORKS[summary.network]
  ax.plot(alphas, above.mean(0), lw=1.6, color=color, label=label)
  low, high = above.min(0), above.max(0)
  ax.fill_between(alphas, low, high, color=color, alpha=0.12, lw=0)
  figures.decorate(ax)
