"""Optimizer slots that belong to single weights, and how to empty them."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import trees


class Slots:
  """Finds the slots of single weights in the states of one optimizer.

  A slot belongs to single weights if it has the shape of their parameter,
  whatever that shape is. The projections of `optax.contrib.galore`, or the
  preconditioners of a square matrix, only happen to have it.
  """

  def __init__(self, inner: optax.GradientTransformation):
    self._inner = inner
    self._known: Any = (None, None, None)

  def masks(
    self, inner_state: optax.OptState, masks: chex.ArrayTree, params: Any
  ) -> list[Any]:
    """Returns the mask of each leaf of a state; `None` where it has none."""
    structure = jax.tree.structure(inner_state)
    if not jax.tree.leaves(masks):
      return [None] * structure.num_leaves
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(params)]
    table = trees.by_name(masks)
    masked = [name for name, mask in table.items() if mask is not None]
    kind = jax.tree.structure(params), shapes, structure, masked
    if self._known[0] != kind:  # Once for params of one kind.
      start = self._start(inner_state, params)
      names = self._names(start, masks, params)
      self._known = kind, jax.tree.structure(start), names
    _, start, names = self._known
    each = [None if name is None else table[name] for name in names]
    return by_path(start, each, structure)

  def empty(
    self, inner_state: optax.OptState, masks: chex.ArrayTree, params: Any
  ) -> optax.OptState:
    """Zeroes the slots of the weights whose mask is false."""
    leaves, treedef = jax.tree.flatten(inner_state)
    each = self.masks(inner_state, masks, params)
    leaves = [keep(m, x) for m, x in zip(each, leaves, strict=True)]
    return jax.tree.unflatten(treedef, leaves)

  def _start(self, inner_state: Any, params: Any) -> Any:
    """Returns a state as `init` makes it; `optax.monitor` adds to its own."""
    try:
      start = jax.eval_shape(self._inner.init, params)
    except Exception:  # such as `optax.lookahead`, of other params
      return inner_state
    same = jax.tree.structure(start) == jax.tree.structure(inner_state)
    return inner_state if same else start

  def _names(self, start: Any, masks: Any, params: Any) -> list[str | None]:
    """Returns the name of the param that each leaf of a state belongs to."""

    def name_of(path, mask):
      return _Of(trees.path_name(path), getattr(mask, 'shape', None))

    names = jax.tree_util.tree_map_with_path(name_of, masks, is_leaf=_is_hidden)
    try:
      pairs = self._pair(lambda slot, of: of.of(slot), start, names)
    except Exception as error:  # of any type, from `init` or `tree.map`
      found = self._by_probing(params) if _measures(start) else None
      if found is not None:
        return found
      raise ValueError(_NO_SLOTS.format(type(error).__name__)) from error
    follows = self._follows(len(pairs), masks, params)
    return [
      pair.name if follow else None
      for pair, follow in zip(pairs, follows, strict=True)
    ]

  def _follows(self, number: int, masks: Any, params: Any) -> list[bool]:
    """Returns which leaves have a shape that follows that of the params."""
    # Seen from `init` on abstract params of other shapes: a matrix as [2, 3]
    # and as [3, 2]. An optimizer that takes no such shapes is taken to follow.
    follows = [True] * number
    for order in 1, -1:

      def other(mask, x, order=order):
        if not hasattr(mask, 'shape'):
          return x
        shape = tuple(range(2, 2 + x.ndim)[::order])
        return jax.ShapeDtypeStruct(shape, x.dtype)

      probe = jax.tree.map(other, masks, params, is_leaf=trees.is_none)
      try:
        state = jax.eval_shape(self._inner.init, probe)
      except Exception:  # whatever an optimizer says of shapes it cannot take
        return follows
      pairs = self._pair(
        lambda slot, x: _Of('' if _same_shape(slot, x) else None), state, probe
      )
      if len(pairs) != len(follows):
        return follows
      # Leaves that are paired with nothing, as at the start, do not matter.
      each = [pair.passed or pair.name is not None for pair in pairs]
      follows = [a and b for a, b in zip(follows, each, strict=True)]
    return follows

  def _by_probing(self, params: Any) -> list[str | None] | None:
    """Returns the names from what follows the shape of each param alone.

    For the measures of `optax.snapshot`, which take nothing but arrays. `None`
    if something follows the shape of a param without having it.
    """
    leaves, structure = jax.tree.flatten(params)
    paths = _paths(structure)

    def shapes(leaves):
      state = jax.eval_shape(
        self._inner.init, jax.tree.unflatten(structure, leaves)
      )
      return [x.shape for x in jax.tree.leaves(state)]

    before = shapes(leaves)
    names: list[str | None] = [None] * len(before)
    for i, x in enumerate(leaves):
      other = tuple(n + 1 for n in x.shape)
      probe = jax.ShapeDtypeStruct(other, x.dtype)
      after = shapes([*leaves[:i], probe, *leaves[i + 1 :]])
      for j, (a, b) in enumerate(zip(before, after, strict=True)):
        if (a, b) == (x.shape, other):
          names[j] = trees.path_name(paths[i])
        elif a != b:
          return None
    return names

  def _pair(self, f, inner_state, params) -> list['_Of']:
    """Calls ``f(slot, param)`` where `optax.tree.map_params` does."""

    def at(slot, x):
      return f(slot, x) if hasattr(slot, 'shape') else slot

    tree = optax.tree.map_params(
      self._inner,
      at,
      inner_state,
      params,
      transform_non_params=lambda _: _Of(None, passed=True),
      is_leaf=_is_hidden,
    )
    return jax.tree.leaves(tree)


_NO_SLOTS = (
  'Masks need the optimizer slots of single weights, but'
  ' `optax.tree.map_params` finds none in the state of this optimizer'
  ' ({}). That is so for `optax.sm3`, whose accumulators are shared by rows and'
  ' columns; for `optax.flatten`, whose slots are one vector for all params;'
  ' and for `optax.lbfgs` and the line searches, which remember whole steps.'
  ' Use another optimizer, such as `optax.adamw`.'
)


class _Of:
  """A leaf that holds the name of the param that a slot belongs to, if any."""

  def __init__(
    self, name: str | None, shape: Any = None, *, passed: bool = False
  ):
    self.name, self.shape, self.passed = name, shape, passed

  def of(self, slot: Any) -> '_Of':
    """Returns itself for a slot of the param's shape."""
    return self if _same_shape(slot, self) else _Of(None)


