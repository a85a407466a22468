"""SNIP: how much the loss depends on whether a weight is present."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax.scores import _checks


def snip(
  loss: Callable[[chex.ArrayTree, Any], jax.Array],
  params: chex.ArrayTree,
  batch: Any,
) -> Any:
  """Scores a weight by the sensitivity of the loss to it: ``|w * dL/dw|``.

  This is the derivative of the loss with respect to the weight's mask. With
  `lthjax.prune_iteratively` it becomes iterative SNIP.

  Args:
    loss: ``loss(params, batch)``, a scalar. It is compiled once per function:
      pass the same function again.
    params: tree of floating-point arrays.
    batch: whatever the loss takes; 128 examples in the paper.

  Returns:
    Scores of the same structure and shapes, at least float32.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> loss = lambda w, x: jnp.sum(w * x) ** 2
    >>> w, x = jnp.array([1.0, -2.0, 0.5]), jnp.array([3.0, 1.0, 0.0])
    >>> lth.scores.snip(loss, w, x)
    Array([6., 4., 0.], dtype=float32)

  References:
    Lee et al., SNIP: Single-shot Network Pruning based on Connection
    Sensitivity, arXiv:1810.02340, equation 6 (without the division by the sum,
    which changes no order). De Jorge et al., Progressive Skeletonization,
    arXiv:2006.09081 (iterative SNIP).
  """
  _checks.check_params(params)
  _checks.check_not_empty(batch)
  _checks.check_loss(loss, params, batch)
  return _checks.check_finite(_sensitivity(loss, params, batch), 'SNIP')


@functools.partial(jax.jit, static_argnums=0)
def _sensitivity(loss, params, batch):
  grads = jax.grad(loss)(params, batch)
  return jax.tree.map(jnp.abs, product(params, grads))


def product(a: chex.ArrayTree, b: chex.ArrayTree) -> Any:
  """Multiplies in float32 at least; the real part of complex products."""

  def multiply(x, y):
    # JAX conjugates gradients of complex weights, so that the real part is the
    # first-order change of the loss when the weight is removed. In float16,
    # small scores would be zero.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.real(x.astype(dtype) * y.astype(dtype))

  return jax.tree.map(multiply, a, b)
