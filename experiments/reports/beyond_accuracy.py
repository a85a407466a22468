"""Tables and figures of what pruning changes beside accuracy."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from common import figures, grid, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from lthjax.evaluation import Exemplars
from methods.beside_accuracy import MEASURES, Sample

HEAD = 'Beyond accuracy'
NAMES = {
  'dense': 'dense',
  'dense_again': 'dense, another seed',
  'ticket': 'ticket',
  'reinit': 'reinit',
  'random': 'random ticket',
}
COLORS = {'ticket': '#1b6ca8', 'reinit': '#e9a03b', 'random': '#c8553d'}
TICKS = (1, 2, 5, 10, 20, 50, 100)
PICTURES = 10


class Measured(NamedTuple):
  """What is found over all seeds."""

  exemplars: dict[tuple[str, int], Exemplars]  # by kind and level
  test: Sample


# What gives way: label, column, factor, and how much is a change.
SIGNS = (
  ('accuracy', 'test_accuracy', -100, 0.5),
  ('the calibration error', 'ece', 100, 1.0),
  ('the worst class', 'worst_class', -100, 2.0),
  ('accuracy on corrupted images', 'shifted_accuracy', -100, 1.0),
)


def rows(result: Result) -> list[dict[str, Any]]:
  columns = {name: result[name] for name in MEASURES if name in result}
  names = ('kind', 'level', 'density')
  return grid.by_seed(result, **{x: result[x] for x in names}, **columns)


def find(results: list[Result], kind: str) -> list[Result]:
  return [x for x in results if x['kind'] == kind]


def percent(result: Result, name: str, sign: str = '') -> str:
  if name not in result:
    return '–'
  return tables.spread(100 * np.array(result[name]), sign, 1)


def number(result: Result, name: str, digits: int = 3) -> str:
  return tables.spread(result[name], digits=digits)


def first(result: Result) -> list[str]:
  return [f'{100 * result["density"]:.3g} %', NAMES[result['kind']]]


def beside(run: Run) -> Table:
  """Accuracy, worst class, calibration, churn and exemplars."""
  lines = []
  for x in run.results:
    pie = run.measured.exemplars.get((x['kind'], x['level']))
    lines.append(
      [
        *first(x),
        percent(x, 'test_accuracy') + grid.mark([x]),
        percent(x, 'worst_class'),
        number(x, 'ece'),
        percent(x, 'churn'),
        '–' if pie is None else str(len(pie.indices)),
        '–' if pie is None else accuracies(pie),
      ]
    )
  test, counts = run.measured.test, run.results[0]['class_examples']
  caption = (
    f'On {len(test.labels):,} test examples, {min(counts)} to {max(counts)} per'
    ' class: mean ± standard deviation over the seeds, in % but for the'
    ' expected calibration error (ECE, 15 bins of equal width). Worst class:'
    ' the lowest accuracy of a class, whichever it is in each seed. Churn:'
    ' predictions that differ from those of the dense network of the same seed.'
    ' Exemplars: examples on which most seeds part from most dense ones, and'
    ' how often the dense networks are right there and elsewhere.'
  )
  heads = ['weights', 'network', 'accuracy', 'worst class', 'ECE', 'churn']
  return Table(
    [*heads, 'exemplars', 'dense right there, elsewhere'],
    lines,
    caption,
    'Beside accuracy',
    left=2,
    printed=7,
  )


def accuracies(pie: Exemplars) -> str:
  if not len(pie.indices):
    return '–'
  there, elsewhere = (100 * x for x in pie.dense_accuracy)
  return f'{there:.0f}, {elsewhere:.0f}'


def calibration(results: list[Result]) -> Table:
  lines = [
    [
      *first(x),
      number(x, 'ece_equal_mass'),
      number(x, 'smooth_ece'),
      percent(x, 'overconfidence', '+'),
      number(x, 'temperature', 2),
      number(x, 'tempered_ece'),
      number(x, 'brier'),
      number(x, 'log_loss'),
    ]
    for x in results
  ]
  caption = (
    'Calibration. ECE with equally many examples in each bin, and without bins'
    ' (smooth); confidence minus accuracy in points, below zero where networks'
    ' are too modest; the one temperature fitted on the validation set, and ECE'
    " (equal width) with it; Brier's score; log loss in nats."
  )
  heads = ['weights', 'network', 'ECE, equal mass', 'smooth', 'over', 'T']
  return Table(
    [*heads, 'ECE at T', 'Brier', 'log loss'], lines, caption, left=2
  )


def shifts(results: list[Result]) -> Table:
  """Accuracy under each corruption, of dense networks and the last level."""
  last = results[-1]['level']
  shown = [x for x in results if x['level'] in (0, last)]
  lines = [
    [
      name.replace('_', ' '),
      *(percent({'x': np.mean(x['shifts'][name], 1)}, 'x') for x in shown),
    ]
    for name in results[0]['shifts']
  ]
  lines.append(['mCE', *(number(x, 'corruption_error', 2) for x in shown)])
  heads = ['', *(' '.join(first(x)[::-1]) for x in shown)]
  caption = (
    'Accuracy in % on corrupted images, the mean over severities 1 to 5. mCE:'
    ' errors relative to those of the dense network, the mean over corruptions.'
  )
  return Table(heads, lines, caption)


def latency(results: list[Result]) -> list[Table]:
  found = next((x['latency'] for x in results if 'latency' in x), None)
  if found is None:
    return []
  lines = [
    [
      x['network'],
      str(x['batch']),
      *(f'{1e3 * x[name]:.3f}' for name in ('p50', 'p95', 'first')),
      f'{x["throughput"]:,.0f}',
    ]
    for x in found
  ]
  caption = (
    'Milliseconds of a call of one network, in turn: a mask alone makes nothing'
    ' faster. The first call compiles.'
  )
  heads = ['network', 'batch', 'p50', 'p95', 'first', 'images per second']
  return [Table(heads, lines, caption)]


def gives_way(results: list[Result]) -> str:
  """At which density each measure leaves that of the dense network."""
  (dense,) = find(results, 'dense')
  parts = []
  for label, name, scale, most in SIGNS:
    changed = [
      x['density']
      for x in find(results, 'ticket')
      if scale * (np.mean(x[name]) - np.mean(dense[name])) > most
    ]
    where = f'{100 * changed[0]:.3g} %' if changed else 'none of these'
    parts.append(f'{label} by more than {most:g} points at {where}')
  return (
    'On the way down, the first density at which the mean leaves that of the'
    f' dense network: {"; ".join(parts)}. {churn_beyond(results)}'
  )


def churn_beyond(results: list[Result]) -> str:
  (again,) = find(results, 'dense_again')
  between, last = np.mean(again['churn']), find(results, 'ticket')[-1]
  return (
    f'Two dense networks of different seeds part on {100 * between:.1f} % of'
    f' the examples; ticket and dense network of one seed on'
    f' {100 * np.mean(last["churn"]):.1f} % at {100 * last["density"]:.3g} %.'
  )


def terminal(run: Run) -> list[str | Table]:
  return [beside(run), gives_way(run.results)]


def page(run: Run) -> list[str | Table]:
  return [
    gives_way(run.results),
    '![Accuracy, worst class, calibration, churn](beyond_accuracy.png)',
    beside(run),
    calibration(run.results),
    shifts(run.results),
    '![Examples on which most tickets part from dense networks](exemplars.png)',
    *latency(run.results),
  ]


PANELS = (
  ('test_accuracy', 100, 'accuracy (%)'),
  ('worst_class', 100, 'accuracy of the worst class (%)'),
  ('shifted_accuracy', 100, 'accuracy on corrupted images (%)'),
  ('ece', 1, 'expected calibration error'),
  ('tempered_ece', 1, 'the same, at a fitted temperature'),
  ('churn', 100, 'predictions unlike dense (%)'),
)


def draw(run: Run) -> dict[str, Figure]:
  fig, axes = figures.panels(2, 3, (11, 6.2))
  (dense,) = find(run.results, 'dense')
  (again,) = find(run.results, 'dense_again')
  for ax, (name, scale, label) in zip(np.ravel(axes), PANELS, strict=True):
    of_dense = again if name == 'churn' else dense
    text = 'between dense seeds' if name == 'churn' else 'dense network'
    level = scale * np.mean(of_dense[name])
    ax.axhline(level, color='0.45', lw=1, ls='--', label=text)
    for kind, color in COLORS.items():
      found = find(run.results, kind)
      if found:
        figures.band(
          ax,
          [100 * x['density'] for x in found],
          [scale * np.array(x[name]) for x in found],
          color=color,
          label=NAMES[kind],
        )
    figures.log_scale(ax, TICKS)
    ax.invert_xaxis()
    figures.title(ax, label, 9)
    figures.decorate(ax)
  for ax in axes[-1]:
    ax.set_xlabel('weights remaining (%)')
  axes[0, 0].legend(frameon=False, fontsize=8, loc='lower left')
  axes[1, 2].legend(frameon=False, fontsize=8, loc='upper left')
  figures.title_all(fig, f'{run.title} {figures.BAND}')
  return {'beyond_accuracy': fig, 'exemplars': pictures(run)}


def pictures(run: Run) -> Figure:
  """The first exemplars of the last ticket."""
  last = find(run.results, 'ticket')[-1]
  pie = run.measured.exemplars['ticket', last['level']]
  test = run.measured.test
  fig, axes = figures.panels(1, PICTURES, (11, 1.9))
  for ax in axes[0]:
    ax.axis('off')
  for ax, i in zip(axes[0], pie.indices[:PICTURES], strict=False):
    ax.imshow(test.images[i].squeeze(), cmap='gray_r')
    words = f'is {test.labels[i]}\ndense {pie.dense[i]}\nticket {pie.pruned[i]}'
    ax.set_title(words, fontsize=8)
  share = 100 * last['density']
  title = f'{len(pie.indices)} examples on which most tickets of {share:.3g} %'
  figures.title_all(fig, f'{title} part from most dense networks', 9)
  return fig
