"""What the experiment on linear mode connectivity shows and writes."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import rich.table
from matplotlib.axes import Axes

from common import running
from common.grid import Result

LABELS = {
  'dense': 'dense network',
  'ticket': 'winning ticket',
  'reinit': 'its mask on new weights',
  'shuffled': 'its mask shuffled',
}
COLORS = {
  'dense': '#555555',
  'ticket': '#1b6ca8',
  'reinit': '#e9a03b',
  'shuffled': '#c8553d',
}
MEASURES = (
  'test_barrier',
  'test_above_line',
  'train_barrier',
  'train_above_line',
  'distance',
  'cosine',
  'disagreement',
)
STABLE = 2  # Percentage points, below which the paper calls a network stable.


class Summary(NamedTuple):
  """All copies of one network from one step, numbers in percent."""

  network: str
  rewind_step: int
  density: float
  accuracy: np.ndarray  # [seeds], mean of the copies
  gain: np.ndarray  # [seeds], what the accuracy is above the dense network's
  measures: dict[str, np.ndarray]  # [pairs, seeds] each
  errors: dict[str, np.ndarray]  # [pairs, seeds, points], test and train


def summarize(results: list[Result]) -> list[Summary]:
  """Puts the copies together, with the dense network from the same step."""
  copies: dict[tuple[str, int], list[Result]] = {}
  for result in results:
    if result['network'] != 'imp':
      key = result['network'], result['rewind_step']
      copies.setdefault(key, []).append(result)

  def accuracy(network, step):
    return 100 * np.mean(
      [x['test_accuracy'] for x in copies[network, step]], axis=0
    )

  return [
    Summary(
      network,
      step,
      100 * found[0]['density'],
      accuracy(network, step),
      accuracy(network, step) - accuracy('dense', step),
      {
        name: np.array([pair[name] for x in found for pair in x['pairs']])
        * (1 if name in ('distance', 'cosine') else 100)
        for name in MEASURES
      },
      {
        split: 100
        * np.array([p[f'{split}_errors'] for x in found for p in x['pairs']])
        for split in ('test', 'train')
      },
    )
    for (network, step), found in copies.items()
  ]


def rows(result: Result) -> list[dict[str, Any]]:
  """One row a trained network and each copy it is compared with, if any."""
  return [
    {
      **{x: result[x] for x in ('network', 'rewind_step', 'number', 'density')},
      'seed': seed,
      'test_accuracy': accuracy,
      **{name: pair.get(name, [''] * (seed + 1))[seed] for name in MEASURES},
      'other': pair.get('other', ''),
    }
    for pair in result['pairs'] or [{}]
    for seed, accuracy in enumerate(result['test_accuracy'])
  ]


HEADS = (
  'network',
  'from step',
  'test accuracy, %',
  'above dense',
  'test barrier',
  'train barrier',
  'weights',
  'distance',
  'cosine',
  'disagreement, %',
)
CAPTION = (
  'Mean ± standard deviation over the seeds, and over the pairs of copies. A'
  ' barrier is how many points the error rises on the line between two copies'
  ' above the mean of their errors. Accuracy is that of the copies, and stands'
  ' beside that of dense copies from the same step; all train up to the same'
  ' step. Disagreement is the share of test images that two copies put into'
  ' different classes.'
)


def line(found: Summary) -> list[str]:
  """A row of the tables for people."""
  measures = found.measures
  return [
    LABELS[found.network],
    f'{found.rewind_step:,}',
    spread(found.accuracy),
    '' if found.network == 'dense' else spread(found.gain, '+'),
    spread(measures['test_barrier']),
    spread(measures['train_barrier']),
    f'{found.density:.3g} %',
    spread(measures['distance']),
    spread(measures['cosine']),
    spread(measures['disagreement']),
  ]


def spread(values: np.ndarray, sign: str = '') -> str:
  """Mean and standard deviation."""
  return f'{values.mean():{sign}.2f} ± {values.std():.2f}'


def table(found: list[Summary]) -> rich.table.Table:
  """The main results, for the terminal."""
  out = rich.table.Table(caption=CAPTION)
  heads = HEADS[: HEADS.index('weights')]
  for head in heads:
    justify = 'left' if head == 'network' else 'right'
    out.add_column(head.replace(' ', '\n', 1), justify=justify)
  for summary in found:
    out.add_row(*line(summary)[: len(heads)])
  return out


def markdown(
  found: list[Summary], title: str, folder: Path, seeds: int
) -> None:
  """Writes all results as a page, with where they come from."""
  running.write_page(
    folder / 'results.md',
    f'Linear mode connectivity: {title}',
    seeds,
    CAPTION,
    running.markdown_table(HEADS, map(line, found)),
    '![Error barrier, and accuracy beside the dense network, over the step that'
    ' copies start from](barriers.png)',
    'Below, the error on the line between two copies, above the straight line'
    ' between their own errors.',
    '![Error on the line between two copies](paths.png)',
  )


def barriers(found: list[Summary], title: str, folder: Path) -> None:
  """Draws over the step of the start: the barrier, and what accuracy is won."""
  fig, (top, bottom) = plt.subplots(
    2, 1, figsize=(7.2, 6.2), sharex=True, layout='constrained'
  )
  steps = sorted({x.rewind_step for x in found})
  for network, label in LABELS.items():
    mine = [x for x in found if x.network == network]
    if not mine:
      continue
    style = {'color': COLORS[network], 'label': label}
    heights = [x.measures['test_barrier'].ravel() for x in mine]
    draw(top, steps, mine, heights, **style)
    if network == 'dense':
      bottom.axhline(0, lw=1, ls='--', **style)
    else:
      draw(bottom, steps, mine, [x.gain for x in mine], **style)
  top.axhline(STABLE, color='0.7', lw=1, ls=':')
  top.annotate(
    'stable below',
    (1, STABLE),
    xycoords=('axes fraction', 'data'),
    xytext=(0, -3),
    textcoords='offset points',
    ha='right',
    va='top',
    fontsize=8,
    color='0.5',
  )
  top.set_ylim(bottom=min(0, top.get_ylim()[0]))
  top.set_ylabel('test error barrier (points)')
  bottom.set_ylabel('test accuracy minus dense (points)')
  bottom.set_xticks(range(len(steps)), [f'{k:,}' for k in steps])
  bottom.set_xlabel('step that copies start from, and tickets are rewound to')
  top.set_title(
    f'{title} (mean; bars: lowest to highest)', fontsize=10, loc='left'
  )
  handles, labels = top.get_legend_handles_labels()
  fig.legend(
    handles,
    labels,
    frameon=False,
    fontsize=8.5,
    loc='outside lower center',
    ncols=4,
  )
  running.save_figure(fig, folder, 'barriers')
  plt.close(fig)


def draw(
  ax: Axes,
  steps: list[int],
  mine: list[Summary],
  values: list[np.ndarray],
  **style: Any,
) -> None:
  """Draws means with their ranges, at places of equal distance."""
  x = [steps.index(summary.rewind_step) for summary in mine]
  mean = np.array([v.mean() for v in values])
  ends = np.array([[v.min() for v in values], [v.max() for v in values]])
  ax.errorbar(
    x,
    mean,
    np.abs(ends - mean),
    fmt='o-',
    ms=3.5,
    lw=1.4,
    elinewidth=0.8,
    **style,
  )
  running.decorate(ax)


def paths(found: list[Summary], title: str, folder: Path) -> None:
  """Draws how the error rises between two copies: a column a start."""
  steps = sorted({x.rewind_step for x in found})
  fig, axes = plt.subplots(
    2,
    len(steps),
    figsize=(1.2 + 2.3 * len(steps), 5),
    sharex=True,
    sharey='row',
    squeeze=False,
    layout='constrained',
  )
  for summary in found:
    for ax, split in zip(
      axes[:, steps.index(summary.rewind_step)], ('test', 'train'), strict=True
    ):
      errors = summary.errors[split]
      errors = errors.reshape(-1, errors.shape[-1])
      alphas = np.linspace(0, 1, errors.shape[-1])
      ends = np.outer(errors[:, 0], 1 - alphas) + np.outer(
        errors[:, -1], alphas
      )
      above = errors - ends
      color, label = COLORS[summary.network], LABELS[summary.network]
      ax.plot(alphas, above.mean(0), lw=1.6, color=color, label=label)
      ax.fill_between(
        alphas, above.min(0), above.max(0), color=color, alpha=0.12, lw=0
      )
      running.decorate(ax)
  for ax, step in zip(axes[0], steps, strict=True):
    ax.set_title(f'from step {step:,}', fontsize=9, loc='left')
  for ax, split in zip(axes[:, 0], ('test', 'train'), strict=True):
    ax.set_ylabel(f'rise of the {split} error\n(points)', fontsize=9)
  for ax in axes[-1]:
    ax.set_xlabel('from copy to copy', fontsize=9)
    ax.set_xticks([0, 0.5, 1], ['0', '½', '1'])
  fig.suptitle(
    f'{title} (mean; band: lowest to highest)', fontsize=10, x=0.01, ha='left'
  )
  handles, labels = axes[0, 0].get_legend_handles_labels()
  fig.legend(
    handles,
    labels,
    frameon=False,
    fontsize=8.5,
    loc='outside lower center',
    ncols=2 if len(steps) < 3 else 4,
  )
  running.save_figure(fig, folder, 'paths')
  plt.close(fig)
