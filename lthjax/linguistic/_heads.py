"""What pruning has left of each head of attention."""

from typing import Any

import numpy as np

from lthjax import _checks


def head_density(
  mask: Any, heads: int, *, axis: int, layers: bool = False
) -> np.ndarray:
  """Computes the density of the mask of each head.

  Args:
    mask: bool mask of a kernel of queries, keys, values or outputs.
    heads: number of heads.
    axis: the axis that holds the heads: of size ``heads``, or of ``heads``
      times the width of a head, one head after another.
    layers: whether the first axis stacks layers.

  Returns:
    float64[heads], or float64[layers, heads].

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> mask = np.array([[True, True, False, True], [True, True, False, False]])
    >>> linguistic.head_density(mask, 2, axis=-1)
    array([1.  , 0.25])
  """
  if not hasattr(mask, 'shape') or mask.dtype != bool:
    raise _checks.wrong_type('mask', mask, 'be the bool mask of a kernel')
  return _by_head('mask', mask, heads, axis, layers).mean(-1)


def head_norm(
  kernel: Any, heads: int, *, axis: int, layers: bool = False
) -> np.ndarray:
  """Computes the norm of the part of a kernel that belongs to each head.

  Args:
    kernel: float kernel, such as that of the outputs, pruned.
    heads: number of heads.
    axis: the axis that holds the heads, as in `head_density`.
    layers: whether the first axis stacks layers.

  Returns:
    float64[heads], or float64[layers, heads].

  Example:
    >>> import numpy as np
    >>> from lthjax import linguistic
    >>> kernel = np.array([[3.0, 4.0], [0.0, 0.0]])
    >>> linguistic.head_norm(kernel, 2, axis=0)
    array([5., 0.])
  """
  _checks.array('kernel', kernel)
  return np.sqrt((_by_head('kernel', kernel, heads, axis, layers) ** 2).sum(-1))


def spearman(x: Any, y: Any) -> float:
  """Computes Spearman's rank correlation; ties get their mean rank.

  For heads of several models, pass [models, layers, heads] of both; for a
  verdict, one correlation per model to `over_seeds`.

  Args:
    x: numbers of any shape.
    y: numbers of the same shape.

  Returns:
    From -1 to 1; NaN if all numbers of one are equal.

  Example:
    >>> from lthjax import linguistic
    >>> linguistic.spearman([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
  """
  a, b = (_numbers(name, v) for name, v in (('x', x), ('y', y)))
  if a.shape != b.shape or a.size < 2:
    raise ValueError(
      f'`x` and `y` have shapes {a.shape} and {b.shape}, but must have the same'
      ' one, with two numbers or more.'
    )
  one, two = (_ranks(v.ravel()) for v in (a, b))
  one, two = one - one.mean(), two - two.mean()
  scale = np.sqrt((one**2).sum() * (two**2).sum())
  return float((one * two).sum() / scale) if scale else float('nan')


def _by_head(
  name: str, x: Any, heads: int, axis: int, layers: bool
) -> np.ndarray:
  """Views a kernel as [(layers,) heads, entries]."""
  n = _checks.at_least('heads', heads, 1)
  first = int(_checks.flag('layers', layers))
  values = np.asarray(x, np.float64)
  place = _checks.integer('axis', axis)
  if not -values.ndim <= place < values.ndim or values.ndim < 2 + first:
    raise ValueError(
      f'`axis` was {place} and `layers` {layers}, but `{name}` is'
      f' {_checks.describe(x)}. Name the axis that holds the heads.'
    )
  place %= values.ndim
  if place < first or values.shape[place] % n:
    raise ValueError(
      f'Axis {place} of `{name}` has size {values.shape[place]}, which is not'
      f' {n} heads of equal width. Name another axis or number of heads.'
    )
  moved = np.moveaxis(values, place, first)
  return moved.reshape(*moved.shape[:first], n, -1)


def _numbers(name: str, x: Any) -> np.ndarray:
  wanted = 'have numbers only'
  try:
    found = np.asarray(x, np.float64)
  except (TypeError, ValueError) as error:
    raise _checks.wrong_type(name, x, wanted) from error
  if not np.isfinite(found).all():
    raise _checks.wrong_value(name, x, wanted)
  return found


def _ranks(x: np.ndarray) -> np.ndarray:
  _, groups, counts = np.unique(x, return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[groups]
