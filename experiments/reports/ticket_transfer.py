"""What the experiment on the transfer of tickets shows and writes."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import rich.table

from common import running
from common.grid import Result, spread

KINDS = {
  'masks': 'masks',
  'weights': 'masks and weights',
}
COLUMNS = ('kind', 'source', 'target', 'level', 'density')


def rows(result: Result) -> list[dict[str, Any]]:
  """One row a network."""
  return [
    {
      **{name: result[name] for name in COLUMNS},
      'seed': seed,
      'test_accuracy': accuracy,
    }
    for seed, accuracy in enumerate(result['test_accuracy'])
  ]


def names(results: list[Result]) -> list[str]:
  """The data sets."""
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


def heads(results: list[Result]) -> list[str]:
  """What stands above the tables for people."""
  return ['ticket', 'transferred', *(f'on {x}' for x in names(results))]


def lines(results: list[Result]) -> list[list[str]]:
  """The rows of the tables for people."""
  targets = names(results)

  def line(ticket, label, kind, **fields):
    found = (find(results, kind, target=t, **fields) for t in targets)
    return [ticket, label, *map(spread, found)]

  return [
    line('none: dense', '', 'imp', level=0),
    line('random', '', 'random'),
    *(
      line(f'of {source}', label, kind, source=source)
      for kind, label in KINDS.items()
      for source in targets
    ),
  ]


def caption(results: list[Result]) -> str:
  """What the numbers are."""
  density = 100 * results[-1]['density']
  return (
    'Test accuracy in %: mean ± standard deviation over the seeds, at the end'
    f' of training. All tickets have {density:.2f} % of the weights; a random'
    ' one has as many in each layer as that of the target, at random places.'
    ' Masks alone go onto new weights; otherwise the weights that the ticket'
    ' started from go with them. On its own data, a ticket with its weights is'
    ' the winning ticket, and its masks alone are the control called random'
    ' reinitialization.'
  )


def table(results: list[Result]) -> rich.table.Table:
  """All results, for the terminal."""
  out = rich.table.Table(caption=caption(results))
  for i, head in enumerate(heads(results)):
    head = head.replace('_', '\n').replace(' ', '\n')
    out.add_column(head, justify='left' if i < 2 else 'right')
  for line in lines(results):
    out.add_row(line[0].replace('_', '\n  '), *line[1:])
  return out


def markdown(
  results: list[Result], title: str, folder: Path, seeds: int
) -> None:
  """Writes all results as a page, with where they come from."""
  running.write_page(
    folder / 'results.md',
    f'Tickets for other data: {title}',
    seeds,
    caption(results),
    running.markdown_table(heads(results), lines(results)),
    '![Accuracy above that of a random ticket, by source and'
    ' target](transfer.png)',
  )


def above_random(results: list[Result], kind: str) -> np.ndarray:
  """Points above a random ticket: a row a source, a column a target."""

  def mean(result):
    return 100 * np.mean(result['test_accuracy'])

  targets = names(results)
  return np.array(
    [
      [
        mean(find(results, kind, source=source, target=target))
        - mean(find(results, 'random', target=target))
        for target in targets
      ]
      for source in targets
    ]
  )


def figure(results: list[Result], title: str, folder: Path) -> None:
  """Draws a heat map for each way to transfer."""
  targets = names(results)
  values = {kind: above_random(results, kind) for kind in KINDS}
  limit = max(np.abs(x).max() for x in values.values()) or 1
  size = 1.6 + 1.1 * len(targets)
  fig, axes = plt.subplots(
    1, 2, figsize=(2 * size, size), sharey=True, layout='constrained'
  )
  for ax, (kind, label) in zip(axes, KINDS.items(), strict=True):
    ax.imshow(values[kind], cmap='RdBu', vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(values[kind]):
      color = 'white' if abs(value) > 0.6 * limit else 'black'
      ax.text(column, row, f'{value:+.1f}', ha='center', va='center', c=color)
    places = [name.replace('_', '\n') for name in targets]
    ax.set_xticks(range(len(targets)), places, fontsize=8.5)
    ax.set_yticks(range(len(targets)), places, fontsize=8.5)
    ax.set_xlabel('trained on', fontsize=9)
    ax.set_title(label, fontsize=9, loc='left')
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
  axes[0].set_ylabel('ticket of', fontsize=9)
  drawn = axes[0].images[0]
  fig.colorbar(drawn, ax=axes, shrink=0.8, label='points above a random ticket')
  fig.suptitle(title, fontsize=10, x=0.01, ha='left')
  running.save_figure(fig, folder, 'transfer')
  plt.close(fig)
