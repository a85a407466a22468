"""Units of a network that do nothing, or nothing that a bias could not do."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import structure, trees
from lthjax.program._biases import biases
from lthjax.program._interpreter import bind, equations, trace
from lthjax.program._kernels import classify, select
from lthjax.program._uses import uses_of
from lthjax.program._values import run
from lthjax.structure._groups import Member, stack_axes, stack_shape


class Reader(NamedTuple):
  """A matmul or convolution that reads the units of a group.

  Attributes:
    use: the leaf in it.
    eqn: its equation.
    owner: over the contracted axes, the unit at each position; -1 for none.
    bias: the leaf that is added to what it computes, if there is one.
    plain: whether it runs once, and all of its rows read the same kernel.
  """

  use: Any
  eqn: Any
  owner: np.ndarray
  bias: str | None
  plain: bool

  @property
  def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The contracted axes of the activations, and those of the kernel."""
    if self.use.primitive == 'dot_general':
      (left, right), _ = self.eqn.params['dimension_numbers']
      return (left, right) if self.use.operand else (right, left)
    spec = self.eqn.params['dimension_numbers']
    return (spec.lhs_spec[1],), (spec.rhs_spec[1],)

  @property
  def outputs_last(self) -> bool:
    """Whether the free axes of the kernel are the last ones of the result."""
    if self.use.primitive == 'dot_general':
      return self.use.operand == 1
    spec = self.eqn.params['dimension_numbers']
    return spec.out_spec[1] == len(spec.out_spec) - 1

  @property
  def padded(self) -> bool:
    """Whether zeros stand between or around what a convolution reads."""
    p = self.eqn.params
    return self.use.primitive != 'dot_general' and (
      any(end for ends in p['padding'] for end in ends)
      or any(d != 1 for d in p['lhs_dilation'])
    )

  def visit(self, eqn: Any, inputs: Any) -> Any:
    """Notes the smallest and the largest activation at each position."""
    x = jnp.asarray(inputs[1 - self.use.operand])
    ends, _ = self.sides
    x = jnp.moveaxis(x, ends, range(x.ndim - len(ends), x.ndim))
    rows = tuple(range(x.ndim - len(ends)))
    note = jnp.stack([x.min(rows), x.max(rows)])
    return bind(eqn, inputs), note.astype(jnp.float32)

  def contribution(self, leaf: Any, x: np.ndarray) -> np.ndarray:
    """Returns what constant activations add to each output."""
    kernel = np.asarray(self.use.view(jnp.asarray(leaf)), np.float64)
    _, inputs = self.sides
    found = np.tensordot(x, kernel, (range(x.ndim), inputs))
    # A convolution without padding reads the constant at all of its places.
    window = [k - sum(i < k for i in inputs) for k in self.use.window]
    return found.sum(tuple(window))


class Roles(NamedTuple):
  """What touches a group.

  Attributes:
    readers: the uses that contract it.
    reading: its members on their leaves.
    writing: its members on leaves that make it.
    whole: why no unit can be removed; empty if units can.
  """

  readers: tuple[Reader, ...]
  reading: tuple[Member, ...]
  writing: tuple[Member, ...]
  whole: str


def roles(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  groups: structure.Groups,
  *args: Any,
) -> dict[str, Roles]:
  """Finds who reads and who writes the units of each group."""
  closed, _ = trace(apply, params, *args)
  leaves = {n: x for n, x in trees.by_name(params).items() if x is not None}
  shapes = {name: jnp.shape(x) for name, x in leaves.items()}
  found = classify(closed, params, select(params, None))
  tables = found.looked_up
  unsure = found.lost | found.together | (found.multiplied & tables)
  try:
    uses = uses_of(closed, params, found.multiplied - unsure)
  except ValueError:  # It counts multiply-adds too, and some cannot be.
    unsure, uses = set(shapes), []
  eqns = dict(equations(closed))
  paths = {use.path for use in uses}
  added = biases(closed, shapes, paths)
  made = {}
  for name, group in groups.items():
    leaves = {member.leaf for member in group.members}
    whole = ', '.join(sorted(group.pins))
    if group.paired:
      whole = whole or 'activations meet'
    if lost := leaves & unsure:
      whole = whole or f'{min(lost)} is not followed'
    readers, reading, writing = [], [], []
    for member in group.members:
      if whole:
        break
      touched = [use for use in uses if use.name == member.leaf]
      kinds = set()
      for use in touched:
        kind, owner = _side(use, member)
        kinds.add(kind)
        if use.groups > 1 or kind == 'both':
          whole = whole or f'{member.leaf} reads in groups'
        if kind == 'input':
          plain = not (use.loops or use.scans or use.batch)
          reader = Reader(use, eqns[use.path], owner, None, plain)
          if plain and use.exact and reader.outputs_last:
            reader = reader._replace(bias=added.get(use.path))
          readers.append(reader)
      if 'input' in kinds:
        reading.append(member)
      if kinds & {'output', 'both'} or member.leaf in tables:
        writing.append(member)
    if not whole and not readers:
      whole = 'nothing reads it'
    made[name] = Roles(tuple(readers), tuple(reading), tuple(writing), whole)
  return made


