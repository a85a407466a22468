"""Gradient norm, SNIP and GraSP: gradient-based statistics of the kernels."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import masks, scores, trees
from lthjax.proxies import _inputs
from lthjax.proxies._inputs import Apply, Loss


def grad_norm(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
  *,
  loss: Loss = _inputs.cross_entropy,
) -> jax.Array:
  """Sums the Euclidean norms of the gradients of the kernels.

  For the arguments, see `lthjax.proxies`; the key is not used.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> params = {'kernel': jnp.ones((2, 1))}
    >>> apply = lambda params, x: x @ params['kernel']
    >>> batch = jnp.array([[3.0, 4.0]]), jnp.zeros((1, 1))
    >>> error = lambda y, labels: (y - labels) ** 2 / 14
    >>> proxies.grad_norm(apply, params, batch, loss=error)
    Array(5., dtype=float32)

  References:
    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134,
    section 3.1.
  """
  del key
  mean_loss, batch = _prepare(apply, params, batch, loss)
  grads = jax.grad(mean_loss)(params, batch)
  return over_kernels(lambda g: jnp.sqrt(jnp.sum(g**2)), grads)


def snip(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
  *,
  loss: Loss = _inputs.cross_entropy,
) -> jax.Array:
  """Sums `lthjax.scores.snip` over the kernels: ``sum |w * dL/dw|``.

  For the arguments, see `lthjax.proxies`; the key is not used.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> params = {'kernel': jnp.ones((2, 1))}
    >>> apply = lambda params, x: x @ params['kernel']
    >>> batch = jnp.array([[3.0, 4.0]]), jnp.zeros((1, 1))
    >>> error = lambda y, labels: (y - labels) ** 2 / 14
    >>> proxies.snip(apply, params, batch, loss=error)
    Array(7., dtype=float32)

  References:
    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134,
    equation 1.
  """
  del key
  mean_loss, batch = _prepare(apply, params, batch, loss)
  return over_kernels(jnp.sum, scores.snip(mean_loss, params, batch))


def grasp(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
  *,
  loss: Loss = _inputs.cross_entropy,
) -> jax.Array:
  """Sums ``-w * (H g)`` over the kernels, with gradient g and Hessian H.

  This is the negative sum of `lthjax.scores.grasp`: networks whose weights, as
  a whole, reduce the gradient score higher.

  For the arguments, see `lthjax.proxies`; the key is not used.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> params = {'kernel': jnp.ones((2, 1))}
    >>> apply = lambda params, x: x @ params['kernel']
    >>> batch = jnp.array([[3.0, 4.0]]), jnp.zeros((1, 1))
    >>> error = lambda y, labels: (y - labels) ** 2 / 2  # H is x x', g is 7 x
    >>> proxies.grasp(apply, params, batch, loss=error)  # -7 * 7 * |x|^2
    Array(-1225., dtype=float32)

  References:
    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134,
    equation 1.
  """
  del key
  mean_loss, batch = _prepare(apply, params, batch, loss)
  return -over_kernels(jnp.sum, scores.grasp(mean_loss, params, [batch]))


def over_kernels(
  f: Callable[[jax.Array], jax.Array], tree: chex.ArrayTree
) -> jax.Array:
  """Adds up a function of each kernel, in float32."""
  named = trees.by_name(tree).items()
  leaves = [x for name, x in named if masks.kernels(name, x)]
  if not leaves:
    raise ValueError(
      'The params have no kernels to sum over (see `lthjax.masks.kernels`). Use'
      ' a proxy of activations or outputs.'
    )
  # In float32: sums over millions of bfloat16 entries would stall.
  return sum((f(x.astype(jnp.float32)) for x in leaves), jnp.float32(0))


def _prepare(apply, params, batch, loss):
  batch = _inputs.as_labelled(batch)
  _inputs.check_outputs(apply, params, batch[0])
  return _inputs.mean_loss(apply, loss), batch
