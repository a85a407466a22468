"""Leaves of equal shape as one stack, for programs that stay small.

A stack of leaves is a leaf that stacks layers, so whatever moves the masks of
one moves those of the other. The size of the program then depends on the number
of shapes, and hardly on that of the leaves.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lthjax import _branches, trees
from lthjax._bisection import may_be_sharded
from lthjax.axes import Axes
from lthjax.patterns import NM, Pattern, Unstructured

Table = Mapping[str, Any]

_SIZE = 2**21  # Stacks of about as many weights stay in the cache.


class Batches(NamedTuple):
  """Names of leaves by the name of their stack, which is that of the first.

  Attributes:
    names: ``{name: [name]}``; a leaf by itself is not stacked.
    axes: ``{name: Axes}`` of the stacks.
  """

  names: dict[str, list[str]]
  axes: dict[str, Axes]

  def join(self, table: Table) -> dict[str, Any]:
    """Stacks arrays in the shapes of the leaves."""
    return {
      first: jnp.stack([table[n] for n in names])
      if len(names) > 1
      else table[first]
      for first, names in self.names.items()
    }

  def join_numbers(self, table: Table) -> dict[str, Any]:
    """Stacks numbers that broadcast to the leaves."""
    found = dict(self.join(table))
    for first, names in self.names.items():
      if len(names) > 1:
        rank = len(self.axes[first].layer) + len(self.axes[first].stack)
        number = found[first]
        ones = (1,) * (rank - number.ndim)
        found[first] = number.reshape(len(names), *ones, *number.shape[1:])
    return found

  def entries(self, tables: Table, entry: Any) -> dict[str, Any]:
    """Stacks one entry of each table over moves, the last one at most."""
    return self.join_numbers(
      {n: t[jnp.minimum(entry, len(t) - 1)] for n, t in tables.items()}
    )

  def split(self, table: Table, true: Any) -> dict[str, Any]:
    """Undoes `join` of masks.

    Args:
      table: ``{name: masks}`` of the stacks.
      true: what XLA does not know to be true. Behind such a branch it does not
        compute each slice of a stack by itself.
    """
    stacks = {first: table[first] for first, n in self.names.items() if n[1:]}
    stacks = _branches.copied(stacks, true) if stacks else {}
    found = {}
    for first, names in self.names.items():
      for i, name in enumerate(names):
        found[name] = stacks[first][i] if first in stacks else table[first]
    return found


def make(
  pattern: Pattern,
  masks: Mapping[str, jax.Array],
  tables: Iterable[Table],
  axes: Mapping[str, Axes],
  alike: Mapping[str, Hashable] | None = None,
) -> Batches:
  """Chooses which leaves to stack: none on a mesh, or outside of a trace.

  Args:
    pattern: which shapes may survive; those of others may not know of stacks.
    masks: ``{name: mask}``.
    tables: other arrays of the same shapes that are stacked with the masks.
    axes: ``{name: Axes}``.
    alike: ``{name: value}`` that has to be equal in a stack.
  """
  tables = list(tables)
  names: dict[str, list[str]] = {}
  open_: dict[Any, str] = {}
  for name, mask in masks.items():
    each = [table[name] for table in tables]
    kind = mask.shape, axes[name], [x.dtype for x in each]
    kind = str((kind, (alike or {}).get(name)))
    stacks = (
      isinstance(pattern, Unstructured | NM)
      and trees.is_traced(mask, *each)
      and not any(map(may_be_sharded, (mask, *each)))
    )
    first = open_.get(kind)
    if not stacks:
      names[name] = [name]
    elif first is None or (len(names[first]) + 1) * mask.size > _SIZE:
      names[name] = [name]
      open_[kind] = name
    else:
      names[first].append(name)
  return Batches(
    names,
    {
      first: _stacked(axes[first]) if len(own) > 1 else axes[first]
      for first, own in names.items()
    },
  )


def _stacked(axes: Axes) -> Axes:
  """The axes of a kernel in a stack of such kernels."""
  stack, *others = (tuple(a + 1 for a in part) for part in axes)
  return Axes((0, *stack), *others)
