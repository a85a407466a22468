"""Numbers of the experiment on linguistic masks, paired by seed."""

from typing import Any

import numpy as np

from common.command import Run
from common.grid import Result
from linguistics.arms import TENTHS
from lthjax import linguistic as lg


def trained(run: Run) -> dict[str, Any]:
  """Trainings by name, and what was found by the name of the measurement."""
  found: dict[str, Any] = {}
  for result in run.results:
    if 'arm' in result:
      found[result['arm']['name']] = result
    else:
      found[result['measure']] = result['found']
  return found


def tickets(found: dict[str, Any], control: str = '') -> dict[float, str]:
  """Names of the tickets of attention by density, the densest first."""
  arms = [x['arm'] for x in found.values() if 'arm' in x]
  return {
    arm['density']: arm['name']
    for arm in arms
    if arm['name'].startswith('ticket_')
    and arm['name'] not in TENTHS
    and arm['control'] == control
  }


def curves(result: Result) -> np.ndarray:
  """Validation losses ``[evaluations, seeds]``."""
  return np.array([x['loss'] for x in result['curve']], float)


def final(result: Result) -> np.ndarray:
  """Validation loss of each seed at the end."""
  return curves(result)[-1]


def excess(result: Result) -> np.ndarray:
  """Excess of attention of each seed."""
  return np.array([x['excess'] for x in result['overlap']])


def paired(found: dict[str, Any], name: str, other: str = 'none') -> Any:
  """Difference of final losses, over seeds."""
  return lg.over_seeds(final(found[name]) - final(found[other]))


def steps_saved(
  found: dict[str, Any], name: str, other: str = 'none'
) -> np.ndarray:
  """Share of the steps saved until the other's final loss, for each seed."""
  steps = np.array([x['step'] for x in found[name]['curve']], float)
  losses, wanted = curves(found[name]), final(found[other])
  saved = []
  for seed, level in enumerate(wanted):
    saved.append(1 - reached(steps, losses[:, seed], level) / steps[-1])
  return np.array(saved)


def reached(steps: np.ndarray, losses: np.ndarray, level: float) -> float:
  """Step at which a loss is reached, linear between evaluations.

  The last step where that never happens.
  """
  below = np.flatnonzero(losses <= level)
  if not len(below):
    return float(steps[-1])
  i = below[0]
  if not i:
    return float(steps[0])
  share = (losses[i - 1] - level) / (losses[i - 1] - losses[i])
  return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def tested(values: Any) -> lg.SeedTest:
  """Over seeds; a correlation of numbers that are all equal counts as 0."""
  return lg.over_seeds(np.nan_to_num(np.asarray(values, float)))


def correlation(x: Any, y: Any) -> tuple[float, tuple[float, float]]:
  """Pearson's r over seeds, and its 95 % interval by Fisher's z."""
  r = float(np.corrcoef(x, y)[0, 1])
  ends = np.tanh(np.arctanh(r) + np.array([-1, 1]) * 1.96 / np.sqrt(len(x) - 3))
  return r, (float(ends[0]), float(ends[1]))


def reached_by_chance(r: float, drawn: Any) -> float:
  """Share of the draws with a correlation as strong, r among them."""
  strong = np.abs(np.asarray(drawn)) >= abs(r) - 1e-12
  return float((1 + strong.sum()) / (1 + len(strong)))


def correlations_by_chance(x: Any, y: Any, draws: int) -> list[float]:
  """Correlations once the seeds of y are permuted."""
  rng = np.random.default_rng(0)
  return [float(np.corrcoef(x, rng.permutation(y))[0, 1]) for _ in range(draws)]


def interval(test: lg.SeedTest, form: str = '{:+.3f}') -> str:
  """Mean and interval over trained models."""
  mean, low, high = test.mean, *test.interval
  number, _, unit = form.partition('}')
  number += '}'
  ends = ', '.join(number.format(x) for x in (low, high))
  return f'{number.format(mean)}{unit} [{ends}]'


def spread(values: Any, digits: int = 2) -> str:
  """Mean and standard deviation over seeds."""
  values = np.asarray(values, float)
  return f'{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}'
