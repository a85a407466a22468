"""Tables and figures of the experiment on pruning at initialization."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.tables import Table

HEAD = 'Pruning at initialization'
LABELS = {
  'dense': 'dense',
  'random': 'random',
  'magnitude': 'magnitude',
  'snip': 'SNIP',
  'iterative_snip': 'iterative SNIP',
  'grasp': 'GraSP',
  'synflow': 'SynFlow',
  'imp': 'IMP',
}
CHECKS = {
  '': ('as pruned', '#1b6ca8'),
  'shuffled': ('shuffled within layers', '#c8553d'),
  'shuffled_input': ('shuffled at each pixel', '#e9a03b'),
  'reinit': ('new weights', '#2a9d8f'),
  'inverted': ('lowest scores kept', '#9b5de5'),
}
HEADS = (
  'method',
  'compression',
  'weights',
  *(label for label, _ in CHECKS.values()),
)
CAPTION = (
  'Test accuracy in %: mean ± standard deviation over the seeds, at the end of'
  ' training.'
)
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


def rows(result: grid.Result) -> list[dict[str, Any]]:
  alive = list(zip(*result['alive'].values(), strict=True))  # Layers by seed.
  return grid.by_seed(
    result,
    **{name: result[name] for name in ('method', 'ratio', 'check')},
    alive=[sum(counts) for counts in alive],
    smallest_layer=[min(counts) for counts in alive],
  )


def page(run: Run) -> list[str | Table]:
  """A table with a line per method and ratio, a column per check."""
  found = {
    (r['method'], r['ratio'], r['check']): grid.spread(r) for r in run.results
  }
  lines = [
    [
      LABELS[method],
      f'{ratio:.3g}',
      f'{100 / ratio:.3g} %',
      *(found.get((method, ratio, check), '') for check in CHECKS),
    ]
    for method, ratio, check in found
    if check == ''
  ]
  picture = '![Test accuracy over compression](accuracy.png)'
  return [Table(HEADS, lines, CAPTION), picture]


def draw(run: Run) -> dict[str, Figure]:
  """Accuracy over compression: a panel per method, a line per check."""
  methods = [m for m in LABELS if m in {r['method'] for r in run.results}]
  methods.remove('dense')
  dense = 100 * np.mean(run.results[0]['test_accuracy'])
  across = min(3, len(methods))
  down = math.ceil(len(methods) / across)
  size = (1.5 + 3 * across, 0.6 + 2.6 * down)
  fig, axes = figures.panels(down, across, size, sharex=True, sharey=True)
  for ax in axes.flat[len(methods) :]:
    ax.set_visible(False)
  for method, ax in zip(methods, axes.flat, strict=False):
    ax.axhline(dense, color='0.45', lw=1, ls='--', label='dense network')
    lines(ax, [r for r in run.results if r['method'] == method])
    figures.title(ax, LABELS[method], 9)
    figures.log_scale(ax, TICKS)
    figures.decorate(ax)
  shown = figures.BAND
  if axes[0, 0].get_ylim()[0] < (lowest := math.floor(dense) - 25):
    axes[0, 0].set_ylim(bottom=lowest)  # Or the others would be flat lines.
    shown = f'{figures.BAND[:-1]}; from {lowest} % on)'
  figures.title_all(fig, f'{run.title} {shown}')
  fig.supxlabel('compression', fontsize=9)
  fig.supylabel('test accuracy (%)', fontsize=9)
  figures.legend(fig, axes, 'right center')
  return {'accuracy': fig}


def lines(ax: Axes, results: list[grid.Result]) -> None:
  """Draws a line per check of one method."""
  for check, (label, color) in CHECKS.items():
    mine = [r for r in results if r['check'] == check]
    if mine:
      accuracy = 100 * np.array([r['test_accuracy'] for r in mine])
      ratios = [r['ratio'] for r in mine]
      figures.band(ax, ratios, accuracy, color=color, label=label)
