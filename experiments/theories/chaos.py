"""Edge of chaos: how signals and perturbations grow through masked layers."""

import functools
from typing import Any

import numpy as np
import scipy.optimize

from theories.intervals import Point, constant

_Z, _WEIGHTS = np.polynomial.hermite_e.hermegauss(101)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def relu_moments(
  rng: np.random.Generator,
  densities: tuple[float, ...],
  *,
  depth: int = 20,
  width: int = 1024,
  inputs: int = 16,
) -> np.ndarray:
  """Second moments of a deep ReLU network's layers, relative to the input's.

  Weights are He's normal ones, and the same for all densities; a mask keeps
  each with chance d. A moment is that before the ReLU, halved.

  Returns:
    Moments ``[densities, depth]``.
  """
  first = rng.standard_normal((width, inputs), dtype=np.float32)
  signals = [first for _ in densities]
  moments = np.empty((len(densities), depth))
  for layer in range(depth):
    weights = rng.standard_normal((width, width), dtype=np.float32)
    weights *= np.float32((2 / width) ** 0.5)
    drawn = rng.random((width, width), dtype=np.float32)
    for i, density in enumerate(densities):
      before = np.where(drawn < density, weights, 0) @ signals[i]
      moments[i, layer] = (before**2).mean() / 2
      signals[i] = np.maximum(before, 0)
  # He's weights keep the moment of a ReLU's outputs, half of which are zero.
  return moments / (first**2).mean()


def fixed_point(gain: float) -> float:
  """The variance of a tanh network's pre-activations far from its input.

  Solves ``q = gain * E tanh(sqrt(q) z)^2``; 0 up to a gain of 1.
  """
  if gain <= 1:
    return 0.0

  def excess(q):
    return gain * np.sum(_WEIGHTS * np.tanh(np.sqrt(q) * _Z) ** 2) - q

  root: Any = scipy.optimize.brentq(excess, 1e-9, gain)
  return float(root)


@functools.lru_cache
def tanh_chi(gain: float) -> float:
  """Growth of a squared perturbation per layer, at the fixed point.

  ``chi = gain * E tanh'(sqrt(q) z)^2`` with ``gain = d * sigma_w^2``: below 1,
  perturbations die out; above 1, they grow, which is chaos. No biases.
  """
  slopes = 1 / np.cosh(np.sqrt(fixed_point(gain)) * _Z) ** 2
  return float(gain * np.sum(_WEIGHTS * slopes**2))


def measured_tanh_chi(
  rng: np.random.Generator,
  density: float,
  gains: tuple[float, ...],
  *,
  depth: int = 30,
  width: int = 512,
  inputs: int = 4,
) -> list[float]:
  """The growth of a perturbation over the last ten layers, per layer."""
  shape = width, len(gains), inputs
  signals = rng.standard_normal(shape, dtype=np.float32)
  tangents = rng.standard_normal(shape, dtype=np.float32)
  scale = np.sqrt(np.asarray(gains, np.float32))[:, None]
  growth = np.ones(len(gains))
  for layer in range(depth):
    weights = rng.standard_normal((width, width), dtype=np.float32)
    keep = rng.random((width, width), dtype=np.float32) < density
    masked = np.where(keep, weights, 0) / np.float32((width * density) ** 0.5)
    both = np.concatenate([signals, tangents], -1).reshape(width, -1)
    both = (masked @ both).reshape(width, len(gains), -1) * scale
    signals = np.tanh(both[..., :inputs])
    after = (1 - signals**2) * both[..., inputs:]
    size = (after**2).mean((0, 2))
    if layer >= depth - 10:
      growth *= size / (tangents**2).mean((0, 2))
    tangents = after / np.sqrt(size)[:, None]  # No underflow.
  return (growth**0.1).tolist()


def relu(
  first_seed: int, seeds: int, densities: tuple[float, ...], width: int
) -> list[Point]:
  """Moments after each of 20 layers, beside ``d^L``."""
  runs = [
    relu_moments(np.random.default_rng([seed, 7]), densities, width=width)
    for seed in range(first_seed, first_seed + seeds)
  ]
  return [
    Point(f'd = {d:g}', depth, values.tolist(), constant(d**depth, seeds))
    for d, of_depth in zip(densities, np.stack(runs, -1), strict=True)
    for depth, values in enumerate(of_depth, 1)
  ]


def tanh(
  first_seed: int,
  seeds: int,
  densities: tuple[float, ...],
  gains: tuple[float, ...],
  width: int,
) -> list[Point]:
  """Measured chi of tanh networks beside the formula, by ``d sigma_w^2``."""
  points = []
  for d in densities:
    found = [
      measured_tanh_chi(np.random.default_rng([seed, 8]), d, gains, width=width)
      for seed in range(first_seed, first_seed + seeds)
    ]
    points += [
      Point(f'd = {d:g}', gain, list(values), constant(tanh_chi(gain), seeds))
      for gain, values in zip(gains, zip(*found, strict=True), strict=True)
    ]
  return points
