"""Subset sums: how few random weights a target weight needs.

Keeping the best of n random weights misses a target by about 1 / n; the best
subset of them, by about 2^-n. This is the step from the bound of Malach et al.,
arXiv:2002.00585, to that of Pensia et al., arXiv:2006.07990.
"""

import functools
from collections.abc import Callable

import numpy as np

from theories.intervals import Point, constant


def subset_sums(weights: np.ndarray) -> np.ndarray:
  """The sums of all subsets of ``weights[..., n]``, as ``[..., 2^n]``."""
  sums = np.zeros((*weights.shape[:-1], 1), weights.dtype)
  for i in range(weights.shape[-1]):
    sums = np.concatenate([sums, sums + weights[..., i : i + 1]], -1)
  return sums


def best_subset(weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """The subset sum of ``weights[..., n]`` that is closest to each target."""
  return _closest(subset_sums(weights), targets)


def best_single(weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """The one of ``weights[..., n]`` that is closest to each target."""
  return _closest(weights, targets)


def _closest(choices: np.ndarray, targets: np.ndarray) -> np.ndarray:
  at = np.abs(choices - targets[..., None]).argmin(-1)
  return np.take_along_axis(choices, at[..., None], -1)[..., 0]


def covering_radius(weights: np.ndarray) -> np.ndarray:
  """The largest error of the best subset over all targets in [-1, 1]."""
  sums = np.sort(subset_sums(weights), -1)
  middles = (sums[..., 1:] + sums[..., :-1]) / 2
  gaps = np.where(np.abs(middles) <= 1, np.diff(sums, axis=-1) / 2, 0)
  ends = [np.abs(sums - end).min(-1) for end in (-1, 1)]
  return np.maximum(gaps.max(-1, initial=0), np.maximum(*ends))


@functools.lru_cache
def expected_subset_error(n: int) -> float:
  """The median error, if subset sums were scattered by a normal law.

  Given the weights, a random subset has the mean ``sum(w) / 2`` and the
  variance ``sum(w^2) / 4``. Were the 2^n sums independent draws of a normal
  law with these moments, their distance to a target would be exponential.
  """
  rng = np.random.default_rng(n)
  weights, targets = (x.astype(float) for x in _draw(rng, 20_000, n))
  mean, variance = weights.sum(-1) / 2, (weights**2).sum(-1) / 4
  density = np.exp(-((targets - mean) ** 2) / (2 * variance))
  density /= np.sqrt(2 * np.pi * variance)
  rate = 2 * 2.0**n * np.maximum(density, 1e-300)
  return float(np.median(rng.exponential(size=len(targets)) / rate))


def expected_single_error(n: int) -> float:
  """The median of a target's distance to n uniform weights, but for edges."""
  return 1 - 0.5 ** (1 / n)


def _draw(rng, count, n):
  weights = rng.uniform(-1, 1, (count, n)).astype(np.float32)
  return weights, rng.uniform(-1, 1, count).astype(np.float32)


def errors(
  first_seed: int,
  seeds: int,
  count: int,
  lengths: tuple[int, ...],
  closest: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[Point]:
  """Median errors over ``count`` draws of n weights and a target."""
  subset = closest is best_subset
  formula = expected_subset_error if subset else expected_single_error
  points = []
  for n in lengths:
    found = []
    for seed in range(first_seed, first_seed + seeds):
      weights, targets = _draw(np.random.default_rng([seed, n]), count, n)
      error = np.abs(closest(weights, targets) - targets)
      found.append(float(np.median(error)))
    name = 'best subset' if subset else 'best single weight'
    points.append(Point(name, n, found, constant(formula(n), seeds)))
  return points


def covered(
  first_seed: int, seeds: int, count: int, n: int, radius: float
) -> list[float]:
  """How often n weights come within ``radius`` of all targets, per seed."""
  found = []
  for seed in range(first_seed, first_seed + seeds):
    rng = np.random.default_rng([seed, n, 1])
    radii = covering_radius(_draw(rng, count, n)[0])
    found.append(float(np.mean(radii <= radius)))
  return found


def rebuild(
  rng: np.random.Generator,
  kernel: np.ndarray,
  n: int,
  closest: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
  """Replaces each weight of a layer by the best that n random ones offer.

  The random weights are uniform between plus and minus the largest weight.
  """
  targets = kernel.ravel()
  bound = np.abs(targets).max()
  choices = 2**n if closest is best_subset else n
  rebuilt, size = np.empty_like(targets), max(1, 2**20 // choices)
  for start in range(0, len(targets), size):
    part = targets[start : start + size]
    weights = rng.uniform(-bound, bound, (len(part), n)).astype(part.dtype)
    rebuilt[start : start + size] = closest(weights, part)
  return rebuilt.reshape(kernel.shape)
