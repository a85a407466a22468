"""GraSP: how much a weight contributes to the flow of gradients."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax

from lthjax import _checks as _lib_checks
from lthjax import trees
from lthjax.scores import _checks
from lthjax.scores._means import mean_over_batches
from lthjax.scores._snip import product


def grasp(
  loss: Callable[..., jax.Array],
  params: chex.ArrayTree,
  batches: Iterable[Any],
  *,
  temperature: float | None = None,
) -> Any:
  """Scores a weight by its share in the squared norm of the gradient.

  The score is ``w * (H g)``, with the gradient g and the Hessian H of the mean
  loss over all examples. Removing a weight with a negative score makes the
  gradient grow, so these weights go first; as everywhere in `lthjax.scores`,
  the highest scores are kept.

  Batches only save memory: g is taken over all of them before it is multiplied
  by H, so the scores do not depend on the split, up to rounding. Batches are
  weighted by their number of examples, the length of the first axis of their
  arrays; the loss must therefore be a mean over the examples of its batch.

  Args:
    loss: ``loss(params, batch)``, a scalar: the mean over the examples.
    params: tree of floating-point arrays.
    batches: sequence of batches; put a single one into a list. Ten examples per
      class in the paper.
    temperature: what the loss divides its logits by, 200 in the paper's code.
      If given, the loss is called as ``loss(params, batch,
      temperature=temperature)``.

  Returns:
    Scores of the same structure and shapes, at least float32, with signs.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> def loss(w, x):  # H is diag(2, 4), g is (2, -4)
    ...   return jnp.mean(x * (w[0] ** 2 + 2 * w[1] ** 2))
    >>> lth.scores.grasp(loss, jnp.array([1.0, -1.0]), [jnp.ones(3)])
    Array([ 4., 16.], dtype=float32)

  References:
    Wang et al., Picking Winning Tickets Before Training by Preserving Gradient
    Flow, arXiv:2002.07376, equation 8 and algorithm 1, with the opposite sign:
    there, the highest scores are removed.
  """
  options = {}
  if temperature is not None and not trees.is_traced(temperature):
    temperature = _lib_checks.positive('temperature', temperature)
  if temperature is not None:
    options['temperature'] = temperature
  batches = _checks.losses(loss, params, batches, **options)
  # Algorithm 1: the gradient g of all examples, then its product with H.
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
  # JAX conjugates gradients of complex weights; a direction is not.
  vector = jax.tree.map(lambda v, w: v.conj().astype(w.dtype), vector, params)
  return jax.jvp(gradient, (params,), (vector,))[1]
