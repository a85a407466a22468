"""Core and specialist tickets: what the masks of parts of the data share.

A ticket is found on each part of the data, from one initialization. The core is
what all of their masks keep. A specialist is what is left of a part's mask
without it. How much of the core is more than chance, `overlap_against_chance`
says.

References:
  DiLT, arXiv:2508.16915v2, proposes core and specialists for two parts, without
  results. For more parts, it leaves open what a specialist is.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal, NamedTuple

import chex
import jax

from lthjax import masks as masks_lib
from lthjax import trees

Reading = Literal['without_core', 'without_others']


def core_and_specialists(
  masks: Iterable[chex.ArrayTree], reading: Reading = 'without_core'
) -> tuple[chex.ArrayTree, list[chex.ArrayTree]]:
  """Takes the masks of several parts apart.

  The core is the intersection of all masks. For two parts, both readings of
  "specialist" are the same; for more, they differ in the weights that some
  parts keep, but not all:

  | reading            | specialist of a part                          |
  |--------------------|-----------------------------------------------|
  | `'without_core'`   | its mask less the core: the core and it make  |
  |                    | the mask again                                |
  | `'without_others'` | its mask less all others: what no other keeps |

  Core and specialists never overlap. Whether specialists overlap each other is
  what the readings settle: `'without_others'` keeps them apart.

  Args:
    masks: a tree of masks for each part, such as those of the tickets that
      `lthjax.tickets.imp` finds on the parts of `lthjax.data.partition`. A leaf
      that is never pruned is `None` in all of them, and in what is returned.
      Replicates may be on a leading axis.
    reading: what a specialist is.

  Returns:
    The core, and a list with the specialist of each part: trees of masks.

  Raises:
    ValueError: if there are fewer than two trees, if they differ in structure
      or shapes, if every mask is `None`, or if there is no such reading.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a = {'w': jnp.array([True, True, False, False])}
    >>> b = {'w': jnp.array([True, False, True, False])}
    >>> core, specialists = lth.tickets.core_and_specialists([a, b])
    >>> core['w']
    Array([ True, False, False, False], dtype=bool)
    >>> [specialist['w'].tolist() for specialist in specialists]
    [[False, True, False, False], [False, False, True, False]]
  """
  masks = _checked(masks)
  if reading not in ('without_core', 'without_others'):
    raise ValueError(
      f'`reading` was {reading!r}, but must be "without_core" (a part\'s mask'
      ' less what all keep) or "without_others" (less what any other keeps).'
    )
  core = functools.reduce(masks_lib.intersect, masks)

  def rest(i):
    if reading == 'without_core':
      return core
    return functools.reduce(masks_lib.union, [*masks[:i], *masks[i + 1 :]])

  specialists = [
    masks_lib.difference(mask, rest(i)) for i, mask in enumerate(masks)
  ]
  return core, specialists


class ChanceOverlap(NamedTuple):
  """How many weights several masks share, and how many they would by chance.

  Attributes:
    observed: weights that all masks keep.
    expected: their mean number, if each mask kept as many weights at random.
    deviation: the standard deviation of that number.
  """

  observed: int
  expected: float
  deviation: float

  @property
  def z(self) -> float:
    """Standard deviations above the mean; 0 where chance has no choice."""
    if not self.deviation:
      return 0.0
    return (self.observed - self.expected) / self.deviation


def overlap_against_chance(
  masks: Iterable[chex.ArrayTree],
) -> tuple[ChanceOverlap, dict[str, ChanceOverlap]]:
  """Compares the core of several masks with that of random masks.

  By chance means: every mask keeps as many weights of each layer as it does,
  each set of that size being as likely as any other, and independent of the
  other masks. Of the n weights of a layer, each is then in all masks, which
  keep k_1, k_2, and so on, with probability p = (k_1 / n) (k_2 / n) ..., and
  any two of them with probability q, the product of k_i (k_i - 1) / n (n - 1).
  So the core has a mean of n p weights, and a variance of
  n (n - 1) q + n p - (n p)**2. For two masks, it is hypergeometric.

  The layers are independent: their means and variances add up. As layers prune
  unevenly, the whole would look unlike chance at one density for all.

  Args:
    masks: a tree of masks for each part, of one run, not traced.

  Returns:
    The `ChanceOverlap` of all prunable weights, and one per leaf:
    ``{name: ChanceOverlap}``.

  Raises:
    ValueError: if there are fewer than two trees, if they differ in structure
      or shapes, if every mask is `None`, or if masks are traced or empty.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a = {'w': jnp.arange(100) < 50}
    >>> b = {'w': jnp.arange(100) < 20}
    >>> whole, layers = lth.tickets.overlap_against_chance([a, b])
    >>> whole.observed, whole.expected, round(whole.z, 3)
    (20, 10.0, 4.975)
  """
  masks = _checked(masks)
  named = {n: m for n, m in trees.by_name(masks[0]).items() if m is not None}
  if any(trees.is_traced(*jax.tree.leaves(tree)) for tree in masks):
    raise ValueError(
      '`masks` were traced, but have to be known to be counted exactly: call'
      ' `overlap_against_chance` outside of `jax.jit` and `jax.vmap`.'
    )
  if empty := [name for name, mask in named.items() if not mask.size]:
    raise ValueError(
      f'`masks` are empty in {", ".join(empty)}, but chance needs weights to'
      ' choose from: put None there.'
    )
  core = masks_lib.alive_by_name(functools.reduce(masks_lib.intersect, masks))
  alive = [masks_lib.alive_by_name(mask) for mask in masks]
  moments = {
    name: _moments(mask.size, [counts[name] for counts in alive])
    for name, mask in named.items()
  }
  layers = {
    name: ChanceOverlap(core[name], float(mean), math.sqrt(variance))
    for name, (mean, variance) in moments.items()
  }
  means, variances = zip(*moments.values(), strict=True)
  whole = ChanceOverlap(
    sum(core.values()), float(sum(means)), math.sqrt(sum(variances))
  )
  return whole, layers


def _moments(size: int, alive: list[int]) -> tuple[Fraction, Fraction]:
  """Mean and variance of what random subsets of these sizes share, exactly."""
  mean = Fraction(math.prod(alive), size ** (len(alive) - 1))
  # Of ordered pairs of weights, those that are in the core.
  pairs = size * (size - 1)
  both = math.prod(k * (k - 1) for k in alive)
  in_core = Fraction(both, max(pairs, 1) ** (len(alive) - 1))
  return mean, in_core + mean - mean**2


def _checked(masks: Iterable[chex.ArrayTree]) -> list[chex.ArrayTree]:
  """The masks as a list, once it is known that they can be compared."""
  tree = isinstance(masks, Mapping)
  masks = list(masks)
  if tree or len(masks) < 2:
    given = 'one tree' if tree else f'a list of {len(masks)}'
    raise ValueError(
      f'`masks` was {given}, but core and specialists need the masks of two'
      ' parts or more: give a list with a tree of masks for each part.'
    )
  for i, other in enumerate(masks[1:], 1):
    try:
      masks_lib.intersect(masks[0], other)
    except ValueError as error:
      raise ValueError(
        f'Parts 0 and {i} do not have masks of the same network. {error}'
      ) from error
  if not jax.tree.leaves(masks[0]):
    raise ValueError(
      'These masks have no prunable leaf: every one is None, so there is'
      ' nothing that parts could share.'
    )
  return masks