def by_path(old: Any, values: list[Any], new: Any) -> list[Any]:
  """Returns the values of leaves in one structure for those of another."""
  if old == new:
    return values
  known = dict(zip(_paths(old), values, strict=True))
  return [known.get(path) for path in _paths(new)]


def _paths(structure: Any) -> list[Any]:
  tree = jax.tree.unflatten(structure, range(structure.num_leaves))
  return [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _is_hidden(x: Any) -> bool:
  """Whether there is no slot, as where optimizers pass a param over."""
  return x is None or isinstance(x, optax.MaskedNode)


def _measures(state: Any) -> bool:
  """Whether a state has what `optax.snapshot` or `optax.monitor` measured."""

  def measured(x):
    return type(x).__name__ in ('SnapshotState', 'MonitorState')

  return any(map(measured, jax.tree.leaves(state, is_leaf=measured)))


def where(mask: Any, x: Any) -> Any:
  """Zeroes dead entries; not by multiplication, which keeps NaN and -0.0."""
  return (
    x if mask is None or x is None else jnp.where(mask, x, jnp.zeros_like(x))
  )


def keep(mask: Any, x: Any) -> Any:
  """Does the same to what an update is given, to bfloat16 by its bits.

  XLA:CPU selects among bfloat16 in float32, and stores what it converts. What
  an update returns is for `where`: as bits, XLA would compute it once more for
  whatever reads it.
  """
  if mask is None or getattr(x, 'dtype', None) != jnp.bfloat16:
    return where(mask, x)
  return _keep_bits(mask, x)


@jax.custom_jvp
def _keep_bits(mask: jax.Array, x: jax.Array) -> jax.Array:
  bits = jax.lax.bitcast_convert_type(x, jnp.uint16)
  return jax.lax.bitcast_convert_type(where(mask, bits), jnp.bfloat16)


@_keep_bits.defjvp
def _keep_bits_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
  return _keep_bits(*primals), where(primals[0], tangents[1])


def _same_shape(slot: Any, x: Any) -> bool:
  """Whether both are arrays, of the same shape."""
  shapes = getattr(slot, 'shape', None), getattr(x, 'shape', None)
  return None not in shapes and shapes[0] == shapes[1]
