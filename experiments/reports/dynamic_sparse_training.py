"""Tables and figures of the comparison of sparse training methods."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.tables import Table
from methods.sparse import METHODS

HEAD = 'Sparse training'
HEADS = [
  'method',
  'sparsity',
  'steps',
  'test accuracy, %',
  'inference FLOPs',
  'training FLOPs',
]
CAPTION = (
  'Mean ± standard deviation over the seeds, at the end of training. FLOPs are'
  ' shares of those of the dense network.'
)
TRIED = (
  ' The learning rate is the one of {rates} with the best mean accuracy on'
  ' validation data, with {seeds} seeds that are not in the table.'
)
EXPLORED = (
  ' Ever alive: weights that were alive at any step, as a share of those of the'
  ' dense network.'
)
# Columns of some tables only.
MORE = {'learning_rate': 'learning rate', 'explored': 'ever alive'}
DEEP = 5  # points below the median that are shown
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def rows(result: grid.Result) -> list[dict[str, Any]]:
  if 'trial' in result:
    return []
  names = ('method', 'sparsity', 'inference_cost', 'training_cost', *MORE)
  found = {name: result[name] for name in names if name in result}
  return grid.by_seed(result, **found)


def networks(run: Run) -> list[grid.Result]:
  """The results without trials."""
  return [result for result in run.results if 'trial' not in result]


def page(run: Run) -> list[str | Table]:
  results = networks(run)
  more = {k: head for k, head in MORE.items() if k in results[0]}
  lines = [
    [
      METHODS[result['method']].label,
      f'{100 * result["sparsity"]:g} %',
      f'{result["steps"]:,}',
      grid.spread(result),
      f'{result["inference_cost"]:.3f}',
      f'{result["training_cost"]:.3f}',
      *(shown(result[name]) for name in more),
    ]
    for result in results
  ]
  caption = CAPTION
  if run.config.rates:
    rates = ', '.join(f'{x:g}' for x in run.config.rates)
    caption += TRIED.format(rates=rates, seeds=run.config.trial_seeds)
  if 'explored' in more:
    caption += EXPLORED
  picture = '![Test accuracy over FLOPs](accuracy.png)'
  return [Table([*HEADS, *more.values()], lines, caption), picture]


def shown(value: float | list[float]) -> str:
  """A learning rate, or the mean of a share over seeds."""
  if isinstance(value, list):
    return f'{100 * np.mean(value):.1f} %'
  return f'{value:g}'


def draw(run: Run) -> dict[str, Figure]:
  """Accuracy over the cost of inference and of training."""
  fig, axes = figures.panels(1, 2, (9.6, 4.2), sharey=True)
  inference, training = axes[0]
  most = results = networks(run)
  if not run.config.equal_flops:
    longest = max(result['steps'] for result in results)
    most = [result for result in results if result['steps'] == longest]
  lines(inference, most, 'inference_cost', joined=True)
  one_length = len({result['steps'] for result in results}) == 1
  lines(training, results, 'training_cost', joined=one_length)
  inference.set_xlabel('inference FLOPs, share of dense')
  training.set_xlabel('training FLOPs, share of dense')
  inference.set_ylabel('test accuracy (%)')
  means = [100 * np.mean(result['test_accuracy']) for result in results]
  lowest, what = np.median(means) - DEEP, figures.BARS
  if min(means) < lowest:  # Nothing else would be seen.
    inference.set_ylim(bottom=lowest, top=max(means) + 0.1 * DEEP)
    what = what.replace(')', f'; from {lowest:.0f} % on)')
  figures.title(inference, f'{run.title} {what}\n{run.config.budget}')
  figures.legend(fig, training, 'right center')
  return {'accuracy': fig}


def lines(
  ax: Axes, results: list[grid.Result], cost: str, *, joined: bool
) -> None:
  """Draws a line per method: over sparsities, or over lengths of training."""
  found: dict[Any, list[grid.Result]] = {}
  for result in results:
    fixed = None if joined else result['sparsity']
    found.setdefault((result['method'], fixed), []).append(result)
  drawn = set()
  for (name, _), line in found.items():
    line.sort(key=lambda result: result[cost])
    figures.bars(
      ax,
      [result[cost] for result in line],
      100 * np.array([result['test_accuracy'] for result in line]),
      color=METHODS[name].color,
      label='' if name in drawn else METHODS[name].label,
    )
    drawn.add(name)
  figures.log_scale(ax, TICKS)
  figures.decorate(ax)
