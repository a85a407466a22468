"""What each primitive does to the leaves that reach it.

A rule is a function ``rule(walk, eqn, values, path)``: `values` tells which
leaves the inputs of an equation hold, and the result which ones its outputs do.
Where the entries of a leaf stay known, dead ones must still be zero; otherwise
the leaf is lost, which is an error.
"""

import itertools
import math

import jax.extend.core as jex
import jax.numpy as jnp

from lthjax.program._interpreter import (
  CALLS,
  Path,
  equations,
  inside,
  loop_parts,
)
from lthjax.program._walk import Values, Walk, Weight, shape


def dot(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A matmul."""
  contracted = eqn.params['dimension_numbers'][0][0]
  depth = math.prod(shape(eqn.invars[0])[axis] for axis in contracted)
  size = math.prod(shape(eqn.outvars[0]))
  return _multiply(walk, eqn, values, path, size * depth)


def conv(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A convolution: grouped, strided, dilated or transposed."""
  image, kernel, out = map(shape, (*eqn.invars, *eqn.outvars))
  spec, dilation = eqn.params['dimension_numbers'], eqn.params['lhs_dilation']
  number = math.prod(kernel[axis] for axis in spec.rhs_spec[1:])  # a filter
  number *= out[spec.out_spec[0]] * out[spec.out_spec[1]]
  axes = zip(spec.lhs_spec[2:], spec.out_spec[2:], dilation, strict=True)
  number *= math.prod(out[o] if d == 1 else image[i] for i, o, d in axes)
  if values[0] and not values[0].derived:
    return walk.lose(eqn, values[:1], ' as its image')
  return _multiply(walk, eqn, values, path, number)


def _multiply(walk, eqn, values, path, multiply_adds) -> Values:
  """Attributes a product to its kernel."""
  weights = [w for w in values if w]
  kernels = [w for w in weights if not w.derived]
  if len(kernels) == 1:
    size = math.prod(shape(eqn.invars[values.index(kernels[0])]))
    walk.use(eqn, path, kernels[0], size, multiply_adds)
  elif not weights:
    walk.use(eqn, path, None, 0, multiply_adds)
  else:
    names = ' and '.join(w.name for w in kernels or weights)
    what = names if kernels else f'rows or sums of {names}, as kernels,'
    walk.faults.append(f'{what} meet in `{eqn.primitive.name}`')
  return [None]


def lookup(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Rows of a table, as of an embedding."""
  table, indices = values
  if not table or indices:
    return walk.lose(eqn, values)
  walk.use(eqn, path, table, 0, 0)
  return [table._replace(derived=True)]


def rearrange(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """Entries are moved, repeated or dropped, in a way that the program fixes."""
  weight, *others = values
  if not weight or any(others):
    return walk.lose(eqn, values)
  array, *rest = eqn.invars
  fixed = [x.val for x in rest if isinstance(x, jex.Literal)]
  if len(fixed) < len(rest):
    return walk.lose(eqn, values, ' at a computed place')
  several, size = eqn.primitive.multiple_results, math.prod(shape(array))
  return [
    weight._replace(
      repeated=weight.repeated or math.prod(shape(out)) > size
    ).then(eqn.primitive, fixed, eqn.params, i if several else None)
    for i, out in enumerate(eqn.outvars)
  ]


def join(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Several kernels become one, concatenated or stacked."""
  weights = [w for w in values if w and not w.derived]
  if len(weights) < len(values) or len({w.scans for w in weights}) > 1:
    return walk.lose(eqn, values, ' with something else')
  new = eqn.primitive.name == 'stack'
  axis = eqn.params['axis' if new else 'dimension']
  out, start, parts = shape(eqn.outvars[0]), 0, []
  for atom, weight in zip(eqn.invars, weights, strict=True):
    stop = start + (1 if new else shape(atom)[axis])
    around = [(0, 0)] * len(out)
    around[axis] = (start, out[axis] - stop)
    part = weight.then(jnp.expand_dims, [axis], {}) if new else weight
    parts.extend(part.then(jnp.pad, [around], {}).parts)
    start = stop
  return [
    Weight(
      parts=tuple(parts),
      scans=weights[0].scans,
      repeated=any(w.repeated for w in weights),
      mixed=any(w.mixed for w in weights),
    )
  ]


def each(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Entries stay where they are, and zeros zero; one output for each input."""
  del walk, eqn
  return values


def combine(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """Entries stay where they are beside those of other arrays, as of masks."""
  inputs = list(zip(map(shape, eqn.invars), values, strict=True))
  weights = [w for w in values if w and not w.derived]
  if not weights:  # derived numbers, which beside activations are activations
    activations = any(dims and not w for dims, w in inputs)
    return [None if activations else next(filter(None, values), None)]
  first, name = weights[0], eqn.primitive.name
  others = [dims for dims, w in inputs if not w or w.derived]
  arrays = any(others)  # not only scalars
  spread = inputs[values.index(first)][0] != shape(eqn.outvars[0])
  why = None
  if not all(w.same(first) for w in weights):
    why = ' beside another kernel'
  elif (others and name in _SUMS) or (arrays and name in _BOUNDS):
    why = ', which makes something of dead weights'
  elif name == 'div' and first is not values[0]:
    why = ' as the divisor'
  elif spread or (arrays and first.repeated):  # a matmul, once it is summed
    why = ' after being repeated'
  if why:
    return walk.lose(eqn, weights, why)
  product = arrays and name in ('div', 'mul')
  return [first._replace(mixed=product or any(w.mixed for w in weights))]


def reduce(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A norm or an extremum; but the sum of a product would be a matmul."""
  if any(w and w.mixed for w in values):
    return walk.lose(eqn, values, ' after a product')
  return [w and w._replace(derived=True) for w in values]


def call(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A function called once."""
  ((inner, program),) = inside(eqn, path)
  return walk(program, values, inner)


def scan(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """A loop of known length, over slices of leaves or with the same ones."""
  consts, carry, stacks = loop_parts(eqn, values)
  count, here = len(carry), (path, eqn.params['length'])
  slices = [w and w._replace(scans=(*w.scans, here)) for w in stacks]
  inner = walk._replace(runs=walk.runs * eqn.params['length'])
  after = inner(eqn.params['jaxpr'], [*consts, *carry, *slices], path)
  outputs = []
  for old, new in zip(carry, after[:count], strict=True):
    kept = new is old or (new is not None and new.same(old))
    walk.lose(eqn, [] if kept else [old, new], ' as a carry that changes')
    outputs.append(new if kept else None)
  for var, new in zip(eqn.outvars[count:], after[count:], strict=True):
    if new and new.scans[-1:] == (here,):
      outputs.append(new._replace(scans=new.scans[:-1]))
    else:
      dropped = isinstance(var, jex.DropVar)
      walk.lose(eqn, [] if dropped else [new], ', which stacks copies of it')
      outputs.append(None)
  return outputs


def cond(walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path) -> Values:
  """Branches that multiply alike with the same leaves."""
  programs = inside(eqn, path)
  walks = [walk._replace(uses=[]) for _ in programs]
  results = [
    branch(program, values[1:], here)
    for branch, (here, program) in zip(walks, programs, strict=True)
  ]
  found = [[use._replace(path=()) for use in each.uses] for each in walks]
  for use in itertools.chain(*found):
    if any(use not in each for each in found):
      what = use.name or 'a matmul of activations'
      walk.faults.append(f'{what} is used by some branches of `cond` only')
  walk.uses.extend(walks[0].uses)
  outputs = []
  for new in zip(*results, strict=True):
    alike = all(w is new[0] or (w and w.same(new[0])) for w in new)
    walk.lose(eqn, [] if alike else new, ' in some branches only')
    outputs.append(new[0] if alike else None)
  return outputs


def unknown(
  walk: Walk, eqn: jex.JaxprEqn, values: Values, path: Path
) -> Values:
  """Anything else may work on activations, unless there are matmuls in it."""
  name, programs = eqn.primitive.name, inside(eqn, path)
  if name in _RAGGED or any(_multiplies(program) for _, program in programs):
    walk.faults.append(f'`{name}` has matmuls that cannot be counted')
  return walk.lose(eqn, values)


def _multiplies(program: jex.Jaxpr | jex.ClosedJaxpr) -> bool:
  """Whether there is a matmul or convolution anywhere in a program."""
  return any(
    RULES.get(eqn.primitive.name) in (dot, conv)
    for _, eqn in equations(program)
  )


_SUMS = ('add', 'sub')  # of zeros only, if both are the same weights
_BOUNDS = ('clamp', 'max', 'min')  # scalars, with zero between them
_RAGGED = ('ragged_dot_general', 'scaled_matmul')
_SAME = (
  'abs', 'convert_element_type', 'copy', 'copy_p', 'device_put', 'integer_pow',
  'name', 'neg', 'not', 'optimization_barrier', 'reduce_precision', 'reshard',
  'round', 'sharding_constraint', 'sign', 'sqrt', 'square', 'stop_gradient',
  'tanh',
)  # fmt: skip
_BESIDE = (
  'and', 'div', 'eq', 'ge', 'gt', 'le', 'lt', 'mul', 'ne', 'or', 'select_n',
)  # fmt: skip
_MOVES = (
  'broadcast_in_dim', 'dynamic_slice', 'reshape', 'rev', 'slice', 'split',
  'squeeze', 'tile', 'transpose', 'unstack',
)  # fmt: skip
_NORMS = ('argmax', 'argmin', 'reduce_max', 'reduce_min', 'reduce_sum')

RULES = {
  'concatenate': join,
  'cond': cond,
  'conv_general_dilated': conv,
  'dot_general': dot,
  'gather': lookup,
  'scan': scan,
  'stack': join,
  **dict.fromkeys(CALLS, call),
  **dict.fromkeys(_MOVES, rearrange),
  **dict.fromkeys(_NORMS, reduce),
  **dict.fromkeys(_SAME, each),
  **dict.fromkeys((*_BESIDE, *_BOUNDS, *_SUMS), combine),
}
