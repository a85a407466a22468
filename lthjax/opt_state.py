"""Masks in optimizer states, and the params that a network runs with.

States are found by their type, however deep they are: in a chain, under
gradient accumulation, next to injected hyperparameters.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import _sharding, trees
from lthjax._errors import refuse
from lthjax._state import SparsifyState


def get_masks(opt_state: optax.OptState) -> Any:
  """Finds the masks in an optimizer state, wherever it holds them.

  Args:
    opt_state: state of a transformation that contains one of `lthjax`.

  Returns:
    Tree of masks of the weights that the network runs with; under
    `lthjax.frozen`, of those that train.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> tx = lth.static(optax.adam(1e-3), masks)
    >>> lth.get_masks(tx.init({'w': jnp.ones((1, 2))}))
    {'w': Array([[ True, False]], dtype=bool)}
  """
  found = _find(opt_state)
  if len(found) != 1:
    raise ValueError(
      f'This optimizer state holds {len(found)} trees of masks, but must hold'
      ' one. Wrap the whole optimizer once, for instance `tx ='
      ' lthjax.static(tx, masks)`, and call `tx.init(params)` again.'
    )
  topology_state = found[0].topology_state
  return _unhidden(topology_state) if found[0].freezes else topology_state.masks


def set_masks(
  opt_state: optax.OptState, masks: chex.ArrayTree
) -> optax.OptState:
  """Puts other masks into an optimizer state.

  The params are not touched: apply the masks to them as well, with
  `forward_params`, unless the optimizer trains dense weights. Slots of weights
  that die are emptied by the next update, so that a weight that comes alive
  later starts from zero, or from what the inner transformation made of zeros,
  for instance by adding noise.

  Args:
    opt_state: state of a transformation that contains one of `lthjax`.
    masks: tree of masks like the ones in the state, matched by the names of the
      leaves; it is copied, so that donating the state does not delete it. Under
      `optax.partition` it may be that of all params, of which a part is taken.

  Returns:
    The optimizer state with these masks.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.static(optax.adam(1e-3), {'w': jnp.array([[True, True]])})
    >>> state = tx.init({'w': jnp.ones((1, 2))})
    >>> state = lth.set_masks(state, {'w': jnp.array([[True, False]])})
    >>> lth.get_masks(state)
    {'w': Array([[ True, False]], dtype=bool)}
  """
  old = get_masks(opt_state)
  masks = trees.part_for(old, masks)
  trees.check_like(masks, old, 'masks in the optimizer state')
  trees.check_like(old, masks, 'new masks')

  # A copy for each tree of masks: one buffer cannot be donated twice.
  def copy():
    return _sharding.copy_into(old, masks)

  def replace(node):
    if not _holds_masks(node):  # A leaf of some other state.
      return node
    if node.freezes:
      before = node.topology_state.backward
      backward = _sharding.copy_into(before, masks)
      topology_state = node.topology_state._replace(backward=backward)
      return node._replace(topology_state=topology_state)
    topology_state = node.topology_state._replace(masks=copy())
    if node.keeps_dense:
      # What the network runs with has to train.
      backward = jax.tree.map(
        lambda b, m: None if b is None else b | m,
        topology_state.backward,
        topology_state.masks,
        is_leaf=trees.is_none,
      )
      topology_state = topology_state._replace(backward=backward)
    if node.trained is not None:
      trained: Any = copy()
      if node.keeps_dense:
        backward = jax.tree.map(jnp.copy, topology_state.backward)
        trained = trained, backward
      node = node._replace(trained=trained)
    return node._replace(topology_state=topology_state)

  return _map(replace, opt_state)


def forward_params(opt_state: optax.OptState, params: Any) -> Any:
  """Returns what the network runs with: the params under their masks.

  Needed at every step, in training and evaluation, by optimizers that keep
  dense weights: `lthjax.straight_through`, `sr_ste` and `top_kast`. All others
  hold dead weights at zero themselves; they need it once, before the first
  step, and at any other time it changes nothing but weights that were not
  finite when they died. Without masks in the state the params are returned
  unchanged. So it is always right to write::

    grads = jax.grad(loss)(lth.forward_params(opt_state, params), batch)

  Differentiating through it gives the same gradients, those at the sparse
  weights, for dead weights as well: a straight-through estimator::

    grads = jax.grad(lambda p: loss(lth.forward_params(opt_state, p)))(params)

  Args:
    opt_state: state of any optax transformation.
    params: tree of arrays, as the optimizer trains it.

  Returns:
    The params, with exactly +0.0 where a mask is false.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[3.0, 1.0, -2.0, 0.5]])}
    >>> tx = lth.straight_through(optax.sgd(0.1), sparsity=0.5)
    >>> lth.forward_params(tx.init(params), params)
    {'w': Array([[ 3.,  0., -2.,  0.]], dtype=float32)}

  References:
    Bengio et al., Estimating or Propagating Gradients Through Stochastic
    Neurons for Conditional Computation, arXiv:1308.3432 (the straight-through
    estimator).
  """
  if isinstance(params, optax.LookaheadParams):
    return optax.LookaheadParams(
      *(forward_params(opt_state, p) for p in params)
    )
  # By name: states of an `nnx.Optimizer` and pure trees differ in structure.
  if _find(params):
    raise TypeError(
      '`params` holds the state of an optimizer: call'
      ' `forward_params(opt_state, params)`, in this order.'
    )
  named: dict[str, Any] = trees.by_name(params)
  for node in _find(opt_state):
    # Under `optax.partition` a state knows a part of the leaves only.
    masks: Any = dict.fromkeys(named)
    masks |= trees.by_name(node.topology_state.masks)
    trees.check_like(masks, named, 'params')
    refuse(
      [
        name
        for name, p in named.items()
        if masks[name] is not None and trees.is_abstract(p)
      ],
      '`params` must be a tree of arrays, but {} is abstract. For shapes alone,'
      ' call `jax.eval_shape(lthjax.forward_params, opt_state, params)`.',
      TypeError,
    )
    named = {
      name: p if masks[name] is None else _mask(masks[name], p)
      for name, p in named.items()
    }
  return jax.tree_util.tree_map_with_path(
    lambda path, _: named[trees.path_name(path)], params, is_leaf=trees.is_none
  )


@jax.custom_jvp
def _mask(mask: jax.Array, param: jax.Array) -> jax.Array:
  """Sets dead weights to +0.0; as the identity to derivatives."""
  return jnp.where(mask, param, jnp.zeros((), param.dtype))


@_mask.defjvp
def _mask_jvp(primals, tangents):
  return _mask(*primals), tangents[1]


def strip(opt_state: optax.OptState, params: Any) -> tuple[Any, optax.OptState]:
  """Returns plain params and the optimizer state without masks.

  For the end of sparse training: to continue with the wrapped optimizer, which
  then trains all weights, or to hand the params on.

  Args:
    opt_state: state of a transformation that contains one of `lthjax`.
    params: tree of arrays, as the optimizer trains it.

  Returns:
    The params, with exactly +0.0 where a mask is false, and the current state
    of the optimizer inside.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[3.0, 1.0]])}
    >>> tx = lth.static(optax.adam(1e-3), {'w': jnp.array([[True, False]])})
    >>> params, state = lth.strip(tx.init(params), params)
    >>> grads = {'w': jnp.ones((1, 2))}
    >>> updates, state = optax.adam(1e-3).update(grads, state, params)
    >>> params['w']
    Array([[3., 0.]], dtype=float32)
  """

  def inside(node):
    return strip_state(node.inner_state) if _holds_masks(node) else node

  def strip_state(opt_state):
    return _map(inside, opt_state)

  return forward_params(opt_state, params), strip_state(opt_state)


def keeps_dense_params(opt_state: optax.OptState) -> bool:
  """Returns whether params stay dense, and each step needs `forward_params`.

  Args:
    opt_state: state of any optax transformation.

  Returns:
    Whether weights outside the masks keep their values, as in
    `lthjax.straight_through`, `sr_ste` and `top_kast`.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.ones((2, 2))}
    >>> tx = lth.top_kast(optax.sgd(1.0), sparsity=0.5, backward_sparsity=0.25)
    >>> lth.opt_state.keeps_dense_params(tx.init(params))
    True
    >>> lth.opt_state.keeps_dense_params(optax.sgd(1.0).init(params))
    False
  """
  return any(node.keeps_dense for node in _find(opt_state))


def share_steps(opt_state: optax.OptState) -> tuple[optax.OptState, Any]:
  """Shares one step count among replicates, so that masks move for all at once.

  Under `jax.vmap`, a branch whose condition may differ between replicates is
  taken by all of them, at every step. But replicates count alike, unless a
  wrapper may skip the update of some, as `optax.apply_if_finite` and
  `optax.MultiSteps` do. Steps are therefore shared only in chains, partitions
  and next to injected hyperparameters. Elsewhere each replicate keeps its own,
  which is slower.

  Args:
    opt_state: state whose leaves have a leading axis, one entry per replicate.

  Returns:
    The state with the first entry of the steps shared, and its ``in_axes``.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> masks = {'w': jnp.ones((2, 2), bool)}
    >>> tx = lth.static(optax.sgd(1.0), masks)
    >>> state = jax.vmap(tx.init)({'w': jnp.ones((3, 2, 2))})
    >>> state.step.shape
    (3,)
    >>> lth.opt_state.share_steps(state)[0].step.shape
    ()
  """

  def share(node):
    if not _holds_masks(node):
      return node
    inner_state = _map(share, node.inner_state, _may_skip)
    return node._replace(step=node.step[0], inner_state=inner_state)

  def axes(node):
    # `in_axes`: all leaves have an axis of replicates, except shared steps.
    every = jax.tree.map(lambda _: 0, node)
    if not _holds_masks(node):
      return every
    inner_state = _map(axes, node.inner_state, _may_skip)
    return every._replace(step=None, inner_state=inner_state)

  return _map(share, opt_state, _may_skip), _map(axes, opt_state, _may_skip)


def _unhidden(topology_state: Any) -> chex.ArrayTree:
  """Masks of what trains; `None` at leaves that are frozen whole."""
  return jax.tree.map(
    lambda m: None if isinstance(m, optax.MaskedNode) else m,
    topology_state.backward,
    is_leaf=lambda m: isinstance(m, optax.MaskedNode),
  )


def _map(
  f: Callable[[Any], Any],
  opt_state: optax.OptState,
  stop: Callable[[Any], bool] = lambda node: False,
) -> Any:
  """Maps over the leaves, and over states with masks as if they were leaves."""
  return jax.tree.map(
    f, opt_state, is_leaf=lambda node: _holds_masks(node) or stop(node)
  )


def _may_skip(node: Any) -> bool:
  """Returns whether a state is not known to be updated at every step."""
  known = (
    dict,
    optax.InjectStatefulHyperparamsState,
    optax.MaskedState,
    optax.transforms.PartitionState,
  )
  return type(node) is not tuple and not isinstance(node, known)


def _find(opt_state: optax.OptState) -> list[Any]:
  nodes = jax.tree.leaves(opt_state, is_leaf=_holds_masks)
  return [node for node in nodes if _holds_masks(node)]


def _holds_masks(node: Any) -> bool:
  """Goes by type, as params may have an entry called ``masks`` as well."""
  return isinstance(node, SparsifyState)
