"""Table and figure of the deployed ticket."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.grid import Result
from common.tables import Table

HEAD = 'A deployed ticket'
COLORS = ('#8a8a8a', '#c8553d', '#1b6ca8', '#2a9d8f', '#e9a03b', '#9b5de5')
CAPTION = (
  'Test accuracy: mean ± standard deviation over the seeds. Milliseconds of a'
  ' call, with dispatch: median, and 95th percentile in parentheses, of seed 0,'
  ' all forms in turns. On disk: a safetensors file with the alive values and'
  ' one bit per weight. Sparse kernels of 8 bits read floats from batch 5 on.'
)
HEADS = ['form', 'test accuracy, %', 'batch 1, ms', 'batch 64, ms', 'on disk']


def rows(result: Result) -> list[dict[str, Any]]:
  if 'forms' not in result:
    row = {'level': result['level'], 'density': result['density']}
    return grid.by_seed(result, form='training', **row)
  return [
    {'seed': seed, 'form': name, **form, 'test_accuracy': accuracy}
    for name, form in result['forms'].items()
    for seed, accuracy in enumerate(form['test_accuracy'])
  ]


def page(run: Run) -> list[str | Table]:
  result = run.results[-1]
  lines = []
  for name, form in result['forms'].items():
    times = [
      f'{form[f"ms_p50_batch_{n}"]:.3f} ({form[f"ms_p95_batch_{n}"]:.3f})'
      for n in (1, 64)
    ]
    lines.append([name, grid.spread(form), *times, size(form['bytes'])])
  return [
    Table(HEADS, lines, CAPTION),
    f'The ticket has {100 * result["density"]:.2f} % of the weights. Compiled'
    f' kernels: {result["kernels"]}',
    '![Time of a call, and bytes on disk](deployed.png)',
  ]


def size(count: int) -> str:
  return f'{count / 1024:.1f} KiB'


def draw(run: Run) -> dict[str, Figure]:
  """Bars for the time of a call and for the bytes on disk."""
  forms = run.results[-1]['forms']
  fig, axes = figures.panels(1, 3, (9.6, 3.2), sharey=True)
  names, places = list(forms), np.arange(len(forms))
  columns = [
    ('ms_p50_batch_1', 'ms per call, batch 1'),
    ('ms_p50_batch_64', 'ms per call, batch 64'),
    ('bytes', 'KiB on disk'),
  ]
  for ax, (column, title) in zip(axes[0], columns, strict=True):
    values = np.array([form[column] for form in forms.values()], float)
    if column == 'bytes':
      values /= 1024
    colors = [COLORS[i % len(COLORS)] for i in places]
    ax.barh(places, values, color=colors, height=0.65)
    for place, value in zip(places, values, strict=True):
      text = f' {value:,.0f}' if value >= 100 else f' {value:.3g}'
      ax.annotate(text, (value, place), va='center', fontsize=7.5)
    ax.set_xlim(0, 1.2 * values.max())
    ax.spines[['top', 'right']].set_visible(False)
    figures.title(ax, title, 9)
  axes[0, 0].set_yticks(places, names)
  axes[0, 0].invert_yaxis()
  figures.title_all(fig, f'{run.title} (times: median of seed 0)')
  return {'deployed': fig}
