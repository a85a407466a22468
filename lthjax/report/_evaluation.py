"""Tables and sentences about what pruning changes beside accuracy."""

import math
from typing import Any

import numpy as np

from lthjax.evaluation import Evaluation, Measures
from lthjax.report._tables import MISSING, Cell, Table

_CALIBRATION = (
  'ECE: mean distance between confidence and accuracy, in 15 bins of equal'
  ' width, with equally many examples in each, and without bins (smooth). Over:'
  ' confidence minus accuracy; below zero, the network is too modest. T: the'
  ' one temperature fitted on held-out examples, and ECE with it.'
)


def headline(found: Evaluation) -> str:
  """Returns a line about what was evaluated, and on how much."""
  seeds = max(_seeds(x) for x in found.models.values())
  several = f', {seeds} seeds' if seeds > 1 else ''
  spread = ' Mean ± standard deviation over seeds.' if seeds > 1 else ''
  return (
    f'{len(found.models)} networks on {found.examples:,} examples{several};'
    f' {found.dense!r} is the dense one.{spread}'
  )


def tables(found: Evaluation) -> list[Table]:
  """Returns all tables that there is something for."""
  parts = [_calibration(found), _worst(found), _groups(found), _churn(found)]
  parts += [_shifts(found), _latency(found)]
  return [table for table in parts if table is not None]


def _calibration(found: Evaluation) -> Table:
  header = 'network', 'accuracy', 'ECE', 'equal mass', 'smooth', 'Brier'
  rows = [
    (
      Cell(name),
      percent(x.accuracy),
      *map(number, (x.ece, x.ece_equal_mass, x.smooth_ece)),
      *map(number, (x.brier, x.log_loss)),
      number(x.overconfidence, '+'),
      number(x.temperature, digits=2),
      number(x.tempered_ece),
    )
    for name, x in found.models.items()
  ]
  header += 'log loss', 'over', 'T', 'ECE at T'
  return Table('Calibration', _CALIBRATION, header, rows)


def _worst(found: Evaluation) -> Table:
  dense = found.models[found.dense].groups
  rows = []
  for name, x in found.models.items():
    groups = x.groups
    mean = groups.accuracy.reshape(-1, len(groups.n)).mean(0)
    place = int(mean.argmin())
    gap = groups.gap(dense)
    rows.append(
      (
        Cell(name),
        percent(groups.worst),
        Cell(str(groups.names[place])),
        Cell(f'{groups.n[place]:,}', int(groups.n[place])),
        percent(groups.accuracy[..., place]),
        percent(gap[..., place], '+'),
      )
    )
  return Table(
    'Worst group',
    'The lowest accuracy of a class or group, whichever it is in each seed;'
    ' then the group that is worst over all seeds, with its number of examples:'
    ' of few examples it is mostly noise. Gap: how far it is below the dense'
    ' network.',
    ('network', 'worst', 'group', 'n', 'accuracy', 'gap'),
    rows,
  )


def _groups(found: Evaluation) -> Table:
  first = found.models[found.dense].groups
  names = list(found.models)
  rows = [
    (
      Cell(str(group)),
      Cell(f'{n:,}', int(n)),
      *(percent(found.models[x].groups.accuracy[..., i]) for x in names),
    )
    for i, (group, n) in enumerate(zip(first.names, first.n, strict=True))
  ]
  return Table(
    'Groups', 'Accuracy by class or group.', ('group', 'n', *names), rows
  )


def _churn(found: Evaluation) -> Table | None:
  compared = {n: x for n, x in found.models.items() if x.churn is not None}
  if not compared:
    return None
  if found.dense_churn is None:
    beside = (
      'Two dense networks of different seeds differ too: without a dense'
      ' network of another seed, this means nothing.'
    )
  else:
    text = percent(found.dense_churn).text
    beside = f'Between dense networks of two seeds it is {text}.'
  rows = []
  for name, x in compared.items():
    beyond = MISSING
    if found.dense_churn is not None:
      beyond = percent(np.mean(x.churn) - np.mean(found.dense_churn), '+')
    row = [Cell(name), percent(x.churn), beyond]
    if (pie := x.exemplars) is None:
      row += [MISSING] * 3
    else:
      count = len(pie.indices)
      row += [Cell(f'{count:,}', count), *map(percent, pie.dense_accuracy)]
    rows.append(tuple(row))
  return Table(
    'Churn',
    'Share of predictions that differ from those of the dense network of the'
    f' same seed. {beside} Exemplars: examples on which most seeds part from'
    ' most dense networks, and the accuracy of the dense ones there and'
    ' elsewhere.',
    ('network', 'churn', 'beyond', 'exemplars', 'dense there', 'elsewhere'),
    rows,
  )


def _shifts(found: Evaluation) -> Table | None:
  names = list(found.models)
  kinds = found.models[found.dense].shifts
  if not kinds:
    return None
  rows = [
    (
      Cell(kind),
      *(percent(found.models[x].shifts[kind].accuracy.mean(-1)) for x in names),
    )
    for kind in kinds
  ]
  relative = [number(found.models[x].corruption_error) for x in names]
  severities = ', '.join(map(str, found.severities))
  return Table(
    'Shifts',
    f'Accuracy, the mean over severities {severities}. mCE: errors relative to'
    ' those of the dense network, the mean over shifts; lower is better.',
    ('shift', *names),
    rows,
    (Cell('mCE'), *relative),
  )


def _latency(found: Evaluation) -> Table | None:
  timed = {n: x.latency for n, x in found.models.items() if x.latency}
  if not timed:
    return None
  rows = [
    (
      Cell(name),
      Cell(f'{size:,}', size),
      *(Cell(f'{1e3 * t:.3f}', t) for t in (x.p50, x.p95, x.first)),
      Cell(f'{x.throughput:,.0f}', x.throughput),
    )
    for name, sizes in timed.items()
    for size, x in sizes.items()
  ]
  header = 'network', 'batch', 'p50, ms', 'p95, ms', 'first, ms', 'per second'
  return Table(
    'Latency',
    'Milliseconds of a call, networks in turn: the median, what 19 of 20 calls'
    ' stay below, and the first call, which compiles. Examples per second.',
    header,
    rows,
  )


def _seeds(x: Measures) -> int:
  return np.size(x.accuracy)


def percent(x: Any, sign: str = '') -> Cell:
  """Returns a share as percent, or a dash for `None`."""
  return _cell(x, sign, 1, 100.0, ' %')


def number(x: Any, sign: str = '', digits: int = 3) -> Cell:
  """Returns a mean, or a dash for `None`."""
  return _cell(x, sign, digits, 1.0, '')


def _cell(x: Any, sign: str, digits: int, scale: float, unit: str) -> Cell:
  """A mean, with the standard deviation of a sample if there is one."""
  if x is None:
    return MISSING
  values = scale * np.ravel(np.asarray(x, float))
  if math.isnan(mean := float(values.mean())):
    return MISSING
  text = f'{mean:{sign}.{digits}f}'
  if values.size > 1:
    text += f' ± {values.std(ddof=1):.{digits}f}'
  return Cell(text + unit, mean)
