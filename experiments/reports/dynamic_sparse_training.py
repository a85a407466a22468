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
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def rows(result: grid.Result) -> list[dict[str, Any]]:
  names = ('method', 'sparsity', 'inference_cost', 'training_cost')
  return grid.by_seed(result, **{name: result[name] for name in names})


def page(run: Run) -> list[str | Table]:
  lines = [
    [
      METHODS[result['method']].label,
      f'{100 * result["sparsity"]:g} %',
      f'{result["steps"]:,}',
      grid.spread(result),
      f'{result["inference_cost"]:.3f}',
      f'{result["training_cost"]:.3f}',
    ]
    for result in run.results
  ]
  picture = '![Test accuracy over FLOPs](accuracy.png)'
  return [Table(HEADS, lines, CAPTION), picture]


def draw(run: Run) -> dict[str, Figure]:
  """Accuracy over the cost of inference and of training."""
  fig, axes = figures.panels(1, 2, (9.6, 4.2), sharey=True)
  inference, training = axes[0]
  longest = max(result['steps'] for result in run.results)
  most = [result for result in run.results if result['steps'] == longest]
  lines(inference, most, 'inference_cost')
  lines(training, run.results, 'training_cost')
  inference.set_xlabel('inference FLOPs, share of dense')
  training.set_xlabel('training FLOPs, share of dense')
  inference.set_ylabel('test accuracy (%)')
  figures.title(inference, f'{run.title} {figures.BARS}\n{run.config.budget}')
  figures.legend(fig, training, 'right center')
  return {'accuracy': fig}


def lines(ax: Axes, results: list[grid.Result], cost: str) -> None:
  """Draws a line per method: over sparsities, or over lengths of training."""
  one_length = len({result['steps'] for result in results}) == 1
  found: dict[Any, list[grid.Result]] = {}
  for result in results:
    fixed = None if one_length else result['sparsity']
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
