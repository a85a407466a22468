"""Arithmetic for programs whose numbers leave the range of their dtype.

The sum over all paths of a deep network of positive weights exceeds float32
after some twenty layers. Here, each floating-point array carries the exponent
of a power of two that all of its entries share, and the result of each matmul
or convolution is rescaled to a peak of about one. Scaling by powers of two is
exact, so this is arithmetic with float32's precision and a wider range; the
exponents are constants to differentiation, so gradients are in range as well.

Infinities, and values that stand for them, such as the lowest float32 in
attention masks, do not affect the scale and are passed on unchanged.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax.program._interpreter import (
  CALLS,
  bind,
  branch,
  inside,
  interpret,
  loop_parts,
  scan,
  trace,
)

_NONE = -(2**24)  # The exponent of zero, below that of any number.
_LIMIT = 126  # Two to this power, and to its negative, are normal in float32.


class Scaled(NamedTuple):
  """The numbers ``value * 2 ** exponent``.

  Attributes:
    value: floating-point array.
    exponent: int32 scalar.
  """

  value: jax.Array
  exponent: jax.Array


def evaluate(f: Callable[..., jax.Array], *args: chex.ArrayTree) -> Scaled:
  """Computes ``f(*args)``, a floating-point array, without overflow."""
  # Products, sums, comparisons, rearrangements and roots keep their scale, also
  # through calls and scans. Other functions, such as tanh and exp, and other
  # control flow see the numbers themselves, clipped to the largest finite ones.
  # Custom derivative rules are ignored: what is inside is differentiated.
  closed, _ = trace(f, *args)
  (out,) = _run(closed, jax.tree.leaves(args))
  return _normal(out)


def power_of_two(exponent: jax.Array) -> jax.Array:
  """Returns ``2 ** exponent`` in float32, from 2^-126 to 2^126, exactly."""
  return _float(jnp.clip(exponent, -_LIMIT, _LIMIT))


def _run(program: Any, args: Sequence[Any]) -> list[Any]:
  """Evaluates a program; values that need a scale become `Scaled`."""
  return interpret(program, args, _step)


def _step(eqn, values, path):
  del path
  rule = _ALWAYS.get(eqn.primitive.name)
  if rule is None and any(isinstance(x, Scaled) for x in values):
    rule = _RULES.get(eqn.primitive.name, _otherwise)
  return (rule or bind)(eqn, values)


def _is_float(x: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _scaled(x: Any) -> Any:
  """Gives ordinary floats a scale; all zeros or infinities have the lowest."""
  if isinstance(x, Scaled) or not _is_float(x):
    return x
  x = jnp.asarray(x)
  known = jnp.any((x != 0) & _is_finite(x))
  return Scaled(x, jnp.where(known, 0, _NONE).astype(jnp.int32))


def _is_finite(x: jax.Array) -> jax.Array:
  """Returns where there are numbers, and not stand-ins for infinity."""
  return jnp.abs(x) < min(2.0**_LIMIT, float(jnp.finfo(x.dtype).max))


def _is_zero(x: Any) -> bool:
  """Returns whether this is the zero of a ReLU, which fits any exponent."""
  known = isinstance(x, np.ndarray | np.generic | float)
  return known and not np.any(x)


def _split(x: Any) -> tuple[jax.Array, Any]:
  return x if isinstance(x, Scaled) else (x, 0)


def _float(exponent: jax.Array) -> jax.Array:
  """Two to the power of -126 to 127; zero for -127."""
  return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def _times(x: jax.Array, factor: jax.Array) -> jax.Array:
  dtype = jnp.promote_types(x.dtype, factor.dtype)
  product = (x.astype(dtype) * factor.astype(dtype)).astype(x.dtype)
  return jnp.where(_is_finite(x), product, x)


def _normal(x: Any) -> Scaled:
  """Brings the peak into [1/2, 1)."""
  value, exponent = _split(x)
  bits = jax.lax.bitcast_convert_type(
    jax.lax.stop_gradient(value).astype(jnp.float32), jnp.int32
  )
  # The maximum includes the old exponent because XLA keeps the result of a
  # reduction, but recomputes a chain of scalars in every loop.
  each = (bits >> 23 & 255) - 126 + exponent
  known = (value != 0) & _is_finite(value)
  peak = jnp.max(jnp.where(known, each, _NONE), initial=_NONE)
  # Zeros have no peak, so their shift is limited.
  shift = jnp.minimum(exponent - peak, _LIMIT)
  return Scaled(_times(value, _float(shift)), peak)


def _plain(x: Any) -> Any:
  """The numbers themselves, or the largest finite ones."""
  if not isinstance(x, Scaled):
    return x
  far = jnp.abs(x.exponent) > _LIMIT // 2
  value, exponent = (
    jnp.where(far, *pair) for pair in zip(_normal(x), x, strict=True)
  )
  return _times(value, power_of_two(exponent))


def _lower(x: Any, exponent: jax.Array) -> Any:
  """The value for a higher exponent; it may underflow."""
  if not isinstance(x, Scaled):
    return x
  gap = jnp.maximum(x.exponent - exponent, -127)
  return _times(x.value, _float(gap))


# Rules: the effect of a primitive on values and exponents.


def _otherwise(eqn, values):
  return bind(eqn, [_plain(x) for x in values])


def _move(eqn, values):
  """Entries are moved, picked or summed; the other inputs are indices."""
  x, *rest = values
  outs = bind(eqn, [x.value, *rest])
  return [Scaled(out, x.exponent) for out in outs]


def _join(eqn, values):
  """Entries of several arrays are added, compared or concatenated."""
  values = [x if _is_zero(x) else _scaled(x) for x in values]
  exponents = [x.exponent for x in values if isinstance(x, Scaled)]
  top = functools.reduce(jnp.maximum, exponents)
  (out,) = bind(eqn, [_lower(x, top) for x in values])
  return [Scaled(out, top) if _is_float(out) else out]


def _multiply(eqn, values):
  (x, i), (y, j) = map(_split, values)
  (out,) = bind(eqn, [x, y])
  return [Scaled(out, i + j)]


def _contract(eqn, values):
  return [_normal(*_multiply(eqn, values))]


def _divide(eqn, values):
  (x, i), (y, j) = _split(values[0]), _normal(values[1])
  (out,) = bind(eqn, [x, y])
  return [Scaled(out, i - j)]


def _power(eqn, values):
  x, exponent = _normal(*values)
  (out,) = bind(eqn, [x])
  return [Scaled(out, eqn.params.get('y', 2) * exponent)]


def _root(eqn, values):
  x, exponent = _normal(*values)
  # Roots halve the exponent; what is odd goes into the value first.
  odd = exponent % 2
  (out,) = bind(eqn, [_times(x, _float(odd))])
  half = (exponent - odd) // 2
  return [Scaled(out, -half if eqn.primitive.name == 'rsqrt' else half)]


def _call(eqn, values):
  ((_, program),) = inside(eqn, ())
  return _run(program, values)


def _cond(eqn, values):
  return branch(
    eqn, values, lambda _, program, xs: [*map(_scaled, _run(program, xs))]
  )


def _scan(eqn, values):
  """The exponents of carries are carried along."""
  consts, carry, stacks = loop_parts(eqn, values)

  def body(inputs, _):
    *_, slices = parts = loop_parts(eqn, inputs)
    parts = [*parts[:2], map(_slice, slices, stacks)]
    outs = _run(eqn.params['jaxpr'], [x for part in parts for x in part])
    return [*map(_scaled, outs)], None

  carry = [*map(_scaled, carry)]
  inputs = [*consts, *carry, *(_split(x)[0] for x in stacks)]
  outs, _ = scan(eqn, inputs, body)
  return [*outs[: len(carry)], *map(_stack, outs[len(carry) :])]


def _slice(x: Any, stack: Any) -> Any:
  return Scaled(x, stack.exponent) if isinstance(stack, Scaled) else x


def _stack(x: Any) -> Any:
  """Gives the slices of a scan, each with its exponent, a common one."""
  if not isinstance(x, Scaled):
    return x
  top = jnp.max(x.exponent, initial=_NONE)
  return Scaled(jax.vmap(lambda *x: _lower(Scaled(*x), top))(*x), top)


# fmt: off
_ALWAYS = {
  **dict.fromkeys(CALLS, _call),
  **dict.fromkeys(('conv_general_dilated', 'dot_general'), _contract),
  'cond': _cond,
  'scan': _scan,
}
_RULES = {
  **dict.fromkeys((
    'abs', 'broadcast_in_dim', 'convert_element_type', 'copy', 'copy_p',
    'cummax', 'cummin', 'cumsum', 'dynamic_slice', 'gather', 'name', 'neg',
    'reduce_max', 'reduce_min', 'reduce_precision', 'reduce_sum',
    'reduce_window_max', 'reduce_window_min', 'reduce_window_sum', 'reshape',
    'reshard', 'rev', 'sharding_constraint', 'slice', 'split', 'squeeze',
    'stop_gradient', 'transpose',
  ), _move),
  **dict.fromkeys((
    'add', 'add_any', 'clamp', 'concatenate', 'dynamic_update_slice', 'eq',
    'ge', 'gt', 'le', 'lt', 'max', 'min', 'ne', 'pad', 'select_n', 'sub',
  ), _join),
  **dict.fromkeys(('integer_pow', 'square'), _power),
  **dict.fromkeys(('rsqrt', 'sqrt'), _root),
  'div': _divide,
  'mul': _multiply,
  'optimization_barrier': lambda eqn, values: values,
}
# fmt: on
