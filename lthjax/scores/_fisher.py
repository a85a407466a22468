"""Fisher scores: curvature of the loss, from the spread of gradients."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax.scores import _checks
from lthjax.scores._means import mean_over_batches
from lthjax.scores._snip import product


def fisher(
  loss: Callable[[chex.ArrayTree, Any], jax.Array],
  params: chex.ArrayTree,
  batches: Iterable[Any],
) -> Any:
  """Scores a weight by half the mean over examples of ``(w * dL/dw) ** 2``.

  The mean square of the gradients of single examples is the diagonal of the
  empirical Fisher matrix, which replaces the diagonal of the Hessian in Optimal
  Brain Damage. The loss is called on one example at a time. BatchNorm must
  therefore be in inference form, and the split into batches does not matter.

  Args:
    loss: ``loss(params, batch)``, a scalar; the batch has a single example.
    params: tree of floating-point arrays.
    batches: sequence of batches; put a single one into a list. The first axis
      of every array in them counts examples.

  Returns:
    Scores of the same structure and shapes, at least float32.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> loss = lambda w, x: jnp.mean(x @ w)
    >>> x = jnp.array([[1.0, 3.0], [1.0, -3.0]])  # 3 and -3 do not cancel
    >>> lth.scores.fisher(loss, jnp.array([2.0, 4.0]), [x])
    Array([ 2., 72.], dtype=float32)

  References:
    LeCun et al., Optimal Brain Damage, NeurIPS 1989, equation 5. Theis et al.,
    Faster gaze prediction with dense networks and Fisher pruning,
    arXiv:1801.05787, equation 6.
  """
  _checks.check_params(params)
  batches = _checks.as_batches(batches)
  for batch in batches:
    _checks.examples(batch)
    one = jax.tree.map(lambda x: x[:1] if jnp.ndim(x) else x, batch)
    _checks.check_loss(loss, params, one)
  scores = mean_over_batches(
    lambda batch: _mean_square(loss, params, batch), batches
  )
  return _checks.check_finite(scores, 'Fisher')


@functools.partial(jax.jit, static_argnums=0)
def _mean_square(loss, params, batch):
  # One example at a time: all gradients at once would fill the memory.
  leaves, treedef = jax.tree.flatten(batch)
  arrays = {i: jnp.asarray(x) for i, x in enumerate(leaves) if jnp.ndim(x)}

  def add(total, example):
    one = [
      example[i][None] if i in example else x for i, x in enumerate(leaves)
    ]
    grads = jax.grad(loss)(params, jax.tree.unflatten(treedef, one))
    changes = product(params, grads)
    return jax.tree.map(lambda t, c: t + c**2, total, changes), None

  zeros = jax.tree.map(jnp.zeros_like, product(params, params))
  # Equation 6 of arXiv:1801.05787: half the mean over examples.
  total, _ = jax.lax.scan(add, zeros, arrays)
  return jax.tree.map(lambda t: t / (2 * _checks.examples(batch)), total)
