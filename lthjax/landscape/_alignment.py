"""Permutations of hidden units that bring one network close to another.

Hidden units have no order: permute them, together with the weights that read
them, and the network computes the same. Two networks may lie in different
basins only because their units are in a different order.

References:
  Ainsworth, Hayase & Srinivasa, Git Re-Basin: Merging Models modulo Permutation
  Symmetries, arXiv:2209.04836, section 3.2 and algorithm 1.
"""

from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from lthjax import trees
from lthjax._errors import refuse
from lthjax.landscape._pairs import check_alike
from lthjax.structure import Groups, Member, by_leaf, permute
from lthjax.structure._groups import check_fit, stack_axes, stack_shape
from lthjax.structure._units import reorder


class Alignment(NamedTuple):
  """The result of `align`.

  Attributes:
    params: the second network, with its units in the order of the first.
    permutations: for each group, which unit of the second network comes at each
      place.
  """

  params: Any
  permutations: dict[str, np.ndarray]


def align(
  params_a: chex.ArrayTree, params_b: chex.ArrayTree, groups: Groups
) -> Alignment:
  """Permutes the hidden units of one network to be close to another's.

  Weight matching: for one group after the other, with the rest fixed, it finds
  exactly the permutation that brings the weights of the second network closest
  to those of the first, until no group improves. The result is a local
  optimum, computed on the host in double precision.

  Unlike algorithm 1, it visits the groups in their given order, not at random:
  the same networks always give the same result.

  Args:
    params_a: tree of floating-point arrays.
    params_b: tree with leaves of the same names, shapes and dtypes.
    groups: which axes move together, from `lthjax.structure.groups`, `chain` or
      `by_axes`. Groups with pins other than ``'reduced'`` stay in place.

  Returns:
    An `Alignment`. Its params compute the same as the second network. If the
    networks differ only in the order of units, and this order is found, the
    params are bitwise those of the first.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a = {'in': jnp.array([[1.0, 2.0, 3.0]]), 'out': jnp.ones((3, 1))}
    >>> b = {'in': jnp.array([[3.0, 1.0, 2.0]]), 'out': jnp.ones((3, 1))}
    >>> axes = {'in': (None, 'units'), 'out': ('units', None)}
    >>> groups = lth.structure.by_axes(a, axes)
    >>> lth.landscape.align(a, b, groups).params['in']
    Array([[1., 2., 3.]], dtype=float32)
  """
  check_alike(params_a, params_b)
  check_fit(groups, params_a)
  movable = {n: g for n, g in groups.items() if not g.pins - {'reduced'}}
  refuse(
    _on_two_axes(movable),
    '{}: matching the units of a group on two axes of one leaf is not an'
    ' assignment problem. Leave the group out to keep its units in place.',
  )
  first, second = _on_host(params_a), _on_host(params_b)
  refuse(
    (n for n, x in first.items() if not np.isfinite([x, second[n]]).all()),
    'Units cannot be matched where weights are not finite: {}. Did the training'
    ' diverge?',
  )
  # Algorithm 1 starts from the identity.
  orders = {
    name: np.broadcast_to(
      np.arange(group.size), (*stack_shape(groups, name), group.size)
    )
    for name, group in movable.items()
  }
  better = True
  # Algorithm 1: solve one assignment problem per group until nothing improves.
  while better:
    better = False
    for name in orders:
      likeness = _likeness(first, second, groups, name, orders)
      best = _assign(likeness)
      gain = _pick(likeness, best) - _pick(likeness, orders[name])
      # Require a gain above rounding error, so that the loop terminates.
      if gain.sum() > 1e-12 * np.abs(likeness).sum():
        orders[name], better = best, True
  return Alignment(permute(params_b, groups, orders), orders)


def _likeness(first, second, groups, name, orders) -> np.ndarray:
  """Returns the inner products ``[*stack, a's units, b's units]``."""
  group, on = groups[name], by_leaf(groups)
  stack = stack_shape(groups, name)
  total = np.zeros((*stack, group.size, group.size))
  # The other groups in their current order, this one in its original order.
  others = {n: order for n, order in orders.items() if n != name}
  for member in group.members:
    if member.leaf not in first:
      continue
    y = reorder(second[member.leaf], groups, on[member.leaf], others)
    axes = stack_axes(groups, name, member.leaf)
    a, b = (_rows(x, member, axes) for x in (first[member.leaf], y))
    # Section 3.2: every leaf that a group is on adds W_a P (W_b)'.
    total += a @ np.swapaxes(b, -1, -2)
  return total


def _rows(x: np.ndarray, member: Member, stack: tuple[int, ...]) -> np.ndarray:
  """Returns the weights of each unit, as ``[*stack, units, weights]``."""
  x = np.moveaxis(x, (*stack, member.axis), range(len(stack) + 1))
  x = x.take(member.places, axis=len(stack))
  return x.reshape(*x.shape[: len(stack) + 1], -1)


def _assign(likeness: np.ndarray) -> np.ndarray:
  """Returns the best unit of the second network for each of the first."""
  # Importing it takes most of a second, which most programs need not spend.
  from scipy import optimize

  # Each layer of a stack is an assignment problem, solved exactly.
  flat = likeness.reshape(-1, *likeness.shape[-2:])
  found = [optimize.linear_sum_assignment(x, maximize=True)[1] for x in flat]
  return np.reshape(found, likeness.shape[:-1])


def _pick(likeness: np.ndarray, order: np.ndarray) -> np.ndarray:
  return np.take_along_axis(likeness, order[..., None], axis=-1)


def _on_two_axes(groups: Groups) -> list[str]:
  """Names the groups that are on two axes of a leaf."""
  axes: dict[tuple[str, str], set[int]] = {}
  for name, group in groups.items():
    for member in group.members:
      axes.setdefault((name, member.leaf), set()).add(member.axis)
  return [
    f'{group} is on axes {sorted(found)} of {leaf}'
    for (group, leaf), found in axes.items()
    if len(found) > 1
  ]


def _on_host(params: chex.ArrayTree) -> dict[str, np.ndarray]:
  """Returns the leaves in double precision."""
  return {
    name: np.asarray(leaf, np.float64)
    for name, leaf in trees.by_name(jax.device_get(params)).items()
    if leaf is not None
  }
