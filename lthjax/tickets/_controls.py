"""Controls: what in a ticket matters?

Random reinitialization needs no function: it is the same masks on the params of
another seed. Masks at random places are `lthjax.masks.shuffle`. The functions
here keep part of the initial values.

Each treats the prunable leaves, and leaves those whose mask is `None` as they
are. All act on one run; use `jax.vmap` for replicates.

References:
  Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask,
  arXiv:1905.01067, section 4.
"""

import chex
import jax
import jax.numpy as jnp

from lthjax import trees


def sign_preserved(
  params: chex.ArrayTree, fresh: chex.ArrayTree, masks: chex.ArrayTree
) -> chex.ArrayTree:
  """Draws new magnitudes and keeps the signs.

  Args:
    params: params to take signs from, usually at initialization.
    fresh: params of another seed, to take magnitudes from.
    masks: tree of masks, of which only the `None` leaves matter.

  Returns:
    Tree like the params.

  Raises:
    ValueError: if the masks do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = jnp.array([[True, True]])
    >>> params, fresh = jnp.array([[-1.0, 2.0]]), jnp.array([[3.0, -4.0]])
    >>> lth.tickets.sign_preserved(params, fresh, masks)
    Array([[-3.,  4.]], dtype=float32)
  """
  trees.check_like(masks, params, 'params')
  trees.check_like(masks, fresh, 'fresh params')

  def flip(m, p, f):
    return p if m is None else jnp.sign(p) * jnp.abs(f).astype(p.dtype)

  return jax.tree.map(flip, masks, params, fresh, is_leaf=trees.is_none)


def signed_constant(
  params: chex.ArrayTree, masks: chex.ArrayTree
) -> chex.ArrayTree:
  """Keeps the signs and nothing else: ``sign(w) * std(w)`` in each layer.

  Args:
    params: params at initialization, before any mask is applied.
    masks: tree of masks, of which only the `None` leaves matter.

  Returns:
    Tree like the params.

  Raises:
    ValueError: if the masks do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = jnp.array([[-1.0, 2.0, 3.0, -4.0]])
    >>> lth.tickets.signed_constant(params, lth.masks.full(params))
    Array([[-2.738...,  2.738...,  2.738..., -2.738...]], dtype=float32)
  """
  trees.check_like(masks, params, 'params')

  def flatten(m, p):
    return p if m is None else jnp.sign(p) * jnp.std(p)

  return jax.tree.map(flatten, masks, params, is_leaf=trees.is_none)


def random_signs(
  key: chex.PRNGKey, params: chex.ArrayTree, masks: chex.ArrayTree
) -> chex.ArrayTree:
  """Keeps the magnitudes and draws new signs.

  Args:
    key: random key; each leaf folds in its name.
    params: tree of arrays.
    masks: tree of masks, of which only the `None` leaves matter.

  Returns:
    Tree like the params.

  Raises:
    ValueError: if the masks do not fit.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[1.0, -2.0, 3.0, -4.0]])}
    >>> masks = lth.masks.full(params)
    >>> drawn = lth.tickets.random_signs(jax.random.key(0), params, masks)
    >>> jnp.abs(drawn['w'])
    Array([[1., 2., 3., 4.]], dtype=float32)
  """
  trees.check_like(masks, params, 'params')

  def draw(path, m, p):
    if m is None:
      return p
    own = trees.fold_in_name(key, trees.path_name(path))
    return jnp.abs(p) * jax.random.rademacher(own, p.shape, p.dtype)

  return jax.tree_util.tree_map_with_path(
    draw, masks, params, is_leaf=trees.is_none
  )


def reshuffle(
  key: chex.PRNGKey, params: chex.ArrayTree, masks: chex.ArrayTree
) -> chex.ArrayTree:
  """Permutes the values of the alive weights within each layer.

  Args:
    key: random key; each leaf folds in its name.
    params: tree of arrays.
    masks: tree of masks.

  Returns:
    Tree like the params; dead entries keep their values.

  Raises:
    ValueError: if the masks do not fit.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> masks = {'w': jnp.array([[True, False, True, True]])}
    >>> moved = lth.tickets.reshuffle(jax.random.key(0), params, masks)
    >>> jnp.sort(moved['w'])
    Array([[1., 2., 3., 4.]], dtype=float32)
  """
  trees.check_like(masks, params, 'params')

  def permute(path, m, p):
    if m is None:
      return p
    # Alive entries come first in both orders: place by place, and by chance.
    noise = jax.random.uniform(
      trees.fold_in_name(key, trees.path_name(path)), m.shape
    )
    places = jnp.argsort(~m, axis=None, stable=True)
    chance = jnp.argsort(jnp.where(m, noise, 2), axis=None, stable=True)
    flat = jnp.ravel(p)
    return flat.at[places].set(flat[chance]).reshape(p.shape)

  return jax.tree_util.tree_map_with_path(
    permute, masks, params, is_leaf=trees.is_none
  )
