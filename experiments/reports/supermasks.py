"""What the search for supermasks shows and writes."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import rich.table
from matplotlib.axes import Axes

from common import running
from common.grid import Result, spread
from methods.supermask import CRITERIA, METHODS, WEIGHTS

LABELS: dict[str, str] = {
  'dense': 'dense, trained',
  **{name: method.label for name, method in METHODS.items()},
  'bernoulli_likely': 'Bernoulli, likely weights',
  **{
    f'{criterion}_{weights}': (
      f'{criterion.replace("_", " ")}, {weights.replace("_", " ")}'
    )
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


def flat(results: list[Result]) -> list[Result]:
  """All networks: those trained, and those read off them."""
  return [one for result in results for one in (result, *result['found'])]


def rows(result: Result) -> list[dict[str, Any]]:
  """One row a network."""
  return [
    {
      'method': one['method'],
      'kept': one['kept'],
      'width': one['width'],
      'seed': seed,
      'test_accuracy': accuracy,
    }
    for one in flat([result])
    for seed, accuracy in enumerate(one['test_accuracy'])
  ]


def lines(results: list[Result]) -> list[list[str]]:
  """The tables for people, with their head; widths are there if they differ."""
  several = len(widths(results)) > 1
  head = ['method', 'width', 'kept, %', 'test accuracy, %']
  found = [
    [
      LABELS[one['method']],
      f'{one["width"]:g}',
      f'{100 * one["kept"]:.3g}',
      spread(one),
    ]
    for one in flat(results)
  ]
  return [row if several else row[:1] + row[2:] for row in [head, *found]]


CAPTION = (
  'Mean ± standard deviation over the seeds, at the end of training. Weights'
  ' are trained in the dense network only; the large ones of it are kept at the'
  ' values it started from, or at a constant of their sign. Bernoulli masks are'
  ' drawn, or made of the weights with a probability of at least a half. Kept'
  ' is the share of the weights; of large weights, that of the layers below the'
  ' output, which keeps more: 0.9 where the others keep 0.8.'
)


def table(results: list[Result]) -> rich.table.Table:
  """All results, for the terminal."""
  out = rich.table.Table(caption=CAPTION)
  head, *found = lines(results)
  for name in head:
    out.add_column(name, justify='left' if name == 'method' else 'right')
  for line in found:
    out.add_row(*line)
  return out


def markdown(
  results: list[Result], title: str, folder: Path, seeds: int
) -> None:
  """Writes all results as a page, with where they come from."""
  head, *found = lines(results)
  pictures = ['![Test accuracy over the weights kept](accuracy.png)']
  if len(widths(results)) > 1:
    pictures.append('![Test accuracy over the width](widths.png)')
  running.write_page(
    folder / 'results.md',
    f'Supermasks: {title}',
    seeds,
    CAPTION,
    running.markdown_table(head, found),
    *pictures,
  )


def widths(results: list[Result]) -> list[float]:
  """The widths of the networks."""
  return sorted({result['width'] for result in results})


def figures(results: list[Result], title: str, folder: Path) -> None:
  """Draws accuracy over the kept share, and over the width if it varies."""
  several = widths(results)
  if len(several) > 1:
    over_width(results, title, folder)
  width = 1.0 if 1 in several else several[-1]
  if several != [1]:
    title = f'{title}, width {width:g}'
  over_kept([r for r in results if r['width'] == width], title, folder)


def over_width(results: list[Result], title: str, folder: Path) -> None:
  """Draws a line a method, and a share of the weights where it is chosen."""
  fig, ax = plt.subplots(figsize=(6.4, 4.2), layout='constrained')
  lines: dict[tuple[str, float | None], list[Result]] = {}
  for result in results:
    kept = result['kept'] if result['method'].startswith('edge') else None
    lines.setdefault((result['method'], kept), []).append(result)
  shares = sorted({kept for _, kept in lines if kept is not None})
  for (name, kept), line in lines.items():
    line.sort(key=lambda result: result['width'])
    y = 100 * np.array([result['test_accuracy'] for result in line])
    part = '' if kept is None else f', {100 * kept:g} %'
    ax.errorbar(
      [result['width'] for result in line],
      y.mean(1),
      np.abs(np.stack([y.min(1), y.max(1)]) - y.mean(1)),
      fmt='o--' if name == 'dense' else 'o-',
      ms=3.5,
      lw=1.4,
      elinewidth=0.8,
      color=COLORS[name],
      # The more weights, the stronger the line.
      alpha=1 if kept is None else (1 + shares.index(kept)) / len(shares),
      label=LABELS[name] + part,
    )
  ax.set_xscale('log', base=2)
  ax.set_xticks(widths(results))
  ax.xaxis.set_major_formatter('{x:g}')
  ax.minorticks_off()
  ax.set_xlabel('width of the hidden layers')
  ax.set_ylabel('test accuracy (%)')
  ax.set_title(
    f'{title} (mean; bars: lowest to highest)', fontsize=10, loc='left'
  )
  running.decorate(ax)
  ax.legend(frameon=False, fontsize=8.5)
  running.save_figure(fig, folder, 'widths')
  plt.close(fig)


def over_kept(results: list[Result], title: str, folder: Path) -> None:
  """Draws accuracy over the kept share, whole and close to the top."""
  fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), layout='constrained')
  best = 100 * max(np.mean(r['test_accuracy']) for r in results)
  for ax, lowest in zip(axes, (0, best - 6), strict=True):
    draw(ax, flat(results), lowest)
    ax.set_xlabel('weights kept (%)')
  axes[1].set_ylim(best - 6, best + 0.5)
  axes[0].set_ylabel('test accuracy (%)')
  axes[0].set_title(title, fontsize=10, loc='left')
  axes[1].set_title(
    'close to the top (mean; bars: lowest to highest)', fontsize=10, loc='left'
  )
  handles, labels = axes[0].get_legend_handles_labels()
  fig.legend(
    handles,
    labels,
    frameon=False,
    fontsize=8.5,
    loc='outside lower center',
    ncols=2,
  )
  running.save_figure(fig, folder, 'accuracy')
  plt.close(fig)


def draw(ax: Axes, results: list[Result], lowest: float) -> None:
  """Draws a line a method, or a point where it has one kept share.

  Points below the lowest accuracy get no bar, the end of which would be seen.
  """
  lines: dict[str, list[Result]] = {}
  for result in results:
    lines.setdefault(result['method'], []).append(result)
  for name, line in lines.items():
    line.sort(key=lambda result: result['kept'])
    x = 100 * np.array([result['kept'] for result in line])
    y = 100 * np.array([result['test_accuracy'] for result in line])
    mean = y.mean(1)
    if name == 'dense':
      ax.axhline(mean[0], color=COLORS[name], lw=1, ls='--', label=LABELS[name])
      continue
    ax.errorbar(
      x,
      mean,
      np.abs(np.stack([y.min(1), y.max(1)]) - mean) * (mean >= lowest),
      fmt='o-',
      ms=3.5,
      lw=1.4,
      elinewidth=0.8,
      color=COLORS[name],
      label=LABELS[name],
    )
  ax.set_xlim(0, 100)
  running.decorate(ax)
