"""Table and figure of pruning without training."""

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid, tables
from common.command import Run
from common.tables import Table
from methods.one_shot import METHODS

HEAD = 'Pruning without training'
PatternName = Literal['1:2', '2:4', '4:8', '1:4']
LABELS: dict[str, str] = {
  'dense': 'dense',
  **{name: method.label for name, method in METHODS.items()},
}
Table_ = dict[str, dict[str, list[float]]]


def rows(result: grid.Result) -> list[dict[str, Any]]:
  columns = ('method', 'target', 'density', 'perplexity')
  (row,) = grid.by_seed(result, **{name: result[name] for name in columns})
  return [{**row, 'seed': result['draw']}]


def by_method(results: list[grid.Result]) -> Table_:
  """Perplexities of all draws, by method and target."""
  found: Table_ = {}
  for one in results:
    lists = found.setdefault(one['method'], {})
    lists.setdefault(one['target'], []).extend(one['perplexity'])
  return found


def caption(run: Run) -> str:
  config = run.config
  return (
    'Perplexity on the test part of the text: mean ± standard deviation over'
    f' draws of {config.calibration_tokens:,} tokens of calibration data, in'
    f' sequences of {config.time}; tests have at most'
    f' {config.eval_tokens:,} tokens in sequences of {config.time}. N:M keeps N'
    ' of M weights along the inputs. Magnitudes need no data.'
  )


def page(run: Run) -> list[str | Table]:
  found = by_method(run.results)
  dense = found.pop('dense')['']
  targets = list(dict.fromkeys(x['target'] for x in run.results if x['target']))
  lines = [
    [
      LABELS[name],
      *(spread(found[name].get(x, [])) for x in targets),
    ]
    for name in found
  ]
  return [
    f'Dense: perplexity {dense[0]:.2f}.',
    Table(['method', *targets], lines, caption(run)),
    '![Perplexity over sparsity, and with N:M](perplexity.png)',
  ]


def spread(values: list[float]) -> str:
  """Mean and standard deviation; of one draw, its number."""
  if len(values) > 1:
    return tables.spread(values)
  return f'{values[0]:.2f}' if values else ''


def draw(run: Run) -> dict[str, Figure]:
  """Draws perplexity over sparsity, and bars for N:M and for variants."""
  found = by_method(run.results)
  dense = found.pop('dense')[''][0]
  shares = sorted(
    {x for lists in found.values() for x in lists if '%' in x}, key=share
  )
  patterns = sorted({x for lists in found.values() for x in lists if ':' in x})
  # What has one sparsity only is beside N:M.
  at = [*patterns, *(x for x in shares if few(found, x))][:4]
  several = len(shares) > 1
  size = (10.4, 4.8) if several else (6.4, 4.2)
  fig, axes = figures.panels(1, 1 + several, size)
  if several:
    curve(axes[0, 0], found, shares, dense)
    figures.title(axes[0, 0], 'by sparsity (mean; bars: range)')
    figures.legend(fig, axes[0, 0], ncols=5)
  points(axes[0, -1], found, at or shares, dense)
  figures.title(axes[0, -1], 'each draw')
  figures.title_all(fig, run.title)
  return {'perplexity': fig}


def few(found: Table_, target: str) -> bool:
  """Whether some method is at this sparsity and at no other."""
  return any(list(lists) == [target] for lists in found.values())


def share(name: str) -> float:
  return float(name.removesuffix(' %'))


def curve(ax: Axes, found: Table_, shares: list[str], dense: float) -> None:
  for key, lists in found.items():
    x = [name for name in shares if name in lists]
    method = METHODS[key]  # pyright: ignore[reportArgumentType]
    if method.when == 'all' and x:
      style: Any = {'color': method.color, 'label': method.label}
      y = [lists[name] for name in x]
      figures.bars(ax, [*map(share, x)], y, **style)
  ax.axhline(dense, color='0.5', lw=1, ls='--', label='dense')
  plain_log_scale(ax)
  ax.set_xticks([share(x) for x in shares])
  ax.set_xlabel('weights that went (%)')
  ax.set_ylabel('perplexity')
  figures.decorate(ax)


def points(ax: Axes, found: Table_, at: list[str], dense: float) -> None:
  """Draws the draws of every method at some targets, side by side."""
  names = [name for name in found if set(found[name]) & set(at)]
  for place, name in enumerate(names):
    color = METHODS[name].color  # pyright: ignore[reportArgumentType]
    for number, target in enumerate(at):
      y = found[name].get(target, [])
      x = np.full(len(y), place + 0.2 * (number - (len(at) - 1) / 2))
      ax.plot(x, y, 'osD^'[number], ms=4, color=color)
  for number, target in enumerate(at):
    ax.plot([], [], 'osD^'[number], ms=4, color='0.3', label=target)
  ax.axhline(dense, color='0.5', lw=1, ls='--')
  plain_log_scale(ax)
  labels = [LABELS[name] for name in names]
  ax.set_xticks(range(len(names)), labels, rotation=40, ha='right', size=7)
  figures.decorate(ax)
  ax.legend(frameon=False, fontsize=8)


def plain_log_scale(ax: Axes) -> None:
  """Makes perplexity logarithmic, with plain numbers."""
  ax.set_yscale('log')
  for axis_format in (
    ax.yaxis.set_major_formatter,
    ax.yaxis.set_minor_formatter,
  ):
    axis_format('{x:g}')
  ax.tick_params(axis='y', which='both', labelsize=8)
