"""Layer collapse: the compression at which a way to prune empties a layer."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

import lthjax as lth
from lthjax import counts, trees


class Cell(NamedTuple):
  """One method, scored for all seeds without any training."""

  method: str

  @property
  def name(self) -> str:
    return f'collapse/{self.method}'

  @property
  def label(self) -> str:
    return f'collapse by {self.method}'

  @property
  def steps(self) -> int:
    return 1


class Collapse(NamedTuple):
  """How a method empties layers.

  Attributes:
    critical: the largest compression that leaves a weight in every layer, or
      the largest that was tried.
    emptied: the layer that is empty beyond; nothing if all layers survive.
    smallest: weights in the smallest layer, at each of the given ratios.
  """

  critical: float
  emptied: str
  smallest: list[int]


@contextlib.contextmanager
def empty_layers_are_fine() -> Iterator[None]:
  """Warns of no layers without weights: they are a result."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Pruning left no weight')
    yield


def at_once(
  scores: chex.ArrayTree, masks: chex.ArrayTree, ratios: Sequence[float]
) -> Collapse:
  """Prunes by scores that are computed once, all layers together.

  A layer survives as long as its best weight does, so the critical compression
  is exact: the number of weights over the worst rank of these.
  """
  kept = {n: m for n, m in trees.by_name(masks).items() if m is not None}
  known = trees.by_name(scores)
  layers = {name: known[name] for name in kept}
  best = {name: jnp.max(x) for name, x in layers.items()}
  rank = {
    name: 1 + sum(int(jnp.sum(x > top)) for x in layers.values())
    for name, top in best.items()
  }
  last = max(rank, key=lambda name: rank[name])
  smallest = []
  with empty_layers_are_fine():
    for ratio in ratios:
      found = lth.prune(scores, masks, sparsity=1 - 1 / ratio, scope='global')
      smallest.append(min(lth.masks.alive_by_name(found).values()))
  return Collapse(lth.masks.count(masks) / rank[last], last, smallest)


def step_by_step(
  score: Callable[[chex.ArrayTree], chex.ArrayTree],
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  ratios: Sequence[float],
  steps: int,
) -> Collapse:
  """Prunes in steps of one factor, and scores before each what is left.

  A layer whose weights all score zero passes no signal, and counts as empty.
  """
  alive = masks

  def prune(ratio: float) -> dict[str, int]:
    nonlocal alive
    scores = score(lth.masks.apply(alive, params))
    left = lth.masks.alive_by_name(alive)
    known = trees.by_name(lth.masks.apply(alive, scores))
    if cut := [name for name in left if not jnp.any(known[name])]:
      return left | dict.fromkeys(cut, 0)
    alive = lth.prune(scores, alive, sparsity=1 - 1 / ratio, scope='global')
    return lth.masks.alive_by_name(alive)

  with empty_layers_are_fine():
    return walk(prune, ratios, steps)


def by_densities(
  densities: Callable[..., Any],
  params: chex.ArrayTree,
  ratios: Sequence[float],
  steps: int,
) -> Collapse:
  """Prunes at random, with as many weights per layer as densities say."""
  masks = trees.by_name(lth.masks.full(params))
  shapes = {n: m.shape for n, m in masks.items() if m is not None}
  return walk(
    lambda ratio: counts.layer_counts(shapes, 1 - 1 / ratio, densities),
    ratios,
    steps,
  )


def walk(
  prune: Callable[[float], dict[str, int]], ratios: Sequence[float], steps: int
) -> Collapse:
  """Compresses more and more; ``prune(ratio)`` counts weights by layer.

  Goes from 1 to the largest of the ratios in about so many steps, as many from
  each ratio to the next, and stops where a layer is empty: no signal passes it,
  and scores of what is left may all be zero.
  """
  last, critical, emptied = 1.0, 1.0, ''
  smallest = []
  each = -(-steps // len(ratios))
  for ratio in sorted(ratios):
    fewest = 0
    for now in np.geomspace(last, ratio, each + 1)[1:]:
      if emptied:
        break
      alive = prune(float(now))
      fewest = min(alive.values())
      emptied = ', '.join(n for n, count in alive.items() if not count)
      if not emptied:
        critical = float(now)
    smallest.append(fewest)
    last = ratio
  return Collapse(critical, emptied, smallest)
