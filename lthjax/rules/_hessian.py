"""Gram matrices of activations, made invertible."""

import jax
import jax.numpy as jnp

from lthjax import _checks

_SMALL = 96  # Rows of a matrix that is not split.
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
    tries, inverse = state
    return (tries < _TRIES) & ~jnp.all(jnp.isfinite(inverse))

  def attempt(state):
    tries, _ = state
    damped = gram + 10.0**tries * step
    return tries + 1, _inverse_factor(damped[::-1, ::-1])

  start = (0, jnp.full_like(gram, jnp.nan))
  _, inverse = jax.lax.while_loop(failed, attempt, start)
  # With J the reversal, J H J = L L^T gives U = J L^-1 J.
  upper = inverse[::-1, ::-1]
  return upper, jnp.all(jnp.isfinite(upper))


def _inverse_factor(gram: jax.Array) -> jax.Array:
  """Returns the inverse of the lower Cholesky factor; NaN if there is none.

  By halves, so that nearly all of the work is in products of matrices, which
  are several times as fast as LAPACK on a CPU.
  """
  if len(gram) <= _SMALL:
    return _substituted(jnp.linalg.cholesky(gram))
  half = len(gram) // 2
  first = _inverse_factor(gram[:half, :half])
  across = matmul(gram[half:, :half], first.T)
  last = _inverse_factor(gram[half:, half:] - matmul(across, across.T))
  corner = -matmul(last, matmul(across, first))
  zeros = jnp.zeros_like(corner.T)
  return jnp.block([[first, zeros], [corner, last]])


def _substituted(lower: jax.Array) -> jax.Array:
  """Inverts a small lower triangular matrix by forward substitution."""
  eye = jnp.eye(len(lower), dtype=lower.dtype)

  def row(i, inverse):  # Later rows of the inverse are still those of `eye`.
    left = jnp.where(jnp.arange(len(lower)) < i, lower[i], 0.0)
    return inverse.at[i].set((eye[i] - matmul(left, inverse)) / lower[i, i])

  return jax.lax.fori_loop(0, len(lower), row, eye)


def check_damping(damping: float) -> float:
  """Returns a damping of at least zero."""
  return _checks.not_negative('damping', damping)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  """A product in full float32."""
  return jnp.matmul(a, b, precision='highest')
