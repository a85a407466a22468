"""Tables and sentences of a report, shared by text and page."""

import math
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.report._capacity import Capacity
from lthjax.report._layers import Layer
from lthjax.report._leaves import label


class Cell(NamedTuple):
  """Content of a cell of a table.

  Attributes:
    text: as shown.
    value: number to sort by, NaN if there is none; `None` for names.
    share: in [0, 1], drawn beside the text.
  """

  text: str
  value: float | None = None
  share: float | None = None


class Table(NamedTuple):
  """Rows of cells under a header, with a title and a caption.

  Attributes:
    title: heading.
    caption: how to read it.
    header: names of the columns.
    rows: cells, the first of which names the row.
    total: a last row over all others, or `None`.
  """

  title: str
  caption: str
  header: tuple[str, ...]
  rows: list[tuple[Cell, ...]]
  total: tuple[Cell, ...] | None = None


MISSING = Cell('–', math.nan)


def check(found: Any) -> None:
  """Raises unless this is a report."""
  what = 'what `lthjax.report.capacity` returned'
  _checks.having('found', found, 'layers overlaps', what)


def headline(found: Capacity) -> str:
  """Returns one line about the whole network."""
  total = _total(found)
  share = f'{100 * total.density:.2f} %'
  return f'{total.alive:,} of {total.total:,} weights alive: {share}.'


def layers(found: Capacity) -> Table:
  """Returns the table of alive weights, one row per leaf."""
  total = _total(found)
  return Table(
    'Layers',
    'An output (a neuron or a channel) is dead if no alive weight feeds it, an'
    ' input if no alive weight of the layer reads it. Layers without a mask are'
    ' dense and not counted.',
    ('layer', 'shape', 'alive', 'density', 'dead inputs', 'dead outputs'),
    [
      _row(x, 'dense' if x.shape is None else str(x.shape))
      for x in found.layers
    ],
    _row(total, f'{total.total:,}'),
  )


def movement(found: Capacity) -> Table | None:
  """Returns the table of distances moved, one row per leaf."""
  if found.movement is None:
    return None
  distances = [x for pair in found.movement.values() for x in pair]
  # Bars are relative to the longest finite distance.
  largest = max([x for x in distances if math.isfinite(x)], default=0) or 1

  def cell(x):
    if math.isnan(x):
      return MISSING
    return Cell(f'{x:#.3g}', x, min(x / largest, 1.0))

  rows = []
  for name, (alive, pruned) in found.movement.items():
    ratio = alive / pruned if pruned else math.nan
    compared = MISSING if math.isnan(ratio) else Cell(f'{ratio:.2f}', ratio)
    rows.append((Cell(label(name)), cell(alive), cell(pruned), compared))
  return Table(
    'Movement',
    'Mean distance of weights from their values before training, for those that'
    ' the masks keep and for those that they remove.',
    ('layer', 'alive', 'pruned', 'alive / pruned'),
    rows,
  )


def overlap(found: Capacity) -> list[Table]:
  """Returns tables of pairs of masks: over all leaves, then by leaf."""
  if found.overlaps is None:
    return []
  names, total, by_layer = found.overlaps
  matrices = {'All layers': total}
  matrices |= {label(name): matrix for name, matrix in by_layer.items()}
  return [
    Table(
      title,
      'Weights alive in both masks, as a share of those alive in either.',
      ('masks', *names),
      [
        (Cell(name), *(Cell(f'{x:.3f}', x, x) for x in row))
        for name, row in zip(names, matrix.tolist(), strict=True)
      ],
    )
    for title, matrix in matrices.items()
  ]


def inputs(found: Capacity) -> str | None:
  """Describes the map of the inputs."""
  if (counts := found.saliency) is None:
    return None
  names = ', '.join(map(label, found.input_layers))
  what = f'Alive weights of {names}'
  if len(found.input_layers) > 1:
    what = f'Paths of alive weights through {names}'
  whole = np.issubdtype(counts.dtype, np.integer)
  number, mean = (',', ',.2f') if whole else ('.4g', '.4g')
  return (
    f'{what} from each of {" × ".join(map(str, counts.shape))} inputs:'
    f' {counts.min():{number}} to {counts.max():{number}},'
    f' {counts.mean():{mean}} on average,'
    f' none from {np.sum(counts == 0):,} of {counts.size:,}.'
  )


def picture(counts: np.ndarray) -> np.ndarray:
  """Returns the map of the inputs as an image; channels are summed."""
  if counts.ndim < 2:
    return counts.reshape(1, -1)
  # The first two axes of an example are height and width.
  return counts.reshape(*counts.shape[:2], -1).sum(-1)


def _total(found: Capacity) -> Layer:
  """Adds up all leaves."""
  columns = zip(*(layer[2:] for layer in found.layers), strict=True)
  return Layer('total', (), *(sum(n or 0 for n in x) for x in columns))


def _row(layer: Layer, shape: str) -> tuple[Cell, ...]:
  """Returns the cells of a leaf, or of the total."""
  alive, share = MISSING, MISSING
  if layer.shape is not None:
    alive = Cell(f'{layer.alive:,}', layer.alive)
    density = layer.density
    share = Cell(f'{100 * density:.2f} %', density, density)
  return (
    Cell(label(layer.name)),
    Cell(shape, layer.total),
    alive,
    share,
    _dead(layer.dead_inputs, layer.inputs),
    _dead(layer.dead_outputs, layer.outputs),
  )


def _dead(dead: int | None, units: int | None) -> Cell:
  return Cell(f'{dead:,} of {units:,}', dead) if units else MISSING
