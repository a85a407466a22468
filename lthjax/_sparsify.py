"""Sparse training as an optax transformation around any optimizer.

`sparsify` wraps any optimizer. The wrapped optimizer sees a smaller model: the
gradients, weights and optimizer slots of weights that do not train are zero, so
that norms, clipping, moments and weight decay concern the others only. Weights
that do not train land on exactly +0.0, or wait at their values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import _checks, trees


class Topology(NamedTuple):
  """A few pure functions that choose the masks at the start and move them.

  The state of a topology is a NamedTuple with a field ``masks``: the weights
  that the network runs with. These train, and all others are held at zero. If
  the state has a field ``backward`` as well, params stay dense: the weights in
  ``backward`` train (`None` at a leaf trains all of it), and all others keep
  their values. The loss is then taken at `lthjax.forward_params`.

  Attributes:
    init: ``init(params) -> state``.
    move: ``move(state, params, grads, step) -> state`` with other masks, called
      at the steps that ``moves`` selects, with the gradients of all weights,
      dead ones included. `None` if masks never move.
    moves: ``moves(step) -> bool``, traced or not; steps are counted from 1.
    observe: ``observe(state, grads) -> state``, called at every step before
      masks move, to keep statistics of the gradients; `None` for nothing.
    penalize: ``penalize(state, grads, params) -> grads``, which adds to the
      gradients before the optimizer sees them; `None` adds nothing.
    applies_gradient: whether a step that moves masks also trains. Then the
      masks move after the weights; otherwise they move instead, and of the
      optimizer only the counts of steps go on.
  """

  init: Callable[[optax.Params], Any]
  move: Callable[[Any, optax.Params, optax.Updates, jax.Array], Any] | None = (
    None
  )
  moves: Callable[[jax.Array], Any] = lambda step: False
  observe: Callable[[Any, optax.Updates], Any] | None = None
  penalize: Callable[[Any, optax.Updates, optax.Params], Any] | None = None
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

  @property
  def keeps_dense(self) -> bool:
    """Whether weights outside the masks keep their values."""
    return hasattr(self.topology_state, 'backward')


def sparsify(
  inner: optax.GradientTransformation, topology: Topology
) -> optax.GradientTransformationExtraArgs:
  """Trains the weights that a topology selects with ``inner``.

  Nothing may change the updates afterwards, so wrap the whole chain:
  ``sparsify(optax.chain(...), topology)``. With every weight alive the updates
  are those of ``inner``, bit for bit.

  Args:
    inner: any optax transformation whose state `optax.tree.map_params` can look
      into, which is all but `optax.sm3` and the line searches; extra arguments
      are passed on to it.
    topology: chooses which weights are alive, and moves them.

  Returns:
    A transformation whose ``update`` requires ``params``.

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
    (training of f(x; m * theta)). Bengio et al., Estimating or Propagating
    Gradients Through Stochastic Neurons for Conditional Computation,
    arXiv:1308.3432 (dense weights behind a sparse forward pass).
  """
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    step = jnp.zeros([], jnp.int32)
    if not jax.tree.leaves(params):
      # `optax.tree.map_params` probes `init` with a tree that has no leaves. A
      # leaf in place of the masks makes it pass over them whole.
      return SparsifyState(step, jnp.zeros([], bool), inner.init(params))
    topology_state = topology.init(params)
    trained = trained_masks(topology_state)
    inner_state = inner.init(where_alive(trained, params))
    inner_state = zero_slots(inner, inner_state, trained)
    return SparsifyState(step, topology_state, inner_state)

  def update_fn(updates, state, params: Any = None, **extra_args):
    _checks.needs_params('sparsify', params)
    grads, topology_state, step = updates, state.topology_state, state.step + 1
    trees.check_like(topology_state.masks, grads, 'gradients')
    trained = trained_masks(topology_state)

    # Closures, not values: an operand of the `cond` below would be written to
    # memory at every step; recomputed inside, XLA fuses it away.
    def slots():
      # `set_masks` may have killed weights since the last step.
      return zero_slots(inner, state.inner_state, trained)

    def train():
      pulled = grads
      if topology.penalize is not None:
        pulled = topology.penalize(topology_state, grads, params)
      return inner.update(
        where_alive(trained, pulled),
        slots(),
        where_alive(trained, params),
        **extra_args,
      )

    def hold(masks, updates):
      f = _wait if state.keeps_dense else _land_on_zero
      return jax.tree.map(f, masks, updates, params, is_leaf=trees.is_none)

    def move(moved):
      at: Any = params
      if topology.applies_gradient:
        # Computed again rather than kept, which would cost every other step.
        updates = hold(trained, train()[0] if traced else trained_updates)
        at = optax.apply_updates(params, updates)
      if not state.keeps_dense:
        at = where_alive(trained, at)
      assert topology.move is not None
      return topology.move(moved, at, grads, step)

    updates, inner_state = train()
    if topology.observe is not None:
      topology_state = topology.observe(topology_state, grads)
    now = trained
    if topology.move is not None:
      moving = topology.moves(step)
      traced, trained_updates = trees.is_traced(moving), updates
      topology_state = move_when(moving, move, topology_state)
      if not topology.applies_gradient:
        updates = jax.tree.map(lambda u: jnp.where(moving, 0, u), updates)
        inner_state = _skip_when(moving, slots(), inner_state)
      # What stops training loses its slots; what starts begins with empty ones.
      now = both(trained_masks(topology_state), trained)
      inner_state = zero_slots(inner, inner_state, now)
    updates = hold(trained if state.keeps_dense else now, updates)
    return updates, SparsifyState(step, topology_state, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def trained_masks(topology_state: Any) -> chex.ArrayTree:
  """Returns the masks of the weights that train; `None` where a leaf does."""
  return getattr(topology_state, 'backward', topology_state.masks)


def where_alive(masks: chex.ArrayTree, tree: chex.ArrayTree) -> chex.ArrayTree:
  """Zeroes dead entries; not by multiplication, which keeps NaN and -0.0."""

  def zero(m, x):
    return x if m is None or x is None else jnp.where(m, x, jnp.zeros_like(x))

  return jax.tree.map(zero, masks, tree, is_leaf=trees.is_none)


def move_when(moving: Any, move: Callable[[Any], Any], state: Any) -> Any:
  """Moves masks if it is time to, and pays for it only then."""
  if trees.is_traced(moving):
    return jax.lax.cond(moving, lambda: move(state), lambda: state)
  # Known without a trace; there a `cond` is compiled again at every call.
  return move(state) if moving else state


def _skip_when(moving: Any, old: Any, new: Any) -> Any:
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


def _wait(m: Any, update: Any, param: Any) -> Any:
  """An update of -0.0, which keeps the bits of every weight, -0.0 too."""
  del param
  if m is None or update is None:
    return update
  return jnp.where(m, update, jnp.asarray(-0.0, update.dtype))


def zero_slots(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  masks: chex.ArrayTree,
) -> optax.OptState:
  """Zeroes every params-shaped slot of ``inner`` where the mask is false."""
  if not jax.tree.leaves(masks):
    return inner_state

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
