"""The gradient of one batch, as a criterion without any training."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax.scores import _checks


def gradient(
  loss: Callable[[chex.ArrayTree, Any], jax.Array],
  params: chex.ArrayTree,
  batch: Any,
) -> Any:
  """Scores a weight by how fast the loss changes with it: ``|dL/dw|``.

  Args:
    loss: ``loss(params, batch)``, a scalar. It is compiled once per function:
      pass the same function again.
    params: tree of floating-point arrays.
    batch: whatever the loss takes.

  Returns:
    Scores of the same structure and shapes, at least float32.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> loss = lambda w, x: jnp.sum(w * x) ** 2
    >>> w, x = jnp.array([1.0, -2.0, 0.5]), jnp.array([3.0, 1.0, 0.0])
    >>> lth.scores.gradient(loss, w, x)
    Array([6., 2., 0.], dtype=float32)

  References:
    Panda et al., Lottery Ticket Adaptation: Mitigating Destructive Interference
    in LLMs, arXiv:2406.16797 (a mask without calibration, as a control).
  """
  _checks.check_params(params)
  _checks.check_not_empty(batch)
  _checks.check_loss(loss, params, batch)
  return _checks.check_finite(_sizes(loss, params, batch), 'The gradient')


@functools.partial(jax.jit, static_argnums=0)
def _sizes(loss, params, batch):
  def size(g):
    return jnp.abs(g).astype(jnp.promote_types(jnp.abs(g).dtype, jnp.float32))

  return jax.tree.map(size, jax.grad(loss)(params, batch))
