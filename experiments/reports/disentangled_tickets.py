"""What the experiment on core and specialist tickets shows and writes."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import rich.table

from common import running
from common.grid import Result, spread


class Found(NamedTuple):
  """All that came out of a run."""

  folder: Path
  results: list[Result]
  overlaps: list[dict[str, Any]]
  layers: list[tuple[int, str]]
  matrix: np.ndarray
  clusters: list[int]


class Network(NamedTuple):
  """A subnetwork trained on a part: its tests, a list a tested part."""

  label: str
  density: float
  trained_on: int
  tests: list[list[float]]


LABELS = {
  'dense': 'dense',
  'core': 'core alone',
  'random': 'core, random weights',
  'union': 'core, all specialists',
}


def label(masks: str) -> str:
  """Names masks for people."""
  if masks.startswith('specialist_'):
    return f'core, specialist {masks.partition("_")[2]}'
  return LABELS[masks]


def rows(result: Result) -> list[dict[str, Any]]:
  """One row a network and tested part."""
  return [
    {
      'masks': result['masks'],
      'level': result['level'],
      'trained_on': test['trained_on'],
      'tested_on': test['tested_on'],
      'seed': seed,
      'test_accuracy': accuracy,
      'alive': sum(counts[seed] for counts in result['alive'].values()),
    }
    for test in result['tests']
    for seed, accuracy in enumerate(test['test_accuracy'])
  ]


def networks(results: list[Result]) -> list[Network]:
  """The subnetworks to compare, each of them on all parts.

  Of COLT, the level whose density is nearest to that of the tickets.
  """
  tickets = [r for r in results if r['masks'] == 'imp']
  density = tickets[-1]['density']
  colt = min(
    (r for r in results if r['masks'] == 'colt'),
    key=lambda r: abs(math.log(r['density'] / density)),
  )
  shown = [('dense', r) for r in tickets if not r['level']]
  shown += [
    (label(r['masks']), r) for r in results if r['masks'] not in ('imp', 'colt')
  ]
  shown.append((f'COLT, level {colt["level"]}', colt))
  found = []
  for name, result in shown:
    tests: dict[int, list[list[float]]] = {}
    for test in result['tests']:
      tests.setdefault(test['trained_on'], []).append(test['test_accuracy'])
    found += [Network(name, result['density'], *one) for one in tests.items()]
  names = list(dict.fromkeys(network.label for network in found))
  return sorted(found, key=lambda x: (names.index(x.label), x.trained_on))


def cells(network: Network) -> list[str]:
  """A row of the tables for people."""
  return [
    network.label,
    f'{100 * network.density:.3g} %',
    str(network.trained_on),
    *(spread({'test_accuracy': accuracy}) for accuracy in network.tests),
  ]


def heads(parts: int) -> list[str]:
  """The head of the table of accuracies."""
  tested = [f'tested on part {part}, %' for part in range(parts)]
  return ['subnetwork', 'weights', 'trained on part', *tested]


CAPTION = (
  'Test accuracy: mean ± standard deviation over the seeds, at the end of'
  ' training. Specialist 0 is that of part 0, and so on; random weights are as'
  ' many in each layer as the specialist of the part trained on has, at places'
  ' outside of the core. The head knows the classes of all parts.'
)
OVERLAP = (
  'Weights that the tickets of all parts share, against tickets with as many'
  ' weights in each layer at random places: mean over the seeds. z counts the'
  ' standard deviations of the latter.'
)
OTHER_STARTS = (
  ' Other starts: tickets of the parts from different initializations, which'
  ' share no more than the data makes them.'
)


def table(results: list[Result]) -> rich.table.Table:
  """All accuracies, for the terminal."""
  found = networks(results)
  out = rich.table.Table(caption=CAPTION)
  for head in heads(len(found[0].tests)):
    out.add_column(head, justify='left' if head == 'subnetwork' else 'right')
  for network in found:
    out.add_row(*cells(network))
  return out


def overlap_lines(overlaps: list[dict[str, Any]]) -> list[list[str]]:
  """A line a layer at the last level, and one for all layers at each level."""
  last = overlaps[-1]['level']
  groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
  for row in overlaps:
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


def overlap_heads(overlaps: list[dict[str, Any]]) -> list[str]:
  """The head of the table of what the tickets share."""
  heads = ['level', 'weights', 'layer', 'by chance', 'shared', 'z']
  if other_starts(overlaps):
    heads += ['shared, other starts', 'z, other starts']
  return heads


def overlap_caption(overlaps: list[dict[str, Any]]) -> str:
  """What the numbers of that table are."""
  return OVERLAP + (OTHER_STARTS if other_starts(overlaps) else '')


def other_starts(overlaps: list[dict[str, Any]]) -> bool:
  """Tells whether there were seeds enough to compare different starts."""
  return any(row['initialization'] == 'other' for row in overlaps)


def overlap_table(overlaps: list[dict[str, Any]]) -> rich.table.Table:
  """What the tickets share, for the terminal."""
  out = rich.table.Table(caption=overlap_caption(overlaps))
  for head in overlap_heads(overlaps):
    head = head.replace(', ', ',\n')
    out.add_column(head, justify='left' if head == 'layer' else 'right')
  for line in overlap_lines(overlaps):
    out.add_row(*line)
  return out


def write(found: Found, title: str, seeds: int) -> None:
  """Writes figures, tables and the page with all of them."""
  accuracy_figure(networks(found.results), title, found.folder)
  layer_figure(found, title)
  running.write_csv(
    found.folder / 'overlap.csv', list(found.overlaps[0]), found.overlaps
  )
  names = [f'part {part}: {layer}' for part, layer in found.layers]
  layers = [
    {'layer': name, 'cluster': cluster, **dict(zip(names, row, strict=True))}
    for name, cluster, row in zip(
      names, found.clusters, found.matrix.tolist(), strict=True
    )
  ]
  running.write_csv(found.folder / 'layers.csv', list(layers[0]), layers)
  compared = networks(found.results)
  running.write_page(
    found.folder / 'results.md',
    f'Core and specialist tickets: {title}',
    seeds,
    CAPTION,
    running.markdown_table(heads(len(compared[0].tests)), map(cells, compared)),
    '![Test accuracy of the subnetworks on each part](accuracy.png)',
    overlap_caption(found.overlaps),
    running.markdown_table(
      overlap_heads(found.overlaps), overlap_lines(found.overlaps)
    ),
    "How the layers of the parts' tickets represent the same test examples:"
    ' Gromov-Wasserstein distances between them, mean over the seeds, and'
    ' clusters found from these.',
    '![Distances between layers](layers.png)',
  )


def accuracy_figure(found: list[Network], title: str, folder: Path) -> None:
  """Draws a matrix a tested part: subnetworks over parts trained on."""
  labels = list(dict.fromkeys(network.label for network in found))
  parts = len(found[0].tests)
  shown = 100 * np.array([np.mean(x.tests, axis=1) for x in found])
  shown = shown.reshape(len(labels), parts, parts)
  own = shown[:, range(parts), range(parts)]
  fig, axes = plt.subplots(
    1,
    parts,
    figsize=(2.4 + 1.1 * parts**2, 1 + 0.36 * len(labels)),
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  for tested, ax in enumerate(axes.flat):
    matrix = np.ma.masked_all((len(labels), parts))
    matrix.data[:] = shown[:, :, tested]
    matrix.mask[:, tested] = False  # Of the others, the numbers are enough.
    draw(ax, matrix, '{:.1f}', own.min(), own.max())
    ax.set_xticks(range(parts), [f'part {part}' for part in range(parts)])
    ax.set_yticks(range(len(labels)), labels)
    ax.set_title(f'tested on part {tested}', fontsize=9)
    ax.set_xlabel('trained on', fontsize=9)
  fig.suptitle(f'{title}: test accuracy in %', fontsize=9, x=0.01, ha='left')
  running.save_figure(fig, folder, 'accuracy')
  plt.close(fig)


def layer_figure(found: Found, title: str) -> None:
  """Draws the distances between layers, those of a cluster side by side."""
  order = np.argsort(found.clusters, kind='stable')
  names = [
    f'{layer.removesuffix("/kernel")}, part {part}'
    for part, layer in found.layers
  ]
  matrix = found.matrix[np.ix_(order, order)]
  size = 2 + 0.5 * len(names)
  fig, ax = plt.subplots(figsize=(size + 0.8, size), layout='constrained')
  draw(ax, matrix, '{:.2f}', 0, matrix.max(), 'viridis_r')
  clusters = [found.clusters[i] for i in order]
  for edge in np.flatnonzero(np.diff(clusters)) + 0.5:
    ax.axhline(edge, color='white', lw=2)
    ax.axvline(edge, color='white', lw=2)
  ticks = [names[i] for i in order]
  ax.set_xticks(range(len(names)), ticks, rotation=45, ha='right')
  ax.set_yticks(range(len(names)), ticks)
  ax.set_title(
    f'{title}:\nGromov-Wasserstein distances between layers, in clusters',
    fontsize=9,
    loc='left',
  )
  running.save_figure(fig, found.folder, 'layers')
  plt.close(fig)


def draw(
  ax: Any,
  matrix: np.ndarray,
  text: str,
  low: float,
  high: float,
  colors: str = 'viridis',
) -> None:
  """Draws a matrix with its numbers; what is masked is grey."""
  cmap = plt.get_cmap(colors).with_extremes(bad='0.93')
  image = ax.imshow(matrix, vmin=low, vmax=high, cmap=cmap, aspect='auto')
  shades = image.to_rgba(matrix)
  for (i, j), value in np.ndenumerate(np.ma.getdata(matrix)):
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
