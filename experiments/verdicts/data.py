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


def values(claim: Claim, results: Path = RESULTS) -> np.ndarray:
  """What the claim is decided with.

  Effects seed by seed, in the claim's unit; of a correlation its columns,
  ``[columns, rows]``.
  """
  correlated = claim.test == 'correlation'
  found = (_columns if correlated else _effects)(claim, results)
  if (n := found.shape[-1]) < claim.seeds:
    raise ValueError(
      f'{claim.path}: its data have {n} {"rows" if correlated else "seeds"},'
      f' but it is to be decided with {claim.seeds}.'
    )
  return found


def pages(claim: Claim) -> list[str]:
  """The pages that the claim needs."""
  arms = [
    settings
    for arm in claim.arms.values()
    for settings in (arm if isinstance(arm, list) else [arm])
  ]
  found = [settings.get('page', claim.page) for settings in arms]
  return list(dict.fromkeys([claim.page, *found]))


def read(claim: Claim, page: str, results: Path = RESULTS) -> list[Row]:
  """The rows of a page, which must be of the claim's configuration."""
  path = results / f'{page}.csv'
  if page not in claim.configurations:
    raise ValueError(f'{claim.path} names no configuration of {page}.')
  if not path.exists():
    raise ValueError(f'{claim.path}: its data, {path}, are not there.')
  with path.open(newline='', encoding='utf-8') as file:
    rows: list[Row] = [dict(row) for row in csv.DictReader(file)]
  found = sorted({row.get('configuration') or 'none' for row in rows})
  if found != [wanted := claim.configurations[page]]:
    raise ValueError(
      f'{claim.path}: the claim is about configuration {wanted}, but {path} is'
      f' of {", ".join(found) or "none"}.'
    )
  return rows


def _effects(claim: Claim, results: Path) -> np.ndarray:
  """How much better `new` is than `old`, seed by seed."""
  new = _by_seed(claim, 'new', results)
  if claim.reference is not None:
    differences = np.array(list(new.values())) - claim.reference
  else:
    old = _by_seed(claim, 'old', results)
    if new.keys() != old.keys():
      raise ValueError(
        f'{claim.path}: the arms have different seeds: {list(new)} and'
        f' {list(old)}.'
      )
    differences = np.array([new[seed] - old[seed] for seed in new])
  return -differences if claim.lower_is_better else differences


def _columns(claim: Claim, results: Path) -> np.ndarray:
  rows = _select(claim, 'new', claim.arms.get('new', {}), results)
  names = [claim.column, claim.against, *filter(None, [claim.given])]
  return np.array([[_number(claim, x, name) for x in rows] for name in names])


def _by_seed(claim: Claim, arm: str, results: Path) -> dict[int, float]:
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
      rows = _select(claim, arm, settings, results)
      chosen = float(np.mean([_number(claim, row, column) for row in rows]))
      means.append((chosen, settings))
    wanted = max(means, key=lambda x: x[0])[1]
  found: dict[int, float] = {}
  for row in _select(claim, arm, wanted, results):
    seed = int(row['seed'])
    if seed in found:
      raise ValueError(
        f'{claim.path}: the arm {arm!r} has several rows for seed {seed}.'
        ' Narrow it down.'
      )
    found[seed] = claim.scale * _number(claim, row, claim.column)
  return dict(sorted(found.items()))


def _select(
  claim: Claim, arm: str, wanted: Mapping[str, Any], results: Path
) -> Sequence[Row]:
  wanted = dict(wanted)
  page = wanted.pop('page', claim.page)
  found = [
    row
    for row in read(claim, page, results)
    if all(_equal(row.get(name), x) for name, x in wanted.items())
  ]
  if not found:
    raise ValueError(
      f'{claim.path}: the data of {page} have no rows of the arm {arm!r},'
      f' {wanted}.'
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
      f'{claim.path}: its column {column!r} had {row.get(column)!r}, but must'
      ' be a finite number.'
    )
  return value
