"""Exact integer budgets: shares of counts, counts by layer, counts by move."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax import axes as axes_lib
from lthjax._errors import refuse
from lthjax.axes import Axes

Rounding = Literal['nearest', 'floor', 'ceil']

# What to add before dividing by q so that the quotient is rounded that way.
_OFFSETS: dict[str, Callable[[Any], Any]] = {
  'nearest': lambda q: q // 2,
  'floor': lambda q: 0,
  'ceil': lambda q: q - 1,
}
ROUNDINGS = tuple(_OFFSETS)

# With larger ones, the products of `share_of` would not fit a traced int32.
_MAX_DENOMINATOR = 2**22
_NUMBERS = 'A schedule must return one number per step, but it returned {}.'
# Calls of a distribution over layers, in a schedule of sparsities.
_MAX_CALLS = 1024
_INT32 = 2**31


def exact(share: Any) -> Fraction:
  """Returns the fraction that was meant: 29/100 for 0.29, a third for 1 / 3."""
  return Fraction(_checks.number('share', share)).limit_denominator(10**9)


def ratio_of(share: Any) -> Fraction:
  """Returns the fraction that was meant, for `share_of` of traced counts."""
  return exact(share).limit_denominator(_MAX_DENOMINATOR)


def share_of(
  count: Any, numerator: Any, denominator: Any, rounding: Rounding
) -> Any:
  """Multiplies a count by a fraction in [0, 1] and rounds, exactly.

  Python integers of any size, NumPy int64, or int32 if traced, and then with a
  denominator of at most 2^22.

  Example:
    >>> from lthjax import counts
    >>> counts.share_of(100, 29, 100, 'floor')
    29
  """
  given = count, numerator, denominator
  offset = _OFFSETS[rounding](denominator)
  if not any(isinstance(x, jax.Array) for x in given):
    return (count * numerator + offset) // denominator
  dtype = jnp.result_type(*given)
  # Without signs, a division is one operation.
  count, numerator, denominator, offset = (
    jnp.asarray(x, jnp.uint32) for x in (*given, offset)
  )
  # Long division of the count, byte by byte: all products fit 32 bits.
  quotient, rest = 0, 0
  for shift in (24, 16, 8, 0):
    rest = rest * 256 + (count >> shift & 255) * numerator
    quotient = quotient * 256 + rest // denominator
    rest %= denominator
  return (quotient + (rest + offset) // denominator).astype(dtype)


def layer_counts(
  shapes: Mapping[str, tuple[int, ...]],
  sparsity: float,
  densities: Callable[..., Mapping[str, float]] | None = None,
  rounding: Rounding = 'nearest',
  axes: Mapping[str, Axes] | None = None,
) -> dict[str, int]:
  """Counts how many weights of each layer a sparsity keeps.

  Args:
    shapes: ``{name: shape}`` of the prunable leaves.
    sparsity: dead share of all weights, in [0, 1).
    densities: spreads it over the layers; evenly by default.
    rounding: of the number removed.
    axes: ``{name or glob: Axes}``; by layout where not given.

  Returns:
    ``{name: count}``, exact Python integers; of one layer for leaves that stack
    several.

  Example:
    >>> from lthjax import counts
    >>> counts.layer_counts({'fc1': (784, 300), 'output': (100, 10)}, 0.9)
    {'fc1': 23520, 'output': 100}
  """
  ratios = layer_ratios(shapes, sparsity, densities, axes)
  return {
    name: size - share_of(size, *ratios[name].as_integer_ratio(), rounding)
    for name, size in layer_sizes(shapes, axes).items()
  }


def layer_sizes(
  shapes: Mapping[str, tuple[int, ...]],
  axes: Mapping[str, Axes] | None = None,
) -> dict[str, int]:
  """Counts the weights of each layer: one of those that a leaf stacks."""
  stacks = axes_lib.stacks(axes, shapes)
  return {
    name: math.prod(n for i, n in enumerate(shape) if i not in stacks[name])
    for name, shape in shapes.items()
  }


def layer_ratios(
  shapes: Mapping[str, tuple[int, ...]],
  sparsity: float,
  densities: Callable[..., Mapping[str, float]] | None = None,
  axes: Mapping[str, Axes] | None = None,
) -> dict[str, Fraction]:
  """Returns the dead share of each layer, as a fraction."""
  # Fractions, because 100 * 0.29 is less than 29 in floats.
  if densities is None:
    return dict.fromkeys(shapes, exact(sparsity))
  spread = call(densities, shapes, _checks.number('sparsity', sparsity), axes)
  if not isinstance(spread, Mapping):
    raise TypeError(
      '`densities` must return `{name: density}`, but returned'
      f' {_checks.describe(spread)}.'
    )
  refuse(
    [n for n in shapes if not 0 <= spread.get(n, -1) <= 1],
    '`densities` must return a density in [0, 1] for every leaf, but did not'
    ' for {}.',
  )
  return {name: 1 - exact(spread[name]) for name in shapes}


def call(
  densities: Callable[..., Any],
  shapes: Mapping[str, tuple[int, ...]],
  sparsity: float,
  axes: Mapping[str, Axes] | None,
) -> Any:
  """Calls a distribution, with axes if it takes them."""
  _checks.densities('densities', densities)
  signature = inspect.signature(densities)
  parameters = signature.parameters.values()
  takes = any(p.name == 'axes' or p.kind is p.VAR_KEYWORD for p in parameters)
  more = {'axes': axes} if takes else {}
  try:
    signature.bind(shapes, sparsity, **more)
  except TypeError as error:
    raise TypeError(
      '`densities` must be a function `(shapes, sparsity) -> {name: density}`,'
      f' but takes other arguments: {error}. Was it to be called first, as in'
      ' `lthjax.densities.smart_ratio()`?'
    ) from error
  return densities(shapes, sparsity, **more)


def alive(
  masks: Mapping[str, Any], axes: Mapping[str, Axes] | None = None
) -> dict[str, Any]:
  """Counts the true entries of each array: Python integers, or traced int32.

  With axes, counts in each layer of leaves that stack several, as arrays that
  have the axes of a layer of size one.
  """
  layers = {
    name: axes[name].layer if axes and axes[name].stack else None
    for name in masks
  }
  parts = {name: _partial_sums(m, layers[name]) for name, m in masks.items()}
  host = trees.concrete({name: part for name, (part, _) in parts.items()})
  if host is not None:
    return {name: _whole(x, layers[name]) for name, x in host.items()}
  refuse(
    [name for name, (_, lead) in parts.items() if lead],
    'In {}, 2^31 weights or more cannot be counted in int32, as inside'
    ' `jax.jit`. Count outside of it, or split the leaf.',
  )
  return {name: part for name, (part, _) in parts.items()}


def along(mask: Any, axes: tuple[int, ...]) -> jax.Array:
  """Counts what is true along axes, which stay with size one.

  Example:
    >>> import numpy as np
    >>> along(np.array([[True, True], [False, True]]), (1,)).tolist()
    [[2], [1]]
  """
  return jnp.sum(mask, axis=axes, keepdims=True, dtype=jnp.int32)


def total(numbers: Mapping[str, Any], masks: Mapping[str, Any]) -> Any:
  """Adds up what `alive` counted in masks; no sum may exceed a traced int32."""
  if (
    trees.is_traced(*numbers.values())
    and sum(math.prod(masks[name].shape) for name in numbers) >= _INT32
  ):
    raise ValueError(
      '2^31 weights or more cannot be counted together in int32, as inside'
      ' `jax.jit`. Count outside of it, or give each layer its own budget.'
    )
  return sum(numbers.values())


def _partial_sums(
  mask: Any, axes: tuple[int, ...] | None
) -> tuple[jax.Array, int]:
  """Sums over as many trailing axes as an int32 can count; others are left."""
  along = tuple(range(jnp.ndim(mask))) if axes is None else axes
  lead = len(along)
  while lead and math.prod(mask.shape[a] for a in along[lead - 1 :]) < _INT32:
    lead -= 1
  keep = axes is not None
  return jnp.sum(mask, along[lead:], jnp.int32, keepdims=keep), lead


def _whole(sums: np.ndarray, axes: tuple[int, ...] | None) -> Any:
  """Sums up the rest on the host."""
  if axes is None:
    return int(np.sum(sums, dtype=np.int64))
  return np.sum(sums, axes, np.int64, keepdims=True)


def at_steps(
  schedule: Callable[[Any], Any], steps: Sequence[int] | np.ndarray
) -> np.ndarray:
  """Evaluates a schedule at many steps, in float64, to nine decimals."""
  index = np.asarray(steps, np.int64)
  if not index.size:
    return np.zeros(0)
  # In float32, shares of large layers would be off by whole weights.
  with jax.ensure_compile_time_eval(), jax.enable_x64(True):
    try:
      first = schedule(index[0])
    except Exception as error:
      raise ValueError(
        f'A schedule failed at step {index[0]}, with {type(error).__name__}:'
        f' {error}. Pass a function of the step alone, such as'
        ' `optax.linear_schedule(0.0, 0.9, 1000)`.'
      ) from error
    if not hasattr(first, 'dtype') and not isinstance(first, int | float):
      raise TypeError(_NUMBERS.format(_checks.describe(first)))
    evaluate = jax.vmap(lambda step: jnp.asarray(schedule(step)))
    if index.size > 1000:  # Fewer compile faster one operation at a time.
      evaluate = jax.jit(evaluate)
    try:
      values = np.asarray(evaluate(index))
    except jax.errors.JAXTypeError:  # a schedule that branches in Python
      values = np.asarray([np.asarray(schedule(int(s))) for s in index])
  if values.ndim != 1 or not np.issubdtype(values.dtype, np.number):
    raise TypeError(_NUMBERS.format(_checks.describe(values[0])))
  return np.round(_shortest(values), 9)


def tables(
  shapes: Mapping[str, tuple[int, ...]],
  sparsities: Sequence[float] | np.ndarray,
  densities: Callable[..., Mapping[str, float]] | None,
  rounding: Rounding = 'nearest',
  axes: Mapping[str, Axes] | None = None,
) -> dict[str, np.ndarray]:
  """Counts what every move leaves alive: ``{name: int32[moves]}``."""
  distinct, place = np.unique(np.asarray(sparsities), return_inverse=True)
  if densities is None:
    sizes = layer_sizes(shapes, axes)
    kept = {n: _kept(size, distinct, rounding) for n, size in sizes.items()}
  else:
    # A distribution is a Python function: where it would be called too often,
    # counts between calls are interpolated.
    calls = np.linspace(0, len(distinct) - 1, min(len(distinct), _MAX_CALLS))
    at = distinct[np.unique(np.round(calls).astype(int))]
    counts = [layer_counts(shapes, s, densities, rounding, axes) for s in at]
    kept = {
      name: np.rint(np.interp(distinct, at, [c[name] for c in counts]))
      for name in shapes
    }
  check_int32({name: int(x.max(initial=0)) for name, x in kept.items()})
  return {name: x.astype(np.int32)[place] for name, x in kept.items()}


def check_int32(numbers: Mapping[str, int]) -> None:
  """Raises if layers would keep more weights than an int32 can count."""
  if large := [f'{n} has {x:,}' for n, x in numbers.items() if x >= _INT32]:
    raise ValueError(
      'Masks move by counts in int32, below 2^31 alive weights in a layer, but'
      f' {"; ".join(large)}. Raise the sparsity, split the leaf, or leave it'
      ' dense.'
    )


def _kept(size: int, sparsities: np.ndarray, rounding: Rounding) -> np.ndarray:
  """Counts what sparsities of nine decimals keep of one layer."""
  billionths = np.rint(sparsities * 10**9).astype(np.int64)
  if size >= 2**32:  # Products would not fit an int64.
    billionths = billionths.astype(object)
  return size - share_of(size, billionths, 10**9, rounding)


def ratios(shares: Sequence[float] | np.ndarray) -> np.ndarray:
  """Returns what `ratio_of` does for many shares: int32[shares, 2]."""
  total = np.int64(10**9)
  a = np.rint(np.asarray(shares, np.float64) * total).astype(np.int64)
  b = np.full_like(a, total)
  p = np.zeros_like(a), np.ones_like(a)
  q = np.ones_like(a), np.zeros_like(a)
  # Convergents of the continued fractions, as long as they are small enough.
  while True:
    digit = a // np.maximum(b, 1)
    p_next, q_next = p[0] + digit * p[1], q[0] + digit * q[1]
    fits = (b > 0) & (q_next <= _MAX_DENOMINATOR)
    if not fits.any():
      break
    p = np.where(fits, p[1], p[0]), np.where(fits, p_next, p[1])
    q = np.where(fits, q[1], q[0]), np.where(fits, q_next, q[1])
    a, b = np.where(fits, b, a), np.where(fits, a - digit * b, b)
  # Of the last one and the semiconvergent before it, the closer one.
  k = (_MAX_DENOMINATOR - q[0]) // q[1]
  p_semi, q_semi = p[0] + k * p[1], q[0] + k * q[1]
  last = 2 * b * q_semi <= total
  return np.stack(
    [np.where(last, p[1], p_semi), np.where(last, q[1], q_semi)], axis=-1
  ).astype(np.int32)


def _shortest(values: np.ndarray) -> np.ndarray:
  """Doubles, with those of lower precision as their shortest decimals."""
  doubles = values.astype(np.float64)
  if values.dtype == np.float64 or not jnp.issubdtype(
    values.dtype, jnp.floating
  ):
    return doubles
  found = doubles.copy()
  for decimals in reversed(range(10)):
    rounded = np.round(doubles, decimals)
    found = np.where(rounded.astype(values.dtype) == values, rounded, found)
  return found
