"""Training of a part of the weights, while all others keep their values."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import _checks, _sharding, _steps, trees
from lthjax._errors import refuse
from lthjax._sparsify import Topology, sparsify
from lthjax.topologies import _start


class FrozenState(NamedTuple):
  """State of `frozen`.

  Attributes:
    masks: `None` at every leaf: the network runs with all weights.
    backward: which weights train, without the leaves that are frozen whole.
  """

  masks: Any
  backward: Any


def frozen(
  inner: optax.GradientTransformation, masks: _start.Masks
) -> optax.GradientTransformationExtraArgs:
  """Trains the weights that the masks keep; all others keep their bits.

  The twin of `lthjax.static`, for networks that were trained before: dead
  weights are not zero, but wait at their values. The optimizer sees a smaller
  model. Gradients, weights and slots of dead weights are zero before it runs,
  so that clipping, norms, moments and weight decay concern the others only. The
  updates of dead weights are -0.0, and nothing may change them afterwards.

  `lthjax.get_masks` returns the masks of the weights that train.
  `lthjax.set_masks` puts others there, without compiling anything again; slots
  of weights that stop training are emptied by the next update.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    masks: tree of masks that fits the params, or a function of params that
      returns one. Where it is `None`, the whole leaf is frozen and has no slots
      in the optimizer.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> masks = {'w': jnp.array([[True, False, True, False]])}
    >>> tx = lth.frozen(optax.adamw(0.1, weight_decay=0.1), masks)
    >>> grads = {'w': 2 * (params['w'] - 5)}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> optax.apply_updates(params, updates)['w']
    Array([[1.08..., 2.     , 3.06..., 4.     ]], dtype=float32)

  References:
    Panda et al., Lottery Ticket Adaptation: Mitigating Destructive Interference
    in LLMs, arXiv:2406.16797, section 3.
  """
  _start.check(inner, masks)
  tx = sparsify(inner, Topology(lambda params: ()))

  def init_fn(params: Any) -> Any:
    if not jax.tree.leaves(params):  # `optax.tree.map_params` asks for slots.
      return tx.init(params)
    _checks.check_leaves(params)
    first = _start.evaluate(masks, _steps.fast(params))
    refuse(
      [] if trees.prunable(first) else ['every one is None'],
      'Training cannot start from these `masks`: {}. Choose what may train with'
      ' `lthjax.masks.full(params, where=...)`.',
    )
    train = _shown(_sharding.copy_into(_steps.fast(params), first))
    none = jax.tree.map(lambda _: None, train)
    topology = Topology(lambda params: FrozenState(none, train))
    return sparsify(inner, topology).init(_hide(train, params))

  def update_fn(updates, state, params: Any = None, **extra_args):
    _checks.needs_params('frozen', params)
    train = state.topology_state.backward
    shown = _hide(train, params)
    new, state = tx.update(_hide(train, updates), state, shown, **extra_args)

    def fill(u, p):
      # What `optax.partition` hides from this optimizer stays hidden.
      if not _is_hidden(u) or _is_hidden(p):
        return u
      return jnp.full_like(p, -0.0)

    def each(new, params):
      return jax.tree.map(fill, new, params, is_leaf=_is_hidden)

    return _steps.halves(each, new, params), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _shown(masks: chex.ArrayTree) -> chex.ArrayTree:
  """Replaces `None` by what optax puts in the place of a hidden leaf."""
  return jax.tree.map(
    lambda m: optax.MaskedNode() if m is None else m,
    masks,
    is_leaf=trees.is_none,
  )


def _hide(train: chex.ArrayTree, tree: Any) -> Any:
  """Hides the leaves that are frozen whole."""

  def each(tree):
    return jax.tree.map(
      lambda m, x: m if _is_hidden(m) else x, train, tree, is_leaf=_is_hidden
    )

  return _steps.halves(each, tree)


def _is_hidden(x: Any) -> bool:
  return isinstance(x, optax.MaskedNode)
