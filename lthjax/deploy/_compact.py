"""Networks without the units that pruning has left useless."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, _table, structure, trees
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.deploy import _units
from lthjax.structure._compact import blame, difference
from lthjax.structure._groups import choose


class UnitGroup(NamedTuple):
  """What `compact` does to the units of one group.

  Attributes:
    size: the number of units.
    kept: the number that stays, per layer where the group is stacked.
    unread: the number removed because all weights that read them are dead.
    constant: the number removed because all weights that make them are dead:
      what they contribute is added to the biases of the next layer.
    whole: what keeps the group whole; empty if units can be removed.
  """

  size: int
  kept: int
  unread: int
  constant: int
  whole: str


class Compaction(NamedTuple):
  """What `compact` would do.

  Attributes:
    groups: ``{name of the group: UnitGroup}``.
    shapes: ``{leaf: shape}`` after it. Models with widths of their own, such as
      those of Flax, have to be built with these.
  """

  groups: dict[str, UnitGroup]
  shapes: dict[str, tuple[int, ...]]

  def __str__(self) -> str:
    """Lists the groups in a table."""
    if not self.groups:
      return 'no groups of units'
    rows = [
      (name, *map(str, group[:4]), group.whole or '--')
      for name, group in self.groups.items()
    ]
    head = ('group', 'units', 'kept', 'unread', 'constant', 'whole because of')
    return _table.write(head, rows)


def compact(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  *example: Any,
  rebuilt: Callable[..., Any] | None = None,
  whole: str | Sequence[str] = (),
  tolerance: float = 1e-5,
) -> tuple[Any, Any]:
  """Removes units that pruning has left useless, so that networks get smaller.

  Removed are units that nothing reads, and units that nothing makes: what these
  contribute is constant, and goes into the biases of the layers that read them.
  Removing a unit may leave others useless, so this repeats until nothing
  changes. Where it is not certain that nothing else changes, units stay.
  Finally, both networks run on the example, and have to agree.

  Args:
    apply: pure function ``apply(params, *example)``. It takes sizes from the
      params.
    params: tree of arrays. To include running statistics give ``(params,
      model_state)``, and masks of both.
    masks: tree of masks.
    *example: trees of arrays, such as a batch of examples.
    rebuilt: the function for the smaller params, if ``apply`` has sizes of its
      own. `compaction` says which ones to build it with.
    whole: names or globs of groups to leave as they are.
    tolerance: the largest difference between the two networks, relative to the
      largest output if that is above 1. Programs in bfloat16 need more.

  Returns:
    The smaller params, with their masks applied, and the masks. If the program
    has no groups of units, both as given, with a warning.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {
    ...   'w1': jnp.eye(2),
    ...   'b1': jnp.array([0.5, 2.0]),
    ...   'w2': jnp.array([[3.0], [4.0]]),
    ...   'b2': jnp.array([1.0]),
    ... }
    >>> masks = {
    ...   'w1': jnp.array([[True, False], [False, False]]),
    ...   'b1': None,
    ...   'w2': jnp.ones((2, 1), bool),
    ...   'b2': None,
    ... }
    >>> def apply(p, x):
    ...   return jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2'] + p['b2']
    >>> small, _ = deploy.compact(apply, params, masks, jnp.ones((1, 2)))
    >>> small['w1'].shape, small['b2']
    ((2, 1), Array([9.], dtype=float32))
  """
  if rebuilt is not None:
    _checks.function('rebuilt', rebuilt, 'rebuilt(params, *example)')
  tolerance = _checks.not_negative('tolerance', tolerance)
  state = _State.of(apply, params, masks, example, whole)
  if not state.groups:
    warnings.warn(
      'The program has no groups of units, so `compact` changed nothing:'
      ' hidden axes that matmuls or convolutions share were not found.',
      stacklevel=2,
    )
    return params, masks
  state.remove()
  keeps = state.keeps()
  small, small_masks = state.cut(keeps)
  masked = masks_lib.apply(masks, params)
  expected = jax.jit(apply)(masked, *example)
  _check_finite(expected)
  run = jax.jit(rebuilt or apply)

  def fault_of(small):
    return difference(expected, run, small, example, tolerance, floor=1.0)

  if fault := fault_of(small):
    # Which groups it is, unless the program has to be built again.
    alone = {} if rebuilt else keeps
    bad = blame(alone, lambda one: fault_of(state.cut(one)[0])) or [fault]
    raise ValueError(
      f'The smaller network is another function: {"; ".join(bad)}. Is'
      ' there a size in the program that does not come from the params? Then'
      ' build it with the shapes that `lthjax.deploy.compaction` gives, and'
      ' pass it as `rebuilt=`, or leave these groups as they are with'
      ' `whole=`.'
    )
  return small, small_masks


def _check_finite(outputs: Any) -> None:
  """Raises where outputs cannot be compared."""
  refuse(
    [
      name or 'the output'
      for name, x in trees.by_name(outputs).items()
      if x is not None
      and jnp.issubdtype(x.dtype, jnp.inexact)
      and not jnp.isfinite(x).all()
    ],
    '`compact` compares what both networks compute, but with these params and'
    ' this example not all numbers are finite in: {}. Pass others.',
  )


def compaction(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  *example: Any,
  whole: str | Sequence[str] = (),
) -> Compaction:
  """Says which units `compact` would remove, and why others stay.

  Args:
    apply: pure function ``apply(params, *example)``.
    params: tree of arrays.
    masks: tree of masks.
    *example: trees of arrays, such as a batch of examples.
    whole: names or globs of groups to leave as they are.

  Returns:
    The `Compaction`, which prints as a table.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {'w1': jnp.ones((4, 3)), 'w2': jnp.ones((3, 2))}
    >>> masks = {'w1': jnp.ones((4, 3), bool), 'w2': jnp.eye(3, 2) > 0}
    >>> def apply(params, x):
    ...   return jax.nn.relu(x @ params['w1']) @ params['w2']
    >>> print(deploy.compaction(apply, params, masks, jnp.ones((1, 4))))
    group  units  kept  unread  constant  whole because of
    w1[0]      4     4       0         0  input
    w1[1]      3     2       1         0  --
    w2[1]      2     2       0         0  output
  """
  state = _State.of(apply, params, masks, example, whole)
  state.remove()
  keeps = state.keeps()
  small, _ = state.cut(keeps)
  found = {}
  for name, group in state.groups.items():
    kept = group.size
    if name in keeps:
      kept = int(keeps[name].sum(-1).max())
    counts = [int(x.get(name, np.False_).sum()) for x in state.why]
    found[name] = UnitGroup(
      group.size, kept, counts[0], counts[1], state.roles[name].whole
    )
  leaves = {n: x for n, x in trees.by_name(small).items() if x is not None}
  return Compaction(found, {name: jnp.shape(x) for name, x in leaves.items()})


class _State:
  """A network on its way to a smaller one, at its full size."""

  def __init__(self, apply, params, masks, example, groups):
    self.apply, self.example, self.groups = apply, example, groups
    self.names, self.rebuild = trees.flatten(params)
    self.params: dict[str, Any] = {
      n: None if x is None else np.array(x) for n, x in self.names.items()
    }
    given = trees.by_name(masks)
    self.masks = {
      n: None if m is None else np.array(m) for n, m in given.items()
    }
    self.alive = {
      n: np.ones(np.shape(x), bool) if given[n] is None else np.array(given[n])
      for n, x in self.names.items()
      if x is not None
    }
    self.roles = _units.roles(apply, params, groups, *example)
    # Units removed because they are unread, and because they are constant.
    self.why: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})

  @classmethod
  def of(cls, apply, params, masks, example, whole) -> '_State':
    """Checks what was given, and finds the groups."""
    _checks.function('apply', apply, 'apply(params, *example)')
    trees.check_like(masks, params, 'params')
    if not example:
      raise ValueError(
        '`compact` needs an example, such as a batch, to compare both networks.'
      )
    if trees.is_traced(*jax.tree.leaves((params, masks, example))):
      raise ValueError(
        '`compact` compares numbers and shapes: call it outside of `jax.jit`.'
      )
    if any(map(trees.is_abstract, jax.tree.leaves((params, masks, example)))):
      raise TypeError(
        '`compact` compares numbers: pass arrays, not `jax.ShapeDtypeStruct`.'
      )
    masked = masks_lib.apply(masks, params)
    groups = structure.groups(apply, masked, *example)
    state = cls(apply, masked, masks, example, groups)
    for name in choose(groups, whole, 'whole'):
      state.roles[name] = state.roles[name]._replace(whole='asked for')
    return state

  def tree(self) -> chex.ArrayTree:
    return self.rebuild.unflatten(list(self.params.values()))

  def removed(self, name: str) -> np.ndarray:
    """Returns which units of a group are removed so far."""
    none = np.zeros(self.groups[name].size, bool)
    return np.logical_or(*(found.get(name, none) for found in self.why))

  def remove(self) -> None:
    """Removes unread and constant units until nothing changes."""
    free = [name for name in self.groups if not self.roles[name].whole]
    while True:
      unread = {name: self.unread(name) for name in free}
      changed = self.kill(unread, 0)
      changed |= self.kill(self.constant(free), 1)
      if not changed:
        return

  def unread(self, name: str) -> np.ndarray:
    """Returns the units of a group whose readers are all dead."""
    reading = self.roles[name].reading
    return ~_units.alive_units(self.alive, self.groups, name, reading)

  def constant(self, free: list[str]) -> dict[str, np.ndarray]:
    """Returns constant units, whose contributions are now in biases."""
    candidates, readers = {}, {}
    for name in free:
      writing = self.roles[name].writing
      dead = ~_units.alive_units(self.alive, self.groups, name, writing)
      dead = dead & ~self.removed(name)
      plain = all(reader.plain for reader in self.roles[name].readers)
      if writing and plain and dead.ndim == 1 and dead.any():
        candidates[name] = dead
        readers |= {r.use.path: r for r in self.roles[name].readers}
    if not candidates:
      return {}
    seen = _units.watch(self.apply, self.tree(), readers, self.example)
    found = {}
    for name, dead in candidates.items():
      for reader in self.roles[name].readers:
        dead = dead & self.foldable(reader, seen[reader.use.path], len(dead))
      found[name] = self.leave_one(name, dead)
      for reader in self.roles[name].readers:
        self.fold(reader, seen[reader.use.path], found[name])
    return found

  def foldable(
    self, reader: _units.Reader, seen: np.ndarray, size: int
  ) -> np.ndarray:
    """Returns the units that are zero, or constant where there is a bias."""
    low, high = (x.reshape(reader.owner.shape) for x in seen)
    scale = np.maximum(1, np.maximum(abs(low), abs(high)))
    fine = (low == 0) & (high == 0)
    if reader.bias is not None and not reader.padded:
      fine |= high - low <= 1e-6 * scale
    bad = np.unique(reader.owner[~fine])
    return ~np.isin(np.arange(size), bad)

  def fold(
    self, reader: _units.Reader, seen: np.ndarray, units: np.ndarray
  ) -> None:
    """Adds the contribution of constant units to the bias of a reader."""
    if reader.bias is None or not units.any():
      return
    constant = seen.mean(0, dtype=np.float64).reshape(reader.owner.shape)
    theirs = (reader.owner >= 0) & units[reader.owner]
    x = np.where(theirs, constant, 0.0)
    more = reader.contribution(self.params[reader.use.name], x)
    bias = self.params[reader.bias]
    self.params[reader.bias] = (bias + more).astype(bias.dtype)
    if self.masks[reader.bias] is not None:
      self.masks[reader.bias] |= more != 0
      self.alive[reader.bias] |= more != 0

  def leave_one(self, name: str, units: np.ndarray) -> np.ndarray:
    """Returns units to remove of which, with those before, one stays."""
    left = ~(self.removed(name) | units)
    empty = ~left.any(-1, keepdims=True)
    units = units & ~self.removed(name)
    first = units.argmax(-1)[..., None] == np.arange(units.shape[-1])
    return units & ~(empty & first)

  def kill(self, units: Mapping[str, np.ndarray], why: int) -> bool:
    """Zeroes all that belongs to units; returns whether there were any."""
    new = {name: self.leave_one(name, dead) for name, dead in units.items()}
    new = {name: dead for name, dead in new.items() if dead.any()}
    if not new:
      return False
    for name, dead in new.items():
      self.why[why][name] = self.why[why].get(name, np.False_) | dead
    keeps: Any = {name: ~dead for name, dead in new.items()}
    masks = structure.masks(keeps, self.tree(), self.groups)
    for name, mask in trees.by_name(masks).items():
      if mask is not None:
        self.alive[name] &= np.asarray(mask)
        self.params[name] = np.where(mask, self.params[name], 0)
    return True

  def keeps(self) -> dict[str, np.ndarray]:
    """Returns the units to keep: equally many in each layer of a stack."""
    found = {}
    for name in self.groups:
      keep = ~self.removed(name)
      if keep.all():
        continue
      number = keep.sum(-1).max()
      # Units of zeros fill up the layers that have fewer.
      rank = np.argsort(np.argsort(~keep, axis=-1, kind='stable'), axis=-1)
      found[name] = rank < number
    return found

  def cut(self, keeps: Any) -> tuple[Any, Any]:
    """Returns the smaller params and masks."""
    masks = self.rebuild.unflatten(list(self.masks.values()))
    found = self.tree(), masks
    if keeps:
      found = (
        structure.cut(found[0], self.groups, keeps),
        (structure.cut(masks, self.groups, keeps)),
      )
    small, small_masks = jax.device_put(found)
    return small, small_masks
