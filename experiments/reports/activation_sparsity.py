"""Table and figure of sparsity that depends on the input."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common import figures, findings, grid, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from methods.activation import LABELS

HEAD = 'Activations that are not read'
COLORS = {'uniform': '#1b6ca8', 'greedy': '#c8553d', 'top_k': '#2a9d8f'}
CAPTION = (
  'Perplexity on the test part, mean ± standard deviation over the draws of'
  ' calibration data, and the share of the weights that a token does not read.'
  ' The thresholds of a draw leave other shares on other text.'
)


def rows(result: Result) -> list[dict[str, Any]]:
  names = ('method', 'sparsity', 'perplexity', 'unread')
  return grid.by_seed(result, **{name: result.get(name) for name in names})


def compared(results: list[Result]) -> list[str]:
  """How far greedy thresholds are from uniform ones, by draws of data."""
  found = {(x['method'], x['sparsity']): x for x in results}
  parts = [
    f'{findings.difference(one["perplexity"], greedy["perplexity"], 3)} at'
    f' {100 * sparsity:g} %'
    for (method, sparsity), one in found.items()
    if method == 'uniform' and (greedy := found.get(('greedy', sparsity)))
  ]
  if not parts:
    return []
  return [
    'Perplexity of uniform minus that of greedy thresholds, mean and 95 %'
    f' interval over paired draws: {"; ".join(parts)}.'
  ]


def page(run: Run) -> list[str | Table]:
  dense, *others = run.results
  lines = [
    [
      LABELS[x['method']],
      f'{100 * x["sparsity"]:g} %',
      tables.spread(x['perplexity']),
      f'{tables.spread(100 * np.asarray(x["unread"]), "", 1)} %',
    ]
    for x in others
  ]
  heads = ['activations by', 'share', 'perplexity', 'weights not read']
  return [
    f'Dense: perplexity {dense["perplexity"][0]:.2f}.',
    *compared(others),
    Table(heads, lines, CAPTION, left=2),
    '![Perplexity over the weights that are not read](activations.png)',
  ]


def draw(run: Run) -> dict[str, Figure]:
  """Perplexity over the share of the weights that a token does not read."""
  fig, axes = figures.panels(1, 1, (5.4, 4.0))
  ax = axes[0, 0]
  for name in dict.fromkeys(x['method'] for x in run.results[1:]):
    own = [x for x in run.results if x['method'] == name]
    x = [100 * float(np.mean(one['unread'])) for one in own]
    y = [one['perplexity'] for one in own]
    figures.bars(ax, x, y, color=COLORS[name], label=LABELS[name])
  dense = run.results[0]['perplexity'][0]
  ax.axhline(dense, color='0.5', lw=1, ls='--', label='dense')
  ax.set_xlabel('weights that a token does not read (%)')
  ax.set_ylabel('perplexity')
  ax.legend(frameon=False, fontsize=8)
  figures.decorate(ax)
  figures.title_all(fig, f'{run.title} {figures.BARS}', 8)
  return {'activations': fig}
