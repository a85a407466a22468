"""Gates that open or close weights, with a gradient for both."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.selection import check_floating


@jax.custom_jvp
def gate(keep: jax.Array, w: jax.Array, soft: jax.Array) -> jax.Array:
  """Lets a weight through or replaces it by +0.0."""
  del soft
  return jnp.where(keep, w, jnp.zeros((), w.dtype))


@gate.defjvp
def _gate_jvp(primals, tangents):
  keep, w, soft = primals
  _, dw, dsoft = tangents
  # For `soft` that of `soft * w`, straight through `keep`; for w, 1 where kept.
  moved = jnp.where(keep, dw, jnp.zeros((), w.dtype))
  return gate(keep, w, soft), moved + (w * dsoft).astype(w.dtype)


def run_gates(
  run: Callable[[str, Any, Any], Any],
  leaves: Mapping[str, Any],
  values: Mapping[str, Any],
  structure: Any,
) -> Any:
  """Maps ``run(name, weight, score)`` over what has scores."""
  return structure.unflatten(
    w if values[name] is None else run(name, w, values[name])
    for name, w in leaves.items()
  )


def tables(
  scores: chex.ArrayTree, params: chex.ArrayTree, what: str
) -> tuple[dict[str, Any], dict[str, Any], Any]:
  """Returns params and scores by name, and the structure of the params."""
  (leaves, structure), values = trees.flatten(params), trees.by_name(scores)
  _checks.check_arrays(leaves, 'params')
  _checks.check_arrays(values, what)
  faults = [f'{name} has {what} only' for name in values if name not in leaves]
  faults += [f'{name} has no {what}' for name in leaves if name not in values]
  given = {name: x for name, x in values.items() if x is not None}
  faults += [
    f'{name or "the array"}: {what} of shape {x.shape}, params of shape'
    f' {jnp.shape(leaves[name])}'
    for name, x in given.items()
    if name in leaves and x.shape != jnp.shape(leaves[name])
  ]
  refuse(
    faults,
    f'The {what} do not fit the params: {{}}. A tree of {what} has the'
    ' structure of the params, with an array of the same shape or None at each'
    f' leaf; `lthjax.supermasks.init_{what}` makes one.',
  )
  check_floating(given)
  return leaves, values, structure
