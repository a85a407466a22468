"""Tables and figures of layer collapse."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.tables import Table
from theories.intervals import half_width

HEADS = ('method', 'critical compression', 'decades', 'emptied first')
CAPTION = (
  'Critical compression: the largest at which every layer still has a weight,'
  ' and a score that is not zero where methods go through many steps;'
  ' geometric mean over the seeds, with the lowest and the highest. Decades:'
  ' its logarithm to base 10, with the 95 % interval of the mean. Methods that'
  ' score once are pruned at once, and exact; others go through many steps, and'
  ' end at the last compression that was tried. Nothing was trained.'
)


def rows(result: grid.Result) -> list[dict[str, Any]]:
  """One row per seed and ratio; what is critical is the same in all of them."""
  return [
    {
      'seed': seed,
      'method': result['method'],
      'ratio': ratio,
      'smallest_layer': count,
      'critical': one['critical'],
      'decades': float(np.log10(one['critical'])),
      'emptied': one['emptied'],
    }
    for seed, one in enumerate(result['collapse'])
    for ratio, count in zip(result['ratios'], one['smallest'], strict=True)
  ]


def page(run: Run, labels: Mapping[str, str]) -> list[str | Table]:
  lines = []
  for result in run.results:
    critical = np.array([x['critical'] for x in result['collapse']])
    emptied = Counter(x['emptied'] for x in result['collapse'] if x['emptied'])
    decades = np.log10(critical)
    low, middle, high = critical.min(), 10 ** decades.mean(), critical.max()
    lines.append(
      [
        labels[result['method']],
        f'{middle:,.0f} ({low:,.0f} to {high:,.0f})',
        f'{decades.mean():.2f} ± {half_width(decades):.2f}',
        ', '.join(f'{name} ({n})' for name, n in emptied.most_common(3))
        or f'none up to {max(result["ratios"]):,.0f}',
      ]
    )
  picture = '![Weights in the smallest layer over compression](collapse.png)'
  return [Table(HEADS, lines, CAPTION), picture]


def draw(
  run: Run, labels: Mapping[str, str], colors: Mapping[str, str]
) -> dict[str, Figure]:
  """Weights in the smallest layer over compression, a line per method."""
  fig, axes = figures.panels()
  ax = axes[0, 0]
  for result in run.results:
    smallest = np.array([x['smallest'] for x in result['collapse']])
    color, label = colors[result['method']], labels[result['method']]
    figures.band(ax, result['ratios'], smallest.T, color=color, label=label)
  ax.set_yscale('symlog', linthresh=1)
  ax.set_ylim(bottom=-0.1)
  figures.log_scale(ax, (1, 10, 100, 1_000, 10_000))
  ax.set_xlabel('compression')
  ax.set_ylabel('weights in the smallest layer')
  figures.title(ax, f'{run.title}, untrained {figures.BAND}')
  figures.decorate(ax)
  figures.legend(fig, axes, 'right center')
  return {'collapse': fig}
