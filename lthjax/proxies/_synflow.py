"""SynFlow as a proxy: the flow through a network, without data."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax.program._scaled import evaluate
from lthjax.proxies import _inputs
from lthjax.proxies._gradients import over_kernels
from lthjax.proxies._inputs import Apply


def synflow(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
) -> jax.Array:
  """Computes the logarithm of the sum of `lthjax.scores.synflow` over kernels.

  The sum grows exponentially with depth; its logarithm ranks networks the same
  way and is in range at any depth.

  For the arguments, see `lthjax.proxies`. BatchNorm must be in inference form,
  and of the batch only the shape of the inputs matters.

  Returns:
    A scalar; higher is better. Minus infinity if nothing flows.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> params = {'fc1': jnp.array([[1.0, -2.0]]), 'fc2': -jnp.ones((2, 1))}
    >>> apply = lambda params, x: x @ params['fc1'] @ params['fc2']
    >>> flow = proxies.synflow(apply, params, (jnp.zeros((8, 1)), None))
    >>> jnp.exp(flow)  # 3 through each of both layers
    Array(6., dtype=float32)

  References:
    Tanaka et al., Pruning neural networks without any data by iteratively
    conserving synaptic flow, arXiv:2006.05467, equation 2. Abdelfattah et al.,
    Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134, equation 1.
  """
  del key
  ones = jnp.ones_like(_inputs.as_batch(batch).x[:1], jnp.float32)
  _inputs.check_outputs(apply, params, ones)
  # With ones and absolute weights, all paths add up.
  positive = jax.tree.map(jnp.abs, params)

  def flow(positive):
    total = evaluate(lambda p: jnp.sum(apply(p, ones)), positive)
    return total.value, total.exponent

  grads, exponent = jax.grad(flow, has_aux=True)(positive)
  scores = jax.tree.map(jnp.multiply, positive, grads)
  # Equation 2: R = sum of |w| dR/d|w|; its exponent is kept apart, in base 2.
  return jnp.log(over_kernels(jnp.sum, scores)) + exponent * jnp.log(2.0)
