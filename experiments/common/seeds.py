"""Several seeds side by side: leaves with an axis in front, one entry each."""

import functools
from collections.abc import Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from common.config import KINDS_APART, RunConfig


def seed_keys(config: RunConfig, offset: int = 0) -> chex.PRNGKey:
  """One key per seed: keys of the config's seeds, plus an offset."""
  first = config.first_seed + offset
  return jax.vmap(jax.random.key)(jnp.arange(config.seeds) + first)


def keys(config: RunConfig, kinds: int) -> list[chex.PRNGKey]:
  """Keys of the seeds, and of as many other kinds of random numbers."""
  return [seed_keys(config, i * KINDS_APART) for i in range(kinds)]


def stack(trees: Iterable[chex.ArrayTree]) -> Any:
  return _stack(tuple(trees))


def unstack(tree: Any) -> list[Any]:
  return [one(tree, seed) for seed in range(len(jax.tree.leaves(tree)[0]))]


# One program for all leaves of a tree, instead of some for every shape.


@jax.jit
def _stack(trees: Any) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def one(tree: Any, seed: int) -> Any:
  return jax.tree.map(lambda x: x[seed], tree)


@functools.partial(jax.jit, static_argnums=1)
def repeat(tree: Any, seeds: int) -> Any:
  return jax.tree.map(lambda x: jnp.repeat(x[None], seeds, 0), tree)
