"""Programs inside equations, and the leaves that enter them."""

import math

import jax.extend.core as jex
import jax.numpy as jnp

from lthjax.program._interpreter import (
  Path,
  equations,
  inside,
  loop_parts,
)
from lthjax.program._matmuls import MATMULS
from lthjax.program._use import Loop, Use
from lthjax.program._walk import Values, Walk, Weight, shape


def call(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A function called once."""
  ((inner, program),) = inside(eqn, path)
  return walk(program, values, inner)


def scan(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A loop of known length, over slices of leaves or with the same ones."""
  consts, carry, stacks = loop_parts(eqn, values)
  count, here = len(carry), Loop(path, eqn.params['length'])
  slices = [w and w._replace(scans=(*w.scans, here)) for w in stacks]
  inner = walk._replace(loops=(*walk.loops, here))
  after = inner(eqn.params['jaxpr'], [*consts, *carry, *slices], path)
  # A leaf may be carried along unchanged, and slices of it may be stacked again
  # as they were; anything else depends on the number of the turn.
  outputs = []
  for old, new in zip(carry, after[:count], strict=True):
    kept = new is old or (new is not None and new.same(old))
    walk.lose(eqn, [] if kept else [old, new], ' as a carry that changes')
    outputs.append(new if kept else None)
  for var, new in zip(eqn.outvars[count:], after[count:], strict=True):
    if new and new.scans[-1:] == (here,):
      outputs.append(new._replace(scans=new.scans[:-1]))
    else:
      dropped = isinstance(var, jex.DropVar)
      walk.lose(eqn, [] if dropped else [new], ', which stacks copies of it')
      outputs.append(None)
  return outputs


def cond(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Branches that multiply alike with the same leaves."""
  programs = inside(eqn, path)
  walks = [walk._replace(uses=[]) for _ in programs]
  results = [
    branch(program, values[1:], here)
    for branch, (here, program) in zip(walks, programs, strict=True)
  ]
  first, *others = ([*each.uses] for each in walks)
  for use in first:
    matches = [next(filter(use.like, uses), None) for uses in others]
    for uses, match in zip(others, matches, strict=True):
      if match is None:
        _differ(walk, use)
      else:
        uses.remove(match)
    paths = (path for match in matches if match for path in match.paths)
    walk.uses.append(use._replace(paths=(*use.paths, *paths)))
  for use in (use for uses in others for use in uses):
    _differ(walk, use)
  outputs = []
  for new in zip(*results, strict=True):
    alike = all(w is new[0] or (w and w.same(new[0])) for w in new)
    walk.lose(eqn, [] if alike else new, ' in some branches only')
    outputs.append(new[0] if alike else None)
  return outputs


def _differ(walk: Walk, use: Use) -> None:
  what = use.name or 'a matmul of activations'
  walk.faults.append(
    f'{what} is used by some branches of `cond` only: compute all of them, and'
    ' choose with `jnp.where`'
  )


def shard(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A function that each device applies to its blocks of the inputs."""
  mesh, specs = eqn.params['mesh'], eqn.params['in_specs']
  splits = [
    _names(spec, shape(x)) for spec, x in zip(specs, eqn.invars, strict=True)
  ]
  manual = eqn.params['newly_manual_axes']
  loops = [Loop(path, mesh.shape[a], a) for a in mesh.axis_names if a in manual]
  used = {name for spec in splits for names in spec for name in names}
  idle = math.prod(loop.length for loop in loops if loop.axis not in used)
  inner = walk._replace(loops=(*walk.loops, *loops), idle=walk.idle * idle)
  facts = [
    w and _blocks(w, shape(x), names, loops)
    for w, x, names in zip(values, eqn.invars, splits, strict=True)
  ]
  after = inner(eqn.params['jaxpr'], facts, path)
  walk.lose(eqn, after, ' as a result')
  return [None] * len(eqn.outvars)


def _names(spec, dims) -> list[tuple[str, ...]]:
  """The mesh axes that split each axis of an array, major ones first."""
  names = [
    () if n is None else n if isinstance(n, tuple) else (n,) for n in spec
  ]
  return names + [()] * (len(dims) - len(names))


def _blocks(weight, dims, names, loops) -> Weight:
  """Gives a leaf one leading axis for each mesh axis that splits it."""
  split, blocks, local = [], {}, []
  for size, axes in zip(dims, names, strict=True):
    for name in axes:
      length = next(loop.length for loop in loops if loop.axis == name)
      blocks[name] = len(split)
      split.append(length)
      size //= length
    local.append(len(split))
    split.append(size)
  mine = tuple(loop for loop in loops if loop.axis in blocks)
  order = [*(blocks[loop.axis] for loop in mine), *local]
  # [a * n, m] split by a mesh axis of a devices: [a, n, m], with a in front.
  weight = weight.then(jnp.reshape, [tuple(split)])
  weight = weight.then(jnp.transpose, [tuple(order)])
  return weight._replace(scans=(*weight.scans, *mine))


def gather_blocks(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """Blocks of a kernel, collected from all devices along a mesh axis."""
  (weight,), names = values, eqn.params['axis_name']
  names = names if isinstance(names, tuple) else (names,)
  scans = weight.scans if weight else ()
  places = [i for i, loop in enumerate(scans) if names == (loop.axis,)]
  whole = eqn.params['tiled'] and eqn.params['axis_index_groups'] is None
  if not weight or not places or not whole:
    return walk.lose(eqn, values, ' in a way that is not followed')
  (place,) = places
  axis, dims = eqn.params['all_gather_dimension'], shape(eqn.invars[0])
  after = [loop.length for loop in scans[place + 1 :]]
  order = [*range(1, len(after) + axis + 1)]
  order += [0, *range(len(order) + 1, len(after) + len(dims) + 1)]
  weight = weight.then(jnp.transpose, [tuple(order)], batch=place)
  sizes = (*after, *shape(eqn.outvars[0]))
  weight = weight.then(jnp.reshape, [sizes], batch=place)
  return [weight._replace(scans=(*scans[:place], *scans[place + 1 :]))]


def unknown(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """Anything else may work on activations, if it contains no matmuls."""
  name = eqn.primitive.name
  if name == 'scaled_matmul' or any(
    inner.primitive.name in MATMULS
    for here, program in inside(eqn, path)
    for _, inner in equations(program, here)
  ):
    hint = ': write the loop with `jax.lax.scan`' if name == 'while' else ''
    walk.faults.append(f'`{name}` has matmuls that cannot be counted{hint}')
  return walk.lose(eqn, values)
