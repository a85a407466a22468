"""A walk over a program that gives every axis of every value a type.

Axes that meet in elementwise work or are contracted with each other have the
same type, see `_axis_types`. One pass suffices: the body of a loop is walked
once, and then its carries are unified.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import trees
from lthjax.program import _axis_meetings, _axis_moves
from lthjax.program._axis_types import (
  Rule,
  Type,
  Value,
  Values,
  atoms,
  fresh,
  pin,
  pin_all,
  same,
  unify,
)
from lthjax.program._interpreter import (
  CALLS,
  Path,
  inside,
  interpret,
  loop_parts,
  trace,
)


class Walk(NamedTuple):
  """A walk over a program.

  Attributes:
    sums: whether the two sides of a sum of activations are the same axes.
    loops: the types of the loops around.
    seen: ``(axes, loops)`` of every value.
    watched: ``{path: inputs}`` of equations to remember.
    paired: the types along which activations are multiplied with each other.
  """

  sums: bool
  loops: tuple[Type, ...]
  seen: list[tuple[tuple[Type, ...], tuple[Type, ...]]]
  watched: dict[Path, Values]
  paired: list[Type]

  def __call__(self, program: Any, values: Values, path: Path) -> list[Value]:
    """Returns what is known of the results of a program."""
    for value in values:
      self.seen.append((value.axes, self.loops))
    return interpret(program, values, self.step, _constant, path)

  def step(self, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
    """Returns what is known of the outputs of an equation."""
    data = any(value.data for value in values)
    if path in self.watched:
      self.watched[path] = values
    outs = RULES.get(eqn.primitive.name, _axis_meetings.unknown)(
      self, eqn, values, path
    )
    self.seen.extend((out.axes, self.loops) for out in outs)
    return [out._replace(data=out.data or data) for out in outs]


class TypedAxes(NamedTuple):
  """The types of the axes of all leaves.

  Attributes:
    leaves: ``{name: type of each axis}``.
    around: for each atom, by `id`, the atoms that are there wherever it is: on
      another axis, or as a loop around.
    paired: atoms, by `id`, that are contracted between activations.
  """

  leaves: dict[str, tuple[Type, ...]]
  around: dict[int, set[int]]
  paired: set[int]


def typed_axes(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  sums: bool = True,
) -> TypedAxes:
  """Finds the types of the axes of leaves in ``apply(params, *args)``."""
  closed, _ = trace(apply, params, *args)
  named = jax.tree_util.tree_leaves_with_path(params)
  leaves = {
    trees.path_name(path): Value(fresh(jnp.shape(x))) for path, x in named
  }
  given = [
    Value(fresh(jnp.shape(x), 'input'), data=True)
    for x in jax.tree.leaves(args)
  ]
  walk = Walk(sums, (), [], {}, [])
  outs = walk(closed, [*leaves.values(), *given], ())
  for out in outs:
    pin_all(out, 'output')
  return TypedAxes(
    {n: v.axes for n, v in leaves.items()},
    _around(walk.seen),
    {id(atom) for t in walk.paired for atom in atoms(t)},
  )


def watch(
  closed: jex.ClosedJaxpr, args: int, paths: Iterable[Path]
) -> tuple[list[Value], dict[Path, Values]]:
  """Returns the types of the last ``args`` arguments, and those at paths."""
  shapes = [x.shape for x in closed.in_avals]
  given = [Value(fresh(shape)) for shape in shapes]
  first = len(given) - args
  given[first:] = [Value(fresh(s, 'input'), data=True) for s in shapes[first:]]
  walk = Walk(True, (), [], dict.fromkeys(paths, ()), [])
  walk(closed, given, ())
  return given[first:], walk.watched


def _around(seen) -> dict[int, set[int]]:
  """Intersects, over all values with an atom, the atoms around it."""
  around: dict[int, set[int]] = {}
  for axes, loops in seen:
    here = {id(atom) for t in (*axes, *loops) for atom in atoms(t)}
    for t in axes:
      for atom in atoms(t):
        around[id(atom)] = around.get(id(atom), here) & here
  return around


def _constant(value: Any) -> Value:
  shape = jnp.shape(value)
  return Value(fresh(shape, 'constant'), data=bool(shape))


def call(walk, eqn, values, path):
  """A function called once."""
  ((here, program),) = inside(eqn, path)
  return walk(program, values, here)


def scan(walk, eqn, values, path):
  """The axis that a loop goes along is depth: all stacks share it."""
  consts, carry, stacks = loop_parts(eqn, values)
  loop = Type(eqn.params['length'], ['loop'])
  for value in stacks:
    unify(loop, value.axes[0])
  pin(loop, 'loop')
  slices_ = [value._replace(axes=value.axes[1:]) for value in stacks]
  # Inside, the loop is not an axis: what meets only slices may vary along it.
  ((here, program),) = inside(eqn, path)
  inner = walk._replace(loops=(*walk.loops, loop))
  outs = inner(program, [*consts, *carry, *slices_], here)
  for old, new in zip(carry, outs, strict=False):
    same([old, new])  # No fixpoint: refining one refines the other.
  ys = [
    value._replace(axes=(loop, *value.axes)) for value in outs[len(carry) :]
  ]
  return [*outs[: len(carry)], *ys]


def while_loop(walk, eqn, values, path):
  """Carries are the same in all turns."""
  p = eqn.params
  first = p['cond_nconsts']
  last = first + p['body_nconsts']
  carry = values[last:]
  walk(p['cond_jaxpr'], [*values[:first], *carry], (*path, 0))
  outs = walk(p['body_jaxpr'], [*values[first:last], *carry], (*path, 1))
  for old, new in zip(carry, outs, strict=True):
    same([old, new])
  return outs


def cond(walk, eqn, values, path):
  """The results of all branches are the same."""
  results = [
    walk(program, values[1:], here) for here, program in inside(eqn, path)
  ]
  for outs in zip(*results, strict=True):
    same(outs)
  return results[0]


RULES: dict[str, Rule] = {
  **_axis_meetings.RULES,
  **_axis_moves.RULES,
  'cond': cond,
  'scan': scan,
  'while': while_loop,
  **dict.fromkeys(CALLS, call),
}
