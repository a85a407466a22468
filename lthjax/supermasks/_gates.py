"""Gates that open or close weights, with a gradient all the same."""

import chex
import jax
import jax.numpy as jnp

from lthjax import trees
from lthjax.selection import check_floating


@jax.custom_jvp
def gate(keep: jax.Array, w: jax.Array, soft: jax.Array) -> jax.Array:
  """Lets a weight through or puts +0.0 in its place.

  The derivative is that of ``soft * w`` by ``soft``, and that of the weights
  which are let through by the weights: straight through what made ``keep``.
  """
  del soft
  return jnp.where(keep, w, jnp.zeros((), w.dtype))


@gate.defjvp
def _gate_jvp(primals, tangents):
  keep, w, soft = primals
  _, dw, dsoft = tangents
  moved = jnp.where(keep, dw, jnp.zeros((), w.dtype))
  return gate(keep, w, soft), moved + (w * dsoft).astype(w.dtype)


def check_scores(
  scores: chex.ArrayTree, params: chex.ArrayTree, what: str
) -> None:
  """Raises unless every score, or logit, belongs to a weight."""
  values, leaves = trees.by_name(scores), trees.by_name(params)
  faults = [f'{name} has {what} only' for name in values if name not in leaves]
  faults += [f'{name} has no {what}' for name in leaves if name not in values]
  faults += [
    f'{name or "the array"}: {what} of shape {jnp.shape(x)}, params of shape'
    f' {jnp.shape(leaves[name])}'
    for name, x in values.items()
    if x is not None
    and name in leaves
    and jnp.shape(x) != jnp.shape(leaves[name])
  ]
  if not faults and all(x is None for x in values.values()):
    faults = ['every leaf is None']
  if faults:
    raise ValueError(
      f'The {what} do not fit the params: {"; ".join(faults)}. A tree of'
      f' {what} has the structure of the params, with an array of the same'
      ' shape or None at each leaf;'
      f' `lthjax.supermasks.init_{what}` makes one.'
    )
  check_floating({n: x for n, x in values.items() if x is not None})
