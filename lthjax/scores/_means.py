"""Means over examples in batches of different sizes."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax.scores import _checks


def mean_over_batches(
  f: Callable[[Any], chex.ArrayTree], batches: list[Any]
) -> Any:
  """Averages ``f(batch)``, weighted by the number of examples."""
  sizes = [_checks.examples(batch) for batch in batches]

  def part(size, batch):
    def weigh(x):  # In bfloat16, a sum would lose its small parts.
      return x.astype(jnp.promote_types(x.dtype, jnp.float32)) * share

    share = size / sum(sizes)
    return jax.tree.map(weigh, f(batch))

  parts = map(part, sizes, batches)  # one after the other, to save memory
  return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)
