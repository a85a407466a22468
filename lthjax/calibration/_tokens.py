"""Which tokens count, wherever the program has put them.

A token mask belongs to the first axes of the first argument. Axes that meet
have one type, so it is known which axes of an activation, or which factors of
merged axes, are these: also inside loops, and where tokens are flattened.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax.calibration import _patches
from lthjax.calibration._sites import Site, activation_axes
from lthjax.program._axis_types import Type, flat
from lthjax.program._axis_types import find as representative
from lthjax.program._interpreter import Path, equations
from lthjax.program._typed_axes import watch


def check(token_mask: Any, args: Sequence[Any]) -> None:
  """Raises unless there are tokens, and a token mask fits them."""
  leaves = jax.tree.leaves(args)
  if leaves and all(0 in getattr(x, 'shape', ()) for x in leaves):
    raise ValueError(
      f'The first argument has the shape {jnp.shape(leaves[0])}, so there are'
      ' no tokens to look at. Give calibration data.'
    )
  if token_mask is None:
    return
  shape = jnp.shape(leaves[0]) if leaves else ()
  dtype = getattr(token_mask, 'dtype', None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.bool_):
    raise TypeError(
      f'`token_mask` is {dtype or type(token_mask).__name__}, but must be a'
      ' bool array, true where a token counts: `tokens != pad`.'
    )
  if not token_mask.shape or token_mask.shape != shape[: token_mask.ndim]:
    raise ValueError(
      f'`token_mask` has the shape {token_mask.shape}, but must have that of'
      f' the first axes of the first argument, {shape}: one entry per token.'
    )


def locate(
  closed: jex.ClosedJaxpr,
  args: Sequence[Any],
  sites: Mapping[Path, Site],
  token_mask: jax.Array | None,
) -> dict[Path, jax.Array | None]:
  """Returns for each site which of its tokens count; `None` for all."""
  if token_mask is None:
    return dict.fromkeys(sites)
  leaves = jax.tree.leaves(args)
  given, watched = watch(closed, len(leaves), sites)
  wanted = given[0].axes[: token_mask.ndim]
  eqns = dict(equations(closed))
  found, lost = {}, []
  for path, site in sites.items():
    values, eqn, places = watched[path], eqns[path], 1
    if _patches.is_convolution(eqn):  # All places of an image are alike.
      free = eqn.params['dimension_numbers'].lhs_spec[:1]
      places = math.prod(_patches.places(eqn))
    else:
      _, free, _ = activation_axes(site.use, eqn)
    types = [values[1 - site.use.operand].axes[i] for i in free]
    found[path] = mask = spread(token_mask, wanted, types)
    if mask is not None:
      found[path] = jnp.repeat(mask, places)
    if found[path] is None:
      lost.append(site.names)
  if lost:
    raise ValueError(
      'It is not certain which activations belong to which tokens at'
      f' {", ".join(lost)}, so `token_mask` cannot be applied there. Leave'
      ' these leaves out with `where=`, or calibrate without padding.'
    )
  return found


def spread(
  mask: jax.Array, wanted: Sequence[Type], types: Sequence[Type]
) -> jax.Array | None:
  """Lays a mask out along axes of which the wanted ones are factors."""
  parts = [f for t in wanted for f in flat(t, 'product') if f.size > 1]
  factors = [f for t in types for f in flat(t, 'product') if f.size > 1]
  keys, places = [_key(f) for f in parts], [_key(f) for f in factors]
  if any(places.count(key) != 1 for key in keys):
    return None
  order = [keys.index(key) for key in places if key in keys]
  mask = mask.reshape([f.size for f in parts]).transpose(order)
  sizes = [
    f.size if key in keys else 1 for f, key in zip(factors, places, strict=True)
  ]
  mask = mask.reshape(sizes)
  mask = jnp.broadcast_to(mask, [f.size for f in factors])
  return mask.reshape(math.prod(t.size for t in types))


def _key(t: Type) -> Any:
  """Identifies the positions of an axis, also of one that was cut."""
  t = representative(t)
  if t.kind == 'atom':
    return id(t)
  return t.kind, tuple(_key(part) for part in flat(t, t.kind))
