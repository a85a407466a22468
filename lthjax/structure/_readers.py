"""The matmuls that contract the units of a group."""

from collections.abc import Collection
from typing import Any, NamedTuple

import chex
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lthjax import trees
from lthjax.calibration import _sites
from lthjax.calibration._sites import Site
from lthjax.program._biases import biases
from lthjax.program._kernels import classify
from lthjax.program._use import Use
from lthjax.structure._groups import Groups, Member, stack_axes


class Reader(NamedTuple):
  """A kernel that contracts the units of a group.

  Attributes:
    site: where it is multiplied.
    use: the leaf in it.
    owner: int ``[batch.., inputs]``, the unit that each input belongs to; -1
      where it belongs to none.
    layers: for each stack over which the choice of units may differ, which of
      the loops around the use walks over it.
    bias: the leaf that is added to what the use computes, if there is one.
  """

  site: Site
  use: Use
  owner: np.ndarray
  layers: tuple[int, ...]
  bias: str | None

  def by_unit(self, x: Any, size: int) -> np.ndarray:
    """Sums ``[loops.., batch.., inputs]`` to ``[*stack, size]``."""
    x = np.asarray(x, np.float64)
    loops = len(self.use.loops)
    x = np.moveaxis(x, self.layers, range(len(self.layers)))
    x = x.sum(tuple(range(len(self.layers), loops)))
    lead = x.shape[: len(self.layers)]
    total = np.zeros((*lead, size + 1))  # The last one belongs to no unit.
    flat = x.reshape(*lead, -1)
    index: Any = (..., self.owner.ravel())
    np.add.at(total, index, flat)
    return total[..., :size]

  def of_units(self, x: np.ndarray, default: Any) -> np.ndarray:
    """Spreads ``[size]`` or ``[*stack, size]`` to ``[loops.., .., inputs]``."""
    more = np.full((*x.shape[:-1], 1), default, x.dtype)
    x = np.concatenate([x, more], -1)[..., self.owner]
    if x.ndim == self.owner.ndim:  # The same in all layers.
      return x.reshape((1,) * len(self.use.loops) + x.shape)
    # Give the stacks the places of their loops.
    lead = [1] * len(self.use.loops)
    order = np.argsort(self.layers)
    x = x.transpose(*order, *range(len(order), x.ndim))
    for loop, axis in zip(sorted(self.layers), range(len(order)), strict=True):
      lead[loop] = x.shape[axis]
    return x.reshape(*lead, *self.owner.shape)

  def kernel(self, leaf: Any) -> np.ndarray:
    """Views the leaf as ``[loops.., batch.., inputs, outputs]``."""
    columns, _ = self.site.columns(
      jnp.asarray(self.use.view(jnp.asarray(leaf)))
    )
    x = np.asarray(columns, np.float64)
    here = [loop in self.use.scans for loop in self.use.loops]
    sizes = iter(x.shape[: sum(here)])
    lead = [next(sizes) if walks else 1 for walks in here]
    return x.reshape(*lead, *x.shape[sum(here) :])


def multiplied(closed: jex.ClosedJaxpr, params: chex.ArrayTree) -> set[str]:
  """Returns the leaves that are kernels."""
  found = classify(closed, params, set(trees.by_name(params)))
  return found.multiplied | found.lost


def readers(
  closed: jex.ClosedJaxpr,
  params: chex.ArrayTree,
  groups: Groups,
  names: Collection[str],
) -> dict[str, tuple[Reader, ...]]:
  """Finds the kernels that contract the units of some groups."""
  kernels = multiplied(closed, params)
  members = [
    (name, member)
    for name in names
    for member in groups[name].members
    if member.leaf in kernels
  ]
  if not members:
    return dict.fromkeys(names, ())
  chosen = {member.leaf for _, member in members}
  sites = _sites.find(closed, params, lambda name, leaf: name in chosen)
  leaves = {n: x for n, x in trees.by_name(params).items() if x is not None}
  shapes = {name: jnp.shape(x) for name, x in leaves.items()}
  added = biases(closed, shapes, set(sites))
  found: dict[str, list[Reader]] = {name: [] for name in names}
  for name, member in members:
    stack = stack_axes(groups, name, member.leaf)
    for path, site in sites.items():
      for use in (use for use in site.uses if use.name == member.leaf):
        owner = _owner(site, use, member)
        if owner is None:
          continue
        layers = tuple(loop_of(use, axis) for axis in stack)
        right = use.exact and use.operand == 1 and not use.batch
        bias = added.get(path) if right else None
        found[name].append(Reader(site, use, owner, layers, bias))
  return {name: tuple(each) for name, each in found.items()}


def _owner(site: Site, use: Use, member: Member) -> np.ndarray | None:
  """Returns the unit at each input, if the use contracts the units."""
  number = np.zeros(use.shape[member.axis], np.float32)
  number[member.places] = np.arange(1, len(member.places) + 1)[:, None]
  along = [1] * len(use.shape)
  along[member.axis] = -1
  leaf = np.broadcast_to(number.reshape(along), use.shape)
  loops = (0,) * len(use.scans)
  everywhere = _columns(site, use, leaf)
  columns = everywhere[loops]
  if not columns.any() or (everywhere != columns).any():
    return None
  most = columns.max(-1, keepdims=True)
  if (columns != most).any():
    # Columns of other leaves, where several were concatenated, are zero.
    ones = np.ones(use.shape, np.float32)
    there = _columns(site, use, ones)[loops] != 0
    if (there & (columns != most)).any():
      return None
  return most[..., 0].astype(int) - 1


def _columns(site: Site, use: Use, leaf: np.ndarray) -> np.ndarray:
  view = jnp.asarray(use.view(jnp.asarray(leaf)))
  return np.asarray(site.columns(view)[0])


def loop_of(use: Use, axis: int) -> int:
  """Returns which of the loops around a use walks over an axis of the leaf."""
  along = [1] * len(use.shape)
  along[axis] = -1
  number = np.arange(use.shape[axis], dtype=np.float32).reshape(along)
  leaf = np.broadcast_to(number, use.shape)
  view = np.asarray(use.view(jnp.asarray(leaf)))
  spread = [np.ptp(view, k).any() for k in range(len(use.scans))]
  return use.loops.index(use.scans[spread.index(True)])
