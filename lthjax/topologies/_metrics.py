"""Metrics of moving masks, for a training loop to log."""

import itertools
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax import axes as axes_lib


def metrics(
  before: chex.ArrayTree,
  after: chex.ArrayTree,
  *,
  history: chex.ArrayTree | None = None,
  axes: Mapping[str, axes_lib.Axes] | None = None,
) -> dict[str, jax.Array]:
  """Compares the masks before and after training steps, as numbers to log.

  Works under `jax.jit` as well. With weights that were alive at any earlier
  time as ``history``, which `lthjax.accounting.itop_update` keeps, it also says
  how many of the weights just grown are new and how much was explored so far.

  Args:
    before: tree of masks, such as ``lthjax.get_masks(opt_state)``.
    after: tree of masks that prunes the same leaves.
    history: tree of masks of all weights that were alive before, if known.
    axes: ``{name or glob: lthjax.axes.Axes}`` of leaves that stack layers, if
      names and shapes do not say so. Each layer of a stack has a line.

  Returns:
    float32 scalars: ``'density'`` of all prunable weights; ``'grown'`` and
    ``'dropped'``, numbers of weights; ``'moved'``, the sum of these two;
    ``'churn'``, the weights that moved as a share of those alive before or
    after, which is 0 for equal masks and 1 for disjoint ones;
    ``'density/NAME'`` and ``'churn/NAME'`` of each layer, where ``NAME`` ends
    in ``[i]`` for layer ``i`` of a stack. With ``history`` also
    ``'revisited'``, the number of weights grown that had been alive before, and
    ``'explored'``, the share of all weights that were ever alive.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> before = {'w': jnp.array([[True, True, False, False]])}
    >>> after = {'w': jnp.array([[True, False, True, False]])}
    >>> history = {'w': jnp.array([[True, True, False, False]])}
    >>> found = lth.topologies.metrics(before, after, history=history)
    >>> {name: round(float(value), 2) for name, value in found.items()}
    {'density': 0.5, 'grown': 1.0, 'dropped': 1.0, 'moved': 2.0, 'churn': 0.67,
     'density/w': 0.5, 'churn/w': 0.67, 'revisited': 0.0, 'explored': 0.75}

  References:
    Liu et al., Do We Actually Need Dense Over-Parameterization? In-Time
    Over-Parameterization in Sparse Training, arXiv:2102.02887 (``explored``).
  """
  was, now = _masks(before, 'before'), _masks(after, 'after')
  trees.check_like(before, after, 'masks after')
  trees.check_like(after, before, 'masks before')
  stacks = axes_lib.stacks(axes, {name: m.shape for name, m in now.items()})

  def total(masks):
    """Counts what is true in each layer of each leaf."""
    return {name: _count(m, stacks[name]) for name, m in masks.items()}

  def both(f, a, b):
    return {name: f(jnp.asarray(a[name]), b[name]) for name in a}

  # The maxima below keep ratios of empty leaves and masks finite.
  size = float(sum(m.size for m in now.values()))
  alive, union = total(now), total(both(jnp.logical_or, was, now))
  grown = total(both(lambda x, y: ~x & y, was, now))
  dropped = total(both(lambda x, y: x & ~y, was, now))
  moved = {name: grown[name] + dropped[name] for name in now}
  found = {
    'density': _sum(alive) / max(size, 1),
    'grown': _sum(grown),
    'dropped': _sum(dropped),
    'moved': _sum(moved),
    'churn': _sum(moved) / jnp.maximum(_sum(union), 1),
  }
  for name, mask in now.items():
    layer = mask.size / max(alive[name].size, 1)
    found |= _by_layer(f'density/{name}', alive[name] / max(layer, 1))
    churn = moved[name] / jnp.maximum(union[name], 1)
    found |= _by_layer(f'churn/{name}', churn)
  if history is not None:
    past = _masks(history, 'history')
    trees.check_like(history, after, 'masks after')
    new = both(lambda x, y: ~x & y, was, now)
    found['revisited'] = _sum(total(both(jnp.logical_and, past, new)))
    ever = both(jnp.logical_or, both(jnp.logical_or, past, was), now)
    found['explored'] = _sum(total(ever)) / max(size, 1)
  return found


def _masks(masks: chex.ArrayTree, what: str) -> dict[str, jax.Array]:
  leaves = _checks.bool_masks(masks, what)
  return {name: mask for name, mask in leaves.items() if mask is not None}


def _count(mask: jax.Array, stack: tuple[int, ...]) -> jax.Array:
  layer = tuple(axis for axis in range(mask.ndim) if axis not in stack)
  # Exact up to 2^24 on an axis, and in range for any size.
  for axis in reversed(layer):
    mask = jnp.sum(mask, axis=axis, dtype=jnp.float32)
  return mask.astype(jnp.float32)


def _sum(numbers: Mapping[str, jax.Array]) -> jax.Array:
  return sum((jnp.sum(x) for x in numbers.values()), jnp.float32(0))


def _by_layer(name: str, numbers: jax.Array) -> dict[str, jax.Array]:
  """One entry per layer of a stack, with its place in the name."""
  if not numbers.ndim:
    return {name: numbers}
  places = itertools.product(*map(range, numbers.shape))
  return {f'{name}[{",".join(map(str, i))}]': numbers[i] for i in places}
