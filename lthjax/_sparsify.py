"""Training with some weights held at exactly zero, as an optax transformation.

`sparsify` wraps any optimizer. What it wraps sees a smaller model: the
gradients, weights and optimizer slots of dead weights are zero, so that norms,
clipping, moments and decay concern alive weights only. What comes out makes
`optax.apply_updates` land dead weights on exactly +0.0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import trees


class Topology(NamedTuple):
  """How the alive set starts and moves: a few pure functions.

  Attributes:
    init: ``init(params) -> state``; the state is a NamedTuple that has a field
      ``masks``.
    move: ``move(state, params, grads, step) -> state`` with other masks, called
      at the steps that ``moves`` tells, with the gradients of all weights, dead
      ones included. `None` where masks never move.
    moves: ``moves(step) -> bool``, traced; steps are counted from 1.
    observe: ``observe(state, grads) -> state``, called at every step before
      masks move, to keep statistics of the gradients; `None` for nothing.
    applies_gradient: whether a step that moves masks also trains. Then the
      masks move after the weights; otherwise they move instead, and of the
      optimizer only the counts of steps go on.
  """

  init: Callable[[optax.Params], Any]
  move: Callable[[Any, optax.Params, optax.Updates, jax.Array], Any] | None = (
    None
  )
  moves: Callable[[jax.Array], jax.Array] = lambda step: jnp.asarray(False)
  observe: Callable[[Any, optax.Updates], Any] | None = None
  applies_gradient: bool = False


class SparsifyState(NamedTuple):
  """State of `sparsify`.

  Attributes:
    step: number of updates so far, int32.
    topology_state: state of the topology, with the masks.
    inner_state: state of the wrapped transformation.
  """

  step: chex.Array
  topology_state: Any
  inner_state: optax.OptState


def sparsify(
  inner: optax.GradientTransformation, topology: Topology
) -> optax.GradientTransformationExtraArgs:
  """Trains the alive weights with ``inner``; holds all others at zero.

  Nothing may change the updates afterwards, so wrap the whole chain:
  ``sparsify(optax.chain(...), topology)``. With every weight alive the updates
  are those of ``inner``, to the bit.

  Args:
    inner: any optax transformation whose state `optax.tree.map_params` can look
      into, which is all but `optax.sm3` and the line searches; extra arguments
      are passed on to it.
    topology: which weights are alive, and how that changes.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: from ``init`` if the topology does not fit the params; from
      ``update`` without ``params``, or with gradients that do not fit.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[1.0, 2.0]])}
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> tx = lth.sparsify(optax.sgd(0.1), lth.topologies.fixed(masks))
    >>> state = tx.init(params)
    >>> updates, state = tx.update({'w': jnp.ones((1, 2))}, state, params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([[0.9, 0. ]], dtype=float32)}

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 2
    (training of f(x; m * theta)).
  """
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    if not jax.tree.leaves(params):
      # `optax.tree.map_params` probes `init` with a tree that has no leaves. A
      # leaf in place of the masks makes it pass over them whole.
      topology_state = jnp.zeros([], bool)
      return SparsifyState(
        jnp.zeros([], jnp.int32), topology_state, inner.init(params)
      )
    topology_state = topology.init(params)
    alive = where_alive(topology_state.masks, params)
    return SparsifyState(
      step=jnp.zeros([], jnp.int32),
      topology_state=topology_state,
      inner_state=inner.init(alive),
    )

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        '`sparsify` needs the current params to hold dead weights at zero:'
        ' call `tx.update(grads, state, params)`.'
      )
    grads, old, step = updates, state.topology_state.masks, state.step + 1
    trees.check_like(old, grads, 'gradients')

    # Functions, not values: a value that the `cond` below takes in would be
    # written to memory at every step, where it is otherwise never whole.
    def slots():
      # Whatever is dead has none, also if `set_masks` killed it just now.
      return zero_slots(inner, state.inner_state, old)

    def train():
      return inner.update(
        where_alive(old, grads), slots(), where_alive(old, params), **extra_args
      )

    updates, inner_state = train()
    topology_state = state.topology_state
    if topology.observe is not None:
      topology_state = topology.observe(topology_state, grads)
    masks = old
    if topology.move is not None:
      moving = topology.moves(step)
      topology_state = move_when(
        moving,
        lambda state: _move(topology, state, params, grads, step, train),
        topology_state,
      )
      if not topology.applies_gradient:
        updates = jax.tree.map(lambda u: jnp.where(moving, 0, u), updates)
        inner_state = _skip_when(moving, slots(), inner_state)
      # What dies loses its slots, and what comes alive starts with empty ones.
      masks = both(topology_state.masks, old)
      inner_state = zero_slots(inner, inner_state, masks)
    updates = jax.tree.map(
      _land_on_zero, masks, updates, params, is_leaf=trees.is_none
    )
    return updates, SparsifyState(step, topology_state, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def where_alive(masks: chex.ArrayTree, tree: chex.ArrayTree) -> chex.ArrayTree:
  """Zeroes dead entries; not by multiplication, which keeps NaN and -0.0."""

  def zero(m, x):
    return x if m is None or x is None else jnp.where(m, x, jnp.zeros_like(x))

  return jax.tree.map(zero, masks, tree, is_leaf=trees.is_none)


def move_when(moving: Any, move: Callable[[Any], Any], state: Any) -> Any:
  """Moves masks at the steps that are for it, and pays only there."""
  if trees.is_traced(moving):
    return jax.lax.cond(moving, lambda: move(state), lambda: state)
  # Known without a trace; there a `cond` is compiled again at every call.
  return move(state) if moving else state


def _move(
  topology: Topology,
  state: Any,
  params: Any,
  grads: Any,
  step: jax.Array,
  train: Callable[[], tuple[Any, Any]],
) -> Any:
  """Moves the masks, after training where the topology says so."""
  if topology.applies_gradient:
    # Computed again rather than kept, which would cost every other step.
    params = optax.apply_updates(params, train()[0])
  assert topology.move is not None
  return topology.move(state, where_alive(state.masks, params), grads, step)


def _skip_when(moving: jax.Array, old: Any, new: Any) -> Any:
  """Takes back what a step did, but for its counts, which schedules follow."""

  def skip(x, y):
    if y.ndim == 0 and jnp.issubdtype(y.dtype, jnp.integer):
      return y
    same = x.dtype == y.dtype  # Random keys cannot be cast, even to their own.
    return jnp.where(moving, x if same else x.astype(y.dtype), y)

  return jax.tree.map(skip, old, new)


def both(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Masks of the weights that were and stay alive."""
  return jax.tree.map(lambda x, y: x if x is y else x & y, a, b)


def _land_on_zero(m: Any, update: Any, param: Any) -> Any:
  """An update of -w, in a dtype that holds it: +0.0 for every finite w."""
  if m is None or update is None:
    return update
  return jnp.where(m, update, -param)


def zero_slots(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  masks: chex.ArrayTree,
) -> optax.OptState:
  """Zeroes every params-shaped slot of ``inner`` where the mask is false."""

  def zero(slot, mask):
    # Factored or otherwise smaller slots do not belong to single weights.
    if mask is None or getattr(slot, 'shape', None) != mask.shape:
      return slot
    return jnp.where(mask, slot, jnp.zeros_like(slot))

  return optax.tree.map_params(
    inner,
    zero,
    inner_state,
    masks,
    is_leaf=lambda x: x is None or isinstance(x, optax.MaskedNode),
  )
