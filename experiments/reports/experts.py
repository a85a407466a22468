"""Tables and figure of fewer and of sparse experts."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, findings, grid, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from methods.mixture import COLORS, LABELS

HEAD = 'Experts removed and pruned'
COLUMNS = (
  'kind',
  'method',
  'share',
  'weights',
  'perplexity',
  'busiest',
  'unused',
)
CUT = (
  'Experts removed for real: perplexity on the test part, mean ± standard'
  ' deviation over the seeds, each of which has a decoder and a draw of'
  ' calibration data of its own. The last line: weights of the whole decoder'
  ' that are left.'
)
PRUNED = (
  'All experts kept, but sparse, each pruned by the tokens that it sees:'
  ' perplexity, as above.'
)
MOST = 3.0  # The figure ends at so many times the perplexity of the whole.


def rows(result: Result) -> list[dict[str, Any]]:
  return grid.by_seed(result, **{name: result.get(name) for name in COLUMNS})


def of_kind(run: Run, kind: str) -> dict[str, dict[float, Result]]:
  """Results by method and share."""
  found: dict[str, dict[float, Result]] = {}
  for one in run.results:
    if one['kind'] == kind:
      found.setdefault(one['method'], {})[one['share']] = one
  return found


def lines(found: dict[str, dict[float, Result]]) -> list[list[str]]:
  return [
    [LABELS[name], *(tables.spread(x['perplexity']) for x in by_share.values())]
    for name, by_share in found.items()
  ]


def heads(found: dict[str, dict[float, Result]]) -> list[str]:
  first = next(iter(found.values()))
  return [f'{100 * share:g} %' for share in first]


def ahead(found: dict[str, dict[float, Result]], new: str, old: str) -> str:
  """How far one method is below another, at each share."""
  parts = []
  for share, one in found[new].items():
    a, b = (np.asarray(x['perplexity']) for x in (one, found[old][share]))
    parts.append(
      f'{findings.difference(b, a)} at {100 * share:g} % (lower in'
      f' {np.sum(a < b)} of {len(a)})'
    )
  return (
    f'Perplexity by {LABELS[old]} minus that by {LABELS[new]},'
    f' {findings.PAIRED}: {"; ".join(parts)}.'
  )


def page(run: Run) -> list[str | Table]:
  whole, cut = run.results[0], of_kind(run, 'cut')
  pruned = of_kind(run, 'pruned')
  busiest, unused = np.mean(whole['busiest']), np.mean(whole['unused'])
  config = run.config
  text = (
    f'Whole: perplexity {tables.spread(whole["perplexity"])}. The busiest'
    f' expert of a layer sees {100 * busiest:.0f} % of the tokens, where'
    f' {100 * config.experts_per_token / config.experts:.0f} % would be even;'
    f' {unused:.1f} of {config.layers * config.experts} experts see none of the'
    ' calibration data, on average.'
  )
  compared = [
    ahead(kind, new, old)
    for kind, new, old in (
      (cut, 'reap', 'frequency'),
      (cut, 'frequency', 'random'),
      (pruned, 'wanda', 'magnitude'),
      (pruned, 'sparse_gpt', 'wanda'),
    )
    if new in kind and old in kind
  ]
  first = next(iter(cut.values()))
  left = [
    f'{100 * x["weights"][0] / whole["weights"][0]:.0f} %'
    for x in first.values()
  ]
  table = [*lines(cut), ['weights left', *left]]
  parts: list[str | Table] = [
    text,
    *compared,
    Table(['experts removed by', *heads(cut)], table, CUT),
  ]
  if pruned:
    parts.append(Table(['pruned by', *heads(pruned)], lines(pruned), PRUNED))
  figure = '![Perplexity over experts removed, and over sparsity](experts.png)'
  return [*parts, figure]


def draw(run: Run) -> dict[str, Figure]:
  """Perplexity over what went, one panel for experts and one for weights."""
  kinds = {
    'cut': 'experts that went (%)',
    'pruned': 'weights of each expert that went (%)',
  }
  shown = [kind for kind in kinds if of_kind(run, kind)]
  fig, axes = figures.panels(1, len(shown), (4.4 * len(shown), 4.2))
  whole = float(np.mean(run.results[0]['perplexity']))
  for ax, kind in zip(axes[0], shown, strict=True):
    curves(ax, of_kind(run, kind), whole)
    ax.set_xlabel(kinds[kind])
    ax.legend(frameon=False, fontsize=8, loc='upper left')
  axes[0, 0].set_ylabel('perplexity (line: whole)')
  figures.title_all(fig, f'{run.title} {figures.BARS}', 9)
  return {'experts': fig}


def curves(
  ax: Axes, found: dict[str, dict[float, Result]], whole: float
) -> None:
  """One line for each method; what is far above is cut off."""
  for number, (name, by_share) in enumerate(found.items()):
    x = [100 * share + 0.6 * number for share in by_share]
    y = [one['perplexity'] for one in by_share.values()]
    figures.bars(ax, x, y, color=COLORS[name], label=LABELS[name])
  ax.axhline(whole, color='0.5', lw=1, ls='--')
  ax.set_ylim(None, min(ax.get_ylim()[1], MOST * whole))
  ax.set_xticks([100 * share for share in next(iter(found.values()))])
  figures.decorate(ax)
