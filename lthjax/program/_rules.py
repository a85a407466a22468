"""The effect of each primitive on the leaves that reach it.

A rule ``rule(walk, eqn, values, path)`` takes what the inputs of an equation
hold of leaves to what its outputs hold. Dead entries must still be zero
afterwards; a leaf for which this is not certain is lost, which is an error.
"""

import math

import jax.extend.core as jex
import jax.numpy as jnp

from lthjax.program import _nested
from lthjax.program._interpreter import CALLS, Path
from lthjax.program._matmuls import MATMULS, lookup
from lthjax.program._walk import Values, Walk, Weight, shape


def rearrange(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """Entries are moved, repeated or dropped, at places that are fixed."""
  weight, *others = values
  if not weight or any(others):
    return walk.lose(eqn, values)
  array, *rest = eqn.invars
  fixed = [x.val for x in rest if isinstance(x, jex.Literal)]
  if len(fixed) < len(rest):
    return walk.lose(
      eqn,
      values,
      ' at a computed place: walk over it with `jax.lax.scan`',
    )
  several, size = eqn.primitive.multiple_results, math.prod(shape(array))
  return [
    weight._replace(
      repeated=weight.repeated or math.prod(shape(out)) > size
    ).then(eqn.primitive, fixed, eqn.params, i if several else None)
    for i, out in enumerate(eqn.outvars)
  ]


def join(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Several kernels are concatenated or stacked into one."""
  weights = [w for w in values if w and not w.derived]
  if len(weights) < len(values) or len({w.scans for w in weights}) > 1:
    return walk.lose(eqn, values, ' with something else')
  new = eqn.primitive.name == 'stack'
  axis = eqn.params['axis' if new else 'dimension']
  out, start, parts = shape(eqn.outvars[0]), 0, []
  for atom, weight in zip(eqn.invars, weights, strict=True):
    stop = start + (1 if new else shape(atom)[axis])
    # Padded with zeros to its place in the whole, whose sum the parts are.
    around = [(0, 0)] * len(out)
    around[axis] = (start, out[axis] - stop)
    part = weight.then(jnp.expand_dims, [axis]) if new else weight
    parts.extend(part.then(jnp.pad, [around]).parts)
    start = stop
  return [
    Weight(
      parts=tuple(parts),
      scans=weights[0].scans,
      repeated=any(w.repeated for w in weights),
      mixed=any(w.mixed for w in weights),
      exact=all(w.exact for w in weights),
    )
  ]


def same(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Entries stay the same, except for casts; one output per input."""
  return values


def each(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Entries change where they are, and zeros stay zero."""
  return [w and w._replace(exact=False) for w in values]


def combine(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """Entries stay where they are, next to those of another array or a mask."""
  inputs = list(zip(map(shape, eqn.invars), values, strict=True))
  weights = [w for w in values if w and not w.derived]
  if not weights:  # Next to activations, derived values are activations too.
    activations = any(dims and not w for dims, w in inputs)
    return [None if activations else next(filter(None, values), None)]
  # What must hold: dead entries stay zero, entries stay at their places, and
  # the result is not yet a matmul.
  first, name = weights[0], eqn.primitive.name
  others = [dims for dims, w in inputs if not w or w.derived]
  arrays = any(others)  # Not only scalars.
  spread = inputs[values.index(first)][0] != shape(eqn.outvars[0])
  why = None
  if not all(w.same(first) for w in weights):
    why = ' beside another kernel'
  elif (others and name in _SUMS) or (arrays and name in _BOUNDS):
    why = ', which makes something of dead weights'
  elif name == 'div' and first is not values[0]:
    why = ' as the divisor'
  elif spread or (arrays and first.repeated):  # A matmul, once it is summed.
    why = ' after being repeated'
  if why:
    return walk.lose(eqn, weights, why)
  product = arrays and name in ('div', 'mul')
  mixed = product or any(w.mixed for w in weights)
  return [first._replace(mixed=mixed, exact=False)]


def reduce(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A norm or an extremum; the sum of a product would be a matmul."""
  if any(w and w.mixed for w in values):
    return walk.lose(eqn, values, ' after a product')
  return [w and w._replace(derived=True) for w in values]


_SUMS = ('add', 'sub')  # Zeros stay zero if both are the same weights.
_BOUNDS = ('clamp', 'max', 'min')  # By scalars, with zero between them.
SAME = (
  'convert_element_type', 'copy', 'copy_p', 'device_put', 'name',
  'optimization_barrier', 'pvary', 'reduce_precision', 'reshard',
  'sharding_constraint', 'stop_gradient',
)  # fmt: skip
_EACH = (
  'abs', 'integer_pow', 'neg', 'not', 'round', 'sign', 'sqrt', 'square', 'tanh',
)  # fmt: skip
BESIDE = (
  'and', 'div', 'eq', 'ge', 'gt', 'le', 'lt', 'mul', 'ne', 'or', 'select_n',
)  # fmt: skip
MOVES = (
  'broadcast_in_dim', 'dynamic_slice', 'reshape', 'rev', 'slice', 'split',
  'squeeze', 'tile', 'transpose', 'unstack',
)  # fmt: skip
_NORMS = ('argmax', 'argmin', 'reduce_max', 'reduce_min', 'reduce_sum')

RULES = {
  **MATMULS,
  **dict.fromkeys(CALLS, _nested.call),
  **dict.fromkeys(_EACH, each),
  **dict.fromkeys(MOVES, rearrange),
  **dict.fromkeys(_NORMS, reduce),
  **dict.fromkeys(SAME, same),
  **dict.fromkeys((*BESIDE, *_BOUNDS, *_SUMS), combine),
  'all_gather': _nested.gather_blocks,
  'concatenate': join,
  'cond': _nested.cond,
  'gather': lookup,
  'scan': _nested.scan,
  'shard_map': _nested.shard,
  'stack': join,
}
