"""Leaves of equal shape as one stack, for programs that stay small.

A stack of leaves is a leaf that stacks layers, so whatever moves the masks of
one moves those of the other. The size of the program then depends on the number
of shapes, and hardly on that of the leaves.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lthjax import _sharding, trees
from lthjax._late import Late, like, now
from lthjax._sharding import may_be_sharded
from lthjax.axes import Axes
from lthjax.patterns import NM, Pattern, Unstructured

Table = Mapping[str, Any]
Move = Callable[..., dict[str, Any]]

_SIZE = 2**21  # Stacks of about as many weights stay in the cache.
_LARGE = 2**20  # The scores of leaves of this size are not kept in memory.


class Batches(NamedTuple):
  """Names of leaves by the name of their stack, which is that of the first.

  Attributes:
    names: ``{name: [name]}``; a leaf by itself is not stacked.
    axes: ``{name: Axes}`` of the stacks.
    sizes: ``{name: int}``, their numbers of weights on one device.
    one_by_one: names of what is not stacked, but moves leaf by leaf in a loop.
    turn: which leaf of a loop moves now.
  """

  names: dict[str, list[str]]
  axes: dict[str, Axes]
  sizes: dict[str, int]
  one_by_one: frozenset[str] = frozenset()
  turn: Any = None

  def join(
    self, table: Table, then: Callable[[str, Any], Any] = lambda name, x: x
  ) -> dict[str, Any]:
    """Stacks arrays in the shapes of the leaves, those that are late now.

    Late pairs of arrays become pairs of stacks.

    ``then(name, stack)`` is what becomes of them, where they are computed.
    """
    found = {}
    for first, names in self.names.items():
      each = [functools.partial(now, table[name]) for name in names]
      if len(names) == 1:
        x = table[first]
        late = isinstance(x, Late) and x.true is not None
        found[first] = then(first, x if late else now(x))
      elif first in self.one_by_one:
        calls = [lambda x=x, first=first: then(first, x()) for x in each]
        found[first] = jax.lax.switch(self.turn, calls)
      else:
        stack = jax.tree.map(lambda *x: jnp.stack(x), *(x() for x in each))
        found[first] = then(first, stack)
    return found

  def join_numbers(self, table: Table) -> dict[str, Any]:
    """Stacks numbers that broadcast to the leaves."""
    found = {}
    for first, names in self.names.items():
      each = [table[name] for name in names]
      if len(names) == 1:
        found[first] = each[0]
        continue
      number = jnp.stack(each)
      if first in self.one_by_one:
        found[first] = jax.lax.dynamic_index_in_dim(
          number, self.turn, keepdims=False
        )
        continue
      rank = len(self.axes[first].layer) + len(self.axes[first].stack)
      ones = (1,) * (rank - number.ndim)
      found[first] = number.reshape(len(names), *ones, *number.shape[1:])
    return found

  def entries(self, tables: Table, entry: Any) -> dict[str, Any]:
    """Stacks one entry of each table over moves, the last one at most."""
    return self.join_numbers(
      {n: t[jnp.minimum(entry, len(t) - 1)] for n, t in tables.items()}
    )

  def in_turn(self, move: Move, true: Any, *tables: Table) -> dict[str, Any]:
    """Moves the masks of some stacks after those of others.

    What a move needs besides masks is then needed for one part of the leaves at
    a time, whatever the order in which XLA runs what may run in any order.

    Args:
      move: ``move(part, masks, *tables) -> {name: masks}`` of the stacks of a
        part, which joins the tables.
      true: what XLA does not know to be true. Behind such a branch it computes
        nothing early, nor each slice of a stack by itself.
      *tables: ``{name: array}`` of the leaves, those of the masks first.

    Returns:
      ``{name: mask}`` of all leaves.
    """
    found, parts = {}, self._parts()
    # A single part without stacks has nothing to wait for.
    branches = trees.is_traced(true) and (
      len(parts) > 1 or any(len(names) > 1 for names in self.names.values())
    )
    for part in parts:
      leaves = [name for names in part.names.values() for name in names]
      masks, *others = ({n: table[n] for n in leaves} for table in tables)
      call = functools.partial(part._call, move, others)
      if branches:
        # The next part has to wait for what comes out of this one.
        true, masks = jax.lax.cond(
          true,
          lambda true, masks, call=call: (true, call(true, masks)),
          lambda true, masks: (~true, masks),
          true,
          masks,
        )
      else:
        masks = call(true, masks)
      found |= masks
    return found

  def _call(
    self, move: Move, others: Sequence[Table], true: Any, masks: Table
  ) -> dict[str, Any]:
    """Moves one part; large leaves by themselves are scored late."""
    if self.one_by_one:
      return self._move_each(move, others, masks)
    single = {names[0] for names in self.names.values() if len(names) == 1}

    def ready(name, x):
      large = name in single and is_large(x) and trees.is_traced(true)
      scores = jnp.issubdtype(x.dtype, jnp.inexact)
      if not (large and scores) or may_be_sharded(like(x)):
        return x  # It is joined where it is needed.
      if isinstance(x, Late) and x.cheap:
        return Late(x.like, x.make, cheap=True, true=true, dtype=x.dtype)
      x = now(x)
      return Late(x, lambda: x, true=true)

    tables = ({n: ready(n, x) for n, x in t.items()} for t in others)
    return self._split(move(self, self.join(masks), *tables))

  def _move_each(
    self, move: Move, others: Sequence[Table], masks: Table
  ) -> dict[str, Any]:
    """Moves the masks of one leaf after the other, by one program."""
    (first,) = self.names

    def one(turn, queue):
      mask, *rest = queue
      part = self._replace(turn=turn)
      (new,) = move(part, {first: mask}, *others).values()
      return [*rest, new]

    queue = jax.lax.fori_loop(0, len(masks), one, [*masks.values()])
    return dict(zip(masks, queue, strict=True))

  def _split(self, stacks: Table) -> dict[str, Any]:
    """The masks of the leaves of what has moved."""
    found = {}
    for first, names in self.names.items():
      for i, name in enumerate(names):
        found[name] = (
          jax.lax.index_in_dim(stacks[first], i, keepdims=False)
          if len(names) > 1
          else stacks[first]
        )
    return found

  def _parts(self) -> list['Batches']:
    """Groups of stacks with about as many weights as stay in the cache."""
    groups: list[list[str]] = []
    room = 0
    for first, size in self.sizes.items():
      alone = first in self.one_by_one
      if not groups or size > room or alone:
        groups.append([])
        room = _SIZE
      groups[-1].append(first)
      room = 0 if alone else room - size
    return [
      Batches(
        {first: self.names[first] for first in group},
        {first: self.axes[first] for first in group},
        {first: self.sizes[first] for first in group},
        self.one_by_one & {*group},
      )
      for group in groups
    ]


def make(
  pattern: Pattern,
  masks: Mapping[str, jax.Array],
  tables: Iterable[Table],
  axes: Mapping[str, Axes],
  alike: Mapping[str, Hashable] | None = None,
) -> Batches:
  """Chooses which leaves to stack, in a trace.

  On a mesh, only those whose types say that they lie on the same devices. Those
  that are too large for a stack move one after another there, by one program.

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
  large = set()
  for name, mask in masks.items():
    each = [like(table[name]) for table in tables]
    places = [jax.typeof(x).sharding for x in (mask, *each)]
    kind = mask.shape, axes[name], [x.dtype for x in each], places
    kind = str((kind, (alike or {}).get(name)))
    size = mask.size // _sharding.devices(mask)
    stacks = (
      isinstance(pattern, Unstructured | NM)
      and trees.is_traced(mask, *each)
      and (_sharding.is_explicit(mask) or not may_be_sharded(mask))
    )
    first = open_.get(kind)
    alone = _sharding.is_explicit(mask) and 2 * size > _SIZE
    if not stacks:
      names[name] = [name]
    elif first is None or not (
      alone or (len(names[first]) + 1) * size <= _SIZE
    ):
      names[name] = [name]
      open_[kind] = name
    else:
      names[first].append(name)
      large |= {first} if alone else set()
  return Batches(
    names,
    {
      first: _stacked(axes[first])
      if len(own) > 1 and first not in large
      else axes[first]
      for first, own in names.items()
    },
    {
      first: len(own) * masks[first].size // _sharding.devices(masks[first])
      for first, own in names.items()
    },
    frozenset(large),
  )


def is_large(x: Any) -> bool:
  """Whether the scores of a leaf take too much memory to be kept."""
  return x.size >= _LARGE


def _stacked(axes: Axes) -> Axes:
  """The axes of a kernel in a stack of such kernels."""
  stack, *others = (tuple(a + 1 for a in part) for part in axes)
  return Axes((0, *stack), *others)
