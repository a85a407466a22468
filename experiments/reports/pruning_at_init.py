"""Tables and figures of the experiment on pruning at initialization."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.tables import Table
from reports import layer_collapse

HEAD = 'Pruning at initialization'
LABELS = {
  'dense': 'dense',
  'random': 'random',
  'erk': 'ERK-random',
  'smart_ratio': 'SmartRatio-random',
  'magnitude': 'magnitude',
  'snip': 'SNIP',
  'iterative_snip': 'iterative SNIP',
  'grasp': 'GraSP',
  'synflow': 'SynFlow',
  'imp': 'IMP',
}
COLORS = {
  'dense': '#8a8a8a',
  'random': '#c9ada7',
  'erk': '#222222',
  'smart_ratio': '#7f4f24',
  'magnitude': '#e9a03b',
  'snip': '#1b6ca8',
  'iterative_snip': '#5aa9e6',
  'grasp': '#c8553d',
  'synflow': '#2a9d8f',
  'imp': '#9b5de5',
}
CHECKS = {
  '': ('as pruned', '#1b6ca8'),
  'shuffled': ('shuffled within layers', '#c8553d'),
  'shuffled_input': ('shuffled at each pixel', '#e9a03b'),
  'reinit': ('new weights', '#2a9d8f'),
  'inverted': ('lowest scores kept', '#9b5de5'),
}
HEADS = ('method', 'compression', 'weights', 'compute')
CAPTION = (
  'Test accuracy in %: mean ± standard deviation over the seeds, at the end of'
  ' training. Compute: multiply-adds of scores or earlier rounds, and of'
  ' training, over those of the dense network.'
)
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


def rows(result: grid.Result) -> list[dict[str, Any]]:
  if 'collapse' in result:
    return layer_collapse.rows(result)
  alive = list(zip(*result['alive'].values(), strict=True))  # Layers by seed.
  return grid.by_seed(
    result,
    **{name: result[name] for name in ('method', 'ratio', 'check')},
    alive=[sum(counts) for counts in alive],
    smallest_layer=[min(counts) for counts in alive],
    compute=result['compute'],
  )


def page(run: Run) -> list[str | Table]:
  """A table with a line per method and ratio, a column per check made."""
  if run.config.measure == 'collapse':
    return layer_collapse.page(run, LABELS)
  by_arm = {(r['method'], r['ratio'], r['check']): r for r in run.results}
  found = {arm: grid.spread(result) for arm, result in by_arm.items()}
  checks = [c for c in CHECKS if c in {check for _, _, check in found}]
  lines = [
    [
      LABELS[method],
      f'{ratio:.3g}',
      f'{100 / ratio:.3g} %',
      f'{np.mean(by_arm[method, ratio, check]["compute"]):.2f}',
      *(found.get((method, ratio, check), '') for check in checks),
    ]
    for method, ratio, check in found
    if check == ''
  ]
  return [
    Table([*HEADS, *(CHECKS[c][0] for c in checks)], lines, CAPTION),
    '![Test accuracy over compression](accuracy.png)',
    '![Test accuracy over total compute](compute.png)',
  ]


def draw(run: Run) -> dict[str, Figure]:
  """Accuracy over compression: a panel per method, a line per check."""
  if run.config.measure == 'collapse':
    return layer_collapse.draw(run, LABELS, COLORS)
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
  figures.title_all(fig, f'{run.title} {shown}\n{run.config.budget}')
  fig.supxlabel('compression', fontsize=9)
  fig.supylabel('test accuracy (%)', fontsize=9)
  figures.legend(fig, axes, 'right center')
  return {'accuracy': fig, 'compute': draw_compute(run)}


def draw_compute(run: Run) -> Figure:
  """Accuracy over the compute of all that led to a network."""
  fig, axes = figures.panels()
  ax = axes[0, 0]
  pruned = [r for r in run.results if not r['check']]
  for method in dict.fromkeys(r['method'] for r in pruned):
    mine = [r for r in pruned if r['method'] == method]
    compute = [np.mean(r['compute']) for r in mine]
    accuracy = 100 * np.array([r['test_accuracy'] for r in mine])
    style = {'color': COLORS[method], 'label': LABELS[method]}
    figures.band(ax, compute, accuracy, **style)
  figures.log_scale(ax, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20))
  ax.set_xlabel('total compute over that of dense training')
  ax.set_ylabel('test accuracy (%)')
  figures.title(ax, f'{run.title} {figures.BAND}\n{run.config.budget}')
  figures.decorate(ax)
  figures.legend(fig, axes, 'right center')
  return fig


def lines(ax: Axes, results: list[grid.Result]) -> None:
  """Draws a line per check of one method."""
  for check, (label, color) in CHECKS.items():
    mine = [r for r in results if r['check'] == check]
    if mine:
      accuracy = 100 * np.array([r['test_accuracy'] for r in mine])
      ratios = [r['ratio'] for r in mine]
      figures.band(ax, ratios, accuracy, color=color, label=label)
