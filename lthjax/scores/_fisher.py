"""Fisher scores: the loss near a minimum, as its gradients' spread tells it."""

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
) -> chex.ArrayTree:
  """Scores a weight by half the mean over examples of ``(w * dL/dw) ** 2``.

  The mean square of the gradients of single examples is the diagonal of the
  empirical Fisher matrix, which stands for that of the Hessian in Optimal Brain
  Damage. The loss is called on one example at a time, so that BatchNorm must be
  in inference form, and every split into batches gives the same scores.

  Args:
    loss: ``loss(params, batch)``, a scalar; the batch has a single example.
    params: tree of arrays.
    batches: sequence of batches; put a single one into a list. Examples are
      along the first axis of every array in them.

  Returns:
    Scores of the same structure and shapes, at least float32.

  Raises:
    ValueError: if the loss fails on an example or is no scalar, or a batch does
      not tell its number of examples; outside of transformations also if a
      score is not finite.

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
  """Example after example: their gradients together would fill the memory."""
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
  total, _ = jax.lax.scan(add, zeros, arrays)
  return jax.tree.map(lambda t: t / (2 * _checks.examples(batch)), total)
