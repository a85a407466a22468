"""Groups of any model, found by following axes through its program."""

from collections.abc import Callable
from typing import Any

import chex
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax.program import _axis_types as types
from lthjax.program._typed_axes import typed_axes
from lthjax.structure._groups import Group, Member, entries


def groups(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  sums: bool = True,
) -> dict[str, Group]:
  """Finds the groups of a model by following axes through its program.

  Axes that meet belong together: in elementwise work, in contractions, at the
  two ends of a loop. Nothing is computed, and no list of layers is needed:
  residual streams, gated layers, heads with grouped keys and values, running
  statistics, flattened images, fused kernels and experts are all found.

  A group has the name of its first member, such as ``'fc1/kernel[1]'``. What
  fixes its size or order is in its `pins`:

  | pins                          | removing an index                         |
  |-------------------------------|-------------------------------------------|
  | none                          | equals zeroing it                         |
  | ``reduced``                   | changes a normalization or softmax        |
  | ``loop``                      | removes a whole layer                     |
  | ``sorted, reduced, iota``     | removes an expert                         |
  | ``input``, ``output``, others | changes what the program takes or returns |

  Groups without pins, or only ``reduced``, may be permuted freely.

  Args:
    apply: pure function ``apply(params, *args)``.
    params: tree of arrays or of `jax.ShapeDtypeStruct`. To include running
      statistics give ``(params, model_state)`` and a function of both.
    *args: trees of arrays or of `jax.ShapeDtypeStruct`; their axes are pinned.
    sums: whether groups go on through sums of activations. Without, they end
      there, and what each branch adds to a residual stream is a group of its
      own, which can be zeroed but not removed.

  Returns:
    ``{name: Group}``, in the order of the leaves.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {
    ...   'in': jnp.ones((4, 6)),
    ...   'b': jnp.ones(6),
    ...   'out': jnp.ones((6, 2)),
    ... }
    >>> def apply(params, x):
    ...   return jax.nn.relu(x @ params['in'] + params['b']) @ params['out']
    >>> groups = lth.structure.groups(apply, params, jnp.ones((1, 4)))
    >>> print(lth.structure.table(groups))
    group   size  pins    members
    b[0]       6  --      b[0], in[1], out[0]
    in[0]      4  input   in[0]
    out[1]     2  output  out[1]
  """
  _checks.function('apply', apply, 'apply(params, *args)')
  _checks.arrays(params, shapes=True)
  sums = _checks.flag('sums', sums)
  found = typed_axes(apply, params, *args, sums=sums)
  atoms: dict[int, types.Type] = {}
  members: dict[int, list[Member]] = {}
  for leaf, axes in found.leaves.items():
    for axis, t in enumerate(axes):
      for atom, places in types.occurrences(t):
        atoms[id(atom)] = atom
        members.setdefault(id(atom), []).append(Member(leaf, axis, places))
  # Axes of length one, and windows of a single kernel, tie nothing together.
  kept = {
    i: atom
    for i, atom in atoms.items()
    if atom.size > 1 and not ('window' in atom.pins and len(members[i]) == 1)
  }
  leaves = {n: x for n, x in trees.by_name(params).items() if x is not None}
  shapes = {name: jnp.shape(leaf) for name, leaf in leaves.items()}
  names = _names({i: members[i] for i in kept})
  return {
    names[i]: Group(
      atom.size,
      tuple(members[i]),
      frozenset(atom.pins),
      _varies(i, found.around[i], kept, members, names),
      i in found.paired,
      entries(members[i], shapes),
    )
    for i, atom in kept.items()
  }


def _names(members: dict[int, list[Member]]) -> dict[int, str]:
  """Names groups after their first members, each name once."""
  names: dict[int, str] = {}
  for i, found in members.items():
    places = [f'{m.leaf}[{m.axis}]' for m in found]
    numbered = (f'{places[0]}.{n}' for n in range(2, len(members) + 2))
    taken = set(names.values())
    names[i] = next(n for n in (*places, *numbered) if n not in taken)
  return names


def _varies(i, around, kept, members, names) -> tuple[str, ...]:
  """Names the loops that are wherever the group is, and in all its leaves."""
  if 'loop' in kept[i].pins:  # The loop itself does not vary.
    return ()
  return tuple(
    names[loop]
    for loop, atom in kept.items()
    if loop != i
    and loop in around
    and 'loop' in atom.pins
    and {m.leaf for m in members[i]} <= {m.leaf for m in members[loop]}
  )
