"""Bisection for thresholds, on integers in the order of the scores.

A search is a generator that asks for bisections, so that the searches of many
arrays run side by side: each bisection is one loop for all of them.
"""

import functools
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lthjax._late import alike, apart, like, now
from lthjax._sharding import may_be_sharded, positions
from lthjax._sums import count_true

_FEW = 16  # Slices up to this long are ranked by comparing all pairs.
_INT32 = 2**31  # From here on, counts have two words,
_WORD = 10  # the lower of this many bits.


class Budget(NamedTuple):
  """Images that share a count, or one array with a count for each slice."""

  images: list[Any]
  count: Any
  axes: tuple[int, ...] | None


class _Bisection(NamedTuple):
  """Asks for a loop of ``halve(low, high)`` until all pairs of bounds meet."""

  bounds: tuple[jax.Array, jax.Array]
  halve: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


Search = Generator[_Bisection, Any, Any]


def search_all(budgets: list[Budget]) -> list[list[jax.Array]]:
  """Runs all searches, in step: each bisection is one loop for all of them."""
  searches = [_search(budget) for budget in budgets]
  found: list[Any] = [None] * len(searches)
  answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
  while answers:
    asked = {}
    for i, answer in answers.items():
      try:
        asked[i] = searches[i].send(answer)
      except StopIteration as stop:
        found[i] = stop.value
    answers = dict(zip(asked, _bisect(list(asked.values())), strict=True))
  return found


def _search(budget: Budget) -> Search:
  """Finds the threshold, then the index at which its ties end."""
  images, count, axes = budget
  if axes is not None and [images[0].shape[a] <= _FEW for a in axes] == [True]:
    return [_largest_of_few(now(images[0]), count, *axes)]
  excess = functools.partial(_excess, count=count, axes=axes)
  if any(may_be_sharded(like(x)) for x in images):
    info = jnp.iinfo(images[0].dtype)
    images = [now(x) for x in images]
    # Invalid entries are the lowest integer.
    return (yield from _kth_entry(images, excess, axes, info.min + 1, info.max))
  threshold = yield from _kth_largest(images, excess)
  threshold = jnp.maximum(threshold, jnp.iinfo(threshold.dtype).min + 1)

  # 2 is above the threshold, 1 on it, 0 below.
  def rank(x):
    return (x >= threshold).astype(jnp.int8) + (x > threshold)

  ranks = [apart(rank, x) for x in images]
  ties = excess(r > 0 for r in ranks) > 0
  # XLA would keep the ranks of late images, and compare them where it needs to.
  late = [alike(x, rank) for x, rank in zip(images, ranks, strict=True)]
  return (yield from _kth_entry(late, excess, axes, 1, 1, ties))


def _kth_largest(
  images: list[Any], excess: Callable[[Iterable[jax.Array]], jax.Array]
) -> Search:
  """Finds the largest t with at least ``count`` entries >= t.

  Bisects the upper half of the bits, then the lower half among the entries that
  tie in the upper: half the memory is read in half of the passes.
  """
  info = jnp.iinfo(images[0].dtype)
  if info.bits <= 16:
    images = [apart(lambda x: x, image) for image in images]
    zero = jnp.zeros_like(excess(x >= 0 for x in images))
    return (
      yield from _largest(
        lambda t: excess(x >= t for x in images),
        jnp.full_like(zero, info.min, info.dtype),
        jnp.full_like(zero, info.max, info.dtype),
      )
    )
  half = info.bits // 2
  digit = jnp.iinfo(f'int{half}')

  def higher(x):
    return (x >> half).astype(digit.dtype)

  high = yield from _kth_largest([apart(higher, x) for x in images], excess)
  upper = high.astype(info.dtype) << half
  last = upper | ((1 << half) - 1)

  def lower(x):
    # Shifted by half the range, the unsigned lower digits become signed ones.
    low = (x ^ (1 << (half - 1))).astype(digit.dtype)
    return jnp.where(x > last, digit.max, jnp.where(x < upper, digit.min, low))

  # Made from the images once more: the upper halves are no longer in memory.
  low = yield from _kth_largest([apart(lower, x) for x in images], excess)
  return upper | ((low.astype(info.dtype) - digit.min) & ((1 << half) - 1))


