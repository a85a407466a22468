"""Error barriers on the straight line between two networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks
from lthjax.landscape import _pairs

Error = Callable[[chex.ArrayTree], jax.Array]


class Barrier(NamedTuple):
  """The error between two networks.

  Attributes:
    barrier: the highest error minus the mean of the errors at the two ends. On
      any path, it is at least half the difference between the ends.
    above_line: how far the error rises above the straight line between the
      errors at the ends; 0 if the error changes linearly.
    errors: the error at each point, from the first network to the second.
    alphas: the position of each point: 0 is the first network, 1 the second.
  """

  barrier: jax.Array
  above_line: jax.Array
  errors: jax.Array
  alphas: jax.Array


def interpolate(
  params_a: chex.ArrayTree,
  params_b: chex.ArrayTree,
  alpha: chex.Numeric,
) -> Any:
  """Returns a point on the straight line between two networks.

  The ends are exact, and so is every point between equal weights: a weight that
  is dead in both networks is dead on the whole line. Points are computed in at
  least single precision and rounded to the dtype of the weights.

  Args:
    params_a: tree of floating-point arrays.
    params_b: tree with leaves of the same names, shapes and dtypes.
    alpha: 0 gives the first network, 1 the second; may be traced.

  Returns:
    ``(1 - alpha) * params_a + alpha * params_b``, a tree like the first.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = {'w': jnp.array([0.0, 4.0])}, {'w': jnp.array([1.0, 4.0])}
    >>> lth.landscape.interpolate(a, b, 0.25)
    {'w': Array([0.25, 4.  ], dtype=float32)}
  """
  if not isinstance(alpha, jax.Array):
    alpha = _checks.number('alpha', alpha)
  return _pairs.map_pair(
    lambda a, b: _between(a, b, alpha).astype(jnp.result_type(a)),
    params_a,
    params_b,
  )


def error_barrier(
  error: Error,
  params_a: chex.ArrayTree,
  params_b: chex.ArrayTree,
  *,
  points: int = 31,
  batch_size: int | None = None,
) -> Barrier:
  """Measures how much the error rises between two networks.

  Networks without a barrier are linearly mode connected: they lie in one basin.
  Pass a jitted ``error`` to have it compiled once, for all calls.

  Args:
    error: ``error(params) -> scalar``, a pure function, such as the error rate
      on the test set.
    params_a: tree of floating-point arrays.
    params_b: tree with leaves of the same names, shapes and dtypes.
    points: number of points, including the ends. An odd number puts one exactly
      in the middle; the paper uses 30.
    batch_size: number of points to evaluate at a time with `jax.vmap`, which
      needs memory for as many networks; all of them by default. With 1, points
      are evaluated one by one without `jax.vmap`, which is faster for
      convolutions on a CPU.

  Returns:
    A `Barrier`. For two identical networks it is exactly 0 if ``batch_size`` is
    1 or ``error`` is an error rate; otherwise `jax.vmap` may round the last
    bits differently from point to point.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> double_well = lambda params: (params['w'] ** 2 - 1) ** 2
    >>> a, b = {'w': jnp.array(-1.0)}, {'w': jnp.array(1.0)}
    >>> lth.landscape.error_barrier(double_well, a, b).barrier
    Array(1., dtype=float32)

  References:
    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    arXiv:1912.05671, section 2.
  """
  why = 'the error is computed at each of them'
  points = _checks.between('points', points, 2, 100_000, why)
  size = points
  if batch_size is not None:
    size = _checks.at_least('batch_size', batch_size, 1)
  _checks.function('error', error, 'error(params) -> scalar')
  _pairs.check_alike(params_a, params_b)

  # Evenly spaced points; NumPy makes the ends exactly 0 and 1.
  alphas = jnp.asarray(np.linspace(0, 1, points), jnp.float32)
  if size == 1:
    networks = (_point(params_a, params_b, alpha) for alpha in alphas)
    errors = jnp.stack([_scalar(error(network)) for network in networks])
  else:
    chunks = (alphas[i : i + size] for i in range(0, points, size))
    lines = (_line(params_a, params_b, chunk) for chunk in chunks)
    measure = jax.vmap(lambda network: _scalar(error(network)))
    errors = jnp.concatenate([measure(line) for line in lines])
  first, last = errors[0], errors[-1]
  # Section 2: the highest error minus the mean of the ends.
  return Barrier(
    barrier=jnp.max(errors) - (first + last) / 2,
    above_line=jnp.max(errors - _between(first, last, alphas)),
    errors=errors,
    alphas=alphas,
  )


def _between(a: jax.Array, b: jax.Array, alpha: chex.Numeric) -> jax.Array:
  """Interpolates from the nearer end; exact at both."""
  a, b = _pairs.widened(a), _pairs.widened(b)
  # `a + alpha * (b - a)` alone would miss b by a rounding error.
  way = b - a
  point = jnp.where(alpha < 0.5, a + alpha * way, b - (1 - alpha) * way)
  # Exact ends even where `b - a` overflows.
  return jnp.where(alpha == 0, a, jnp.where(alpha == 1, b, point))


def _scalar(value: Any) -> jax.Array:
  """Returns an error as an array; raises unless it is one number."""
  found = ''
  if not isinstance(value, (jax.Array, np.ndarray, np.generic, float, int)):
    found = f'a {type(value).__name__}'
  elif jnp.shape(value):
    found = f'shape {jnp.shape(value)}'
  elif jnp.issubdtype(jnp.result_type(value), jnp.bool_):
    found = 'a bool'
  if found:
    raise ValueError(
      f'`error` must return a scalar, but returned {found}. Return one number,'
      ' the average over the examples.'
    )
  return jnp.asarray(value)


_point = jax.jit(interpolate)
_line = jax.jit(jax.vmap(interpolate, in_axes=(None, None, 0)))
