"""Jacobian covariance: how differently examples affect the outputs."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.proxies import _inputs
from lthjax.proxies._inputs import Apply

_K = 1e-5


def jacob_cov(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
) -> jax.Array:
  """Computes ``-sum(log(v + k) + 1 / (v + k))`` of the eigenvalues v.

  The eigenvalues are those of the correlation matrix, between examples, of the
  gradient of the summed outputs with respect to the input; k is 1e-5. If all
  examples are uncorrelated, every eigenvalue is one and the score is minus the
  number of examples; if two are indistinguishable, one eigenvalue is zero.

  Eigenvalues are computed as squared singular values, because float32 would
  lose the small ones otherwise.

  For the arguments, see `lthjax.proxies`. The batch needs two examples or more;
  labels and key are not used.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> apply = lambda params, x: x**2 / 2  # the gradient is x
    >>> x = jnp.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, -2.0]])
    >>> print(f'{proxies.jacob_cov(apply, None, (x, None)):.3f}')
    -2.000

  References:
    Mellor et al., Neural Architecture Search without Training,
    arXiv:2006.04647v1, equation 3 (later versions have `naswot`).
  """
  del key
  x = _inputs.as_batch(batch).x
  n = _checks.at_least('len(x)', len(x), 2)
  _inputs.check_outputs(apply, params, x)
  rows = jax.grad(lambda x: jnp.sum(apply(params, x)))(x).reshape(n, -1)
  rows = rows.astype(jnp.float32)
  # Correlations between the rows: centered, of unit length.
  rows -= jnp.mean(rows, 1, keepdims=True)
  rows /= jnp.linalg.norm(rows, axis=1, keepdims=True)
  values = jnp.linalg.svd(rows, compute_uv=False) ** 2
  # Of n eigenvalues, those beyond the number of singular values are zero.
  values = jnp.pad(values, (0, n - len(values))) + _K
  return -jnp.sum(jnp.log(values) + 1 / values)