def _kth_entry(
  images: list[Any],
  excess: Callable[[Iterable[jax.Array]], jax.Array],
  axes: tuple[int, ...] | None,
  low: int,
  high: int,
  ties: Any = True,
) -> Search:
  """Selects with one loop, for the threshold and then for the end of its ties.

  An entry is its image and its position, as digits that are bisected one after
  another. On a mesh, each pass of a loop is a round of messages, and each loop
  takes long to compile: there all bits are bisected in one, and nothing is
  stored but the images, and at last what is selected.

  Args:
    images: integers, which may be late.
    excess: counts entries beyond those wanted.
    axes: those that share a count.
    low: the lowest threshold.
    high: the highest one.
    ties: whether there are more entries than wanted at the lowest threshold.
  """
  places, lowest = _places([like(x) for x in images], axes)
  # Sharded as the slices are.
  zero = jnp.zeros_like(excess(now(x) >= 0 for x in images))

  def tests(entry):
    return [functools.partial(_reaches, entry, place) for place in places]

  def halve(low, high):
    # Each digit once those before it are known, by moving all on by one.
    by_one = [(1, -1, 0), *((0, 0, 0) for _ in zero.shape)]
    known = jax.lax.pad(low == high, True, by_one)
    entry = jnp.where(known, _middle(low, high), low)
    each = zip(tests(entry), images, strict=True)
    found = excess(test(now(x)) for test, x in each)
    above = (found < 0) & (entry > low)  # the digit that is bisected now
    high = jnp.where(above, entry - 1, high)
    # Without ties to break, all of them stay.
    high = jnp.where(found == 0, entry, high)
    return jnp.where(found < 0, low, entry), high

  wide = jnp.promote_types(images[0].dtype, jnp.int32)
  first, last = (
    zero + jnp.array(digits, wide).reshape(-1, *(1 for _ in zero.shape))
    for digits in ([low, *lowest], [high, *(1 for _ in lowest)])
  )
  bounds = first, jnp.where(ties, last, first)
  entry, _ = yield _Bisection(bounds, halve)
  each = zip(tests(entry), images, strict=True)
  return [apart(test, x) for test, x in each]


def _reaches(
  entry: jax.Array, place: list[jax.Array], x: jax.Array
) -> jax.Array:
  """Whether entries are at least another one, digit by digit."""
  value, last = entry[0].astype(x.dtype), -entry[1:]
  found = place[-1] <= last[-1]
  for own, end in list(zip(place, last, strict=True))[-2::-1]:
    found = (own < end) | ((own == end) & found)
  return (x > value) | ((x == value) & found)


def _largest(
  excess: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array
) -> Search:
  """Finds the largest t in [low, high] with ``excess(t) >= 0``.

  The excess falls with t; the search ends early where it is zero.
  """

  def halve(low, high):
    middle = _middle(low, high)
    return _narrow(excess(middle), middle, low, high)

  low, _ = yield _Bisection((low, high), halve)
  return low


def _middle(low: jax.Array, high: jax.Array) -> jax.Array:
  """The average rounded up, in a form that cannot overflow."""
  return (low & high) + ((low ^ high) >> 1) + ((low ^ high) & 1)


