"""Findings in words: differences of paired seeds, with their intervals."""

from typing import Any

import numpy as np

from verdicts import statistics

PAIRED = 'mean and 95 % interval over paired seeds'


def text(effects: Any, digits: int = 2) -> str:
  """A mean with its interval; of a single number, the number."""
  ends = effects if len(effects) < 2 else statistics.interval(effects)
  mean, *rest = (f'{x:+.{digits}f}' for x in ends)
  return f'{mean} [{", ".join(rest)}]' if rest else mean


def difference(new: Any, old: Any, digits: int = 2, scale: float = 1.0) -> str:
  """How far one column is above another, seed by seed."""
  effects = np.asarray(new, float) - np.asarray(old, float)
  return text(scale * effects, digits)
