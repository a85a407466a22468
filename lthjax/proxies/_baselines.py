"""Baselines that every proxy has to beat: the size of a network."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import accounting
from lthjax.proxies import _inputs
from lthjax.proxies._inputs import Apply


def num_params(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
) -> jax.Array:
  """Counts the params.

  For the arguments, see `lthjax.proxies`; only ``params`` is used.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> proxies.num_params(
    ...   None, {'w': jnp.ones((2, 3)), 'b': jnp.ones(3)}, None
    ... )
    Array(9., dtype=float32)
  """
  del apply, batch, key
  return jnp.float32(sum(jnp.size(x) for x in jax.tree.leaves(params)))


def multiply_adds(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
) -> jax.Array:
  """Counts the multiply-adds of a forward pass on one example.

  See `lthjax.accounting.multiply_adds`; FLOPs are twice as many.

  For the arguments, see `lthjax.proxies`; labels and key are not used.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> apply = lambda params, x: x @ params['kernel']
    >>> params = {'kernel': jnp.ones((2, 3))}
    >>> proxies.multiply_adds(apply, params, (jnp.zeros((8, 5, 2)), None))
    Array(30., dtype=float32)
  """
  del key
  x = _inputs.as_batch(batch).x
  # One example is enough, and its shape: nothing is computed.
  shapes, one = jax.eval_shape(lambda: (params, x[:1]))
  return jnp.float32(accounting.multiply_adds(apply, shapes, one).total_dense)
