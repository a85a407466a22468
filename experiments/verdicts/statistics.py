"""From the differences of paired seeds to a verdict, by rules fixed here.

An effect has a 95 % interval: of Student's t over paired seeds, or a bootstrap
for correlations. Where it lies to the margin decides. A claim also needs a p
below 5 % after Holm's correction over its family: of an exact sign-flip test
against the end of the margin that it would have to cross.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.stats
from statsmodels.stats import multitest
from statsmodels.stats.power import TTestPower

from verdicts.claim import Claim, Test

LEVEL = 0.05
Word = Literal['holds', 'fails', 'equivalent', 'undecided', 'no data']


class Estimate(NamedTuple):
  """An effect with its uncertainty, in the unit of the claim."""

  effect: float
  low: float  # of the 95 % interval
  high: float
  bootstrap: tuple[float, float]  # BCa, as a check
  deviation: float  # over seeds, ddof 1
  n: int  # seeds, or rows of a correlation
  p: float  # two-sided, against the nearest end of the margin


class Verdict(NamedTuple):
  """What is said of a claim."""

  word: Word
  estimate: Estimate | None
  p: float | None  # after Holm's correction over the family

  @property
  def text(self) -> str:
    if self.estimate is None:
      return self.word
    effect, low, high = self.estimate[:3]
    return f'{self.word}: {effect:+.2f} [{low:+.2f}, {high:+.2f}]'


def paired(effects: np.ndarray, test: Test, margin: float) -> Estimate:
  """Student's interval of the mean, and the sign-flip test."""
  mean, low, high = interval(effects)
  deviation = float(np.std(effects, ddof=1))
  ends = {
    'superiority': [margin],
    'non-inferiority': [-margin],
    'equivalence': [-margin, margin],
  }[test]
  p = max(sign_flip(effects - end) for end in ends)
  return Estimate(
    mean, low, high, _bootstrap(effects), deviation, len(effects), p
  )


def interval(effects: np.ndarray) -> tuple[float, float, float]:
  """The mean of paired differences, and Student's interval around it."""
  n, mean = len(effects), float(np.mean(effects))
  deviation = float(np.std(effects, ddof=1))
  half = float(scipy.stats.t.ppf(1 - LEVEL / 2, n - 1) * deviation / np.sqrt(n))
  return mean, mean - half, mean + half


def sign_flip(differences: np.ndarray) -> float:
  """Two-sided p of a mean of zero, if signs are as likely as their opposite.

  All 2**n signs for up to 13 differences; else 9,999 draws.
  """
  return float(
    scipy.stats.permutation_test(
      (np.asarray(differences, float),),
      np.mean,
      permutation_type='samples',
      n_resamples=9_999,
      rng=np.random.default_rng(0),
    ).pvalue
  )


def correlation(columns: np.ndarray, margin: float) -> Estimate:
  """Spearman's correlation of two columns, perhaps given a third."""

  def statistic(*columns: np.ndarray) -> float:
    ranks = [scipy.stats.rankdata(column) for column in columns]
    if len(ranks) == 3:
      given = np.stack([ranks.pop(), np.ones(len(ranks[0]))], 1)
      ranks = [x - given @ np.linalg.lstsq(given, x)[0] for x in ranks]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Resamples may be constant.
    found = scipy.stats.bootstrap(
      list(columns),
      statistic,
      paired=True,
      vectorized=False,
      n_resamples=1_999,
      rng=np.random.default_rng(0),
    )
  low, high = map(float, found.confidence_interval)
  values = found.bootstrap_distribution
  below = np.mean(values <= margin)
  p = 2 * min(below, 1 - below) + 1 / len(values)
  return Estimate(
    statistic(*columns),
    low,
    high,
    (low, high),
    float(found.standard_error),
    columns.shape[1],
    min(float(p), 1.0),
  )


def word(test: Test, margin: float, low: float, high: float) -> Word:
  """Where the interval lies to the margin."""
  if test == 'equivalence':
    if -margin < low and high < margin:
      return 'equivalent'
    return 'fails' if low > margin or high < -margin else 'undecided'
  edge = -margin if test == 'non-inferiority' else margin
  if low > edge:
    return 'holds'
  return 'fails' if high < edge else 'undecided'


def verdicts(
  claims: list[Claim], estimates: Mapping[str, Estimate]
) -> dict[str, Verdict]:
  """The verdict of each claim, with Holm's correction over families."""
  corrected: dict[str, float] = {}
  for family in {claim.family for claim in claims}:
    names = [
      claim.name
      for claim in claims
      if claim.family == family and claim.name in estimates
    ]
    if names:
      p: Any = multitest.multipletests(
        [estimates[name].p for name in names], LEVEL, 'holm'
      )[1]
      corrected |= dict(zip(names, map(float, p), strict=True))
  found = {}
  for claim in claims:
    if claim.name not in estimates:
      found[claim.name] = Verdict('no data', None, None)
      continue
    estimate, p = estimates[claim.name], corrected[claim.name]
    said = word(claim.test, claim.margin, estimate.low, estimate.high)
    found[claim.name] = Verdict(
      said if p <= LEVEL else 'undecided', estimate, p
    )
  return found


def seeds_needed(deviation: float, margin: float, power: float = 0.8) -> int:
  """Paired seeds that see a difference of ``margin`` with this power."""
  # The solver finds no root where two or three seeds see the margin.
  if not margin or deviation < margin / 11:
    return 2
  if deviation < margin / 5:
    return 3
  n = TTestPower().solve_power(margin / deviation, alpha=LEVEL, power=power)
  return max(2, int(np.ceil(np.max(n))))


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
  if np.ptp(values) == 0:
    return float(values[0]), float(values[0])
  interval = scipy.stats.bootstrap(
    (values,), np.mean, n_resamples=1_999, rng=np.random.default_rng(0)
  ).confidence_interval
  return float(interval.low), float(interval.high)
