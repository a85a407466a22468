"""The numbers that a claim is about, from the CSVs of the results."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verdicts.claim import Claim

RESULTS = Path(__file__).parents[1] / 'results'
Row = Mapping[str, Any]


def has_data(claim: Claim, results: Path = RESULTS) -> bool:
  """Whether the claim names a configuration, and so has been run."""
  return bool(claim.configuration) and csv_of(claim, results).exists()


def csv_of(claim: Claim, results: Path = RESULTS) -> Path:
  return results / f'{claim.page}.csv'


def effects(claim: Claim, results: Path = RESULTS) -> np.ndarray:
  """How much better `new` is than `old`, seed by seed, in the claim's unit."""
  rows = read(claim, results)
  new = _by_seed(claim, 'new', rows)
  if claim.reference is not None:
    differences = np.array(list(new.values())) - claim.reference
  else:
    old = _by_seed(claim, 'old', rows)
    if new.keys() != old.keys():
      raise ValueError(
        f'{claim.path}: the arms have different seeds: {sorted(new)} and'
        f' {sorted(old)}.'
      )
    differences = np.array([new[seed] - old[seed] for seed in sorted(new)])
  if len(differences) < claim.seeds:
    raise ValueError(
      f'{claim.path}: {csv_of(claim, results)} has {len(differences)} seeds,'
      f' but the claim is to be decided with {claim.seeds}.'
    )
  return -differences if claim.lower_is_better else differences


def pairs(claim: Claim, results: Path = RESULTS) -> np.ndarray:
  """What a correlation is computed from: its columns, ``[columns, rows]``."""
  rows = read(claim, results)
  if 'new' in claim.arms:
    rows = _select(claim, 'new', claim.arms['new'], rows)
  names = [claim.column, claim.against, *filter(None, [claim.given])]
  return np.array([[_number(claim, x, name) for x in rows] for name in names])


def read(claim: Claim, results: Path = RESULTS) -> list[Row]:
  """The rows of the claim's page, which must be of its configuration."""
  path = csv_of(claim, results)
  if not path.exists():
    raise ValueError(f'{claim.path}: its data, {path}, are not there.')
  with path.open(newline='', encoding='utf-8') as file:
    rows: list[Row] = [dict(row) for row in csv.DictReader(file)]
  found = sorted({row.get('configuration') or 'none' for row in rows})
  if found != [claim.configuration]:
    raise ValueError(
      f'{claim.path}: the claim is about configuration {claim.configuration},'
      f' but {path} is of {", ".join(found) or "none"}.'
    )
  return rows


def _by_seed(claim: Claim, arm: str, rows: Sequence[Row]) -> dict[int, float]:
  """One number per seed of an arm, in the unit of the claim.

  An arm may list several settings, of which it takes the one with the highest
  mean of its column `select`: each method at its best, chosen on validation.
  """
  wanted = claim.arms[arm]
  if isinstance(wanted, list):
    means = []
    for settings in wanted:
      settings = dict(settings)
      column = settings.pop('select')
      found = _select(claim, arm, settings, rows)
      chosen = float(np.mean([_number(claim, row, column) for row in found]))
      means.append((chosen, settings))
    wanted = max(means, key=lambda x: x[0])[1]
  values: dict[int, float] = {}
  for row in _select(claim, arm, wanted, rows):
    seed = int(row['seed'])
    if seed in values:
      raise ValueError(
        f'{claim.path}: the arm {arm!r} has several rows for seed {seed}.'
        ' Narrow it down.'
      )
    values[seed] = claim.scale * _number(claim, row, claim.column)
  return dict(sorted(values.items()))


def _select(
  claim: Claim, arm: str, wanted: Mapping[str, Any], rows: Sequence[Row]
) -> list[Row]:
  found = [
    row for row in rows if all(_equal(row.get(k), x) for k, x in wanted.items())
  ]
  if not found:
    raise ValueError(
      f'{claim.path}: the data of {claim.page} have no rows of the arm {arm!r},'
      f' {dict(wanted)}.'
    )
  return found


def _equal(cell: str | None, wanted: Any) -> bool:
  if cell is None or isinstance(wanted, str | bool):
    return cell == str(wanted)
  try:
    return math.isclose(float(cell), wanted, rel_tol=1e-6)
  except ValueError:
    return False


def _number(claim: Claim, row: Row, column: str) -> float:
  try:
    value = float(row[column])
  except (KeyError, TypeError, ValueError):
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(
      f'{claim.path}: column {column!r} of {claim.page} had'
      f' {row.get(column)!r}, but must be a finite number.'
    )
  return value
