"""Masks that stay as they are."""

from typing import NamedTuple

import chex
import optax

from lthjax import trees
from lthjax._sparsify import Topology, sparsify


class FixedState(NamedTuple):
  """State of `fixed`.

  Attributes:
    masks: which weights are alive.
  """

  masks: chex.ArrayTree


def fixed(masks: chex.ArrayTree) -> Topology:
  """Keeps the given masks.

  The masks become part of the optimizer state. Other masks can be put there
  with `lthjax.set_masks`, without compiling anything again.

  Args:
    masks: tree of masks; it is copied, so that donating the optimizer state
      does not take it away.

  Returns:
    A topology for `lthjax.sparsify`.

  Raises:
    ValueError: when ``init`` is called, if the masks do not fit the params.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> topology = lth.topologies.fixed({'w': jnp.array([[True, False]])})
    >>> topology.init({'w': jnp.ones((1, 2))}).masks
    {'w': Array([[ True, False]], dtype=bool)}
  """

  def init_fn(params):
    trees.check_like(masks, params, 'params')
    return FixedState(trees.copy_into(params, masks))

  return Topology(init_fn)


def static(
  inner: optax.GradientTransformation, masks: chex.ArrayTree
) -> optax.GradientTransformationExtraArgs:
  """Trains the weights that the masks keep; holds all others at zero.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    masks: tree of masks that fits the params.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: from ``init`` if the masks do not fit the params; from
      ``update`` without ``params``.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[3.0, -1.0, 2.0, 0.5]])}
    >>> masks = lth.masks.full(params)
    >>> masks = lth.prune(lth.scores.magnitude(params), masks, sparsity=0.5)
    >>> tx = lth.static(optax.sgd(1.0), masks)
    >>> grads = {'w': jnp.ones((1, 4))}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> optax.apply_updates(params, updates)['w']
    Array([[2., 0., 1., 0.]], dtype=float32)
  """
  return sparsify(inner, fixed(masks))
