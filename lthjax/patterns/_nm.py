"""N:M sparsity."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lthjax import _sharding, counts
from lthjax import axes as axes_lib
from lthjax.axes import Axes
from lthjax.patterns import _pattern
from lthjax.selection import keep_largest


@dataclass(frozen=True)
class NM:
  """At most n of every m consecutive weights survive (N:M sparsity).

  Groups run along an axis that the layer sums over, which is what sparse tensor
  cores need: ``in`` of dense kernels and convolutions, ``head_dim`` of
  attention outputs ``[heads, head_dim, out]``. Where names and shapes do not
  say which axis that is, `lthjax.prune` and the optimizers take ``axes=``.

  Attributes:
    n: how many survive in a group.
    m: how many weights a group has.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = jnp.array([[1.0], [4.0], [3.0], [2.0]])
    >>> masks = lth.masks.full(scores)
    >>> lth.prune(scores, masks, pattern=lth.patterns.NM(2, 4)).ravel()
    Array([False,  True,  True, False], dtype=bool)

  References:
    Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378,
    section 3.
  """

  n: int
  m: int

  def __post_init__(self):
    object.__setattr__(self, 'n', _pattern.as_int(self.n))
    object.__setattr__(self, 'm', _pattern.as_int(self.m))

  @property
  def density(self) -> float:
    """The share n / m that survives."""
    if not _pattern.are_whole(self.n, self.m):
      return 1.0  # `fit` refuses them.
    return self.n / max(self.m, 1)

  def fit(self, axes, leaves):
    """Returns the axes; raises if n, m or the size of an axis is off."""
    if not (_pattern.are_whole(self.n, self.m) and 1 <= self.n <= self.m):
      raise ValueError(
        f'N:M sparsity needs 1 <= n <= m, but n is {self.n} and m is {self.m}.'
        ' For 2:4 use `NM(2, 4)`.'
      )
    found = axes_lib.resolve(axes, leaves)
    shapes = axes_lib.shapes_of(leaves)
    # Groups run along the last axis of inputs.
    sizes = {n: {its.inputs[-1:]: self.m} for n, its in found.items()}
    what = f'{self.n}:{self.m} sparsity'
    _pattern.check_sizes(what, shapes, sizes)
    _pattern.check_shards(what, leaves, sizes)
    return found

  def select(self, scores, eligible, count, axes):
    """Keeps the n (or ``count``) largest scores of each group."""
    count = self.n if count is None else count
    groups, eligible = self._groups(scores, axes), self._groups(eligible, axes)
    keep = keep_largest(groups, count, eligible, axis=axes.inputs[-1] + 1)
    return _sharding.merge(keep, scores)

  def drop(self, scores, mask, count, axes):
    """Keeps the ``count`` largest scores of each layer, in any groups."""
    # Groups may be left with fewer than n: `fill` completes them.
    return keep_largest(scores, count, mask, axis=axes.layer)

  def fill(self, scores, keep, count, axes):
    """Adds the largest of the other scores until every group keeps n."""
    del count  # Of the layer, which n per group implies.
    groups = self._groups(keep, axes)
    axis = axes.inputs[-1] + 1
    missing = jnp.maximum(self.n - counts.along(groups, (axis,)), 0)
    grown = keep_largest(
      self._groups(scores, axes), missing, ~groups, axis=axis
    )
    return _sharding.merge(groups | grown, scores)

  def faults(self, masks, axes):
    """Finds the groups that do not keep n."""
    off = {}
    for name, mask in masks.items():
      alive = counts.along(
        self._groups(mask, axes[name]), (axes[name].inputs[-1] + 1,)
      )
      off[name] = alive != self.n
    return [
      f'{name} has {number} groups of {self.m} on axis {axes[name].inputs[-1]}'
      f' without exactly {self.n} alive'
      for name, number in _pattern.numbers_if_known(off).items()
      if number
    ]

  def _groups(self, x: jax.Array, axes: Axes) -> jax.Array:
    """Splits the axis of the groups, so that they run along the next one."""
    return _sharding.split(x, axes.inputs[-1], self.m)
