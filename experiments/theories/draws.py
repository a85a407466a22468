"""Draws of a ticket: N random masks find one with chance 1 - (1 - p)^N.

The formula takes draws as independent. Masks of one network are not: they share
its weights, and some networks hold many tickets while others hold none.
"""

from typing import NamedTuple

import numpy as np

from theories.intervals import Point, constant

FIRST = np.array([0, 0, 1, 1], np.float32)[:, None]
SECOND = np.array([0, 1, 0, 1], np.float32)[:, None]
SIGNS = np.array([-1, 1, 1, -1], np.float32)  # of XOR
DRAWS = (1, 4, 16, 64, 256, 1024, 4096)


class Found(NamedTuple):
  """What one way to draw has shown, per seed."""

  points: list[Point]  # beside the formula, with the p of the same draws
  chance: list[float]  # p: the share of masks that solve the task
  dispersion: list[float]  # of hits between networks; 1 if independent


def at_least_one(p: float, draws: float) -> float:
  """The chance of a success in independent draws, ``1 - (1 - p)^draws``."""
  return 1 - (1 - p) ** draws


def solves_xor(
  rng: np.random.Generator, width: int, count: int, *, fresh: bool = False
) -> np.ndarray:
  """Draws masks that keep each param with chance a half, and tries them.

  Args:
    rng: where randomness comes from.
    width: hidden ReLU units of a network with two inputs and one output. All
      params, biases included, are standard normal.
    count: how many masks to draw.
    fresh: whether each mask gets a network of its own.

  Returns:
    Booleans ``[count]``: whether the output has the sign of XOR on all inputs.
  """

  def layer(units):
    shape = (count if fresh else 1), 1, units
    weights = rng.standard_normal(shape, dtype=np.float32)
    keep = rng.integers(0, 2, (count, 1, units), dtype=np.bool_)
    return np.where(keep, weights, 0)

  # [masks, inputs, units]
  hidden = FIRST * layer(width) + SECOND * layer(width) + layer(width)
  outputs = (np.maximum(hidden, 0) * layer(width)).sum(-1) + layer(1)[..., 0]
  return (outputs * SIGNS > 0).all(-1)


def found_within(hits: np.ndarray, draws: int) -> float:
  """The share of blocks of ``draws`` hits, ``[networks, masks]``, with one."""
  networks, masks = hits.shape
  blocks = hits[:, : masks // draws * draws].reshape(networks, -1, draws)
  return float(blocks.any(-1).mean())


def measure(
  first_seed: int,
  seeds: int,
  width: int,
  networks: int,
  masks: int = 4096,
  *,
  fresh: bool,
) -> Found:
  """Draws masks for each seed, and compares every N of `DRAWS`.

  Args:
    first_seed: the first of consecutive seeds.
    seeds: how many of them.
    width: as in `solves_xor`.
    networks: per seed; each gets ``masks`` of them.
    masks: that many, or of as many networks if these are ``fresh``.
    fresh: as in `solves_xor`.
  """
  found: dict[int, list[float]] = {n: [] for n in DRAWS if n <= masks}
  chances, dispersions = [], []
  for seed in range(first_seed, first_seed + seeds):
    rng = np.random.default_rng([seed, width, fresh])
    tries = [
      solves_xor(rng, width, masks, fresh=fresh) for _ in range(networks)
    ]
    hits = np.stack(tries)
    chances.append(float(hits.mean()))
    counts = hits.sum(1)
    dispersions.append(float(counts.var() / max(counts.mean(), 1e-9)))
    for n, values in found.items():
      values.append(found_within(hits, n))
  how, p = 'fresh networks' if fresh else 'one network', float(np.mean(chances))
  points = [
    Point(f'{how}, width {width}', n, x, constant(at_least_one(p, n), seeds))
    for n, x in found.items()
  ]
  return Found(points, chances, dispersions)
