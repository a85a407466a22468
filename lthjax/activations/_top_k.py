"""The largest activations of each token."""

import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.selection import keep_largest


def abs_top_k(x: jax.Array, k: int) -> jax.Array:
  """Keeps the ``k`` entries of largest absolute value along the last axis.

  Exactly ``k`` stay, with their signs; ties go to the lowest index. Gradients
  reach what stays.

  Args:
    x: floating-point array ``[..., features]``.
    k: how many to keep, at most all.

  Returns:
    Array of the same shape, with +0.0 elsewhere.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.activations.abs_top_k(jnp.array([3.0, -5.0, 1.0, 4.0]), 2)
    Array([ 0., -5.,  0.,  4.], dtype=float32)

  References:
    Gao et al., Weight-sparse transformers have interpretable circuits,
    arXiv:2511.13653, section 2.1 (AbsTopK).
  """
  x = jnp.asarray(_checks.array('x', x))
  k = _checks.at_least('k', k, 0)
  refuse(
    [f'shape {x.shape}'] if not x.ndim or k > x.shape[-1] else [],
    f'`abs_top_k` was to keep {k} of an array of {{}}, but there are fewer. The'
    ' last axis counts features.',
  )
  scores = jnp.abs(jax.lax.stop_gradient(x))
  keep = keep_largest(scores, k, axis=x.ndim - 1)
  return jnp.where(keep, x, jnp.zeros((), x.dtype))
