"""What the experiment on pruning at initialization shows and writes."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import rich.table

from common import running
from common.grid import Result, spread

LABELS = {
  'dense': 'dense',
  'random': 'random',
  'magnitude': 'magnitude',
  'snip': 'SNIP',
  'iterative_snip': 'iterative SNIP',
  'grasp': 'GraSP',
  'synflow': 'SynFlow',
  'imp': 'IMP',
}
CHECKS = {
  '': ('as pruned', '#1b6ca8'),
  'shuffled': ('shuffled within layers', '#c8553d'),
  'shuffled_input': ('shuffled at each pixel', '#e9a03b'),
  'reinit': ('new weights', '#2a9d8f'),
  'inverted': ('lowest scores kept', '#9b5de5'),
}
CAPTION = (
  'Test accuracy in %: mean ± standard deviation over the seeds, at the end of'
  ' training.'
)


def rows(result: Result) -> list[dict[str, Any]]:
  """One row a network."""
  return [
    {
      'method': result['method'],
      'ratio': result['ratio'],
      'check': result['check'],
      'seed': seed,
      'test_accuracy': accuracy,
      'alive': sum(counts[seed] for counts in result['alive'].values()),
      'smallest_layer': min(x[seed] for x in result['alive'].values()),
    }
    for seed, accuracy in enumerate(result['test_accuracy'])
  ]


def lines(results: list[Result]) -> list[list[str]]:
  """A line a method and ratio, a column a check."""
  found = {(r['method'], r['ratio'], r['check']): spread(r) for r in results}
  return [
    [
      LABELS[method],
      f'{ratio:.3g}',
      f'{100 / ratio:.3g} %',
      *(found.get((method, ratio, check), '') for check in CHECKS),
    ]
    for method, ratio, check in found
    if check == ''
  ]


HEADS = (
  'method',
  'compression',
  'weights',
  *(label for label, _ in CHECKS.values()),
)


def table(results: list[Result]) -> rich.table.Table:
  """All results, for the terminal."""
  out = rich.table.Table(caption=CAPTION)
  for head in HEADS:
    justify = 'left' if head == 'method' else 'right'
    out.add_column(head.replace(' ', '\n', 1), justify=justify)
  for line in lines(results):
    out.add_row(*line)
  return out


def markdown(
  results: list[Result], title: str, folder: Path, seeds: int
) -> None:
  """Writes all results as a page, with where they come from."""
  running.write_page(
    folder / 'results.md',
    f'Pruning at initialization: {title}',
    seeds,
    CAPTION,
    running.markdown_table(HEADS, lines(results)),
    '![Test accuracy over compression](accuracy.png)',
  )


def figure(results: list[Result], title: str, folder: Path) -> None:
  """Draws accuracy over compression: a panel a method, a line a check."""
  methods = [m for m in LABELS if m in {r['method'] for r in results}]
  methods.remove('dense')
  dense = 100 * np.mean(results[0]['test_accuracy'])
  ratios = sorted(r['ratio'] for r in results if r['method'] != 'dense')
  ticks = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
  across = min(3, len(methods))
  down = math.ceil(len(methods) / across)
  fig, axes = plt.subplots(
    down,
    across,
    figsize=(1.5 + 3 * across, 0.6 + 2.6 * down),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  for ax in axes.flat[len(methods) :]:
    ax.set_visible(False)
  for method, ax in zip(methods, axes.flat, strict=False):
    ax.axhline(dense, color='0.45', lw=1, ls='--', label='dense network')
    for check, (label, color) in CHECKS.items():
      mine = [
        (r['ratio'], 100 * np.array(r['test_accuracy']))
        for r in results
        if (r['method'], r['check']) == (method, check)
      ]
      if not mine:
        continue
      x = np.array([ratio for ratio, _ in mine])
      y = np.array([accuracy for _, accuracy in mine])
      ax.plot(x, y.mean(1), 'o-', ms=3, lw=1.4, color=color, label=label)
      ax.fill_between(x, y.min(1), y.max(1), color=color, alpha=0.15, lw=0)
    ax.set_title(LABELS[method], fontsize=9, loc='left')
    ax.set_xscale('log')
    ax.set_xticks([t for t in ticks if ratios[0] <= t <= ratios[-1]])
    ax.xaxis.set_major_formatter('{x:g}')
    ax.minorticks_off()
    running.decorate(ax)
  shown = '(mean; band: lowest to highest)'
  if axes[0, 0].get_ylim()[0] < (lowest := math.floor(dense) - 25):
    axes[0, 0].set_ylim(bottom=lowest)  # Else nothing is seen of the others.
    shown = f'(mean; band: lowest to highest; from {lowest} % on)'
  fig.suptitle(f'{title} {shown}', fontsize=10, x=0.01, ha='left')
  fig.supxlabel('compression', fontsize=9)
  fig.supylabel('test accuracy (%)', fontsize=9)
  labelled = [ax.get_legend_handles_labels() for ax in axes.flat]
  handles, labels = max(labelled, key=lambda found: len(found[1]))
  fig.legend(
    handles, labels, frameon=False, fontsize=8.5, loc='outside right center'
  )
  running.save_figure(fig, folder, 'accuracy')
  plt.close(fig)
