"""Selection of the k largest scores: the only place that compares scores.

The k-th largest value is found by bisection on the order-preserving integer
image of floating-point numbers: about as many passes as a score has bits, each
an elementwise comparison and a sum. Nothing is sorted or gathered, so a sharded
array stays where it is and gives the same bits on any number of devices.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import trees

_FEW = 16  # Slices up to this long are ranked by comparing all pairs.


def keep_largest(
  scores: chex.ArrayTree,
  count: int | chex.Array,
  eligible: chex.ArrayTree | None = None,
  *,
  axis: int | tuple[int, ...] | None = None,
) -> Any:
  """Marks exactly the ``count`` largest scores.

  Ties go to the lowest flat index (in a tree: to the earlier leaf). NaN is
  never selected. If fewer than ``count`` entries are eligible and not NaN, all
  of these are selected.

  Args:
    scores: floating-point array, or a tree of such arrays that share one
      budget; `None` leaves stay `None`.
    count: how many to keep: an integer, also a traced one; with ``axis``, any
      array that broadcasts against the scores with these axes of size one.
    eligible: bool arrays like the scores; entries that are false are never
      selected. `None` makes every entry eligible.
    axis: select ``count`` in every slice along this axis, or these axes, of a
      single array; by default over everything.

  Returns:
    Bool arrays like the scores, true where selected.

  Raises:
    TypeError: if scores are not floating point, or the count no integer.
    ValueError: if there are 2^31 scores or more, or if ``eligible``, ``axis``
      or the shape of ``count`` does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.keep_largest(jnp.array([3.0, 1.0, 2.0, 2.0]), 2)
    Array([ True, False,  True, False], dtype=bool)
  """
  named = {n: x for n, x in trees.by_name(scores).items() if x is not None}
  check_floating(named)
  shapes = [jnp.shape(x) for x in named.values()]
  axis = _check_axis(axis, shapes)
  _check_size(shapes, axis)
  _check_count(count, axis, shapes)
  alive = None
  if eligible is not None:
    trees.check_like(eligible, scores, 'scores')
    masks = trees.by_name(eligible)
    if missing := [name for name in named if masks[name] is None]:
      raise ValueError(
        f'`eligible` is None where there are scores: {", ".join(missing)}.'
        ' Give a bool array there, or set the scores to None as well.'
      )
    alive = [masks[name] for name in named]
  leaves, treedef = jax.tree.flatten(scores)
  count = jnp.asarray(count, jnp.int32)
  if axis is not None and len(axis) == len(shapes[0]):
    axis, count = None, count.reshape(())
  return jax.tree.unflatten(treedef, _keep_largest(leaves, count, alive, axis))


def check_floating(scores: Mapping[str, Any]) -> None:
  """Checks that all scores are floating point.

  Args:
    scores: ``{name: array}``.

  Raises:
    TypeError: naming every array that is not.
  """
  wrong = [
    f'{name or "the array"} is {jnp.result_type(x)}'
    for name, x in scores.items()
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating)
  ]
  if wrong:
    raise TypeError(
      f'Scores must be floating point, but {"; ".join(wrong)}. Cast them with'
      ' `.astype(jnp.float32)`.'
    )


@functools.partial(jax.jit, static_argnames='axis')
def _keep_largest(
  scores: list[jax.Array],
  count: jax.Array,
  eligible: list[jax.Array] | None,
  axis: tuple[int, ...] | None,
) -> list[jax.Array]:
  """Compiled once a shape; the count is an argument."""
  valid = [~jnp.isnan(x) for x in scores]
  if eligible is not None:
    valid = [v & e for v, e in zip(valid, eligible, strict=True)]
  dtype = jnp.result_type(*scores)
  images = [
    _order_image(x.astype(dtype), v) for x, v in zip(scores, valid, strict=True)
  ]
  if axis is not None and len(axis) == 1 and images[0].shape[axis[0]] <= _FEW:
    return [_largest_of_few(images[0], count, axis[0])]
  return _largest_images(images, count, axis)


def _check_axis(
  axis: int | tuple[int, ...] | None, shapes: list[tuple[int, ...]]
) -> tuple[int, ...] | None:
  """Returns axes that are there, in order and not negative."""
  if not shapes:
    raise ValueError('`keep_largest` needs at least one array of scores.')
  if axis is None:
    return None
  axes = axis if isinstance(axis, tuple) else (axis,)
  rank = len(shapes[0])
  there = all(-rank <= i < rank for i in axes)
  if len(shapes) > 1 or not there or len({i % rank for i in axes}) < len(axes):
    raise ValueError(
      f'`axis={axis}` needs a single array with such an axis, but the scores'
      f' have the shapes {", ".join(map(str, shapes))}. Select in each by'
      ' itself.'
    )
  return tuple(sorted(i % rank for i in axes))


def _check_size(
  shapes: list[tuple[int, ...]], axis: tuple[int, ...] | None
) -> None:
  """Raises if there is too much to count."""
  size = sum(map(math.prod, shapes))
  if axis is not None:
    size = math.prod(shapes[0][i] for i in axis)
  if size >= 2**31:
    raise ValueError(
      f'{size} scores cannot share one budget: at most 2^31 - 1 can, because'
      ' they are counted in int32. Select layer by layer.'
    )


def _check_count(
  count: Any, axis: tuple[int, ...] | None, shapes: list[tuple[int, ...]]
) -> None:
  """Raises if scores of these shapes cannot share the count."""
  if not jnp.issubdtype(jnp.result_type(count), jnp.integer):
    raise TypeError(
      f'`count` was {count}, but must be an integer. Round it first: the'
      ' product 100 * 0.29 is 28.999999999999996.'
    )
  wanted: tuple[int, ...] = ()
  if axis is not None:
    wanted = tuple(1 if i in axis else n for i, n in enumerate(shapes[0]))
  given = jnp.shape(count)
  if len(given) > len(wanted) or any(
    g not in (1, w) for g, w in zip(given[::-1], wanted[::-1], strict=False)
  ):
    raise ValueError(
      f'`count` has the shape {given}, but must broadcast to {wanted}: the'
      ' shape of the scores, with `axis` of size one; a scalar without `axis`.'
    )


def _order_image(x: jax.Array, valid: jax.Array) -> jax.Array:
  """Signed integers in the order of the floats; invalid entries come last."""
  dtype = jnp.dtype(f'int{jnp.finfo(x.dtype).bits}')
  low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
  bits = jax.lax.bitcast_convert_type(x, dtype)
  # -0.0 maps to 0 and ties with 0.0. Do not test for zero here: LLVM makes that
  # a test on floats, for which denormals are zero too.
  image = jnp.where(bits < 0, -(bits & high), bits)
  return jnp.where(valid, image, low)  # -inf maps above the lowest integer


def _largest_images(
  images: list[jax.Array], count: jax.Array, axis: tuple[int, ...] | None
) -> list[jax.Array]:
  """Bisects for the threshold, then for the index at which ties end."""
  info = jnp.iinfo(images[0].dtype)

  def number(tests):
    return sum((_count_true(t, axis) for t in tests), start=jnp.int32(0))

  zero = jnp.zeros_like(number(images))  # of the slices' shape and sharding
  # Invalid entries are the lowest integer.
  threshold = jnp.maximum(_kth_largest(images, count, number), info.min + 1)
  surplus = jnp.maximum(number(x >= threshold for x in images) - count, 0)
  size = sum(
    math.prod(x.shape if axis is None else [x.shape[i] for i in axis])
    for x in images
  )
  tied = [
    (x == threshold, i)
    for x, i in zip(images, _flat_indices(images, axis), strict=True)
  ]
  end = _bisect(
    lambda t: number(tie & (i >= t) for tie, i in tied),
    jnp.where(surplus > 0, zero, size),
    zero + size,
    surplus,
  )
  return [
    (x > threshold) | (tie & (i < end))
    for x, (tie, i) in zip(images, tied, strict=True)
  ]


def _kth_largest(
  images: list[jax.Array],
  count: jax.Array,
  number: Callable[[Iterable[jax.Array]], jax.Array],
) -> jax.Array:
  """Finds the largest t with at least ``count`` entries >= t.

  Bisects the upper half of the bits, then the lower half among the entries that
  tie in the upper: half the memory is read in half of the passes.
  """
  info = jnp.iinfo(images[0].dtype)
  if info.bits <= 16:
    zero = jnp.zeros_like(number(images))
    return _bisect(
      lambda t: number(x >= t for x in images),
      jnp.full_like(zero, info.min, info.dtype),
      jnp.full_like(zero, info.max, info.dtype),
      count,
    )
  half = info.bits // 2
  digit = jnp.iinfo(f'int{half}')
  highs = [(x >> half).astype(digit.dtype) for x in images]
  # Shifted by half the range, the unsigned lower digits become signed ones.
  lows = [(x ^ (1 << (half - 1))).astype(digit.dtype) for x in images]
  high = _kth_largest(highs, count, number)
  ties = [
    jnp.where(h == high, low, jnp.where(h > high, digit.max, digit.min))
    for h, low in zip(highs, lows, strict=True)
  ]
  low = _kth_largest(ties, count, number)
  upper = high.astype(info.dtype) << half
  return upper | ((low.astype(info.dtype) - digit.min) & ((1 << half) - 1))


def _largest_of_few(x: jax.Array, count: jax.Array, axis: int) -> jax.Array:
  """The same for short slices, by counting how many entries come before."""
  index = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
  rank = jnp.zeros(x.shape, jnp.int32)
  for j in range(x.shape[axis]):
    other = jax.lax.slice_in_dim(x, j, j + 1, axis=axis)
    rank += (other > x) | ((other == x) & (j < index))
  return (rank < count) & (x > jnp.iinfo(x.dtype).min)


def _count_true(test: jax.Array, axis: tuple[int, ...] | None) -> jax.Array:
  """Sums bools, over leading axes in int16: three times as fast on a CPU."""
  if axis is not None:
    return jnp.sum(test, axis=axis, keepdims=True, dtype=jnp.int32)
  if test.ndim == 1:
    test = test.reshape(math.gcd(test.size, 1024), -1)
  lead = 0
  while lead < test.ndim and math.prod(test.shape[: lead + 1]) < 2**15:
    lead += 1
  part = jnp.sum(test, axis=tuple(range(lead)), dtype=jnp.int16)
  return jnp.sum(part, dtype=jnp.int32)


def _bisect(
  number: Callable[[jax.Array], jax.Array],
  low: jax.Array,
  high: jax.Array,
  enough: jax.Array,
) -> jax.Array:
  """Finds the largest t in [low, high] with ``number(t) >= enough``.

  ``number`` falls with t; the search ends early where it equals ``enough``.
  """

  def halve(bounds):
    low, high = bounds
    # The average rounded up, in a form that cannot overflow.
    middle = (low & high) + ((low ^ high) >> 1) + ((low ^ high) & 1)
    found = number(middle)
    low = jnp.where(found >= enough, middle, low)
    return low, jnp.where(
      found > enough, high, jnp.where(found == enough, middle, middle - 1)
    )

  def unsettled(bounds):
    return jnp.any(bounds[0] < bounds[1])

  return jax.lax.while_loop(unsettled, halve, (low, high))[0]


def _flat_indices(
  images: list[jax.Array], axis: tuple[int, ...] | None
) -> list[jax.Array]:
  """Row-major positions in a slice, counted on from leaf to leaf."""
  indices, offset = [], 0
  for x in images:
    index, stride = jnp.full(x.shape, offset, jnp.int32), 1
    for dim in reversed(range(x.ndim) if axis is None else axis):
      index += jax.lax.broadcasted_iota(jnp.int32, x.shape, dim) * stride
      stride *= x.shape[dim]
    indices.append(index)
    offset += x.size
  return indices
