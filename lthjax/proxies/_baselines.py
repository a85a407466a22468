"""Baselines that every proxy has to beat: the size of a network."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import accounting
from lthjax.proxies import _checks
from lthjax.proxies._checks import Apply


def num_params(
  apply: Apply,
  params: chex.ArrayTree,
  batch: Any,
  key: chex.PRNGKey | None = None,
) -> jax.Array:
  """Counts the params.

  Args:
    apply: not used.
    params: tree of arrays.
    batch: not used.
    key: not used.

  Returns:
    A scalar; higher is better.

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

  Args:
    apply: ``apply(params, x) -> outputs``.
    params: tree of arrays.
    batch: inputs, and labels or None.
    key: not used.

  Returns:
    A scalar; higher is better.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import proxies
    >>> apply = lambda params, x: x @ params['kernel']
    >>> params = {'kernel': jnp.ones((2, 3))}
    >>> proxies.multiply_adds(apply, params, (jnp.zeros((8, 5, 2)), None))
    Array(30., dtype=float32)
  """
  del key
  x = _checks.as_batch(batch).x
  shapes, one = jax.eval_shape(lambda: (params, x[:1]))
  return jnp.float32(accounting.multiply_adds(apply, shapes, one).total_dense)
