"""Core and specialist tickets: what masks of several parts of the data share.

A ticket is found on each part of the data, from the same initialization. The
core is what all of their masks keep. A specialist is what remains of a part's
mask without the core. `overlap_against_chance` measures how much of the core is
more than chance.

References:
  DiLT, arXiv:2508.16915v2, proposes core and specialists for two parts, without
  results. For more parts, it leaves open what a specialist is.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import chex

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse

Reading = Literal['without_core', 'without_others']


def core_and_specialists(
  masks: Iterable[chex.ArrayTree], reading: Reading = 'without_core'
) -> tuple[Any, list[Any]]:
  """Splits the masks of several parts into a core and specialists.

  The core is the intersection of all masks. For two parts, both readings of
  "specialist" agree; for more, they differ in the weights that some parts keep,
  but not all:

  | reading            | specialist of a part                            |
  |--------------------|-------------------------------------------------|
  | `'without_core'`   | its mask minus the core; together with the core |
  |                    | it is the mask again                            |
  | `'without_others'` | its mask minus all others: what no other keeps; |
  |                    | specialists never overlap                       |

  Args:
    masks: one tree of masks per part, such as those of tickets that
      `lthjax.tickets.imp` finds on the parts of `lthjax.data.partition`. `None`
      leaves must be `None` in all of them. Leaves may have a leading axis of
      runs.
    reading: what a specialist is.

  Returns:
    The core, and a list with the specialist of each part: trees of masks.

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
  masks = _of_one_network(masks)
  _checks.one_of(
    'reading',
    reading,
    {
      'without_core': "a part's mask minus what all keep",
      'without_others': 'minus what any other keeps',
    },
  )
  core = functools.reduce(masks_lib.intersect, masks)

  # What a specialist leaves out; for two parts, both readings give the same.
  def rest(i):
    if reading == 'without_core':
      return core
    return functools.reduce(masks_lib.union, [*masks[:i], *masks[i + 1 :]])

  specialists = [
    masks_lib.difference(mask, rest(i)) for i, mask in enumerate(masks)
  ]
  return core, specialists


class ChanceOverlap(NamedTuple):
  """Number of weights that several masks share, and what chance predicts.

  Attributes:
    observed: number of weights that all masks keep.
    expected: mean of that number if each mask kept as many weights at random.
    deviation: its standard deviation.
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

  A random mask keeps as many weights of each layer as the mask it stands for;
  all sets of that size are equally likely, and masks are independent. If masks
  keep k_1, k_2, … of the n weights of a layer, any one weight is in the core
  with probability p = (k_1 / n) (k_2 / n) …, and any two weights with
  probability q, the product of k_i (k_i - 1) / (n (n - 1)). The core therefore
  has a mean of n p weights and a variance of n (n - 1) q + n p - (n p)**2. For
  two masks, the distribution is hypergeometric.

  Layers are independent, so that their means and variances add up. (With one
  density for all layers, uneven pruning alone would look unlike chance.)

  Args:
    masks: one tree of masks per part, of a single run and not traced.

  Returns:
    The `ChanceOverlap` of all prunable weights, and one per leaf:
    ``{name: ChanceOverlap}``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a = {'w': jnp.arange(100) < 50}
    >>> b = {'w': jnp.arange(100) < 20}
    >>> whole, layers = lth.tickets.overlap_against_chance([a, b])
    >>> whole.observed, whole.expected, round(whole.z, 3)
    (20, 10.0, 4.975)
  """
  masks = _of_one_network(masks)
  tables = [trees.prunable(mask) for mask in masks]
  if any(trees.is_traced(*table.values()) for table in tables):
    raise ValueError(
      '`masks` were traced, but must be concrete to be counted exactly: call'
      ' `overlap_against_chance` outside of `jax.jit` and `jax.vmap`.'
    )
  sizes = {name: mask.size for name, mask in tables[0].items()}
  refuse(
    [name for name, size in sizes.items() if not size],
    '`masks` are empty in {}, but chance needs weights to choose from: put None'
    ' there.',
  )
  core = masks_lib.alive_by_name(functools.reduce(masks_lib.intersect, masks))
  alive = [masks_lib.alive_by_name(mask) for mask in masks]
  moments = {
    name: _moments(size, [counts[name] for counts in alive])
    for name, size in sizes.items()
  }
  layers = {
    name: ChanceOverlap(core[name], float(mean), math.sqrt(variance))
    for name, (mean, variance) in moments.items()
  }
  # Layers are independent.
  means, variances = zip(*moments.values(), strict=True)
  whole = ChanceOverlap(
    sum(core.values()), float(sum(means)), math.sqrt(sum(variances))
  )
  return whole, layers


def _moments(size: int, alive: list[int]) -> tuple[Fraction, Fraction]:
  """Mean and variance of what random subsets of these sizes share, exactly."""
  # n p, with one factor of n cancelled.
  mean = Fraction(math.prod(alive), size ** (len(alive) - 1))
  # n (n - 1) q, likewise; with a single weight there is no pair.
  pairs = max(size * (size - 1), 1)
  both = math.prod(k * (k - 1) for k in alive)
  in_core = Fraction(both, pairs ** (len(alive) - 1))
  return mean, in_core + mean - mean**2


def _of_one_network(masks: Any) -> list[Any]:
  """Returns the masks as a list if they are of one network."""
  several = isinstance(masks, Iterable) and not isinstance(masks, Mapping)
  masks = list(masks) if several else [masks]
  if not several or len(masks) < 2:
    given = f'a list of {len(masks)}' if several else 'one tree'
    raise ValueError(
      f'`masks` was {given}, but core and specialists need the masks of two'
      ' parts or more: pass a list with a tree of masks for each part.'
    )
  for i, other in enumerate(masks):
    _checks.bool_masks(other, f'masks[{i}]')
    try:
      masks_lib.intersect(masks[0], other)
    except ValueError as error:
      raise ValueError(
        f'Parts 0 and {i} do not have masks of the same network. {error}'
      ) from error
  if not trees.prunable(masks[0]):
    raise ValueError(
      'These masks have no prunable leaf: every one is None, so there is'
      ' nothing that parts could share.'
    )
  return masks
