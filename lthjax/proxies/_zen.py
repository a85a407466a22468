"""Zen-score: how far outputs move when inputs move a little."""

from typing import Any

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import _checks, program
from lthjax.proxies import _inputs
from lthjax.proxies._inputs import Apply


def zen(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
  *,
  scale: float = 0.01,
) -> jax.Array:
  """Computes ``log E||f(x) - f(x + scale * e)|| + sum(log(root(mean(var))))``.

  Both x and e are drawn from a Gaussian. The sum is over the normalizations of
  the network: each divides by the standard deviations of its channels, and the
  sum undoes this. Every `jax.lax.rsqrt` or `jnp.sqrt` of an array that is not a
  constant counts as a normalization, such as those of BatchNorm and LayerNorm.
  BatchNorm in inference form changes nothing at initialization, and the sum is
  close to zero.

  For the arguments, see `lthjax.proxies`. Of the batch only the shape of the
  inputs matters; ``scale`` is the size of the perturbation. The paper omits the
  pooling and the last layer (to do the same, return the features before them),
  and draws params from a Gaussian.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import proxies
    >>> x, key = jnp.zeros((64, 9)), jax.random.key(0)
    >>> apply = lambda params, x: params * x
    >>> one = proxies.zen(apply, 1.0, (x, None), key)
    >>> two = proxies.zen(apply, 2.0, (x, None), key)
    >>> jnp.exp(two - one).round(3)
    Array(2., dtype=float32)

  References:
    Lin et al., Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition,
    arXiv:2102.01063, algorithm 1.
  """
  if key is None:
    raise ValueError(
      '`zen` draws its inputs, so it needs a key, such as `jax.random.key(0)`.'
    )
  key, scale = _checks.key('key', key), _checks.positive('scale', scale)
  shape = _inputs.as_batch(batch).x.shape
  x, noise = jax.random.normal(key, (2, *shape))
  _inputs.check_outputs(apply, params, x)

  def visit(eqn, inputs):
    outs, note = program.bind(eqn, inputs), None
    if not isinstance(eqn.invars[0], jex.Literal):
      variance = inputs[0].astype(jnp.float32)
      # The log of the root of the mean variance.
      note = jnp.log(jnp.mean(variance)) / 2
    return outs, note

  visits = {'rsqrt': visit, 'sqrt': visit}
  # Algorithm 1: the change of the outputs, and what normalization divided by.
  near, notes = program.run(apply, visits, params, x)
  moved = near - apply(params, x + scale * noise)
  moved = moved.astype(jnp.float32).reshape(len(x), -1)
  distance = jnp.mean(jnp.linalg.norm(moved, axis=1))
  rescaled = map(jnp.sum, jax.tree.leaves(notes))
  return jnp.log(distance) + sum(rescaled, jnp.float32(0))
