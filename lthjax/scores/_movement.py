"""How far training has moved a weight."""

import chex
import jax
import jax.numpy as jnp


def movement(params: chex.ArrayTree, initial: chex.ArrayTree) -> chex.ArrayTree:
  """Scores a weight by how far training moved it: ``|w - w0|``.

  Args:
    params: trained params.
    initial: params at initialization, of the same structure.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.movement(jnp.array([1.0, -2.0]), jnp.array([3.0, -1.5]))
    Array([2. , 0.5], dtype=float32)

  References:
    Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the
    Supermask, arXiv:1905.01067, section 2 ("movement").
  """
  return jax.tree.map(lambda w, w0: jnp.abs(w - w0), params, initial)


def magnitude_increase(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> chex.ArrayTree:
  """Scores a weight by how much training enlarged it: ``|w| - |w0|``.

  Args:
    params: trained params.
    initial: params at initialization, of the same structure.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([3.0, -1.5])
    >>> lth.scores.magnitude_increase(final, initial)
    Array([-2. ,  0.5], dtype=float32)

  References:
    Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the
    Supermask, arXiv:1905.01067, section 2 ("magnitude increase").
  """
  return jax.tree.map(lambda w, w0: jnp.abs(w) - jnp.abs(w0), params, initial)
