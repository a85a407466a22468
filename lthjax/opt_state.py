"""The masks in an optimizer state, and the params that a network runs with.

States are found by their type wherever they stand: in a chain, under gradient
accumulation, among injected hyperparameters.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax._sparsify import SparsifyState


def get_masks(opt_state: optax.OptState) -> chex.ArrayTree:
  """Finds the masks in an optimizer state, wherever it holds them.

  Args:
    opt_state: state of a transformation that contains one of `lthjax`.

  Returns:
    Tree of masks, of the weights that the network runs with.

  Raises:
    ValueError: if the state holds no masks, or those of several optimizers.

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
  return found[0].topology_state.masks


def set_masks(
  opt_state: optax.OptState, masks: chex.ArrayTree
) -> optax.OptState:
  """Puts other masks into an optimizer state.

  The params are not touched: apply the masks to them as well, with
  `forward_params`, unless the optimizer trains dense weights. Slots of weights
  that die are emptied by the next update, so that a weight that comes alive
  later starts from zero, or from what the inner transformation made of zeros,
  if it adds noise for instance.

  Args:
    opt_state: state of a transformation that contains one of `lthjax`.
    masks: tree of masks like the ones in the state; it is copied, so that
      donating the state later does not take it away.

  Returns:
    The optimizer state with these masks.

  Raises:
    ValueError: if the state holds no masks, or these do not fit.

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
  trees.check_like(masks, old, 'masks in the optimizer state')
  trees.check_like(old, masks, 'new masks')
  masks = trees.copy_into(old, masks)

  def replace(node):
    if not _holds_masks(node):
      return node
    topology_state = node.topology_state._replace(masks=masks)
    if node.keeps_dense:
      # What the network runs with has to train.
      backward = jax.tree.map(
        lambda b, m: None if b is None else b | m,
        topology_state.backward,
        masks,
        is_leaf=trees.is_none,
      )
      topology_state = topology_state._replace(backward=backward)
    return node._replace(topology_state=topology_state)

  return _map(replace, opt_state)


def forward_params(
  opt_state: optax.OptState, params: chex.ArrayTree
) -> chex.ArrayTree:
  """Returns what the network runs with: the params under their masks.

  Needed at every step, in training and evaluation, by optimizers that keep
  dense weights: `lthjax.straight_through`, `sr_ste` and `top_kast`. All others
  hold dead weights at zero themselves; they need it once, before the first
  step, and at any other time it changes nothing. Without masks in the state the
  params are returned as they are. So it is always right to write::

    grads = jax.grad(loss)(lth.forward_params(opt_state, params), batch)

  Args:
    opt_state: state of any optax transformation.
    params: tree of arrays, as the optimizer trains it.

  Returns:
    The params, with exactly +0.0 where a mask is false.

  Raises:
    ValueError: if the masks in the state do not fit the params.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[3.0, 1.0, -2.0, 0.5]])}
    >>> tx = lth.straight_through(optax.sgd(0.1), sparsity=0.5)
    >>> lth.forward_params(tx.init(params), params)
    {'w': Array([[ 3.,  0., -2.,  0.]], dtype=float32)}
  """
  named: Any = trees.by_name(params)
  for node in _find(opt_state):
    # Under `optax.partition` a state knows a part of the leaves only.
    masks: Any = dict.fromkeys(named)
    masks |= trees.by_name(node.topology_state.masks)
    named = masks_lib.apply(masks, named)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: named[trees.path_name(path)], params, is_leaf=trees.is_none
  )


def keeps_dense_params(opt_state: optax.OptState) -> bool:
  """Tells whether params are dense, and `forward_params` needed at every step.

  Args:
    opt_state: state of any optax transformation.

  Returns:
    Whether it is that of a straight-through estimator.

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
  """Makes the steps of replicates one number, so that masks move for all.

  Under `jax.vmap` a branch whose condition may differ between replicates is
  taken by all of them, at every step. Replicates count alike, however, unless
  a wrapper may skip the update of some, as `optax.apply_if_finite` and
  `optax.MultiSteps` do. Steps are therefore shared only in chains, partitions
  and next to injected hyperparameters. Elsewhere each replicate keeps its own,
  which is slower.

  Args:
    opt_state: state whose leaves have a leading axis, one entry a replicate.

  Returns:
    The state with the first entry of the steps shared, and ``in_axes`` for it.

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
    every = jax.tree.map(lambda _: 0, node)
    if not _holds_masks(node):
      return every
    inner_state = _map(axes, node.inner_state, _may_skip)
    return every._replace(step=None, inner_state=inner_state)

  return _map(share, opt_state, _may_skip), _map(axes, opt_state, _may_skip)


def _map(
  f: Callable[[Any], Any],
  opt_state: optax.OptState,
  stop: Callable[[Any], bool] = lambda node: False,
) -> Any:
  """Maps over the leaves and, as a whole, the states that hold masks."""
  return jax.tree.map(
    f, opt_state, is_leaf=lambda node: _holds_masks(node) or stop(node)
  )


def _may_skip(node: Any) -> bool:
  """Tells states that are not known to be updated at every step."""
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
  """Finds masks by type: params may have an entry called ``masks`` as well."""
  return isinstance(node, SparsifyState)
