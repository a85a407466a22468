"""Tables and figures of the experiment on the transfer of tickets."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common import figures, grid
from common.command import Run
from common.config import titled
from common.grid import Result
from common.tables import Table

HEAD = 'Tickets for other data'
KINDS = {'masks': 'masks', 'weights': 'masks and weights'}
COLUMNS = ('kind', 'source', 'target', 'level', 'density')


def rows(result: Result) -> list[dict[str, Any]]:
  return grid.by_seed(result, **{name: result[name] for name in COLUMNS})


def names(results: list[Result]) -> list[str]:
  return list(dict.fromkeys(result['target'] for result in results))


def find(results: list[Result], kind: str, **fields: Any) -> Result:
  """The one result of a kind with such fields."""
  wanted = {'kind': kind, **fields}
  (found,) = (
    result
    for result in results
    if all(result[name] == value for name, value in wanted.items())
  )
  return found


def lines(results: list[Result]) -> list[list[str]]:
  targets = names(results)

  def line(ticket, label, kind, **fields):
    found = (find(results, kind, target=t, **fields) for t in targets)
    return [ticket, label, *map(grid.spread, found)]

  return [
    line('none: dense', '', 'imp', level=0),
    line('random', '', 'random'),
    *(
      line(f'of {titled(source)}', label, kind, source=source)
      for kind, label in KINDS.items()
      for source in targets
    ),
  ]


def caption(results: list[Result]) -> str:
  density = 100 * results[-1]['density']
  return (
    'Test accuracy in %: mean ± standard deviation over the seeds, at the end'
    f' of training. All tickets have {density:.2f} % of the weights; a random'
    ' ticket has as many in each layer as the ticket of the target, at random'
    ' places. Masks alone are put on new weights; otherwise the initial weights'
    ' of the ticket are transferred with them. On its own data, a ticket with'
    ' its weights is the winning ticket, and its masks alone are the control'
    ' called random reinitialization.'
  )


def page(run: Run) -> list[str | Table]:
  results = run.results
  heads = ['ticket', 'transferred']
  heads += [f'on {titled(name)}' for name in names(results)]
  return [
    Table(heads, lines(results), caption(results), left=2),
    '![Accuracy above that of a random ticket, by source and'
    ' target](transfer.png)',
  ]


def above_random(results: list[Result], kind: str) -> np.ndarray:
  """Points above a random ticket: a row per source, a column per target."""

  def mean(result):
    return 100 * np.mean(result['test_accuracy'])

  targets = names(results)
  random = [mean(find(results, 'random', target=x)) for x in targets]
  found = [
    [mean(find(results, kind, source=x, target=y)) for y in targets]
    for x in targets
  ]
  return np.array(found) - random


def draw(run: Run) -> dict[str, Figure]:
  """A heat map for each way to transfer."""
  targets = names(run.results)
  values = {kind: above_random(run.results, kind) for kind in KINDS}
  limit = max(np.abs(x).max() for x in values.values()) or 1
  size = 1.6 + 1.1 * len(targets)
  fig, (axes,) = figures.panels(1, 2, (2 * size, size), sharey=True)
  for ax, (kind, label) in zip(axes, KINDS.items(), strict=True):
    ax.imshow(values[kind], cmap='RdBu', vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(values[kind]):
      color = 'white' if abs(value) > 0.6 * limit else 'black'
      ax.text(column, row, f'{value:+.1f}', ha='center', va='center', c=color)
    places = [titled(name).replace(' ', '\n') for name in targets]
    ax.set_xticks(range(len(targets)), places, fontsize=8.5)
    ax.set_yticks(range(len(targets)), places, fontsize=8.5)
    ax.set_xlabel('trained on', fontsize=9)
    figures.title(ax, label, 9)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
  axes[0].set_ylabel('ticket of', fontsize=9)
  drawn = axes[0].images[0]
  fig.colorbar(drawn, ax=axes, shrink=0.8, label='points above a random ticket')
  figures.title_all(fig, run.title)
  return {'transfer': fig}
