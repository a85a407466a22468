"""Sparse training as an optax transformation around any optimizer.

`sparsify` wraps any optimizer. The wrapped optimizer sees a smaller model: the
gradients, weights and optimizer slots of weights that do not train are zero, so
that norms, clipping, moments and weight decay concern the others only. Weights
that do not train land on exactly +0.0, or wait at their values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _checks, _slots, _steps, trees
from lthjax._state import SparsifyState, Topology


def sparsify(
  inner: optax.GradientTransformation, topology: Topology
) -> optax.GradientTransformationExtraArgs:
  """Trains the weights that a topology selects with ``inner``.

  Nothing may change the updates afterwards, so wrap the whole chain:
  ``sparsify(optax.chain(...), topology)``. With every weight alive the updates
  are those of ``inner``, bit for bit.

  Every update advances ``inner`` by one step, with one exception: where masks
  move instead of training, its state stays as it was, all counts, averages and
  caches alike. Whatever ``inner`` counts or accumulates, such as schedules and
  mini-batches, therefore counts the steps that train.

  Updates cannot remove what is not finite: if a weight is NaN or infinite when
  it dies, ``p + u`` is NaN for every ``u``. `lthjax.forward_params` returns
  zero there, and `lthjax.trainer` stores it. In a loop of your own, add after
  `optax.apply_updates`, if dead weights are held at zero::

    params = lth.masks.apply(lth.get_masks(opt_state), params)

  Args:
    inner: any optax transformation except `optax.sm3`, `optax.flatten`,
      `optax.lbfgs` and the line searches, whose states do not say what belongs
      to which weight. Under `optax.lookahead`, masks move by the fast params
      and hold for the slow ones as well. Extra arguments are passed on.
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
  _checks.optimizer(inner)
  what = 'a topology, such as `lthjax.topologies.fixed(masks)`'
  _checks.having('topology', topology, 'init move', what)
  inner = optax.with_extra_args_support(inner)
  slots = _slots.Slots(inner)

  def init_fn(params: Any) -> Any:
    step = jnp.zeros([], jnp.int32)
    if not jax.tree.leaves(params):
      # `optax.tree.map_params` probes `init` with a tree that has no leaves. A
      # leaf in place of masks makes it pass over them whole.
      leaf = jnp.zeros([], bool)
      trained = leaf if _keeps_old(topology) else None
      return SparsifyState(step, leaf, inner.init(params), trained)
    _checks.check_leaves(params)
    topology_state = topology.init(_steps.fast(params))
    state = SparsifyState(step, topology_state, ())
    masks = _steps.trained(state)
    # Dead weights must not enter the initial state, as in copies of the params.
    inner_state = inner.init(_steps.where(masks, params))
    inner_state = slots.empty(inner_state, masks, _steps.fast(params))
    if _keeps_old(topology):
      if state.keeps_dense:
        masks = topology_state.masks, topology_state.backward
      state = state._replace(trained=jax.tree.map(jnp.copy, masks))
    return state._replace(inner_state=inner_state)

  def update_fn(updates, state, params: Any = None, **extra_args):
    _checks.needs_params('sparsify', params)
    trees.check_like(state.topology_state.masks, updates, 'gradients')
    topology_state = state.topology_state
    if topology.observe is not None:
      topology_state = topology.observe(topology_state, updates)
    # Steps count from 1: masks move at multiples of `update_every`.
    state = state._replace(step=state.step + 1, topology_state=topology_state)
    step = _steps.Step(topology, inner, slots, updates, params, extra_args)
    update = _steps.update_dense if state.keeps_dense else _steps.update_sparse
    return update(step, state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _keeps_old(topology: Topology) -> bool:
  """Whether a step may need the masks before and after a move."""
  first: Any = np.int32(1)  # With NumPy nothing is compiled.
  if topology.move is None or topology.moves(first) is True:
    return False  # where they move at every step, these are two values anyway
  return topology.grows
