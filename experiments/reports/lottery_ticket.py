"""Tables, figure and capacity report of the lottery-ticket experiment."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

import lthjax as lth
from common import figures, grid, seeds, tables
from common.command import Advice, Run
from common.tables import Table
from lthjax.tickets import Ticket
from methods.controls import ARMS, PARTS

HEAD = 'Lottery tickets'
AT_BEST = 'test_accuracy_at_best'
TITLE = 'Test accuracy in % at the best validation step'
CAPTION = f'{TITLE}: mean ± standard deviation over the seeds.'
THRESHOLDS = (
  90,
  95,
  96.5,
)  # % of the validation set, to be reached in training
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)


class Level(NamedTuple):
  """A ticket and its controls, in the order of `ARMS`."""

  density: float
  arms: dict[str, grid.Result]

  @property
  def label(self) -> str:
    return f'{100 * self.density:.2f} %'


def levels(results: list[grid.Result]) -> list[Level]:
  """Groups the results by level."""
  found: dict[int, dict[str, grid.Result]] = {}
  for result in results:
    found.setdefault(result['level'], {})[result['control']] = result
  return [
    Level(arms['ticket']['density'], {x: arms[x] for x in ARMS if x in arms})
    for arms in found.values()
  ]


def accuracy(result: grid.Result) -> np.ndarray:
  """Test accuracy of each seed at the best validation step, in percent."""
  return 100 * np.array(result[AT_BEST])


def rows(result: grid.Result) -> list[dict[str, Any]]:
  names = ('level', 'density', 'control', 'best_step', AT_BEST)
  found = {name: result[name] for name in names}
  by_seed = list(zip(*(x['accuracy'] for x in result['curve']), strict=True))
  at = [x['step'] for x in result['curve']]
  found['best_validation_accuracy'] = [
    max(filter(None, x), default=None) for x in by_seed
  ]
  for accuracy in THRESHOLDS:
    steps = [steps_to(accuracy / 100, at, curve) for curve in by_seed]
    found[f'steps_to_{accuracy:g}'] = steps
  return grid.by_seed(result, **found)


def steps_to(accuracy: float, steps: Any, curve: Any) -> float | None:
  """Steps until validation reaches an accuracy, between two evaluations."""
  before = (0, 0.0)
  for step, value in zip(steps, curve, strict=True):
    if value is not None and value >= accuracy:
      share = (accuracy - before[1]) / (value - before[1])
      return before[0] + share * (step - before[0])
    before = (step, value or 0.0)
  return None


def by_level(found: list[Level], digits: int) -> Table:
  heads = ['weights', *found[-1].arms]
  lines = []
  for level in found:
    texts = {
      name: tables.spread(accuracy(x), digits=digits) + grid.mark([x])
      for name, x in level.arms.items()
    }
    lines.append([level.label, *(texts.get(name, '–') for name in heads[1:])])
  caption = 'mean ± standard deviation over the seeds; a dash: not trained'
  return Table(heads, lines, caption, TITLE, left=0)


def terminal(run: Run) -> list[str | Table]:
  """Accuracy at every level, and the last level in words."""
  found = levels(run.results)
  dense = accuracy(found[0].arms['ticket']).mean()
  verdict = [
    f'With {found[-1].label} of the weights:',
    *(
      f'  {accuracy(x).mean():5.1f} %  {ARMS[name].label} ({name})'
      for name, x in found[-1].arms.items()
    ),
    f'  {dense:5.1f} %  dense network, with all weights',
  ]
  return [by_level(found, 1), '\n'.join(verdict), *faster(run)]


def advice(run: Run) -> Advice:
  """Where to look, and which command shows more."""
  files = {
    'accuracy.png': 'the curves of ticket and controls',
    'report.html': 'which weights are left, in a browser',
    'results.md': 'all tables, and how to run this again',
  }
  script = 'python experiments/lottery_ticket.py'
  commands = {
    f'{script} --preset mnist': 'the same on MNIST, 6 minutes',
    f'{script} --rewind-step 20': 'tickets that start a little later',
    'notebooks/first_ticket.ipynb': 'a ticket by hand, step by step',
    'notebooks/rigl.ipynb': 'masks that move during training',
  }
  if run.config.dataset != 'digits':
    commands.pop(f'{script} --preset mnist')
  return Advice(files, commands)


def faster(run: Run) -> list[str]:
  """What alive weights alone take, if they were trained so."""
  times = next(
    (x['milliseconds'] for x in run.results if 'milliseconds' in x), None
  )
  if times is None:
    return []
  masked, alive = times['masked'], times['alive only']
  share = levels(run.results)[-1].label
  return [
    f'Tickets and controls of at most {100 * run.config.sparse_from:g} % were'
    f' trained on alive weights only. At {share}, a training step of all seeds'
    f' takes {masked:.2f} ms with masks and {alive:.2f} ms so:'
    f' {masked / alive:.1f} times faster.'
  ]


def page(run: Run) -> list[str | Table]:
  """All levels; what sign, magnitude and mask are worth at two of them."""
  found = levels(run.results)
  shown = [level for level in found if len(level.arms) > 1] or found[-1:]
  shown = [shown[i] for i in sorted({(len(shown) - 1) // 2, len(shown) - 1})]
  lines = []
  for name in shown[-1].arms:
    if name not in ('ticket', *PARTS):
      continue
    arm = ARMS[name]
    keeps = ['yes' if x else 'no' for x in (arm.sign, arm.magnitude, arm.mask)]
    spreads = (grid.spread(level.arms[name], AT_BEST) for level in shown)
    lines.append([arm.label, *keeps, *spreads])
  heads = ['', 'sign', 'magnitude', 'mask', *(level.label for level in shown)]
  return [
    by_level(found, 2)._replace(caption=f'{CAPTION} A dash: not trained.'),
    '![Test accuracy against weights remaining](accuracy.png)',
    Table(heads, lines, f'What each training keeps of the ticket. {CAPTION}'),
    *faster(run),
  ]


def draw(run: Run) -> dict[str, Figure]:
  found = levels(run.results)
  fig, axes = figures.panels()
  ax = axes[0, 0]
  dense = accuracy(found[0].arms['ticket']).mean()
  ax.axhline(dense, color='0.45', lw=1, ls='--', label='dense network')
  for name in found[-1].arms:
    mine = [level for level in found if name in level.arms]
    figures.band(
      ax,
      [100 * level.density for level in mine],
      [accuracy(level.arms[name]) for level in mine],
      color=ARMS[name].color,
      label=ARMS[name].label,
    )
  figures.log_scale(ax, TICKS)
  ax.invert_xaxis()
  ax.set_xlabel('weights remaining (%)')
  ax.set_ylabel('test accuracy (%)')
  figures.title(ax, f'{run.title} {figures.BAND}\n{run.config.budget}')
  figures.decorate(ax)
  ax.legend(frameon=False, fontsize=8.5, loc='lower left')
  return {'accuracy': fig}


def capacity(
  dense: Ticket, ticket: Ticket, pixels: tuple[int, ...] | None
) -> str:
  """A page on where the capacity of the first seed's ticket lives."""
  of_seeds = enumerate(seeds.unstack(ticket.masks))
  masks = {f'seed {i}': of_seed for i, of_seed in of_seeds}
  found = lth.report.capacity(
    masks['seed 0'],
    initial=seeds.one(dense.start, 0),
    final=seeds.one(dense.trained.params, 0),
    input_layers='fc1/kernel' if pixels else (),
    input_shape=pixels,
    compared=masks if len(masks) > 1 else None,
  )
  return lth.report.html(found, title='Where the capacity of seed 0 lives')
