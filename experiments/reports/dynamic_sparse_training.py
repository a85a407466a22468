"""What the comparison of sparse training methods shows and writes."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import rich.table
from matplotlib.axes import Axes

from common import running
from common.grid import Result, spread
from methods.sparse import METHODS

COLUMNS = (
  'method',
  'sparsity',
  'steps',
  'seed',
  'test_accuracy',
  'inference_cost',
  'training_cost',
)


def rows(result: Result) -> list[dict[str, Any]]:
  """One row a network."""
  seeds = enumerate(result['test_accuracy'])
  per_seed = [{'seed': i, 'test_accuracy': accuracy} for i, accuracy in seeds]
  return [{name: (result | x)[name] for name in COLUMNS} for x in per_seed]


def cells(result: Result) -> list[str]:
  """A row of the tables for people."""
  return [
    METHODS[result['method']].label,
    f'{100 * result["sparsity"]:g} %',
    f'{result["steps"]:,}',
    spread(result),
    f'{result["inference_cost"]:.3f}',
    f'{result["training_cost"]:.3f}',
  ]


HEADS = (
  'method',
  'sparsity',
  'steps',
  'test accuracy, %',
  'inference FLOPs',
  'training FLOPs',
)
CAPTION = (
  'Mean ± standard deviation over the seeds, at the end of training. FLOPs are'
  ' shares of what the dense network takes.'
)


def table(results: list[Result]) -> rich.table.Table:
  """All results, for the terminal."""
  out = rich.table.Table(caption=CAPTION)
  for head in HEADS:
    justify = 'left' if head == 'method' else 'right'
    out.add_column(head.replace(' ', '\n', 1), justify=justify)
  for result in results:
    out.add_row(*cells(result))
  return out


def markdown(
  results: list[Result], title: str, folder: Path, seeds: int
) -> None:
  """Writes all results as a page, with where they come from."""
  running.write_page(
    folder / 'results.md',
    f'Sparse training: {title}',
    seeds,
    CAPTION,
    running.markdown_table(HEADS, map(cells, results)),
    '![Test accuracy over FLOPs](accuracy.png)',
  )


def figure(results: list[Result], title: str, folder: Path) -> None:
  """Draws accuracy over the cost of inference and of training."""
  fig, axes = plt.subplots(
    1, 2, figsize=(9.6, 4.2), sharey=True, layout='constrained'
  )
  longest = max(result['steps'] for result in results)
  draw(axes[0], [r for r in results if r['steps'] == longest], 'inference_cost')
  draw(axes[1], results, 'training_cost')
  axes[0].set_xlabel('inference FLOPs, share of dense')
  axes[1].set_xlabel('training FLOPs, share of dense')
  axes[0].set_ylabel('test accuracy (%)')
  axes[0].set_title(
    f'{title} (mean; bars: lowest to highest)', fontsize=10, loc='left'
  )
  handles, labels = axes[1].get_legend_handles_labels()
  fig.legend(
    handles, labels, frameon=False, fontsize=8.5, loc='outside right center'
  )
  running.save_figure(fig, folder, 'accuracy')
  plt.close(fig)


def draw(ax: Axes, results: list[Result], cost: str) -> None:
  """Draws a line a method: over sparsities, or over lengths of training."""
  one_length = len({result['steps'] for result in results}) == 1
  lines: dict[Any, list[Result]] = {}
  for result in results:
    kept = None if one_length else result['sparsity']
    lines.setdefault((result['method'], kept), []).append(result)
  drawn = set()
  for (name, _), line in lines.items():
    line.sort(key=lambda result: result[cost])
    x = np.array([result[cost] for result in line])
    y = 100 * np.array([result['test_accuracy'] for result in line])
    mean = y.mean(1)
    ax.errorbar(
      x,
      mean,
      np.abs(np.stack([y.min(1), y.max(1)]) - mean),
      fmt='o-',
      ms=3.5,
      lw=1.4,
      elinewidth=0.8,
      color=METHODS[name].color,
      label='' if name in drawn else METHODS[name].label,
    )
    drawn.add(name)
  ax.set_xscale('log')
  low, high = ax.get_xlim()
  ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
  ax.set_xticks([tick for tick in ticks if low <= tick <= high])
  ax.xaxis.set_major_formatter('{x:g}')
  ax.minorticks_off()
  running.decorate(ax)
