"""Training dense weights of which the network sees a sparse part.

`sparse_forward` wraps any optimizer. Masks choose the weights that the network
runs with; the others keep their values, so that they can come back. The loss
therefore has to be taken at ``lthjax.forward_params(opt_state, params)``, and
its gradient there moves the dense weights: a straight-through estimator.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import trees
from lthjax._sparsify import both, move_when, where_alive, zero_slots


class SparseForwardState(NamedTuple):
  """State of `sparse_forward`.

  Attributes:
    step: number of updates so far, int32.
    topology_state: a NamedTuple with ``masks``, of the weights that the network
      runs with, and ``backward``, masks of the weights that train; `None` there
      lets a whole leaf train.
    inner_state: state of the wrapped transformation.
  """

  step: chex.Array
  topology_state: Any
  inner_state: optax.OptState


def sparse_forward(
  inner: optax.GradientTransformation,
  *,
  init: Callable[[optax.Params], Any],
  move: Callable[[Any, optax.Params, jax.Array], Any],
  moves: Callable[[jax.Array], Any],
  penalize: Callable[[Any, optax.Updates, optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains dense weights of which the network sees a sparse part.

  ``inner`` sees zero gradients, weights and slots where nothing trains; these
  weights keep their bits. Where everything trains and nothing is penalized, the
  updates are those of ``inner``, to the bit.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    init: ``init(params) -> state``, as ``topology_state`` above.
    move: ``move(state, params, step) -> state`` with other masks, called with
      the new params of the steps that ``moves`` tells.
    moves: ``moves(step) -> bool``, traced or not; steps are counted from 1.
    penalize: ``penalize(state, grads, params) -> grads``, what is added to the
      gradient before ``inner`` sees it; `None` for nothing.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: from ``update`` without ``params``, or with gradients that do
      not fit.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.straight_through(optax.sgd(0.5), sparsity=0.5)
    >>> params = {'w': jnp.array([[2.0, 1.0]])}
    >>> updates, state = tx.update(
    ...   {'w': jnp.array([[3.0, 0.0]])}, tx.init(params), params
    ... )
    >>> params = optax.apply_updates(params, updates)
    >>> params, lth.forward_params(state, params)
    ({'w': Array([[0.5, 1. ]], dtype=float32)},
     {'w': Array([[0., 1.]], dtype=float32)})

  References:
    Bengio et al., Estimating or Propagating Gradients Through Stochastic
    Neurons for Conditional Computation, arXiv:1308.3432 (the straight-through
    estimator).
  """
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    step = jnp.zeros([], jnp.int32)
    if not jax.tree.leaves(params):  # A probe, as in `sparsify`.
      return SparseForwardState(step, jnp.zeros([], bool), inner.init(params))
    topology_state = init(params)
    trained = topology_state.backward
    inner_state = inner.init(where_alive(trained, params))
    return SparseForwardState(
      step, topology_state, _empty(inner, inner_state, trained)
    )

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'The largest weights run forward, so their optimizer needs the current'
        ' params: call `tx.update(grads, state, params)`.'
      )
    grads, topology_state = updates, state.topology_state
    trees.check_like(topology_state.masks, grads, 'gradients')
    trained, step = topology_state.backward, state.step + 1

    def train():
      pulled = grads
      if penalize is not None:
        pulled = penalize(topology_state, grads, params)
      updates, inner_state = inner.update(
        where_alive(trained, pulled),
        state.inner_state,
        where_alive(trained, params),
        **extra_args,
      )
      updates = jax.tree.map(_hold, trained, updates, is_leaf=trees.is_none)
      return updates, inner_state

    updates, inner_state = train()
    moving = moves(step)
    # Under a `cond`, computed again rather than kept, as in `sparsify`.
    again = train if trees.is_traced(moving) else lambda: (updates, None)
    topology_state = move_when(
      moving,
      lambda state: move(state, optax.apply_updates(params, again()[0]), step),
      topology_state,
    )
    # What does not train has no slots, and what begins to starts without.
    trained = both(topology_state.backward, trained)
    inner_state = _empty(inner, inner_state, trained)
    return updates, SparseForwardState(step, topology_state, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _hold(m: Any, update: Any) -> Any:
  """No update where nothing trains: -0.0, which keeps the bits of -0.0 too."""
  if m is None or update is None:
    return update
  return jnp.where(m, update, jnp.asarray(-0.0, update.dtype))


def _empty(
  inner: optax.GradientTransformation,
  inner_state: optax.OptState,
  trained: chex.ArrayTree,
) -> optax.OptState:
  """Zeroes the slots of what does not train, if there is any such leaf."""
  if not jax.tree.leaves(trained):
    return inner_state
  return zero_slots(inner, inner_state, trained)
