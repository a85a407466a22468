"""Gram matrices of activations, made invertible."""

import jax
import jax.numpy as jnp

from lthjax import _checks

_TRIES = 4  # The damping that was asked for, and three times ten times more.


def without_dead(
  kernel: jax.Array, gram: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Zeroes the weights of inputs that are always zero."""
  dead = jnp.diagonal(gram) == 0
  return jnp.where(dead[:, None], 0.0, kernel), gram + jnp.diag(
    dead.astype(gram.dtype)
  )


def upper_factor(
  gram: jax.Array, damping: float
) -> tuple[jax.Array, jax.Array]:
  """Returns the upper U with ``inverse(gram) = U^T U``, and whether it exists.

  The damping, relative to the mean of the diagonal, grows tenfold up to three
  times where the matrix is not positive definite.
  """
  eye = jnp.eye(len(gram), dtype=gram.dtype)
  step = damping * jnp.mean(jnp.diagonal(gram)) * eye

  def failed(state):
    tries, lower = state
    return (tries < _TRIES) & ~jnp.all(jnp.isfinite(lower))

  def attempt(state):
    tries, _ = state
    damped = gram + 10.0**tries * step
    return tries + 1, jnp.linalg.cholesky(damped[::-1, ::-1])

  start = (0, jnp.full_like(gram, jnp.nan))
  _, lower = jax.lax.while_loop(failed, attempt, start)
  # With J the reversal, J H J = L L^T gives U = J L^-1 J.
  inverse = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
  upper = inverse[::-1, ::-1]
  return upper, jnp.all(jnp.isfinite(upper))


def check_damping(damping: float) -> float:
  """Returns a damping of at least zero."""
  return _checks.not_negative('damping', damping)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  """A product in full float32."""
  return jnp.matmul(a, b, precision='highest')
