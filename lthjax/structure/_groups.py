"""Groups, members, and groups written by hand, axis by axis."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse


class Member(NamedTuple):
  """One occurrence of a group on an axis of a leaf.

  Attributes:
    leaf: the name of the leaf.
    axis: the axis, not negative.
    places: array of integers ``[size, k]``: the ``k`` positions along the axis
      that belong to each index of the group.
  """

  leaf: str
  axis: int
  places: np.ndarray


class Group(NamedTuple):
  """Axes, or parts of axes, of which equal indices belong together.

  An axis may hold several groups: side by side, as in a kernel of fused
  queries, keys and values; or as factors of a product, as the heads and the
  features per head of a two-dimensional kernel do.

  Attributes:
    size: the number of indices.
    members: all occurrences; an axis that holds the group twice is two members.
    pins: what fixes the size or the order of the group, from
      `lthjax.structure.groups`. Without pins, removing an index from all
      members equals zeroing it.
    varies: groups of stacked layers or experts over which the choice may
      differ: a mask of units then is ``[*stack, size]`` or ``[size]``.
    paired: whether activations are multiplied with each other along it, as
      queries and keys are; from `lthjax.structure.groups`.
    entries: the number of weights that belong to each index, over all members.
  """

  size: int
  members: tuple[Member, ...]
  pins: frozenset[str] = frozenset()
  varies: tuple[str, ...] = ()
  paired: bool = False
  entries: int = 1


Groups = Mapping[str, Group]
Where = str | Sequence[str]


class Axis(NamedTuple):
  """A group on a part of an axis, for `by_axes`.

  Attributes:
    group: the name of the group.
    start: the first position.
    size: the number of positions; by default all that follow.
    inner: the number of consecutive positions that share an index, such as the
      features of a head. The part is read as ``[times, units, inner]``.
    units: the number of indices of the group, where its parts do not tell.
  """

  group: str
  start: int = 0
  size: int | None = None
  inner: int = 1
  units: int | None = None


Entry = str | Axis | Sequence[Axis] | None


def by_axes(
  params: chex.ArrayTree, axes: Mapping[str, Sequence[Entry]]
) -> dict[str, Group]:
  """Makes groups from a description of each axis of each leaf.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    axes: ``{name of leaf: one entry per axis}``, for every leaf. An entry is
      `None`, the name of a group, an `Axis`, or several of them. An axis may be
      a multiple of its group, as the inputs of a dense layer are after images
      were flattened: units then vary fastest, as channels that come last do.

  Returns:
    ``{name: Group}``, in the order in which ``axes`` names the groups. A group
    has as many units as its shortest part, unless an `Axis` says otherwise.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'qkv': jnp.ones((4, 9)), 'out': jnp.ones((3, 4))}
    >>> groups = lth.structure.by_axes(
    ...   params, {'qkv': (None, 'value'), 'out': ('value', None)}
    ... )
    >>> print(lth.structure.table(groups))
    group  size  pins  members
    value     3  --    qkv[1] (3 places), out[0]

    Only the last third of the fused kernel:

    >>> value = lth.structure.Axis('value', start=6)
    >>> groups = lth.structure.by_axes(
    ...   params, {'qkv': (None, value), 'out': ('value', None)}
    ... )
    >>> groups['value'].members[0].places.tolist()
    [[6], [7], [8]]
  """
  leaves = _checks.arrays(params, shapes=True)
  leaves = {n: x for n, x in leaves.items() if x is not None}
  _checks.mapping('axes', axes, 'names of leaves to one entry per axis')
  faults = [f'there is no leaf {n}' for n in axes if n not in leaves]
  faults += [f'{n} is not described' for n in leaves if n not in axes]
  parts: dict[str, list[tuple[str, int, Axis, int]]] = {}
  for name in (n for n in axes if n in leaves):
    shape = jnp.shape(leaves[name])
    if len(axes[name]) != len(shape):
      faults.append(f'{name} has shape {shape}, but {len(axes[name])} axes')
      continue
    for axis, entry in enumerate(axes[name]):
      for part in _parts(entry):
        size = shape[axis] - part.start if part.size is None else part.size
        if part.start < 0 or part.start + size > shape[axis]:
          faults.append(f'{name}[{axis}] ends before {part}')
        found = parts.setdefault(part.group, [])
        found.append((name, axis, part, size))
  # The shortest part fixes the number of units; others may be multiples of it.
  sizes = {
    group: min(part.units or size // part.inner for *_, part, size in found)
    for group, found in parts.items()
  }
  faults += [f'{group} has no units' for group, n in sizes.items() if n < 1]
  faults += [
    f'{name}[{axis}] has length {size}, which is not a multiple of the'
    f' {sizes[group] * part.inner} of {group}'
    for group, found in parts.items()
    for name, axis, part, size in found
    if sizes[group] > 0 and size % (sizes[group] * part.inner)
  ]
  refuse(
    faults,
    'The axes do not fit the params: {}. Describe every leaf with the group of'
    ' units, or None, of each of its axes; `lthjax.structure.chain(params,'
    ' layers)` does so for layers that follow one another.',
  )
  made = {
    group: tuple(_member(*part, sizes[group]) for part in found)
    for group, found in parts.items()
  }
  shapes = {name: jnp.shape(leaf) for name, leaf in leaves.items()}
  return {
    group: Group(sizes[group], members, entries=entries(members, shapes))
    for group, members in made.items()
  }


def entries(
  members: Sequence[Member], shapes: Mapping[str, tuple[int, ...]]
) -> int:
  """Counts the weights at each index of a group."""
  return sum(
    math.prod(shapes[m.leaf]) // shapes[m.leaf][m.axis] * m.places.shape[1]
    for m in members
  )


def by_leaf(groups: Groups) -> dict[str, list[tuple[str, Member]]]:
  """Lists the groups on each leaf: ``{leaf: [(name of group, member)]}``.

  Example:
    >>> import numpy as np
    >>> from lthjax import structure
    >>> params = {'a': np.ones((4, 3)), 'b': np.ones((3, 2))}
    >>> unit = {'a': (None, 'unit'), 'b': ('unit', None)}
    >>> found = structure.by_leaf(structure.by_axes(params, unit))
    >>> [(name, member.axis) for name, member in found['b']]
    [('unit', 0)]
  """
  check_groups(groups)
  found: dict[str, list[tuple[str, Member]]] = {}
  for name, group in groups.items():
    for member in group.members:
      found.setdefault(member.leaf, []).append((name, member))
  return found


def resolve(name: str, groups: Groups) -> str:
  """Returns the group of a name, or of a place that is in one group only."""
  if name in groups:
    return name
  found = [
    key
    for key, group in groups.items()
    if any(f'{m.leaf}[{m.axis}]' == name for m in group.members)
  ]
  return found[0] if len(found) == 1 else name


def choose(
  groups: Groups, where: Where | None = None, what: str = 'where'
) -> list[str]:
  """Lists groups by their names, places or globs.

  Args:
    groups: which axes move together.
    where: names of groups; places such as ``'fc1/kernel[1]'``, which stand for
      all groups on that axis of that leaf; or globs of either. `None` stands
      for all groups without pins.
    what: how errors call ``where``.

  Returns:
    The names, in the order of the groups.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.ones((1, 3)), 'out': jnp.ones((3, 1))}
    >>> groups = lth.structure.by_axes(
    ...   params, {'in': (None, 'units'), 'out': ('units', None)}
    ... )
    >>> lth.structure.choose(groups, 'out[0]')
    ['units']
  """
  check_groups(groups)
  _checks.text('what', what)
  if where is None:
    return [name for name, group in groups.items() if not group.pins]
  chosen: dict[str, list[str]] = {}
  for glob in _checks.globs(what, where):
    # Names have brackets, which globs would read in their own way.
    pattern = glob.replace('[', '[[]')
    chosen[glob] = [
      name
      for name, group in groups.items()
      if glob == name
      or trees.matches([pattern], name)
      or any(
        trees.matches([pattern], f'{m.leaf}[{m.axis}]') for m in group.members
      )
    ]
  refuse(
    [repr(glob) for glob, names in chosen.items() if not names],
    f'`{what}` has patterns that match no group: {{}}. The groups are'
    f' {", ".join(groups) or "none"}.',
  )
  found = {name for names in chosen.values() for name in names}
  return [name for name in groups if name in found]


def table(groups: Groups) -> str:
  """Formats groups as a table: their sizes, pins and members."""
  check_groups(groups)
  rows = [('group', 'size', 'pins', 'members')]
  for name, group in groups.items():
    pins = ', '.join(sorted(group.pins)) or '--'
    members = ', '.join(dict.fromkeys(map(_text, group.members)))
    rows.append((name, str(group.size), pins, members))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    f'{name:{widths[0]}}  {size:>{widths[1]}}  {pins:{widths[2]}}  {members}'
    for name, size, pins, members in rows
  )


def check_groups(groups: Any) -> None:
  """Raises unless this is a dict of groups."""
  make = 'Make them with `lthjax.structure.groups`, `chain` or `by_axes`'
  kind = 'names to `lthjax.structure.Group`'
  _checks.mapping('groups', groups, f'{kind}. {make}')
  refuse(
    [str(n) for n, group in groups.items() if not isinstance(group, Group)],
    f'`groups` must map {kind}, but does not map {{}} to one. {make}.',
    TypeError,
  )


def check_fit(groups: Any, tree: chex.ArrayTree) -> dict[str, Any]:
  """Returns the leaves by name; raises unless groups fit them."""
  check_groups(groups)
  leaves = trees.by_name(tree)
  refuse(
    _misfits(groups, leaves),
    'The groups do not fit: {}. Make them from params of these shapes.',
  )
  return leaves


def _misfits(groups: Groups, leaves: Mapping[str, Any]) -> Iterator[str]:
  """Describes each member whose place does not exist."""
  for name, group in groups.items():
    for leaf, axis, places in group.members:
      if leaf not in leaves:
        yield f'{name} is on {leaf}, which is not a leaf'
      elif leaves[leaf] is not None:
        shape = jnp.shape(leaves[leaf])
        last = places.max(initial=-1)
        if axis >= len(shape):
          yield f'{leaf} has shape {shape}, but {name} on axis {axis}'
        elif last >= shape[axis]:
          yield (
            f'{leaf}[{axis}] has length {shape[axis]}, but {name} at position'
            f' {last}'
          )
    for stack in group.varies:
      if stack not in groups:
        yield f'{name} has no stack {stack}'


def stack_axes(groups: Groups, name: str, leaf: str) -> tuple[int, ...]:
  """Returns the axes of a leaf over which the choice of units may differ."""
  return tuple(
    next(m.axis for m in groups[loop].members if m.leaf == leaf)
    for loop in groups[name].varies
  )


def stack_shape(groups: Groups, name: str) -> tuple[int, ...]:
  """Returns the shape of a choice of units without the units."""
  return tuple(groups[loop].size for loop in groups[name].varies)


def _parts(entry: Entry) -> list[Axis]:
  if entry is None:
    return []
  if isinstance(entry, str):
    return [Axis(entry)]
  if isinstance(entry, Axis):
    return [entry]
  return [part for each in entry for part in _parts(each)]


def _member(leaf: str, axis: int, part: Axis, size: int, units: int) -> Member:
  # Read as [times, units, inner]: each unit has `times * inner` places.
  places = np.arange(part.start, part.start + size)
  places = places.reshape(-1, units, part.inner).swapaxes(0, 1)
  return Member(leaf, axis, places.reshape(units, -1))


def _text(member: Member) -> str:
  k = member.places.shape[1]
  several = f' ({k} places)' if k > 1 else ''
  return f'{member.leaf}[{member.axis}]{several}'
