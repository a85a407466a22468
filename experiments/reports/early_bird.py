"""What the early-bird experiment shows and writes."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import rich.table
from matplotlib.axes import Axes

from common import running
from common.grid import Result, spread
from lthjax import tickets

COLORS = ('#1b6ca8', '#2a9d8f', '#e9a03b', '#c8553d', '#9b5de5')


def distances(masks: np.ndarray) -> np.ndarray:
  """Hamming distances of all pairs: ``(seeds, epochs, epochs)``.

  Args:
    masks: bool, ``(seeds, epochs, channels)``.
  """
  return (masks[:, :, None] != masks[:, None]).mean(-1)


def settled(apart: np.ndarray, window: int, threshold: float) -> int | None:
  """The epoch at which the rule draws the ticket, if it ever does."""
  for epoch, row in enumerate(apart):
    before = row[:epoch][::-1].tolist()
    if tickets.settled(before, window=window, threshold=threshold):
      return epoch
  return None


def rows(result: Result) -> list[dict[str, Any]]:
  """One row a network."""
  rule = result.get('settled', {})
  return [
    {
      'sparsity': result['sparsity'] or 0,
      'draw': result['draw'],
      'seed': seed,
      'test_accuracy': accuracy,
      'forward': result['forward'][seed],
      'cost': result['cost'][seed],
      'settled': '/'.join(str(epochs[seed]) for epochs in rule.values()),
    }
    for seed, accuracy in enumerate(result['test_accuracy'])
  ]


HEADS = ('channels gone', 'drawn at', 'test accuracy, %', 'forward', 'training')
CAPTION = (
  'Mean ± standard deviation over the seeds, at the end of training. The costs'
  ' are multiply-adds of a forward pass, and of the whole training up to the'
  ' end, as shares of those of the dense network. A ticket drawn by the rule is'
  ' drawn for each seed at the first of these epochs by which its masks had'
  ' settled. One drawn after the last epoch trains once more.'
)


def split(
  results: list[Result],
) -> tuple[Result, dict[float, list[Result]]]:
  """The dense network, and the tickets by sparsity."""
  dense, *others = results
  found: dict[float, list[Result]] = {}
  for result in others:
    found.setdefault(result['sparsity'], []).append(result)
  return dense, found


def by_rule(dense: Result, line: list[Result]) -> Result | None:
  """The tickets that the rule draws, each from the first draw after it."""
  epochs = dense['settled'][f'{line[0]["sparsity"]:g}']
  chosen = [
    next((t for t in line if e is not None and t['draw'] >= e), None)
    for e in epochs
  ]
  if None in chosen:
    return None
  return {
    name: [t[name][seed] for seed, t in enumerate(chosen) if t]
    for name in ('test_accuracy', 'forward', 'cost')
  }


def cells(first: str, draw: str, result: Result) -> list[str]:
  """A row of the tables for people."""
  shares = [f'{100 * np.mean(result[x]):.1f} %' for x in ('forward', 'cost')]
  return [first, draw, spread(result), *shares]


def lines(results: list[Result]) -> list[list[str]]:
  """All rows of the tables for people."""
  dense, drawn = split(results)
  found = [cells('none', '', dense)]
  for sparsity, line in drawn.items():
    first = f'{100 * sparsity:g} %'
    found += [cells(first, str(t['draw']), t) for t in line]
    epochs = dense['settled'][f'{sparsity:g}']
    when = ', '.join('–' if e is None else str(e) for e in epochs)
    if ruled := by_rule(dense, line):
      found.append(cells(first, f'rule: {when}', ruled))
    else:
      found.append([first, f'rule: {when}', '–', '–', '–'])
  return found


def table(results: list[Result]) -> rich.table.Table:
  """All results, for the terminal."""
  out = rich.table.Table(caption=CAPTION)
  for head in HEADS:
    out.add_column(head, justify='right')
  for line in lines(results):
    out.add_row(*line)
  return out


def markdown(
  results: list[Result], title: str, folder: Path, seeds: int
) -> None:
  """Writes all results as a page, with where they come from."""
  running.write_page(
    folder / 'results.md',
    f'Early-bird tickets: {title}',
    seeds,
    CAPTION,
    running.markdown_table(HEADS, lines(results)),
    '![Distances of masks, and accuracy over the draw](early_bird.png)',
  )


def figure(
  results: list[Result], title: str, threshold: float, folder: Path
) -> None:
  """Draws how far masks of all epochs are apart, and what tickets reach."""
  dense, drawn = split(results)
  fig, axes = plt.subplots(
    2,
    len(drawn),
    figsize=(1.2 + 2.9 * len(drawn), 5.6),
    layout='constrained',
    squeeze=False,
  )
  shown = None
  for i, (sparsity, line) in enumerate(drawn.items()):
    color = COLORS[i % len(COLORS)]
    apart = np.array(dense['distances'][f'{sparsity:g}']).mean(0)
    epochs = [e for e in dense['settled'][f'{sparsity:g}'] if e is not None]
    shown = matrix(axes[0, i], apart, epochs, threshold)
    axes[0, i].set_title(
      f'{100 * sparsity:g} % of channels gone', fontsize=10, loc='left'
    )
    accuracies(axes[1, i], dense, line, epochs, color)
  low = min(ax.get_ylim()[0] for ax in axes[1])
  high = max(ax.get_ylim()[1] for ax in axes[1])
  for ax in axes[1]:
    ax.set_ylim(low, high)
  axes[0, 0].set_ylabel('epoch')
  axes[1, 0].set_ylabel('test accuracy (%)')
  axes[1, 0].legend(frameon=False, fontsize=8.5)
  if shown is not None:
    fig.colorbar(shown, ax=axes[0], label='distance of masks', shrink=0.9)
  fig.suptitle(title, fontsize=10, x=0.01, ha='left')
  running.save_figure(fig, folder, 'early_bird')
  plt.close(fig)


def matrix(
  ax: Axes, apart: np.ndarray, epochs: list[int], threshold: float
) -> Any:
  """Draws the distances of all pairs, and where seeds settle."""
  shown = ax.imshow(apart, vmin=0, vmax=3 * threshold, cmap='viridis_r')
  for epoch in epochs:
    ax.plot(epoch, epoch, 'o', ms=5, mfc='none', color='#c8553d')
  ax.set_xlabel('epoch')
  return shown


def accuracies(
  ax: Axes, dense: Result, line: list[Result], epochs: list[int], color: str
) -> None:
  """Draws what tickets reach, over the epoch at which they are drawn."""
  whole = 100 * np.mean(dense['test_accuracy'])
  ax.axhline(whole, color='0.45', lw=1, ls='--', label='dense network')
  x = [ticket['draw'] for ticket in line]
  y = 100 * np.array([ticket['test_accuracy'] for ticket in line])
  ax.plot(x, y.mean(1), 'o-', ms=3.5, lw=1.6, color=color, label='ticket')
  ax.fill_between(x, y.min(1), y.max(1), color=color, alpha=0.15, lw=0)
  for epoch in epochs:
    ax.axvline(epoch, color='#c8553d', lw=0.8, alpha=0.6)
  ax.set_xlabel('drawn after epoch')
  running.decorate(ax)
