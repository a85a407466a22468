"""Verdicts: trained models are what is replicated."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lthjax import _checks


class SeedTest(NamedTuple):
  """A mean over trained models, and whether it differs from zero.

  Attributes:
    mean: over models.
    sd: standard deviation over models.
    n: number of models.
    interval: confidence interval of the mean.
    t: Student's t of the mean against zero.
    p: two-sided.
  """

  mean: float
  sd: float
  n: int
  interval: tuple[float, float]
  t: float
  p: float


def over_seeds(
  values: Sequence[float] | np.ndarray, *, level: float = 0.95
) -> SeedTest:
  """Tests whether a statistic differs from zero, over trained models.

  For a paired comparison, pass the differences of models of equal seeds.

  Args:
    values: one per trained model, such as its excess; two or more.
    level: of the confidence interval.

  Returns:
    A `SeedTest`: Student's t-test with n - 1 degrees of freedom.

  Raises:
    ValueError: if there is one model, however many sentences it has read.

  Example:
    >>> from lthjax import linguistic
    >>> found = linguistic.over_seeds([-0.003, 0.015, 0.000])
    >>> print(f'{found.mean:.3f} ± {found.sd:.3f}, p = {found.p:.2f}')
    0.004 ± 0.010, p = 0.55
  """
  wanted = 'have one finite number per trained model'
  try:
    found = np.asarray(values, np.float64)
  except (TypeError, ValueError) as error:
    raise _checks.wrong_type('values', values, wanted) from error
  if found.ndim != 1 or not np.isfinite(found).all():
    raise _checks.wrong_value('values', values, wanted)
  if (n := len(found)) < 2:
    raise ValueError(
      f'`values` has {n} trained model{"s" * (n != 1)}, but a verdict needs'
      ' two or more, and five for a useful interval: models differ several'
      ' times more than permutations within one. Train others with other seeds.'
    )
  part = _checks.share('level', level, 'the interval would be infinite')
  mean, sd = float(found.mean()), float(found.std(ddof=1))
  error = sd / math.sqrt(n)
  half = _quantile((1 + part) / 2, n - 1) * error
  if not error:  # All models agree to the bit.
    t = math.copysign(math.inf, mean) if mean else 0.0
    return SeedTest(mean, sd, n, (mean, mean), t, float(not mean))
  t = mean / error
  p = max(2 * (1 - student_cdf(abs(t), n - 1)), 0.0)
  return SeedTest(mean, sd, n, (mean - half, mean + half), t, p)


def student_cdf(t: float, degrees: int) -> float:
  """Student's distribution function for whole degrees of freedom.

  References:
    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4
  """
  angle = math.atan(t / math.sqrt(degrees))
  sine, cosine = math.sin(angle), math.cos(angle)
  odd = degrees % 2
  term, total = (cosine if odd else 1.0), 0.0
  for k in range(2 + odd, degrees + 1, 2):
    total += term
    term *= cosine**2 * (k - 1) / k
  both = 2 / math.pi * (angle + sine * total) if odd else sine * total
  return (1 + both) / 2


def _quantile(p: float, degrees: int) -> float:
  low, high = 0.0, 1.0
  while student_cdf(high, degrees) < p:
    high *= 2
  for _ in range(100):
    middle = (low + high) / 2
    below = student_cdf(middle, degrees) < p
    low, high = (middle, high) if below else (low, middle)
  return high
