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
    self._known: Any = (None, None)

  def masks(
    self, inner_state: optax.OptState, masks: chex.ArrayTree, params: Any
  ) -> list[Any]:
    """Returns the mask of each leaf of a state; `None` where it has none."""
    if not jax.tree.leaves(masks):
      return [None] * len(jax.tree.leaves(inner_state))
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(params)]
    kind = jax.tree.structure(params), shapes
    if self._known[0] != kind:  # Once for params of one kind.
      self._known = kind, self._follows(inner_state, masks, params)
    pairs = self._pair(
      lambda slot, mask: _Of(mask if _same_shape(slot, mask) else None),
      inner_state,
      masks,
    )
    return [
      pair.mask if follows else None
      for pair, follows in zip(pairs, self._known[1], strict=True)
    ]

  def empty(
    self, inner_state: optax.OptState, masks: chex.ArrayTree, params: Any
  ) -> optax.OptState:
    """Zeroes the slots of the weights whose mask is false."""
    leaves, treedef = jax.tree.flatten(inner_state)
    each = self.masks(inner_state, masks, params)
    leaves = [where(m, x) for m, x in zip(each, leaves, strict=True)]
    return jax.tree.unflatten(treedef, leaves)

  def _follows(self, inner_state, masks, params) -> list[bool]:
    """Returns which leaves have a shape that follows that of the params."""
    # Seen from `init` on abstract params of other shapes: a matrix as [2, 3]
    # and as [3, 2]. An optimizer that takes no such shapes is taken to follow.
    self._check(inner_state, masks)
    follows = [True] * len(jax.tree.leaves(inner_state))
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
        lambda slot, x: _Of(_same_shape(slot, x)), state, probe
      )
      if len(pairs) != len(follows):
        return follows
      each = [pair.mask is not False for pair in pairs]
      follows = [a and b for a, b in zip(follows, each, strict=True)]
    return follows

  def _pair(self, f, inner_state, params) -> list['_Of']:
    """Calls ``f(slot, param)`` where `optax.tree.map_params` does."""

    def at(slot, x):
      return f(slot, x) if hasattr(slot, 'shape') else slot

    tree = optax.tree.map_params(
      self._inner,
      at,
      inner_state,
      params,
      transform_non_params=lambda _: _Of(None),
      is_leaf=lambda x: x is None or isinstance(x, optax.MaskedNode),
    )
    return jax.tree.leaves(tree)

  def _check(self, inner_state, masks) -> None:
    """Raises if the slots of single weights cannot be found."""
    try:
      self._pair(lambda slot, _: slot, inner_state, masks)
    except Exception as error:  # of any type, from `init` or `tree.map`
      raise ValueError(
        'Masks need the optimizer slots of single weights, but'
        ' `optax.tree.map_params` finds none in the state of this optimizer'
        f' ({type(error).__name__}). That is so for `optax.sm3`, whose'
        ' accumulators are shared by rows and columns; for `optax.flatten`,'
        ' whose slots are one vector for all params; and for `optax.lbfgs` and'
        ' the line searches, which remember whole steps. Use another optimizer,'
        ' such as `optax.adamw`.'
      ) from error


class _Of:
  """A leaf that holds what belongs to a slot, `None` too."""

  def __init__(self, mask: Any):
    self.mask = mask


def where(mask: Any, x: Any) -> Any:
  """Zeroes dead entries; not by multiplication, which keeps NaN and -0.0."""
  return (
    x if mask is None or x is None else jnp.where(mask, x, jnp.zeros_like(x))
  )


def _same_shape(slot: Any, x: Any) -> bool:
  """Whether both are arrays, of the same shape."""
  shapes = getattr(slot, 'shape', None), getattr(x, 'shape', None)
  return None not in shapes and shapes[0] == shapes[1]
