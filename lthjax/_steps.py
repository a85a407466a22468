"""One update of `sparsify`: other weights are held at zero, or wait."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import _branches, _slots, trees
from lthjax._state import SparsifyState, Topology


class Step(NamedTuple):
  """What an update has to work with, besides its state."""

  topology: Topology
  inner: optax.GradientTransformationExtraArgs
  slots: _slots.Slots
  grads: optax.Updates
  params: Any
  extra_args: dict[str, Any]

  def train(self, topology_state, inner_state, masks, grads=None):
    """Calls the optimizer, for which only the weights of the masks exist."""
    grads = self.grads if grads is None else grads
    if self.topology.penalize is not None:
      grads = self.topology.penalize(topology_state, grads, fast(self.params))
    return self.inner.update(
      where(masks, grads),
      # `set_masks` may have killed weights since the last step.
      self.slots.empty(inner_state, masks, fast(self.params)),
      where(masks, self.params),
      **self.extra_args,
    )

  def late(self, weights: Callable[[], Any]) -> Any:
    """Computes params for a move, leaf by leaf if it takes them so."""
    takes = isinstance(self.topology.move, _branches.TakesLate)
    if not (takes and trees.is_traced(*jax.tree.leaves(self.params))):
      return weights()
    return _branches.leaf_by_leaf(weights, fast(self.params))

  def move(self, topology_state: Any, params: Any, count: Any) -> Any:
    """Moves the masks by the params given, leaf by leaf if it can."""
    assert self.topology.move is not None
    return self.topology.move(topology_state, params, self.grads, count)


def update_sparse(step: Step, state: SparsifyState) -> tuple[Any, Any]:
  """Moves masks, trains what stays alive, and holds the rest at zero."""
  count: Any = state.step
  moving = step.topology.move is not None and step.topology.moves(count)
  topology_state, masks, moving = _move(step, state, moving)
  state = state._replace(topology_state=topology_state)
  if state.trained is None:
    masks = topology_state.masks
  else:
    state = state._replace(trained=masks)
  updates, inner_state = _train(step, state, masks, moving)
  updates = _hold(_land_on_zero, masks, updates, step.params)
  return updates, state._replace(inner_state=inner_state)


def _move(
  step: Step, state: SparsifyState, moving: Any
) -> tuple[Any, Any, Any]:
  """Moves masks, if it is time to.

  Returns:
    The state of the topology, what trains at this step, and whether masks
    moved: a number in memory, which XLA does not compute for every weight.
  """
  if step.topology.move is None:
    return state.topology_state, state.trained, moving

  def move(carry):
    topology_state, trained, true = carry
    # Both trees are equal by now. Of one that only shrinks, a part is
    # written once nothing reads it.
    old = trained
    if trained is None:
      old = topology_state.masks
      if not isinstance(step.topology.move, _branches.TakesLate):
        old = _branches.copied(old, true)
    topology_state = topology_state._replace(masks=old)

    def weights():
      params = step.params
      if step.topology.applies_gradient:
        # Trained here and once more outside, as whatever a branch hands out is
        # written to memory at every step.
        updates, _ = step.train(topology_state, state.inner_state, old)
        updates = _hold(_land_on_zero, old, updates, params)
        params = optax.apply_updates(params, updates)
      return fast(where(old, params))

    moved = step.move(topology_state, step.late(weights), state.step)
    # What has just come alive is zero, and must stay so until the next step.
    trained = None if trained is None else _both(moved.masks, old)
    return moved, trained, true

  def stay(carry):
    topology_state, trained, true = carry
    return topology_state, trained, ~true

  def begin(carry):
    masks, _ = carry
    return _branches.handed_out(masks)

  true, trained = state.step > 0, state.trained
  if trained is not None:
    # What came alive at the last step trains from now on. A move begins with
    # equal trees as well, whatever step the state was set to.
    before: Any = state.step - 1
    began = step.topology.moves(before) | moving
    carry = state.topology_state.masks, trained
    trained = _branches.choose(began, lambda carry: carry[1], begin, carry)
  carry = state.topology_state, trained, true
  if not trees.is_traced(moving):
    topology_state, trained, _ = (move if moving else stay)(carry)
    return topology_state, trained, moving
  return _branches.choose(moving, stay, move, carry)


def _train(
  step: Step, state: SparsifyState, masks: chex.ArrayTree, moving: Any
) -> tuple[Any, Any]:
  """Trains the weights of the masks, unless masks moved instead."""
  old = state.inner_state
  train = functools.partial(step.train, state.topology_state, old, masks)
  if step.topology.move is None:
    return train()
  skips = not step.topology.applies_gradient

  def settle(mask, old, new):
    if skips:
      old, new = jnp.asarray(old), jnp.asarray(new)  # Some are Python numbers.
      same = old.dtype == new.dtype  # Keys cannot be cast, even to their own.
      new = jnp.where(moving, old if same else old.astype(new.dtype), new)
    # Whatever the optimizer put there, what comes alive has empty slots.
    return _slots.where(mask, new)

  own = step.slots.masks(old, masks, fast(step.params))
  each = [
    functools.partial(settle, mask, x)
    for mask, x in zip(own, jax.tree.leaves(old), strict=True)
  ]
  run = _branches.run_settled if trees.is_traced(moving) else _settled
  updates, new = run(train, functools.partial(_settlers, old, each))
  if skips:
    updates = jax.tree.map(lambda u: jnp.where(moving, 0, u), updates)
  return updates, new


def _settled(
  f: Callable[[], tuple[Any, Any]], settlers: Callable[[Any], list[Any]]
) -> tuple[Any, Any]:
  """As `_branches.run_settled`, where nothing is traced."""
  updates, new = f()
  leaves, treedef = jax.tree.flatten(new)
  leaves = [f(x) for f, x in zip(settlers(treedef), leaves, strict=True)]
  return updates, jax.tree.unflatten(treedef, leaves)


def _settlers(old: Any, each: list[Any], structure: Any) -> list[Any]:
  """Returns what settles each leaf; leaves that are new stay as they are."""
  settlers = _slots.by_path(jax.tree.structure(old), each, structure)
  return [f or (lambda x: x) for f in settlers]


def update_dense(step: Step, state: SparsifyState) -> tuple[Any, Any]:
  """Trains some of dense weights, and moves masks by the outcome."""
  count: Any = state.step
  moving = step.topology.moves(count)
  state, before = _begin_dense(step, state)
  masks = before.backward
  if step.topology.move is None:  # The same weights train at every step.
    updates, inner_state = step.train(before, state.inner_state, masks)
    updates = _hold(_wait, masks, updates, step.params)
    return updates, state._replace(inner_state=inner_state)

  def train(grads):
    # What leaves the trained set needs its slots for a last update; they are
    # emptied when the next one begins.
    own = step.slots.masks(state.inner_state, masks, fast(step.params))
    each = [functools.partial(_slots.where, m) for m in own]
    f = functools.partial(step.train, before, state.inner_state, masks, grads)
    run = _branches.run_settled if trees.is_traced(moving) else _settled
    settlers = functools.partial(_settlers, state.inner_state, each)
    updates, inner_state = run(f, settlers)
    return _hold(_wait, masks, updates, step.params), inner_state

  def move(updates=None):
    def weights():
      found = train(step.grads)[0] if updates is None else updates
      return fast(optax.apply_updates(step.params, found))

    return step.move(before, step.late(weights), state.step)

  if not trees.is_traced(moving):
    updates, inner_state = train(step.grads)
    moved = move(updates) if moving else state.topology_state
    return updates, state._replace(
      topology_state=moved, inner_state=inner_state
    )
  # What comes out is true, but not before the branch has read all that is then
  # overwritten: with it, XLA needs no copies.
  true = state.step > 0
  moved, ready = _branches.choose(
    moving,
    lambda carry: carry,
    lambda _: (move(), true),
    (state.topology_state, true),
  )
  grads = jax.tree.map(lambda g: jnp.where(ready, g, 0), step.grads)
  updates, inner_state = train(grads)
  return updates, state._replace(topology_state=moved, inner_state=inner_state)


def _begin_dense(step: Step, state: SparsifyState) -> tuple[Any, Any]:
  """Returns the state, and that of the topology with the masks that train."""
  topology_state = state.topology_state
  if state.trained is None:
    return state, topology_state
  before: Any = state.step - 1
  now = topology_state.masks, topology_state.backward
  masks, backward = _branches.choose(
    step.topology.moves(before),
    lambda carry: carry[1],
    lambda carry: _branches.handed_out(carry[0]),
    (now, state.trained),
  )
  state = state._replace(trained=(masks, backward))
  return state, topology_state._replace(masks=masks, backward=backward)


def trained(state: SparsifyState) -> Any:
  """Returns the masks of the weights that train; `None` where a leaf does."""
  masks = state.topology_state
  return masks.backward if state.keeps_dense else masks.masks


def where(masks: chex.ArrayTree, tree: Any) -> Any:
  """Zeroes dead entries."""

  def each(tree):
    return jax.tree.map(_slots.keep, masks, tree, is_leaf=trees.is_none)

  return halves(each, tree)


def _both(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Masks of the weights that were and stay alive."""
  return jax.tree.map(jnp.logical_and, a, b)


