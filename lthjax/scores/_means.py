"""Means over examples that come in batches of any sizes."""

from collections.abc import Callable
from typing import Any

import chex
import jax

from lthjax.scores import _checks


def mean_over_batches(
  f: Callable[[Any], chex.ArrayTree], batches: list[Any]
) -> chex.ArrayTree:
  """Averages ``f(batch)``, each weighted by its number of examples."""
  sizes = [_checks.examples(batch) for batch in batches]
  mean = None
  for size, batch in zip(sizes, batches, strict=True):
    share = size / sum(sizes)
    part = jax.tree.map(lambda x, share=share: x * share, f(batch))
    mean = part if mean is None else jax.tree.map(jax.numpy.add, mean, part)
  return mean
