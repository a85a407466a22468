"""Zhou's family of criteria over initial and final weights.

Each one is ``score(params, initial)`` with the trained params first. Together
with `magnitude`, `movement` and `magnitude_increase` these are the mask
criteria of figure 2 in the paper.

References:
  Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask,
  arXiv:1905.01067, sections 2 and 5.
"""

import chex
import jax
import jax.numpy as jnp

from lthjax.scores._magnitude import magnitude as large_final

__all__ = [
  'large_final',
  'large_final_same_sign',
  'large_init',
  'large_init_large_final',
  'small_final',
  'small_init',
  'small_init_small_final',
]


def small_final(
  params: chex.ArrayTree, initial: chex.ArrayTree | None = None
) -> chex.ArrayTree:
  """Keeps small trained weights: ``-|w|``.

  Args:
    params: trained params.
    initial: ignored; there so that every score is called alike.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.small_final(jnp.array([1.0, -2.0]))
    Array([-1., -2.], dtype=float32)
  """
  del initial
  return jax.tree.map(lambda w: -jnp.abs(w), params)


def large_init(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> chex.ArrayTree:
  """Keeps what was large at initialization: ``|w0|``.

  Args:
    params: ignored; there so that every score is called alike.
    initial: params at initialization.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.large_init(jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5]))
    Array([3. , 0.5], dtype=float32)
  """
  del params
  return jax.tree.map(jnp.abs, initial)


def small_init(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> chex.ArrayTree:
  """Keeps what was small at initialization: ``-|w0|``.

  Args:
    params: ignored; there so that every score is called alike.
    initial: params at initialization.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.small_init(jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5]))
    Array([-3. , -0.5], dtype=float32)
  """
  del params
  return jax.tree.map(lambda w0: -jnp.abs(w0), initial)


def large_init_large_final(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> chex.ArrayTree:
  """Keeps what is large before and after: ``min(|w0|, |w|)``.

  Args:
    params: trained params.
    initial: params at initialization.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5])
    >>> lth.scores.large_init_large_final(final, initial)
    Array([1. , 0.5], dtype=float32)
  """
  return jax.tree.map(
    lambda w, w0: jnp.minimum(jnp.abs(w0), jnp.abs(w)), params, initial
  )


def small_init_small_final(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> chex.ArrayTree:
  """Keeps what is small before and after: ``-max(|w0|, |w|)``.

  Args:
    params: trained params.
    initial: params at initialization.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([3.0, -0.5])
    >>> lth.scores.small_init_small_final(final, initial)
    Array([-3., -2.], dtype=float32)
  """
  return jax.tree.map(
    lambda w, w0: -jnp.maximum(jnp.abs(w0), jnp.abs(w)), params, initial
  )


def large_final_same_sign(
  params: chex.ArrayTree, initial: chex.ArrayTree
) -> chex.ArrayTree:
  """Keeps large trained weights that kept their sign; others score zero.

  With the weights at their initial values this is the best supermask criterion
  of the paper.

  Args:
    params: trained params.
    initial: params at initialization.

  Returns:
    Scores of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> final, initial = jnp.array([1.0, -2.0]), jnp.array([-3.0, -0.5])
    >>> lth.scores.large_final_same_sign(final, initial)
    Array([0., 2.], dtype=float32)
  """

  def score(w, w0):
    same = jnp.sign(w) == jnp.sign(w0)
    return jnp.where(same | jnp.isnan(w), jnp.abs(w), 0)  # NaN stays in sight

  return jax.tree.map(score, params, initial)
