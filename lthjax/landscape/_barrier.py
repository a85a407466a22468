"""The error on the straight line between two networks."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax.landscape import _checks

Error = Callable[[chex.ArrayTree], jax.Array]


class Barrier(NamedTuple):
  """The error between two networks.

  Attributes:
    barrier: the highest error minus the mean of the errors at the two ends. It
      is at least half the difference of the ends, on any path.
    above_line: how far the error rises above the straight line between the
      errors at the ends. It is 0 where the error changes evenly.
    errors: the error at each point, from the first network to the second.
    alphas: where the points are: 0 is the first network, 1 the second.
  """

  barrier: jax.Array
  above_line: jax.Array
  errors: jax.Array
  alphas: jax.Array


def interpolate(
  params_a: chex.ArrayTree,
  params_b: chex.ArrayTree,
  alpha: chex.Numeric,
) -> chex.ArrayTree:
  """Goes a part of the straight line from one network to another.

  The ends are exact, and so is every point between equal weights: a weight that
  is dead in both networks is dead on the whole line. Points are computed in
  single precision at least, and rounded to the dtype of the weights.

  Args:
    params_a: tree of floating point arrays.
    params_b: tree with leaves of the same names, shapes and dtypes.
    alpha: 0 gives the first, 1 the second; may be traced.

  Returns:
    ``(1 - alpha) * params_a + alpha * params_b``, a tree like the first.

  Raises:
    ValueError: if the two differ in structure, shapes or dtypes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = {'w': jnp.array([0.0, 4.0])}, {'w': jnp.array([1.0, 4.0])}
    >>> lth.landscape.interpolate(a, b, 0.25)
    {'w': Array([0.25, 4.  ], dtype=float32)}
  """
  return _checks.map_pair(
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
  """Measures how much worse the networks between two networks are.

  Networks without a barrier are linearly mode connected: they lie in one basin.
  To have ``error`` compiled, give it jitted; further calls, with other
  networks, compile nothing again.

  Args:
    error: ``error(params) -> scalar``, a pure function, such as the error rate
      on the test set.
    params_a: tree of floating point arrays.
    params_b: tree with leaves of the same names, shapes and dtypes.
    points: number of points, the ends included. An odd number has one exactly
      in the middle; the paper has 30.
    batch_size: number of points to evaluate at a time with `jax.vmap`, which
      takes the memory of as many networks; all of them if `None`. With 1 they
      are evaluated one by one without `jax.vmap`, which is the faster way for
      convolutions on a CPU.

  Returns:
    A `Barrier`. That of two identical networks is exactly 0, for any error
    if ``batch_size`` is 1, and for an error rate always: `jax.vmap` may round
    the last bits differently from point to point.

  Raises:
    ValueError: if the networks differ in structure or have no weights, if there
      are fewer than two points, or if ``error`` does not return a scalar.

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
  points = operator.index(points)
  if points < 2:
    raise ValueError(
      f'`points` was {points}, but a line has at least its 2 ends. Use 31, or'
      ' the 30 of the paper.'
    )
  size = points if batch_size is None else operator.index(batch_size)
  if size < 1:
    raise ValueError(
      f'`batch_size` was {size}, but at least 1 point is evaluated at a time.'
      ' Leave it out to evaluate all at once.'
    )
  _checks.check_alike(params_a, params_b)
  if not jax.tree.leaves(params_a):
    raise ValueError(
      'The two networks have no weights, so that there is no line between them.'
      ' Give trees of floating point arrays.'
    )

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
  return Barrier(
    barrier=jnp.max(errors) - (first + last) / 2,
    above_line=jnp.max(errors - _between(first, last, alphas)),
    errors=errors,
    alphas=alphas,
  )


def _between(a: jax.Array, b: jax.Array, alpha: chex.Numeric) -> jax.Array:
  """Starts from the nearer end, and is exact at both."""
  a, b = _checks.widened(a), _checks.widened(b)
  way = b - a
  point = jnp.where(alpha < 0.5, a + alpha * way, b - (1 - alpha) * way)
  # Even where the way is too long for floats.
  return jnp.where(alpha == 0, a, jnp.where(alpha == 1, b, point))


def _scalar(value: Any) -> jax.Array:
  """Returns an error as an array; raises if it is not one number."""
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
