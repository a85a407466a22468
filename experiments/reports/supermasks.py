"""Tables and figures of the search for supermasks."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid, tables
from common.command import Run
from common.tables import Table
from methods.supermask import CRITERIA, METHODS, WEIGHTS

HEAD = 'Supermasks'
LABELS: dict[str, str] = {
  'dense': 'dense, trained',
  **{name: method.label for name, method in METHODS.items()},
  'bernoulli_likely': 'Bernoulli, likely weights',
  **{
    f'{criterion}_{weights}': f'{criterion}, {weights}'.replace('_', ' ')
    for criterion in CRITERIA
    for weights in WEIGHTS
  },
}
COLORS = {
  'dense': '#555555',
  **{name: method.color for name, method in METHODS.items()},
  'bernoulli_likely': '#7a2317',
  'large_final_initial': '#e9a03b',
  'large_final_signed_constant': '#7f4f24',
  'large_final_same_sign_initial': '#e07a9b',
  'large_final_same_sign_signed_constant': '#9b5de5',
}
CAPTION = (
  'Mean ± standard deviation over the seeds, at the end of training. Only the'
  ' dense network has trained weights. Its large weights are kept at their'
  ' initial values, or at a constant with the same sign. Bernoulli masks are'
  ' drawn, or keep the weights whose probability is at least one half. "Kept"'
  ' is the share of the weights; for large weights, it is the share in the'
  ' layers below the output, which keeps 0.9 per round where the others keep'
  ' 0.8. "Gain" is the mean squared singular value of the Jacobian of outputs'
  ' by inputs, before and after training.'
)
COLUMNS = ('method', 'kept', 'width', 'gain_before', 'gain')


def flat(results: list[grid.Result]) -> list[grid.Result]:
  """All networks: those trained, and those read off them."""
  return [one for result in results for one in (result, *result['found'])]


def rows(result: grid.Result) -> list[dict[str, Any]]:
  return [
    row
    for one in flat([result])  # Only what was trained has a curve.
    for row in grid.by_seed(one, **{name: one.get(name) for name in COLUMNS})
  ]


def page(run: Run) -> list[str | Table]:
  several = len(widths(run.results)) > 1
  heads = ['method', 'width', 'kept, %', 'test accuracy, %']
  heads += ['gain before', 'gain after']
  lines = [
    [
      LABELS[one['method']],
      f'{one["width"]:g}',
      f'{100 * one["kept"]:.3g}',
      grid.spread(one),
      tables.spread(one['gain_before']) if 'gain_before' in one else '',
      tables.spread(one['gain']),
    ]
    for one in flat(run.results)
  ]
  if not several:
    heads, *lines = ([row[0], *row[2:]] for row in [heads, *lines])
  pictures = [
    '![Test accuracy over the weights kept](accuracy.png)',
    '![How much larger signals become, before and after](gain.png)',
  ]
  if several:
    pictures.append('![Test accuracy over the width](widths.png)')
  return [Table(heads, lines, CAPTION), *pictures]


def widths(results: list[grid.Result]) -> list[float]:
  return sorted({result['width'] for result in results})


def draw(run: Run) -> dict[str, Figure]:
  """Accuracy over the kept share, and over the width if it varies."""
  several, found = widths(run.results), {}
  if len(several) > 1:
    found['widths'] = over_width(run.results, run.title)
  width = 1.0 if 1 in several else several[-1]
  title = run.title if several == [1] else f'{run.title}, width {width:g}'
  shown = [result for result in run.results if result['width'] == width]
  return {
    **found,
    'accuracy': over_kept(shown, title),
    'gain': gains(shown, title),
  }


def gains(results: list[grid.Result], title: str) -> Figure:
  """Draws the gain of each network, before (open) and after training."""
  fig, axes = figures.panels(size=(6.4, 4.2))
  ax = axes[0, 0]
  for name in dict.fromkeys(result['method'] for result in results):
    line = [result for result in results if result['method'] == name]
    line.sort(key=lambda result: result['kept'])
    x = [100 * result['kept'] for result in line]
    for column, more in (('gain_before', {'mfc': 'white'}), ('gain', {})):
      label = LABELS[name] if column == 'gain' else ''
      y = [result[column] for result in line]
      style = {'color': COLORS[name], 'label': label, **more}
      figures.bars(ax, x, np.array(y), **style)
  ax.axhline(1, lw=0.8, ls=':', color='#999999')
  ax.set_yscale('log')
  ax.set_xlabel('weights kept (%)')
  ax.set_ylabel('mean squared singular value')
  figures.title(ax, f'{title}\nopen: before training {figures.BARS}')
  figures.decorate(ax)
  ax.legend(frameon=False, fontsize=8.5)
  return fig


def over_width(results: list[grid.Result], title: str) -> Figure:
  """Draws a line per method and, where it is chosen, share of the weights."""
  fig, axes = figures.panels(size=(6.4, 4.2))
  ax = axes[0, 0]
  lines: dict[tuple[str, float | None], list[grid.Result]] = {}
  for result in results:
    kept = result['kept'] if result['method'].startswith('edge') else None
    lines.setdefault((result['method'], kept), []).append(result)
  shares = sorted({kept for _, kept in lines if kept is not None})
  for (name, kept), line in lines.items():
    line.sort(key=lambda result: result['width'])
    part = '' if kept is None else f', {100 * kept:g} %'
    figures.bars(
      ax,
      [result['width'] for result in line],
      100 * np.array([result['test_accuracy'] for result in line]),
      fmt='o--' if name == 'dense' else 'o-',
      color=COLORS[name],
      # The more weights, the stronger the line.
      alpha=1 if kept is None else (1 + shares.index(kept)) / len(shares),
      label=LABELS[name] + part,
    )
  figures.log_scale(ax, widths(results), base=2)
  ax.set_xlabel('width of the hidden layers')
  ax.set_ylabel('test accuracy (%)')
  figures.title(ax, f'{title} {figures.BARS}')
  figures.decorate(ax)
  ax.legend(frameon=False, fontsize=8.5)
  return fig


def over_kept(results: list[grid.Result], title: str) -> Figure:
  """Draws accuracy over the kept share: all of it, and close to the top."""
  fig, ((whole, top),) = figures.panels(1, 2, (9.6, 4.2))
  best = 100 * max(np.mean(r['test_accuracy']) for r in results)
  for ax, lowest in ((whole, 0), (top, best - 6)):
    lines(ax, flat(results), lowest)
    ax.set_xlabel('weights kept (%)')
  top.set_ylim(best - 6, best + 0.5)
  whole.set_ylabel('test accuracy (%)')
  figures.title(whole, title)
  figures.title(top, f'close to the top {figures.BARS}')
  figures.legend(fig, whole, ncols=2)
  return fig


def lines(ax: Axes, results: list[grid.Result], lowest: float) -> None:
  """Draws a line per method, or a point where it has one kept share.

  Points below the lowest accuracy get no bar, the end of which would be seen.
  """
  found: dict[str, list[grid.Result]] = {}
  for result in results:
    found.setdefault(result['method'], []).append(result)
  for name, line in found.items():
    line.sort(key=lambda result: result['kept'])
    y = 100 * np.array([result['test_accuracy'] for result in line])
    mean = y.mean(1)
    style: Any = {'color': COLORS[name], 'label': LABELS[name]}
    if name == 'dense':
      ax.axhline(mean[0], lw=1, ls='--', **style)
    else:
      x = [100 * result['kept'] for result in line]
      figures.bars(ax, x, y, shown=mean >= lowest, **style)
  ax.set_xlim(0, 100)
  figures.decorate(ax)