def _narrow(
  found: jax.Array, middle: jax.Array, low: jax.Array, high: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The half of the bounds that an excess at the middle leaves."""
  return (
    jnp.where(found >= 0, middle, low),
    jnp.where(found > 0, high, jnp.where(found == 0, middle, middle - 1)),
  )


def _bisect(bisections: list[_Bisection]) -> list[Any]:
  """Runs bisections side by side in one loop."""
  if not bisections:
    return []

  def halve(bounds):
    return [x.halve(*own) for x, own in zip(bisections, bounds, strict=True)]

  def unsettled(bounds):
    open_ = [jnp.any(low < high) for low, high in bounds]
    return functools.reduce(jnp.logical_or, open_)

  return jax.lax.while_loop(unsettled, halve, [x.bounds for x in bisections])


def words(count: Any, size: int) -> Any:
  """The count as int32, or as two words of it where there are too many."""
  if isinstance(count, tuple):
    return count
  if not isinstance(count, jax.Array):
    count = np.minimum(count, size)
  elif jnp.iinfo(count.dtype).max >= _INT32:
    count = jnp.minimum(count, min(size, 2**31 - 1))
  if size < _INT32:
    return jnp.asarray(count, jnp.int32)
  parts = count >> _WORD, count & ((1 << _WORD) - 1)
  return tuple(jnp.asarray(part, jnp.int32) for part in parts)


def subtract(count: Any, n: jax.Array) -> Any:
  """The count less an int32, but at least zero."""
  if not isinstance(count, tuple):
    return jnp.maximum(count - n, 0)
  high = count[0] - (n >> _WORD)
  low = count[1] - (n & ((1 << _WORD) - 1))
  high, low = high + (low >> _WORD), low & ((1 << _WORD) - 1)
  return jnp.maximum(high, 0), jnp.where(high < 0, 0, low)


def _largest_of_few(x: jax.Array, count: jax.Array, axis: int) -> jax.Array:
  """The same for short slices, by counting how many entries come before."""
  index = _index(x, (axis,))  # One of each entry would not be sharded.
  rank = jnp.zeros_like(x, jnp.int32)
  for j in range(x.shape[axis]):
    if may_be_sharded(x):  # where a slice would be sent to all devices whole
      other = jnp.sum(jnp.where(index == j, x, 0), axis, x.dtype, keepdims=True)
    else:
      other = jax.lax.slice_in_dim(x, j, j + 1, axis=axis)
    rank += (other > x) | ((other == x) & (j < index))
  return (rank < count) & (x > jnp.iinfo(x.dtype).min)


def _excess(
  tests: Iterable[jax.Array], count: Any, axes: tuple[int, ...] | None
) -> jax.Array:
  """How many tests hold beyond the count, up to 2^30."""
  if not isinstance(count, tuple):
    return sum((count_true(t, axes) for t in tests), jnp.int32(0)) - count
  high, low = -count[0], -count[1]
  for test in tests:
    more, rest = _sum_words(test, axes)
    high, low = high + more, low + rest
  high, low = high + (low >> _WORD), low & ((1 << _WORD) - 1)
  limit = 2**30 >> _WORD
  return (jnp.clip(high, -limit, limit - 1) << _WORD) + low


def _sum_words(
  test: jax.Array, axes: tuple[int, ...] | None
) -> tuple[jax.Array, jax.Array]:
  """Sums bools into two words."""
  keep = axes is not None
  axes = tuple(range(test.ndim)) if axes is None else axes
  lead = _lead([test.shape[a] for a in axes])
  low = count_true(test, axes[lead:])
  high = jnp.zeros_like(low)
  for axis in axes[:lead]:
    high = jnp.sum(high + (low >> _WORD), axis, jnp.int32, keepdims=True)
    low = jnp.sum(low & ((1 << _WORD) - 1), axis, jnp.int32, keepdims=True)
  if not keep:
    high, low = high.reshape(()), low.reshape(())
  return high + (low >> _WORD), low & ((1 << _WORD) - 1)


def _lead(shape: Sequence[int]) -> int:
  """How many leading axes to leave for the others to fit an int32."""
  lead = len(shape)
  while lead and math.prod(shape[lead - 1 :]) < _INT32:
    lead -= 1
  return lead


def _places(
  arrays: list[jax.Array], axes: tuple[int, ...] | None
) -> tuple[list[list[jax.Array]], list[int]]:
  """Positions on the axes, and the lowest digits.

  The digits are that of a block of rows, counted on from array to array, of a
  row in its block and of a column in its row: the indices of single entries
  would be stored, and would not always fit an int32. They are the positions
  times -1, as the first entry is the largest.
  """
  places, sizes, blocks = [], [], 0
  for x in arrays:
    shape = x.shape
    own = tuple(range(x.ndim)) if axes is None else axes
    lead = _lead([shape[a] for a in own[:-1]])
    parts = own[:lead], own[lead:-1], own[-1:]
    block, row, column = (_index(x, part) for part in parts)
    places.append([block + blocks, row, column])
    length, *others = (math.prod(shape[a] for a in part) for part in parts)
    blocks += length
    sizes.append([blocks, *others])
  sizes = [max(size) for size in zip(*sizes, strict=True)]
  if max(sizes) > 2**31:
    raise ValueError(
      f'An axis of the scores has {max(sizes):,} entries, but must have at most'
      ' 2^31: positions are int32. Reshape the array to shorter axes.'
    )
  # Of one block, or of blocks of one row, there is nothing to choose.
  used = [i for i, size in enumerate(sizes) if size > 1 or i == 2]
  places = [[place[i] for i in used] for place in places]
  return places, [min(1 - sizes[i], 1) for i in used]


def _index(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Row-major positions on some axes; all others have size one."""
  index, stride = jnp.zeros((1,) * x.ndim, jnp.int32), 1
  for axis in reversed(axes):
    index += positions(x, axis) * stride
    stride *= x.shape[axis]
  return index
