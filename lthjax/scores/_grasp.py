"""GraSP: what the flow of gradients loses without a weight."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax

from lthjax.scores import _checks
from lthjax.scores._means import mean_over_batches
from lthjax.scores._snip import product


def grasp(
  loss: Callable[..., jax.Array],
  params: chex.ArrayTree,
  batches: Iterable[Any],
  *,
  temperature: float | None = None,
) -> chex.ArrayTree:
  """Scores a weight by its share in the squared norm of the gradient.

  The score is ``w * (H g)``, with the gradient g and the Hessian H of the mean
  loss over all examples. Removing a weight of negative score lets the gradient
  grow, so these go first; here as everywhere, the highest scores are kept.

  Batches only save memory. The gradient is taken over all of them before the
  Hessian meets it, so every split gives the same scores to rounding. A batch
  counts by its number of examples, which is the length of the first axis of its
  arrays; the loss must therefore be a mean over the examples of its batch.

  Args:
    loss: ``loss(params, batch)``, a scalar: the mean over the examples.
    params: tree of arrays.
    batches: sequence of batches; put a single one into a list. The paper has
      ten examples of every class.
    temperature: what the loss divides its logits by. If it is given, the loss
      is called as ``loss(params, batch, temperature=temperature)``. The paper's
      code has 200.

  Returns:
    Scores of the same structure and shapes, at least float32, with signs.

  Raises:
    ValueError: if ``temperature`` is not positive, the loss fails on a batch or
      is no scalar, or a batch is empty or does not tell its number of examples;
      outside of transformations also if a score is not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> def loss(w, x):  # H is diag(2, 4), g is (2, -4)
    ...   return jnp.mean(x * (w[0] ** 2 + 2 * w[1] ** 2))
    >>> lth.scores.grasp(loss, jnp.array([1.0, -1.0]), [jnp.ones(3)])
    Array([ 4., 16.], dtype=float32)

  References:
    Wang et al., Picking Winning Tickets Before Training by Preserving Gradient
    Flow, arXiv:2002.07376, equation 8 and algorithm 1. That score is the
    negative of this one, and the highest are removed.
  """
  if temperature is not None and not temperature > 0:
    raise ValueError(
      f'`temperature` was {temperature}, but must be positive: the loss divides'
      ' its logits by it. Leave it out for a temperature of one.'
    )
  options = {} if temperature is None else {'temperature': temperature}
  batches = _checks.as_batches(batches)
  for batch in batches:
    _checks.check_loss(loss, params, batch, **options)
  grads = mean_over_batches(
    lambda batch: _gradient(loss, params, batch, options), batches
  )
  products = mean_over_batches(
    lambda batch: _hessian_product(loss, params, batch, options, grads), batches
  )
  return _checks.check_finite(product(params, products), 'GraSP')


@functools.partial(jax.jit, static_argnums=0)
def _gradient(loss, params, batch, options):
  return jax.grad(loss)(params, batch, **options)


@functools.partial(jax.jit, static_argnums=0)
def _hessian_product(loss, params, batch, options, vector):
  gradient = jax.grad(lambda params: loss(params, batch, **options))
  vector = jax.tree.map(lambda v, w: v.astype(w.dtype), vector, params)
  return jax.jvp(gradient, (params,), (vector,))[1]
