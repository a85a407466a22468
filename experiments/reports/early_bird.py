"""Tables and figures of the early-bird experiment."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.grid import Result
from common.tables import Table
from lthjax import tickets

HEAD = 'Early-bird tickets'
ARMS = {'': 'ticket', 'random': 'random channels', 'slim': 'slim, from scratch'}
ARM_COLORS = {'random': '#8a8a8a', 'slim': '#222222'}
TICKET = '#1b6ca8'


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
  rule = zip(*result.get('settled', {}).values(), strict=True)
  return grid.by_seed(
    result,
    sparsity=result['sparsity'] or 0,
    draw=result['draw'],
    arm=result['arm'],
    forward=result['forward'],
    cost=result['cost'],
    settled=['/'.join(map(str, epochs)) for epochs in rule] or '',
    **{name: result[name] for name in TIMES if name in result},
  )


HEADS = [
  'channels removed',
  'which',
  'drawn at',
  'test accuracy, %',
  'forward',
  'training',
]
TIMES = ('step_time', 'training_time')
TIMED = (
  ' Times: a training step of the network without these channels, and all'
  ' training up to the end, as shares of the wall-clock time that the dense'
  ' network takes, one seed at a time, measured in turns.'
)
CAPTION = (
  'Mean ± standard deviation over the seeds, at the end of training. Costs are'
  ' multiply-adds of a forward pass, and of all training up to the end, as'
  ' shares of those of the dense network. The rule draws a ticket for each seed'
  ' at the first of these epochs by which its masks had settled. A ticket drawn'
  ' after the last epoch trains once more. Random channels are as many in each'
  ' layer. Slim networks have as many from the start, and train for about as'
  ' many multiply-adds as the ticket has cost.'
)


def split(results: list[Result]) -> tuple[Result, dict[float, list[Result]]]:
  """The dense network, and the tickets by sparsity."""
  dense, *others = results
  found: dict[float, list[Result]] = {}
  for result in others:
    if not result.get('arm'):
      found.setdefault(result['sparsity'], []).append(result)
  return dense, found


def of_arm(results: list[Result], sparsity: float, arm: str) -> list[Result]:
  return [
    r for r in results if (r['sparsity'], r.get('arm')) == (sparsity, arm)
  ]


def by_rule(dense: Result, line: list[Result]) -> Result | None:
  """The tickets that the rule draws: for each seed, the first one after it."""
  epochs = dense['settled'][f'{line[0]["sparsity"]:g}']
  chosen = [
    next((t for t in line if e is not None and t['draw'] >= e), None)
    for e in epochs
  ]
  if None in chosen:
    return None
  found = {
    name: [t[name][seed] for seed, t in enumerate(chosen) if t]
    for name in ('test_accuracy', 'forward', 'cost')
  }
  for name in times(line):
    found[name] = [t[name] for t in chosen if t]
  return found


def cells(
  first: str, draw: str, result: Result, which: str, names: tuple[str, ...]
) -> list[str]:
  shares = [f'{100 * np.mean(result.get(x, 1)):.1f} %' for x in names]
  return [first, which, draw, grid.spread(result), *shares]


def times(results: list[Result]) -> tuple[str, ...]:
  """Which times were measured: both, or none."""
  return TIMES if any(TIMES[0] in x for x in results) else ()


def lines(results: list[Result]) -> list[list[str]]:
  dense, drawn = split(results)
  names = ('forward', 'cost', *times(results))
  found = [cells('none', '', dense, 'dense', names)]
  for sparsity, line in drawn.items():
    first = f'{100 * sparsity:g} %'
    found += [cells(first, str(t['draw']), t, 'ticket', names) for t in line]
    epochs = dense['settled'][f'{sparsity:g}']
    when = ', '.join('–' if e is None else str(e) for e in epochs)
    ruled, rule = by_rule(dense, line), f'rule: {when}'
    none = [first, 'ticket', rule, *(1 + len(names)) * ['–']]
    found.append(cells(first, rule, ruled, 'ticket', names) if ruled else none)
    for arm in ARM_COLORS:
      found += [
        cells(first, str(x['draw']), x, ARMS[arm], names)
        for x in of_arm(results, sparsity, arm)
      ]
  return found


def page(run: Run) -> list[str | Table]:
  picture = '![Distances of masks, and accuracy over the draw](early_bird.png)'
  timed = times(run.results)
  heads = [*HEADS, *(x.replace('_', ', ') for x in timed)]
  caption = CAPTION + (TIMED if timed else '')
  return [Table(heads, lines(run.results), caption, left=0), picture]


def draw(run: Run) -> dict[str, Figure]:
  """Distances between the masks of all epochs, and accuracy of the tickets."""
  results, threshold = run.results, run.config.threshold
  dense, drawn = split(results)
  size = (1.2 + 2.9 * len(drawn), 5.6)
  fig, axes = figures.panels(2, len(drawn), size)
  shown = None
  for i, (sparsity, line) in enumerate(drawn.items()):
    apart = np.array(dense['distances'][f'{sparsity:g}']).mean(0)
    epochs = [e for e in dense['settled'][f'{sparsity:g}'] if e is not None]
    shown = matrix(axes[0, i], apart, epochs, threshold)
    figures.title(axes[0, i], f'{100 * sparsity:g} % of channels removed')
    accuracies(axes[1, i], dense, line, epochs)
    for arm, gray in ARM_COLORS.items():
      if found := of_arm(results, sparsity, arm):
        over_draws(axes[1, i], found, gray, ARMS[arm])
  lows, highs = zip(*(ax.get_ylim() for ax in axes[1]), strict=True)
  for ax in axes[1]:
    ax.set_ylim(min(lows), max(highs))
  axes[0, 0].set_ylabel('epoch')
  axes[1, 0].set_ylabel('test accuracy (%)')
  axes[1, 0].legend(frameon=False, fontsize=8.5)
  if shown is not None:
    fig.colorbar(shown, ax=axes[0], label='distance of masks', shrink=0.9)
  figures.title_all(fig, run.title)
  return {'early_bird': fig}


def matrix(
  ax: Axes, apart: np.ndarray, epochs: list[int], threshold: float
) -> Any:
  """Draws the distances of all pairs, and where each seed settles."""
  shown = ax.imshow(apart, vmin=0, vmax=3 * threshold, cmap='viridis_r')
  for epoch in epochs:
    ax.plot(epoch, epoch, 'o', ms=5, mfc='none', color='#c8553d')
  ax.set_xlabel('epoch')
  return shown


def accuracies(
  ax: Axes, dense: Result, line: list[Result], epochs: list[int]
) -> None:
  """Draws the accuracy of tickets over the epoch at which they are drawn."""
  whole = 100 * np.mean(dense['test_accuracy'])
  ax.axhline(whole, color='0.45', lw=1, ls='--', label='dense network')
  over_draws(ax, line, TICKET, ARMS[''])
  for epoch in epochs:
    ax.axvline(epoch, color='#c8553d', lw=0.8, alpha=0.6)
  ax.set_xlabel('drawn after epoch')
  figures.decorate(ax)


def over_draws(ax: Axes, line: list[Result], color: str, label: str) -> None:
  x = [one['draw'] for one in line]
  y = 100 * np.array([one['test_accuracy'] for one in line])
  figures.band(ax, x, y, color=color, label=label)