def _side(use: Any, member: Member) -> tuple[str, np.ndarray]:
  """Returns on which side of a use a member is, and the unit at each input."""
  number = np.zeros(use.shape[member.axis], np.float32)
  number[member.places] = np.arange(1, len(member.places) + 1)[:, None]
  ends = [1] * len(use.shape)
  ends[member.axis] = -1
  leaf = np.broadcast_to(number.reshape(ends), use.shape)
  view = np.asarray(use.view(jnp.asarray(leaf)))
  view = view[(0,) * len(use.scans)].astype(int)
  ends = [k for k in use.contracted if k not in use.window]
  others = [k for k in range(view.ndim) if k not in ends]
  if not view.any():
    return 'none', view
  along = np.moveaxis(view, others, range(len(others)))
  along = along.reshape(-1, *along.shape[len(others) :])
  if bool((along == along[0]).all()):
    # In the order in which the equation contracts them.
    if use.primitive == 'dot_general':
      order = sorted(ends)
      along = along.transpose(0, *(1 + order.index(k) for k in use.contracted))
    return 'input', along[0] - 1
  across = np.moveaxis(view, ends, range(len(ends)))
  across = across.reshape(-1, *across.shape[len(ends) :])
  return ('output' if (across == across[0]).all() else 'both'), view


def alive_units(
  alive: Mapping[str, np.ndarray],
  groups: structure.Groups,
  name: str,
  members: tuple[Member, ...],
) -> np.ndarray:
  """Returns which units have an alive weight among some members."""
  size = groups[name].size
  found = np.zeros((*stack_shape(groups, name), size), bool)
  for leaf, axis, places in members:
    ends = (*stack_axes(groups, name, leaf), axis)
    x = np.moveaxis(alive[leaf], ends, range(len(ends)))
    x = np.any(x, tuple(range(len(ends), x.ndim)), keepdims=True)
    x = x.reshape(x.shape[: len(ends)])
    found |= np.any(x[..., places], -1)
  return found


def watch(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  readers: Mapping[Any, Reader],
  example: tuple[Any, ...],
) -> dict[Any, np.ndarray]:
  """Returns the range of what readers read: of the example, zeros, and noise.

  A ``[2, positions]`` array for each path, with the smallest and the largest.
  """
  visits = {path: reader.visit for path, reader in readers.items()}
  rng = np.random.default_rng(0)
  lows, highs = {}, {}
  for args in (example, _zeros(example), _noise(example, rng)):
    for path, note in run(apply, visits, params, *args)[1].items():
      low, high = np.asarray(note)
      lows.setdefault(path, []).append(low)
      highs.setdefault(path, []).append(high)
  return {
    path: np.stack([np.min(lows[path], 0), np.max(highs[path], 0)])
    for path in lows
  }


def _zeros(example: tuple[Any, ...]) -> tuple[Any, ...]:
  def zero(x):
    x = jnp.asarray(x)
    number = jnp.issubdtype(x.dtype, jnp.number)
    return jnp.zeros_like(x) if number else x

  return jax.tree.map(zero, example)


def _noise(example: tuple[Any, ...], rng: Any) -> tuple[Any, ...]:
  def draw(x):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return x
    return jnp.asarray(rng.normal(size=x.shape), x.dtype)

  return jax.tree.map(draw, example)
