"""Tables and figure of structured pruning."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common import figures, grid, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from methods.structure import LABELS, MethodName
from theories.intervals import half_width

HEAD = 'Structure cut for real'
CAPTION = (
  'Perplexity on the test part: mean ± standard deviation over the draws of'
  ' calibration data. Similarity: mean cosine of the last hidden states with'
  ' those of the whole decoder. "Means": what removed units add on average is'
  ' in the biases.'
)
CLOCK = (
  'A forward pass of 8 sequences: milliseconds of the fastest pass, and shares'
  ' of the whole decoder. Multiply-adds are those of all matmuls. The last'
  ' column adds up the time of all cores.'
)
GAINS = (
  'What one choice gains over another, draw by draw: mean and 95 % interval'
  ' (Student), in perplexity and in similarity.'
)
PAIRS: tuple[tuple[MethodName, MethodName], ...] = (
  ('norm', 'random'),
  ('flap_bias', 'random'),
  ('flap_bias', 'norm'),
  ('flap_bias', 'minitron_bias'),
  ('flap_bias', 'flap'),
  ('cosine', 'random'),
  ('cosine', 'norm'),
)
COLORS = {
  'random': '#8a8a8a',
  'norm': '#c8553d',
  'norm_bias': '#e9a03b',
  'taylor': '#9b5de5',
  'minitron': '#7fb3d5',
  'minitron_bias': '#1b6ca8',
  'flap': '#83c5be',
  'flap_bias': '#2a9d8f',
  'cosine': '#264653',
}


def rows(result: Result) -> list[dict[str, Any]]:
  if result['kind'] == 'clock':
    return [
      {'seed': 0, 'kind': 'clock', 'part': name, **form}
      for name, form in result['forms'].items()
    ]
  names = ('kind', 'part', 'share', 'method', 'perplexity', 'similarity')
  return grid.by_seed(result, **{name: result.get(name) for name in names})


def page(run: Run) -> list[str | Table]:
  dense, clock = run.results[0], run.results[-1]
  after = {
    key(x): x['perplexity'] for x in run.results if x['kind'] == 'distilled'
  }
  lines = [['the whole decoder', '', '', spread(dense['perplexity']), '1', '']]
  for x in run.results:
    if x['kind'] == 'cuts':
      lines.append(
        [
          x['part'],
          f'{100 * x["share"]:g} %',
          LABELS[x['method']],
          spread(x['perplexity']),
          spread(x['similarity'], 3),
          spread(after[key(x)]) if key(x) in after else '',
        ]
      )
  heads = ['removed', 'share', 'chosen by', 'perplexity', 'similarity']
  times = [
    [
      name.replace('-', ' '),
      f'{form["ms"]:.2f}',
      *(
        f'{100 * form[n]:.1f} %'
        for n in ('parameters', 'multiply_adds', 'time', 'time_of_cores')
      ),
    ]
    for name, form in clock['forms'].items()
  ]
  clock_heads = ['removed', 'ms', 'parameters', 'multiply-adds', 'time']
  clock_heads += ['of all cores']
  return [
    Table([*heads, 'distilled'], lines, CAPTION, left=3),
    *gains(run.results),
    Table(clock_heads, times, CLOCK),
    '![Perplexity by score, and time beside multiply-adds](structured.png)',
  ]


def gains(results: list[Result]) -> list[Table]:
  """Intervals of the differences between choices; none for a single draw."""
  cuts = {key(x): x for x in results if x['kind'] == 'cuts'}
  lines = []
  for part, share in dict.fromkeys((part, share) for part, share, _ in cuts):
    for better, other in PAIRS:
      names = (part, share, better), (part, share, other)
      if not all(name in cuts for name in names):
        continue
      one, two = (cuts[name] for name in names)
      draws = max(len(x['perplexity']) for x in (one, two))
      if draws > 1:
        lines.append(
          [
            f'{part}, {100 * share:g} %',
            f'{LABELS[better]} over {LABELS[other]}',
            gain(two['perplexity'], one['perplexity'], draws, 2),
            gain(one['similarity'], two['similarity'], draws, 3),
          ]
        )
  heads = ['removed', 'gain of', 'perplexity', 'similarity']
  return [Table(heads, lines, GAINS, left=2)] if lines else []


def gain(high: list[float], low: list[float], draws: int, digits: int) -> str:
  """Mean of differences, and its interval; what is not drawn is repeated."""
  each = np.broadcast_to(high, draws) - np.broadcast_to(low, draws)
  mean, half = float(np.mean(each)), half_width(list(each))
  ends = f'{mean - half:+.{digits}f}, {mean + half:+.{digits}f}'
  return f'{mean:+.{digits}f} [{ends}]'


def key(result: Result) -> tuple[Any, ...]:
  return tuple(result[n] for n in ('part', 'share', 'method'))


def spread(values: list[float], digits: int = 2) -> str:
  """Mean and standard deviation, the latter for several draws."""
  if len(values) == 1:
    return f'{values[0]:.{digits}f}'
  if digits == 2:
    return tables.spread(values)
  return f'{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}'


def draw(run: Run) -> dict[str, Figure]:
  """Bars of perplexity for each cut, and the clock."""
  cuts = [x for x in run.results if x['kind'] == 'cuts']
  groups = list(dict.fromkeys((x['part'], x['share']) for x in cuts))
  fig, axes = figures.panels(1, len(groups) + 1, (2.3 * (len(groups) + 1), 3.4))
  dense = run.results[0]['perplexity'][0]
  for ax, group in zip(axes[0], groups, strict=False):
    bars(ax, [x for x in cuts if (x['part'], x['share']) == group], dense)
    figures.title(ax, f'{100 * group[1]:g} % of {group[0]}', 9)
  axes[0, 0].set_ylabel('perplexity (line: whole decoder)', fontsize=8)
  times(axes[0, -1], run.results[-1]['forms'])
  figures.title_all(fig, run.title)
  return {'structured': fig}


def bars(ax: Any, cuts: list[Result], dense: float) -> None:
  """Mean perplexity of each method, from the lowest to the highest draw."""
  places = np.arange(len(cuts))
  means = np.array([np.mean(x['perplexity']) for x in cuts])
  ends = np.array(
    [[np.min(x['perplexity']), np.max(x['perplexity'])] for x in cuts]
  )
  colors = [COLORS[x['method']] for x in cuts]
  gaps = np.abs(ends - means[:, None]).T
  ax.bar(places, means, color=colors, width=0.7, yerr=gaps, ecolor='0.3')
  ax.axhline(dense, color='0.2', lw=1, ls='--')
  ax.set_ylim(0.9 * dense, None)
  ax.set_yscale('log')
  low, high = ax.get_ylim()
  steps = (10, 20, 50) if high > 10 * low else (10, 15, 20, 30, 50, 70)
  if high < 2 * low:
    steps = range(10, 100, 5)
  ticks = [k * 10.0**n for n in range(-1, 8) for k in steps]
  ax.set_yticks([tick for tick in ticks if low <= tick <= high])
  ax.yaxis.set_major_formatter('{x:g}')
  ax.minorticks_off()
  ax.tick_params(axis='y', labelsize=7)
  labels = [LABELS[x['method']] for x in cuts]
  ax.set_xticks(places, labels, rotation=60, ha='right', fontsize=7)
  figures.decorate(ax)


def times(ax: Any, forms: dict[str, dict[str, float]]) -> None:
  """Time beside multiply-adds, as shares of the whole decoder."""
  ax.plot([0, 1.2], [0, 1.2], color='0.7', lw=0.8)
  ax.plot([0, 1.2], [0.1, 1.3], color='0.7', lw=0.6, ls=':')
  ax.plot([0, 1.2], [-0.1, 1.1], color='0.7', lw=0.6, ls=':')
  for name, form in forms.items():
    x, y = form['multiply_adds'], form['time']
    ax.plot(x, y, 'o', ms=4, color='#1b6ca8')
    ax.annotate(
      name.replace('-', ' '),
      (x, y),
      (5, -7),
      textcoords='offset points',
      fontsize=6.5,
    )
  low = 0.95 * min(min(f['multiply_adds'], f['time']) for f in forms.values())
  ax.set_xlim(low, 1.15)
  ax.set_ylim(low, 1.15)
  ax.set_xlabel('share of multiply-adds', fontsize=8)
  ax.tick_params(labelsize=7)
  ax.spines[['top', 'right']].set_visible(False)
  figures.title(ax, 'share of time, batch 8', 9)
