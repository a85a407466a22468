"""What becomes of the weights outside a mask: Zhou's mask-0 treatments.

At zero they are under `lthjax.masks.apply`. Here they are frozen where they
started, all of them or those that training moved away from zero. What becomes
of the weights inside (mask-1) is in `lthjax.tickets`: rewound they are the
initial params themselves, and `lthjax.tickets.reshuffle`, `random_signs`,
`sign_preserved` and `signed_constant` give them other values.

References:
  Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask,
  arXiv:1905.01067, sections 3 and 4.
"""

import chex
import jax
import jax.numpy as jnp

from lthjax import trees


def with_frozen_dead(
  masks: chex.ArrayTree, params: chex.ArrayTree, initial: chex.ArrayTree
) -> chex.ArrayTree:
  """Puts the dead weights at given values instead of zero.

  Taken inside of a loss, ``loss(freeze(masks, params, initial))``, it keeps
  them there: no gradient reaches them.

  Args:
    masks: tree of masks.
    params: tree of arrays, for the weights that are alive.
    initial: tree of arrays, for those that are dead.

  Returns:
    Tree like the params; leaves whose mask is `None` are those of the params.

  Raises:
    ValueError: if the masks do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = jnp.array([[True, False]])
    >>> params, initial = jnp.array([[3.0, 4.0]]), jnp.array([[1.0, 2.0]])
    >>> lth.supermasks.with_frozen_dead(masks, params, initial)
    Array([[3., 2.]], dtype=float32)
  """
  trees.check_like(masks, params, 'params')
  trees.check_like(masks, initial, 'initial params')

  def put(m, p, w0):
    return p if m is None else jnp.where(m, p, w0)

  return jax.tree.map(put, masks, params, initial, is_leaf=trees.is_none)


def zero_shrunk(
  params: chex.ArrayTree, initial: chex.ArrayTree, masks: chex.ArrayTree
) -> chex.ArrayTree:
  """Returns the initial params, zero where training moved towards zero.

  A mask that sets such weights to zero does what training would have done. As
  values for `freeze` they treat the dead weights by that; as params too, all
  weights.

  Args:
    params: trained params.
    initial: params at initialization.
    masks: tree of masks, of which only the `None` leaves matter.

  Returns:
    Tree like the params: ``initial``, and +0.0 where ``|initial| > |params|``.

  Raises:
    ValueError: if the masks do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params, initial = jnp.array([[3.0, -0.5]]), jnp.array([[1.0, 2.0]])
    >>> masks = lth.masks.full(params)
    >>> lth.supermasks.zero_shrunk(params, initial, masks)
    Array([[1., 0.]], dtype=float32)
  """
  trees.check_like(masks, params, 'params')
  trees.check_like(masks, initial, 'initial params')

  def zero(m, p, w0):
    return w0 if m is None else jnp.where(jnp.abs(w0) > jnp.abs(p), 0, w0)

  return jax.tree.map(zero, masks, params, initial, is_leaf=trees.is_none)
