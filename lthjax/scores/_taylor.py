"""First-order Taylor scores: the squared change of the loss, per batch."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax.scores import _checks
from lthjax.scores._means import mean_over_batches
from lthjax.scores._snip import product


def taylor(
  loss: Callable[[chex.ArrayTree, Any], jax.Array],
  params: chex.ArrayTree,
  batches: Iterable[Any],
) -> Any:
  """Scores a weight by the mean over batches of ``(w * dL/dw) ** 2``.

  To first order, ``w * dL/dw`` is the change of the loss of a batch when the
  weight is removed. Unlike in `grasp` and `fisher`, the batches are part of the
  definition: a single batch ranks weights as `snip` does, and batches of one
  example give twice `fisher`. Batches are weighted by their number of examples.

  Args:
    loss: ``loss(params, batch)``, a scalar: the mean over the examples.
    params: tree of floating-point arrays.
    batches: sequence of batches; put a single one into a list.

  Returns:
    Scores of the same structure and shapes, at least float32.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> loss = lambda w, x: jnp.mean(x @ w)
    >>> batches = [jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])]
    >>> lth.scores.taylor(loss, jnp.array([2.0, 4.0]), batches)
    Array([4., 8.], dtype=float32)

  References:
    Molchanov et al., Importance Estimation for Neural Network Pruning,
    arXiv:1906.10771, equation 8.
  """
  batches = _checks.losses(loss, params, batches)
  scores = mean_over_batches(
    lambda batch: _squared_change(loss, params, batch), batches
  )
  return _checks.check_finite(scores, 'Taylor')


@functools.partial(jax.jit, static_argnums=0)
def _squared_change(loss, params, batch):
  grads = jax.grad(loss)(params, batch)
  return jax.tree.map(jnp.square, product(params, grads))
