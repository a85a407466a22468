"""Tables and figure of the experiment on tickets of a pretrained encoder."""

from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from common import figures, findings, grid
from common.command import Run
from common.tables import Table

HEAD = 'Tickets of a pretrained encoder'
KindName = Literal['words', 'own', 'random', 'shuffled', 'magnitude']
KINDS: dict[KindName, tuple[str, str]] = {
  'words': ('for masked words', '#1b6ca8'),
  'own': ("the task's own", '#2a9d8f'),
  'random': ('random', '#8a8a8a'),
  'shuffled': ('shuffled within layers', '#e9a03b'),
  'magnitude': ('pretrained magnitudes', '#c8553d'),
}
TASKS = {'words': 'masked words', 'tags': 'tags'}
COLUMNS = ('task', 'kind', 'level', 'density')


def rows(result: grid.Result) -> list[dict[str, Any]]:
  return grid.by_seed(result, **{name: result[name] for name in COLUMNS})


def find(
  results: list[grid.Result], task: str, kind: str, level: int
) -> grid.Result | None:
  """The result of a cell, if it is there."""
  wanted = (task, kind, level)
  for one in results:
    if (one['task'], one['kind'], one['level']) == wanted:
      return one
  return None


def tasks(results: list[grid.Result]) -> list[str]:
  return list(dict.fromkeys(x['task'] for x in results))


def levels(results: list[grid.Result]) -> list[int]:
  return sorted({x['level'] for x in results if x['kind'] in KINDS})


def titled(task: str) -> str:
  return TASKS.get(task, task)


def ahead(one: grid.Result, other: grid.Result) -> float:
  """How far a ticket is ahead, in the larger of both standard deviations."""
  a, b = (np.asarray(x['test_accuracy']) for x in (one, other))
  if len(a) < 2:
    return np.nan
  deviation = max(a.std(ddof=1), b.std(ddof=1))
  gap = a.mean() - b.mean()
  if not gap:
    return 0.0
  return float(gap / deviation) if deviation else np.inf * float(np.sign(gap))


def lines(results: list[grid.Result]) -> list[list[str]]:
  names = tasks(results)

  def line(label, sparsity, found):
    cells = ['' if x is None else grid.spread(x) for x in found]
    return [label, sparsity, *cells]

  dense = [find(results, task, 'imp', 0) for task in names]
  made = [line('none: the whole encoder', '', dense)]
  for level in levels(results):
    for kind, (label, _) in KINDS.items():
      found = [find(results, task, kind, level) for task in names]
      if any(found):
        made.append(line(label, f'{10 * level} %', found))
  return made


def comparisons(results: list[grid.Result]) -> list[list[str]]:
  """How far the ticket for masked words is ahead of each other."""
  made = []
  for level in levels(results):
    for task in tasks(results):
      ticket = find(results, task, 'words', level)
      others = [
        find(results, task, kind, level) for kind in KINDS if kind != 'words'
      ]
      others.append(find(results, task, 'imp', 0))
      if ticket is None:
        continue
      cells = ['' if x is None else f'{ahead(ticket, x):+.1f}' for x in others]
      made.append([titled(task), f'{10 * level} %', *cells])
  return made


def differences(results: list[grid.Result]) -> list[str]:
  """How many points the ticket for masked words is ahead, by paired seeds."""
  made = []
  for level in levels(results):
    for task in tasks(results):
      ticket = find(results, task, 'words', level)
      parts = []
      for kind, (label, _) in KINDS.items():
        other = find(results, task, kind, level)
        if kind == 'words' or ticket is None or other is None:
          continue
        pair = ticket['test_accuracy'], other['test_accuracy']
        parts.append(f'{label} {findings.difference(*pair, scale=100)}')
      if parts:
        made.append(
          f'On {titled(task)} at {10 * level} %, points of the ticket for'
          f' masked words above: {"; ".join(parts)}.'
        )
  return made


def beats_random(results: list[grid.Result]) -> list[str]:
  """Whether that ticket is clearly ahead of random ones, on every task."""
  gaps = [
    ahead(ticket, random)
    for level in levels(results)
    for task in tasks(results)
    if (ticket := find(results, task, 'words', level))
    and (random := find(results, task, 'random', level))
  ]
  if not gaps:
    return []
  return [
    'The ticket for masked words is more than two standard deviations ahead of'
    f' random masks in {sum(gap > 2 for gap in gaps)} of {len(gaps)} pairs of'
    f' task and sparsity; the least is {min(gaps):+.1f}. Differences below are'
    f' {findings.PAIRED}.'
  ]


def page(run: Run) -> list[str | Table]:
  results = run.results
  (pretrained,) = (x for x in results if x['kind'] == 'pretrained')
  labels = [label for kind, (label, _) in KINDS.items() if kind != 'words']
  return [
    'The encoder as pretrained: masked words'
    f' {100 * pretrained["test_accuracy"][0]:.2f} %, perplexity'
    f' {np.exp(pretrained["test_loss"][0]):.2f}.',
    *beats_random(results),
    *differences(results),
    Table(
      ['ticket', 'sparsity', *map(titled, tasks(results))],
      lines(results),
      'Test accuracy in %, mean ± standard deviation over the seeds, which'
      ' share the pretrained weights. Sparsity is that of the kernels of'
      ' attention and MLP; all other weights stay. All start from pretrained'
      ' weights with a new head; in the rounds that find tickets, the head'
      " stays as trained, as in the authors' code.",
      left=2,
    ),
    Table(
      ['on', 'sparsity', *labels, 'the whole encoder'],
      comparisons(results),
      'How far the ticket for masked words is ahead of others in accuracy, in'
      ' standard deviations over the seeds, the larger one of both.',
      left=2,
    ),
    '![Accuracy of tickets on each task](tickets.png)',
  ]


def draw(run: Run) -> dict[str, Figure]:
  """Draws accuracy over sparsity, a panel for each task."""
  results = run.results
  names = tasks(results)
  fig, axes = figures.panels(1, len(names), (4.4 * len(names), 4.2))
  for ax, task in zip(axes[0], names, strict=True):
    rounds = [x for x in results if (x['task'], x['kind']) == (task, 'imp')]
    if rounds:
      x = [10 * one['level'] for one in rounds]
      y = [100 * np.asarray(one['test_accuracy']) for one in rounds]
      figures.bars(ax, x, y, color='0.3', label='rounds of pruning')
    for kind, (label, color) in KINDS.items():
      found = [find(results, task, kind, level) for level in levels(results)]
      there = [one for one in found if one is not None]
      if there:
        x = [10 * one['level'] for one in there]
        y = [100 * np.asarray(one['test_accuracy']) for one in there]
        figures.bars(ax, x, y, color=color, label=label)
    ax.set_xlabel('sparsity (%)')
    figures.decorate(ax)
    figures.title(ax, f'{titled(task)} {figures.BARS}', 9)
  axes[0, 0].set_ylabel('test accuracy (%)')
  figures.legend(fig, axes, ncols=3)
  figures.title_all(fig, run.title)
  return {'tickets': fig}
