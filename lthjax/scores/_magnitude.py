"""Magnitude: large weights matter."""

import chex
import jax
import jax.numpy as jnp


def magnitude(
  params: chex.ArrayTree, initial: chex.ArrayTree | None = None
) -> chex.ArrayTree:
  """Scores a weight by its absolute value.

  Args:
    params: tree of arrays.
    initial: ignored; there so that every score is called alike.

  Returns:
    Scores of the same structure, shapes and dtypes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.scores.magnitude(jnp.array([1.0, -2.0]))
    Array([1., 2.], dtype=float32)

  References:
    Han et al., Learning both Weights and Connections for Efficient Neural
    Networks, arXiv:1506.02626, section 3.
  """
  del initial
  return jax.tree.map(jnp.abs, params)
