"""Statistics of activations: sums over tokens.

A statistic is a function from activations ``[..., tokens, inputs]``, in
float32, to a sum over tokens to which a token of zeros adds nothing: tokens
that are there to pad are set to zero.
"""

import jax
import jax.numpy as jnp


def sums(x: jax.Array) -> jax.Array:
  """Sums each input: ``[..., inputs]``.

  Args:
    x: activations ``[..., tokens, inputs]``.

  Returns:
    The sums.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.calibration import stats
    >>> stats.sums(jnp.array([[1.0, 2.0], [3.0, -4.0]]))
    Array([ 4., -2.], dtype=float32)
  """
  return x.sum(-2)


def squares(x: jax.Array) -> jax.Array:
  """Sums the squares of each input: ``[..., inputs]``.

  Args:
    x: activations ``[..., tokens, inputs]``.

  Returns:
    The sums of squares, the diagonal of `gram`.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.calibration import stats
    >>> stats.squares(jnp.array([[1.0, 2.0], [3.0, -4.0]]))
    Array([10., 20.], dtype=float32)
  """
  return jnp.square(x).sum(-2)


def gram(x: jax.Array) -> jax.Array:
  """Sums the products of all pairs of inputs: ``[..., inputs, inputs]``.

  Args:
    x: activations ``[..., tokens, inputs]``.

  Returns:
    The Gram matrix, half the Hessian of a layer's squared error.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.calibration import stats
    >>> stats.gram(jnp.array([[1.0, 2.0], [3.0, -4.0]]))
    Array([[ 10., -10.],
           [-10.,  20.]], dtype=float32)
  """
  return jnp.einsum('...ti,...tj->...ij', x, x, precision='highest')


def absolute_means(x: jax.Array) -> jax.Array:
  """Sums the absolute values of each input: ``[..., inputs]``.

  `Calibration.means` divides them by the number of tokens.

  Args:
    x: activations ``[..., tokens, inputs]``.

  Returns:
    The sums of absolute values.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.calibration import stats
    >>> stats.absolute_means(jnp.array([[1.0, 2.0], [3.0, -4.0]]))
    Array([4., 6.], dtype=float32)
  """
  return jnp.abs(x).sum(-2)