def _hold(
  rest: Callable[[Any, Any], Any],
  masks: chex.ArrayTree,
  updates: Any,
  params: Any,
) -> Any:
  """Passes the updates of some weights on, and replaces all others."""

  def hold(m, u, w):
    return u if m is None or u is None else jnp.where(m, u, rest(u, w))

  def each(updates, params):
    return jax.tree.map(hold, masks, updates, params, is_leaf=trees.is_none)

  return halves(each, updates, params)


def _land_on_zero(update: jax.Array, param: jax.Array) -> jax.Array:
  """An update of -w, in a dtype that holds it: +0.0 for every finite w."""
  del update
  return -param


def _wait(update: jax.Array, param: jax.Array) -> jax.Array:
  """An update of -0.0, which keeps the bits of every weight, -0.0 too."""
  del param
  return jnp.asarray(-0.0, update.dtype)


def halves(f: Callable[..., Any], *trees: Any) -> Any:
  """Calls a function with params, or with both those of `optax.lookahead`."""
  if isinstance(trees[0], optax.LookaheadParams):
    return optax.LookaheadParams(*(f(*x) for x in zip(*trees, strict=True)))
  return f(*trees)


def fast(params: Any) -> Any:
  """Returns the params that a network runs with."""
  return params.fast if isinstance(params, optax.LookaheadParams) else params
