"""Single weights."""

from dataclasses import dataclass

import jax.numpy as jnp

from lthjax import axes as axes_lib
from lthjax import counts
from lthjax.axes import Axes
from lthjax.patterns import _pattern
from lthjax.selection import keep_largest


@dataclass(frozen=True)
class Unstructured:
  """Any weight may survive on its own.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores, alive = jnp.array([[3.0, 1.0, 2.0]]), jnp.ones((1, 3), bool)
    >>> axes = lth.axes.Axes(inputs=(0,), outputs=(1,))
    >>> lth.patterns.Unstructured().select(scores, alive, 2, axes)
    Array([[ True, False,  True]], dtype=bool)
  """

  @property
  def density(self) -> None:
    """Free: the budget decides."""
    return None

  def fit(self, axes, leaves):
    """Accepts every leaf; leaves in doubt count as single layers."""
    found = axes_lib.resolve(axes, leaves, strict=False)
    shapes = axes_lib.shapes_of(leaves)
    one = {n: Axes(outputs=tuple(range(len(s)))) for n, s in shapes.items()}
    return one | found

  def select(self, scores, eligible, count, axes):
    """Keeps the ``count`` largest scores of each layer."""
    return keep_largest(scores, count, eligible, axis=axes.layer)

  def drop(self, scores, mask, count, axes):
    """Keeps the ``count`` largest scores of each layer."""
    return self.select(scores, mask, count, axes)

  def fill(self, scores, keep, count, axes):
    """Adds the largest of the other scores until ``count`` are kept."""
    missing = jnp.maximum(count - counts.along(keep, axes.layer), 0)
    return keep | keep_largest(scores, missing, ~keep, axis=axes.layer)

  def faults(self, masks, axes):
    """Finds fault with empty layers only."""
    return _pattern.empty_layers(masks, axes)
