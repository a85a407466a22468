"""Extreme values: what the best of N random masks has, and what laws say."""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import scipy.integrate
import scipy.special
import scipy.stats

from theories.intervals import Point

DRAWS = (10, 100, 1000)
BLOCK = 100  # masks, of whose maximum the law is fitted


class Law(NamedTuple):
  """A generalized extreme value law of the best of `BLOCK` draws."""

  shape: float  # xi: above 0 without an upper end, below 0 with one
  location: float
  scale: float

  def expected(self, draws: float) -> float:
    """The mean of the best of any number of draws: the law is max-stable."""
    k, xi = draws / BLOCK, self.shape
    scale = self.scale * k**xi
    rise = np.log(k) if xi == 0 else (k**xi - 1) / xi
    location = self.location + self.scale * rise
    law: Any = scipy.stats.genextreme.mean(-xi, location, scale)
    return float(law)


@functools.lru_cache
def normal_maximum(draws: int) -> float:
  """The expected maximum of standard normal draws."""

  def integrand(x):
    log = (draws - 1) * scipy.special.log_ndtr(x)
    return x * draws * np.exp(log - x**2 / 2) / np.sqrt(2 * np.pi)

  return float(scipy.integrate.quad(integrand, -12, 12, limit=400)[0])


def expected_best(values: np.ndarray, draws: int) -> float:
  """The mean maximum over all subsets of ``draws`` of the values."""
  values = np.sort(values)
  ranks = np.arange(1, len(values) + 1)
  # The chance that the maximum of a subset is the value of this rank.
  log = scipy.special.gammaln
  with np.errstate(divide='ignore'):
    chances = np.exp(
      log(ranks)
      - log(np.maximum(ranks - draws + 1, 1))
      - log(draws)
      - (log(len(values) + 1) - log(draws + 1) - log(len(values) - draws + 1))
    )
  return float(np.sum(np.where(ranks >= draws, chances, 0) * values))


def fit(values: np.ndarray) -> Law:
  """Fits the maxima of blocks of `BLOCK` values."""
  blocks = values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK).max(1)
  shape, location, scale = scipy.stats.genextreme.fit(blocks)
  return Law(float(-shape), float(location), float(scale))


def mask_accuracies(
  rng: np.random.Generator,
  images: np.ndarray,
  labels: np.ndarray,
  count: int,
  hidden: int = 32,
) -> np.ndarray:
  """Accuracy, in percent, of random half masks of one untrained network.

  Args:
    rng: where the network and its masks come from.
    images: inputs ``[examples, features]``, normalized.
    labels: classes ``[examples]``.
    count: how many masks to draw.
    hidden: ReLU units. Weights are He's normal ones; there are no biases.
  """
  sizes = images.shape[1], hidden, int(labels.max()) + 1
  kernels = [
    rng.standard_normal(shape, dtype=np.float32) * (2 / shape[0]) ** 0.5
    for shape in itertools.pairwise(sizes)
  ]
  found, images = [], images.astype(np.float32)
  for start in range(0, count, 100):
    x = images
    for i, kernel in enumerate(kernels):
      shape = min(100, count - start), *kernel.shape
      keep = rng.integers(0, 2, shape, dtype=np.bool_)
      x = (np.maximum(x, 0) if i else x) @ np.where(keep, kernel, 0)
    found.append((x.argmax(-1) == labels).mean(-1))
  return 100 * np.concatenate(found)


def moments(values: np.ndarray) -> list[float]:
  """Mean, standard deviation and skew."""
  skew: Any = scipy.stats.skew(values)
  return [float(values.mean()), float(values.std(ddof=1)), float(skew)]


def points(samples: list[np.ndarray]) -> tuple[list[Point], list[Law]]:
  """The best of N masks of each network, beside both laws."""
  laws = [fit(values) for values in samples]
  found = []
  for n in DRAWS:
    best = [expected_best(values, n) for values in samples]
    normal = [x.mean() + x.std(ddof=1) * normal_maximum(n) for x in samples]
    fitted = [law.expected(n) for law in laws]
    found.append(Point('normal law', n, best, [float(x) for x in normal]))
    found.append(Point('extreme value law', n, best, fitted))
  return found, laws
