"""Means over seeds with their intervals, and where a formula leaves them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats


class Point(NamedTuple):
  """One measured number and what a formula says about it, per seed.

  Attributes:
    setting: the curve that the point belongs to.
    x: the place on the curve.
    measured: one number per seed.
    formula: one number per seed; empty where there is no formula.
  """

  setting: str
  x: float
  measured: list[float]
  formula: list[float]

  @property
  def mean(self) -> float:
    return float(np.mean(self.measured))

  @property
  def predicted(self) -> float:
    """The mean of the formula; NaN where there is none."""
    return float(np.mean(self.formula)) if self.formula else float('nan')

  @property
  def half(self) -> float:
    """Half the width of the 95 % interval of the measured mean."""
    return half_width(self.measured)

  @property
  def parts(self) -> bool:
    """Whether the interval of measured minus formula excludes zero."""
    if not self.formula or len(self.measured) < 2:
      return False
    apart = np.subtract(self.measured, self.formula)
    return bool(abs(apart.mean()) > half_width(apart))


def half_width(values: Sequence[float] | np.ndarray) -> float:
  """Half of Student's 95 % interval of a mean; NaN for a single value."""
  n = len(values)
  if n < 2:
    return float('nan')
  error = np.std(values, ddof=1) / np.sqrt(n)
  return float(scipy.stats.t.ppf(0.975, n - 1) * error)


def constant(value: float, seeds: int) -> list[float]:
  """A formula that is the same for every seed."""
  return [float(value)] * seeds
