"""Tables and figures of submissions: points above ERK-random and controls."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.tables import Table
from reports.pruning_at_init import COLORS
from verdicts import statistics

HEAD = 'Pruning at initialization against ERK-random'
CHECKS = {
  'shuffled': 'shuffled',
  'reinit': 'new weights',
  'inverted': 'inverted',
}
OTHERS = ('#9b5de5', '#7f4f24', '#5aa9e6', '#8a8a8a')
MARKERS = 'osDv^P'
RANKS = (
  'Points of test accuracy, on average over the ratios of compression: above'
  ' random masks of ERK, and above the own mask on other weights or in other'
  ' places. Mean and 95 % interval over paired seeds. What is empty: networks'
  ' in which a layer has lost all weights.'
)
CAPTION = (
  'Test accuracy in %: mean ± standard deviation over the seeds. Points above'
  ' random masks of ERK on the same seeds, of the submission and of its'
  ' controls: mean and 95 % interval. FLOPs: of inference on one example, and'
  ' as a share of the dense network.'
)
Accuracies = dict[tuple[str, float, str], np.ndarray]


def rows(result: grid.Result) -> list[dict[str, Any]]:
  alive = list(zip(*result['alive'].values(), strict=True))  # Layers by seed.
  whose = ('method', 'file', 'ratio', 'check')
  return grid.by_seed(
    result,
    **{name: result[name] for name in whose},
    alive=[sum(counts) for counts in alive],
    smallest_layer=[min(counts) for counts in alive],
    inference_flops=result['inference_flops'],
    training_flops=result['training_flops'],
  )


def page(run: Run) -> list[str | Table]:
  """The submissions in order, a line per ratio of each, and the figure."""
  found = accuracies(run)
  names = submissions(run)
  heads = ['submission', 'above ERK-random']
  heads += [f'above {CHECKS[check]}' for check in run.config.checks]
  ranked = sorted(
    names, key=lambda name: -np.mean(above(found, name, run.config))
  )
  lines = [
    [
      name,
      with_interval(above(found, name, run.config)),
      *(
        with_interval(above(found, name, run.config, check))
        for check in run.config.checks
      ),
      str(empty(run, name)),
    ]
    for name in ranked
  ]
  return [
    Table([*heads, 'empty'], lines, RANKS),
    details(run, found, ranked),
    '![Points above ERK-random over compression](above.png)',
  ]


def details(run: Run, found: Accuracies, names: list[str]) -> Table:
  """A line per submission and ratio."""
  flops = {
    (r['method'], r['ratio']): float(np.mean(r['inference_flops']))
    for r in run.results
    if not r['check']
  }
  dense = flops['dense', 1.0]
  lines = []
  for name in ('dense', 'baseline', *names):
    for ratio in [1.0] if name == 'dense' else sorted(run.config.ratios):
      base = found.get(('baseline', ratio, ''))
      arms = [found.get((name, ratio, check)) for check in ('', *CHECKS)]
      mine = next(
        r
        for r in run.results
        if (r['method'], r['ratio'], r['check']) == (name, ratio, '')
      )
      lines.append(
        [
          {'baseline': 'ERK-random'}.get(name, name),
          f'{ratio:g}',
          grid.spread(mine),
          *(
            ''
            if base is None or arm is None or name == 'baseline'
            else with_interval(arm - base)
            for arm in arms
          ),
          f'{flops[name, ratio]:,.0f}, '
          f'{100 * flops[name, ratio] / dense:.1f} %',
        ]
      )
  heads = ['submission', 'compression', 'accuracy', 'as pruned']
  heads += [*CHECKS.values(), 'FLOPs']
  return Table(heads, lines, CAPTION, printed=4)


def accuracies(run: Run) -> Accuracies:
  """Test accuracy of each seed in %, by method, ratio and check."""
  return {
    (r['method'], r['ratio'], r['check']): 100 * np.array(r['test_accuracy'])
    for r in run.results
  }


def submissions(run: Run) -> list[str]:
  names = dict.fromkeys(r['method'] for r in run.results)
  return [name for name in names if name not in ('dense', 'baseline')]


def above(
  found: Accuracies, name: str, config: Any, check: str = ''
) -> np.ndarray:
  """Points of each seed above ERK-random or an own control, over all ratios."""
  return np.mean(
    [
      found[name, ratio, '']
      - (found[name, ratio, check] if check else found['baseline', ratio, ''])
      for ratio in config.ratios
    ],
    0,
  )


def empty(run: Run, name: str) -> int:
  """How many networks have a layer without weights."""
  return sum(
    min(counts) == 0
    for r in run.results
    if r['method'] == name and not r['check']
    for counts in zip(*r['alive'].values(), strict=True)
  )


def with_interval(effects: np.ndarray) -> str:
  mean, low, high = statistics.interval(effects)
  return f'{mean:+.2f} [{low:+.2f}, {high:+.2f}]'


def draw(run: Run) -> dict[str, Figure]:
  """Points above ERK-random, and above the own shuffle, over compression."""
  found, config = accuracies(run), run.config
  titles = {'': 'above ERK-random'}
  if config.checks:
    first = config.checks[0]
    titles[first] = f'above itself, {CHECKS[first]}'
  fig, axes = figures.panels(
    1, len(titles), (1.5 + 3.6 * len(titles), 4.2), sharex=True
  )
  for (check, title), ax in zip(titles.items(), axes.flat, strict=True):
    lines(ax, run, found, check)
    figures.title(ax, title, 9)
    figures.log_scale(ax, config.ratios)
    figures.decorate(ax)
  figures.title_all(fig, f'{run.title} (mean; bars: 95 % intervals)')
  fig.supxlabel('compression', fontsize=9)
  fig.supylabel('points of test accuracy', fontsize=9)
  figures.legend(fig, axes, 'right center')
  return {'above': fig}


def lines(ax: Axes, run: Run, found: Accuracies, check: str) -> None:
  """A line per submission, with intervals; points are moved apart a little."""
  ratios = sorted(run.config.ratios)
  ax.axhline(0, color='0.45', lw=1, ls='--')
  for i, name in enumerate(submissions(run)):
    base = (name, check) if check else ('baseline', '')
    points = np.array(
      [
        statistics.interval(found[name, x, ''] - found[base[0], x, base[1]])
        for x in ratios
      ]
    )
    mean, low, high = points.T
    ax.errorbar(
      np.array(ratios) * 1.02**i,
      mean,
      [mean - low, high - mean],
      fmt=f'{MARKERS[i % 6]}-',
      color=COLORS.get(name.replace('erk_random', 'erk'), OTHERS[i % 4]),
      label=name,
      elinewidth=0.8,
      **figures.LINE,
    )
