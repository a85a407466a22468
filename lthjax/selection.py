"""Selection of the k largest scores: the only place that compares scores.

The k-th largest value is found by bisection on the order-preserving integer
image of floating-point numbers: about as many passes as a score has bits, each
an elementwise comparison and a sum. Nothing is sorted or gathered, so a sharded
array stays where it is and gives the same bits on any number of devices.
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, _sharding, trees
from lthjax._bisection import Budget, search_all, words
from lthjax._errors import refuse
from lthjax._images import order_images
from lthjax._late import Late, like, now

Axis = int | tuple[int, ...] | None

_TOGETHER = 2**21  # About as many scores share a loop, to stay in the cache.


def keep_largest(
  scores: chex.ArrayTree,
  count: int | chex.Array,
  eligible: chex.ArrayTree | None = None,
  *,
  axis: Axis = None,
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

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.keep_largest(jnp.array([3.0, 1.0, 2.0, 2.0]), 2)
    Array([ True, False,  True, False], dtype=bool)
    >>> rows = jnp.array([[3.0, 1.0], [2.0, 2.0]])
    >>> lth.keep_largest(rows, 1, axis=1)
    Array([[ True, False],
           [ True, False]], dtype=bool)
  """
  leaves, treedef = trees.flatten(scores)
  named = {name: x for name, x in leaves.items() if x is not None}
  if not named:
    raise ValueError('`keep_largest` needs at least one array of scores.')
  check_floating(named)
  if any(trees.is_abstract(x) for x in named.values()):
    _checks.check_arrays(named, 'scores')
  _check_count(count)
  axes = _shared_axes(axis, [jnp.shape(x) for x in named.values()])
  _check_broadcast(count, axes, jnp.shape(next(iter(named.values()))))
  alive = None
  if eligible is not None:
    masks = trees.by_name(eligible)
    trees.check_tables(masks, leaves, 'scores')
    refuse(
      [name for name in named if masks[name] is None],
      '`eligible` is None where there are scores: {}. Give a bool array there,'
      ' or set the scores to None as well.',
    )
    alive = [masks[name] for name in named]
  keep = keep_shared(list(named.values()), count, alive, axes=axes)
  selected = leaves | dict(zip(named, keep, strict=True))
  return treedef.unflatten(selected.values())


def keep_shared(
  scores: Sequence[Any],
  count: Any,
  eligible: Sequence[Any] | None = None,
  *,
  axes: tuple[int, ...] | None = None,
) -> list[jax.Array]:
  """Selects among arrays that share a count, as `keep_largest`; no checks."""
  size = sum(_size(x, axes) for x in scores)
  alive = None if eligible is None else [list(eligible)]
  return _keep([list(scores)], [words(count, size)], alive, (axes,))[0]


def keep_each(
  scores: Sequence[Any],
  counts: Sequence[Any],
  eligible: Sequence[Any] | None = None,
  *,
  axes: Sequence[tuple[int, ...] | None] | None = None,
) -> list[jax.Array]:
  """Selects in many arrays with a count each, in one loop; no checks.

  The same bits as `keep_largest` of each array.
  """
  axes = (None,) * len(scores) if axes is None else tuple(axes)
  masks = [None] * len(scores) if eligible is None else [[e] for e in eligible]
  # Eagerly, one program per shape runs faster than one for all. Traced, arrays
  # of equal shape are stacked, so that the program stays small.
  late = any(isinstance(x, Late) for x in scores)
  if not late and not trees.is_traced(*scores, *counts, *(eligible or ())):
    parts = zip(scores, counts, masks, axes, strict=True)
    return [keep_shared([x], n, m, axes=own)[0] for x, n, m, own in parts]
  sizes = map(_size, scores, axes)
  keep = (_keep_now if late else _keep)(
    [[x] for x in scores],
    [words(c, size) for c, size in zip(counts, sizes, strict=True)],
    None if eligible is None else masks,
    axes,
  )
  return [k for (k,) in keep]


def check_floating(scores: Mapping[str, Any]) -> None:
  """Raises naming every array of ``{name: array}`` that is not floating."""
  wrong = []
  for name, x in scores.items():
    if not hasattr(x, 'dtype') and not isinstance(x, float):
      wrong.append(f'{name or "the array"} is {_checks.describe(x)}')
    elif not jnp.issubdtype(jnp.result_type(x), jnp.floating):
      wrong.append(f'{name or "the array"} is {jnp.result_type(x)}')
  refuse(
    wrong,
    'Scores must be floating point, but {}. Cast them with'
    ' `.astype(jnp.float32)`, or take `jnp.abs` of complex ones.',
    TypeError,
  )


def _check_count(count: Any) -> None:
  """Raises unless a count is an integer, or an array of integers."""
  whole = isinstance(count, int) or hasattr(count, 'dtype')
  if not whole or not jnp.issubdtype(jnp.result_type(count), jnp.integer):
    remedy = 'Round it first: the product 100 * 0.29 is 28.999999999999996'
    raise _checks.wrong_type('count', count, f'be an integer. {remedy}')
  known = trees.concrete({'count': count})
  if known is not None and np.any(np.less(known['count'], 0)):
    wanted = 'be at least 0. Keep `size - n` to remove n'
    raise _checks.wrong_value('count', count, wanted)


