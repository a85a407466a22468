"""Tables and figures of the experiment on core and specialist tickets."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from common import figures, grid, tables
from common.command import Run
from common.grid import Result
from common.tables import Table
from methods.parts import label

HEAD = 'Core and specialist tickets'


class Measured(NamedTuple):
  """What the tickets of the parts have in common."""

  overlaps: list[dict[str, Any]]
  layers: list[tuple[int, str]]
  matrix: np.ndarray
  clusters: list[int]


class Network(NamedTuple):
  """A subnetwork trained on a part; its tests are a list per tested part."""

  label: str
  density: float
  trained_on: int
  tests: list[list[float]]
  mark: str = ''


def rows(result: Result) -> list[dict[str, Any]]:
  """One row per network and tested part."""
  alive = [sum(n) for n in zip(*result['alive'].values(), strict=True)]
  trained = list(dict.fromkeys(x['trained_on'] for x in result['tests']))
  # COLT trains on one part after the other, and so its curve has all of them.
  ends = len(result['curve']) // len(trained)
  curves = {
    part: result['curve'][: (i + 1) * ends] for i, part in enumerate(trained)
  }
  return [
    row
    for test in result['tests']
    for row in grid.by_seed(
      {**result, **test, 'curve': curves[test['trained_on']]},
      **{name: result[name] for name in ('masks', 'level', 'density')},
      **{name: test[name] for name in ('trained_on', 'tested_on')},
      alive=alive,
      shared=result.get('shared'),
    )
  ]


def networks(results: list[Result]) -> list[Network]:
  """The subnetworks to compare, each of them on all parts.

  COLT is shown at the level whose density is nearest to that of the tickets.
  """
  tickets = [r for r in results if r['masks'] == 'imp']
  density = tickets[-1]['density']
  colt = min(
    (r for r in results if r['masks'] == 'colt'),
    key=lambda r: abs(math.log(r['density'] / density)),
  )
  shown = [('dense', r) for r in tickets if not r['level']]
  shown += [
    (label(r['masks']), r)
    for r in results
    if r['masks'] not in ('imp', 'twin', 'colt')
  ]
  shown.append((f'COLT, level {colt["level"]}', colt))
  found = []
  for name, result in shown:
    tests: dict[int, list[list[float]]] = {}
    for test in result['tests']:
      tests.setdefault(test['trained_on'], []).append(test['test_accuracy'])
    mark = grid.mark([result])
    found += [
      Network(name, result['density'], *one, mark) for one in tests.items()
    ]
  names = list(dict.fromkeys(network.label for network in found))
  return sorted(found, key=lambda x: (names.index(x.label), x.trained_on))


def accuracy_table(results: list[Result]) -> Table:
  found = networks(results)
  parts = range(len(found[0].tests))
  heads = ['subnetwork', 'weights', 'trained on part']
  heads += [f'tested on part {part}, %' for part in parts]
  lines = [
    [
      network.label + network.mark,
      f'{100 * network.density:.3g} %',
      str(network.trained_on),
      *(tables.spread(100 * np.array(x)) for x in network.tests),
    ]
    for network in found
  ]
  return Table(heads, lines, CAPTION)


CAPTION = (
  'Test accuracy: mean ± standard deviation over the seeds, at the end of'
  ' training. Specialist 0 belongs to part 0, and so on. Random weights are as'
  ' many in each layer as those of the specialist of the part trained on, at'
  ' places outside the core. The output layer has the classes of all parts.'
)
OVERLAP = (
  'Weights that the tickets of all parts share, compared with tickets that have'
  ' as many weights in each layer at random places: mean over the seeds. z is'
  ' the difference in standard deviations of the latter.'
)
OTHER_STARTS = (
  ' Other starts: tickets of the parts from different initializations, which'
  ' share only what the data makes them share.'
)


def overlap_lines(overlaps: list[dict[str, Any]]) -> list[list[str]]:
  """A line per layer at the last level, and one for all layers per level."""
  last = overlaps[-1]['level']
  groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
  for row in overlaps:
    if row['layer'] == 'hidden':
      continue
    if row['level'] == last or row['layer'] == 'all':
      groups.setdefault((row['level'], row['layer']), []).append(row)

  def mean(group, column, start):
    values = [r[column] for r in group if r['initialization'] == start]
    return f'{np.mean(values):,.1f}'

  return [
    [
      str(level),
      f'{100 * group[0]["density"]:.3g} %',
      layer,
      mean(group, 'expected', 'same'),
      *(
        mean(group, column, start)
        for start in ('same', 'other')[: 1 + other_starts(overlaps)]
        for column in ('observed', 'z')
      ),
    ]
    for (level, layer), group in groups.items()
  ]


def overlap_table(overlaps: list[dict[str, Any]]) -> Table:
  heads = ['level', 'weights', 'layer', 'by chance', 'shared', 'z']
  caption = OVERLAP
  if other_starts(overlaps):
    heads += ['shared, other starts', 'z, other starts']
    caption += OTHER_STARTS
  return Table(heads, overlap_lines(overlaps), caption, left=0)


def other_starts(overlaps: list[dict[str, Any]]) -> bool:
  """Returns whether there were enough seeds to compare different starts."""
  return any(row['initialization'] == 'other' for row in overlaps)


NULLS = {
  'same': 'the ticket of the other part',
  'twin': 'a ticket of the same part, other order of the data',
  'largest': 'as many of the largest initial weights',
  'aligned': 'the other part from another start, units matched',
  'other': 'the other part from another start',
}


def null_table(overlaps: list[dict[str, Any]]) -> Table:
  """What else a ticket shares as many weights with."""
  last = overlaps[-1]['level']
  lines = []
  for start, other in NULLS.items():
    found = [
      row
      for row in overlaps
      if (row['level'], row['layer'], row['initialization'])
      == (last, 'hidden', start)
    ]
    if found:
      means = (
        np.mean([row[x] for row in found]) for x in ('expected', 'observed')
      )
      z = tables.spread([row['z'] for row in found], digits=1)
      lines.append([other, *(f'{mean:,.1f}' for mean in means), z])
  caption = (
    'Hidden weights that the ticket of the first part shares at the last level:'
    ' mean over the seeds. The output layer is left out.'
  )
  return Table(['with', 'by chance', 'shared', 'z'], lines, caption)


def write(found: Measured, folder: Path) -> None:
  """Writes what was measured, for programs."""
  tables.write_csv(folder / 'overlap.csv', found.overlaps)
  names = [f'part {part}: {layer}' for part, layer in found.layers]
  rows = zip(names, found.clusters, found.matrix.tolist(), strict=True)
  layers = [
    {'layer': name, 'cluster': cluster, **dict(zip(names, row, strict=True))}
    for name, cluster, row in rows
  ]
  tables.write_csv(folder / 'layers.csv', layers)


def page(run: Run) -> list[str | Table]:
  overlaps = run.measured.overlaps
  return [
    accuracy_table(run.results),
    '![Test accuracy of the subnetworks on each part](accuracy.png)',
    overlap_table(overlaps),
    *([null_table(overlaps)] if run.config.nulls else []),
    "How the layers of the parts' tickets represent the same test examples:"
    ' Gromov-Wasserstein distances between layers, averaged over the seeds, and'
    ' clusters found from these.',
    '![Distances between layers](layers.png)',
  ]


def terminal(run: Run) -> list[str | Table]:
  return [part for part in page(run) if isinstance(part, Table)]


def draw(run: Run) -> dict[str, Figure]:
  return {
    'accuracy': accuracy_figure(
      networks(run.results), f'{run.title}\n{run.config.budget}'
    ),
    'layers': layer_figure(run.measured, run.title),
  }


def accuracy_figure(found: list[Network], title: str) -> Figure:
  """Draws a matrix per tested part: subnetworks over parts trained on."""
  labels = list(dict.fromkeys(network.label for network in found))
  parts = len(found[0].tests)
  shown = np.full((len(labels), parts, parts), np.nan)  # Not all are trained.
  for x in found:
    row = labels.index(x.label), x.trained_on
    shown[row] = 100 * np.mean(x.tests, axis=1)
  own = shown[:, range(parts), range(parts)]
  size = (2.4 + 1.1 * parts**2, 1 + 0.36 * len(labels))
  fig, axes = figures.panels(1, parts, size, sharey=True)
  for tested, ax in enumerate(axes.flat):
    matrix = np.ma.masked_all((len(labels), parts))
    matrix.data[:] = shown[:, :, tested]
    matrix.mask[:, tested] = False  # The table has the others.
    heat(ax, matrix, '{:.1f}', np.nanmin(own), np.nanmax(own))
    ax.set_xticks(range(parts), [f'part {part}' for part in range(parts)])
    ax.set_yticks(range(len(labels)), labels)
    ax.set_title(f'tested on part {tested}', fontsize=9)
    ax.set_xlabel('trained on', fontsize=9)
  figures.title_all(fig, f'{title}: test accuracy in %', 9)
  return fig


def layer_figure(found: Measured, title: str) -> Figure:
  """Draws the distances between layers, with clusters side by side."""
  order = np.argsort(found.clusters, kind='stable')
  names = [
    f'{layer.removesuffix("/kernel")}, part {part}'
    for part, layer in found.layers
  ]
  matrix = found.matrix[np.ix_(order, order)]
  size = 2 + 0.5 * len(names)
  fig, axes = figures.panels(size=(size + 0.8, size))
  ax = axes[0, 0]
  heat(ax, matrix, '{:.2f}', 0, matrix.max(), 'viridis_r')
  clusters = [found.clusters[i] for i in order]
  for edge in np.flatnonzero(np.diff(clusters)) + 0.5:
    ax.axhline(edge, color='white', lw=2)
    ax.axvline(edge, color='white', lw=2)
  ticks = [names[i] for i in order]
  ax.set_xticks(range(len(names)), ticks, rotation=45, ha='right')
  ax.set_yticks(range(len(names)), ticks)
  what = 'Gromov-Wasserstein distances between layers, in clusters'
  figures.title(ax, f'{title}:\n{what}', 9)
  return fig


def heat(
  ax: Any,
  matrix: np.ndarray,
  text: str,
  low: float,
  high: float,
  colors: str = 'viridis',
) -> None:
  """Draws a matrix with its numbers; masked entries are gray."""
  cmap = plt.get_cmap(colors).with_extremes(bad='0.93')
  image = ax.imshow(matrix, vmin=low, vmax=high, cmap=cmap, aspect='auto')
  shades = image.to_rgba(matrix)
  for (i, j), value in np.ndenumerate(np.ma.getdata(matrix)):
    if np.isnan(value):
      continue
    red, green, blue, _ = shades[i, j]
    dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
    color = 'white' if dark else 'black'
    ax.text(
      j,
      i,
      text.format(value),
      ha='center',
      va='center',
      color=color,
      fontsize=8,
    )
  ax.tick_params(length=0, labelsize=8.5)
  ax.spines[:].set_visible(False)