def _shared_axes(
  axis: Axis, shapes: list[tuple[int, ...]]
) -> tuple[int, ...] | None:
  """Returns the axes along which scores share a count, `None` for all."""
  if axis is None:
    return None
  axes, ndim = axis if isinstance(axis, tuple) else (axis,), len(shapes[0])
  there = {a % ndim for a in axes if isinstance(a, int) and -ndim <= a < ndim}
  if len(shapes) > 1 or len(there) < len(axes):
    raise ValueError(
      f'`axis={axis}` needs a single array with such an axis, but the scores'
      f' have the shapes {", ".join(map(str, shapes))}. Select in each'
      ' separately.'
    )
  return tuple(sorted(there))


def _check_broadcast(
  count: Any, axes: tuple[int, ...] | None, shape: tuple[int, ...]
) -> None:
  """Raises unless there is one count, or one for each slice."""
  given, wanted = np.shape(count), ()
  if axes is not None:
    wanted = tuple(1 if i in axes else n for i, n in enumerate(shape))
  pairs = zip(given[::-1], wanted[::-1], strict=False)
  if len(given) > len(wanted) or any(g not in (1, w) for g, w in pairs):
    raise ValueError(
      f'`count` has the shape {given}, but must broadcast to {wanted}: the'
      ' shape of the scores, with `axis` of size one; a scalar without `axis`.'
    )


def _size(x: Any, axes: tuple[int, ...] | None) -> int:
  """Returns how many scores share a count."""
  shape = x.shape if isinstance(x, Late) else jnp.shape(x)
  return math.prod(shape if axes is None else (shape[a] for a in axes))


def _keep_now(
  scores: list[list[Any]],
  counts: list[Any],
  eligible: Any,
  axes: tuple[tuple[int, ...] | None, ...],
) -> list[list[jax.Array]]:
  """Selects in all arrays, in as few loops as there are."""
  budgets = [
    Budget(_images(xs, alive), count, own_axes)
    for xs, count, alive, own_axes in zip(
      scores, counts, eligible or [None] * len(scores), axes, strict=True
    )
  ]
  keep: dict[int, list[jax.Array]] = {}
  # Arrays of one group are stacked; groups of one loop are bisected in step.
  for groups in _loops(budgets):
    stacks = [_stack([budgets[i] for i in group]) for group in groups]
    for group, found in zip(groups, search_all(stacks), strict=True):
      for place, i in enumerate(group):
        keep[i] = [found[0][place]] if len(group) > 1 else found
  return [keep[i] for i in range(len(budgets))]


# Compiled once per set of shapes; the counts are arguments.
_keep = jax.jit(_keep_now, static_argnames='axes')


def _images(scores: list[Any], eligible: list[Any] | None) -> list[Any]:
  """Returns what is compared; late, if a single array is."""
  if isinstance(scores[0], Late):
    (late,) = scores

    def image(x):
      alive = None if eligible is None else [now(e) for e in eligible]
      return order_images([x], alive)[0]

    return [late.map(image)]
  return order_images(scores, eligible)


def _loops(budgets: list[Budget]) -> list[list[list[int]]]:
  """Groups arrays to be stacked, and the groups to be searched in one loop."""
  # Of one device: on a mesh, a loop is as many rounds of messages.
  sizes = [
    sum(x.size // _sharding.devices(like(x)) for x in images)
    for images, _, _ in budgets
  ]
  groups: dict[Any, list[int]] = {}
  stacked: collections.Counter[Any] = collections.Counter()
  for i, ((x, *others), count, axes) in enumerate(budgets):
    kind: Any = i  # On a mesh, parts may lie on different devices.
    if not (
      others or isinstance(count, tuple) or _sharding.may_be_sharded(like(x))
    ):
      kind = (x.shape, x.dtype, axes, count.shape)
    groups.setdefault((kind, stacked[kind] // _TOGETHER), []).append(i)
    stacked[kind] += sizes[i]
  loops: dict[int, list[list[int]]] = {}
  before = 0
  for group in groups.values():
    loops.setdefault(before // _TOGETHER, []).append(group)
    before += sum(sizes[i] for i in group)
  return list(loops.values())


def _stack(budgets: list[Budget]) -> Budget:
  """One array with a count for each slice, made of arrays of equal shape."""
  if len(budgets) == 1:
    return budgets[0]
  (x,), count, axes = budgets[0]
  shape = (1,) * (x.ndim - count.ndim) + count.shape
  return Budget(
    [jnp.stack([now(budget.images[0]) for budget in budgets])],
    jnp.stack([jnp.reshape(budget.count, shape) for budget in budgets]),
    tuple(a + 1 for a in (range(x.ndim) if axes is None else axes)),
  )
