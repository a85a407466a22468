"""One delta from several, by a rule that is named.

Results are the same bits in any order of the deltas.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lthjax import _checks, counts, trees
from lthjax.lota._delta import Delta, listed
from lthjax.selection import keep_largest

# Of ``float32[deltas, places]``, zero where a delta has no such place, and of
# ``bool[deltas, places]``, whether it has.
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]


def merge_sum(deltas: Sequence[Delta]) -> Delta:
  """Adds deltas up; those of disjoint places keep their bits.

  Args:
    deltas: of one base.

  Returns:
    A delta of all their places.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> one = lth.lota.Delta({'w': jnp.ones(2)}, {'w': jnp.array([0, 2])})
    >>> two = lth.lota.Delta({'w': jnp.ones(1)}, {'w': jnp.array([2])})
    >>> lth.lota.merge_sum([one, two]).values
    {'w': Array([1., 2.], dtype=float32)}

  References:
    Ilharco et al., Editing Models with Task Arithmetic, arXiv:2212.04089,
    section 2.
  """
  return _merge(deltas, _sum)


def merge_mean(deltas: Sequence[Delta]) -> Delta:
  """Adds deltas up and divides by their number, also where one is alone.

  Args:
    deltas: of one base.

  Returns:
    A delta of all their places.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> one = lth.lota.Delta({'w': jnp.ones(2)}, {'w': jnp.array([0, 2])})
    >>> two = lth.lota.Delta({'w': jnp.ones(1)}, {'w': jnp.array([2])})
    >>> lth.lota.merge_mean([one, two]).values
    {'w': Array([0.5, 1. ], dtype=float32)}

  References:
    Wortsman et al., Model soups, arXiv:2203.05482, section 2.
  """
  number = np.float32(len(listed(deltas)))
  return _merge(deltas, lambda x, has: _sum(x, has) / number)


def merge_ties(deltas: Sequence[Delta], *, density: float = 1.0) -> Delta:
  """Merges by TIES: trims, elects a sign, and averages those that agree.

  The divisor is the number of deltas that agree with the elected sign, so what
  only one delta changes stays as it is. Where positive and negative numbers
  cancel, nothing is elected, and the result is zero.

  Args:
    deltas: of one base.
    density: share of each delta to keep, by magnitude over all leaves. Deltas
      that are sparse already need no trimming.

  Returns:
    A delta of all their places.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> place = {'w': jnp.array([0])}
    >>> numbers = [1.0, 3.0, -2.0]
    >>> deltas = [lth.lota.Delta({'w': jnp.array([x])}, place) for x in numbers]
    >>> lth.lota.merge_ties(deltas).values
    {'w': Array([2.], dtype=float32)}

  References:
    Yadav et al., TIES-Merging: Resolving Interference When Merging Models,
    arXiv:2306.01708, algorithm 1.
  """
  density = _checks.closed_share('density', density)

  def elect(x, has):
    sign = np.sign(_sum(x, has))  # Step 2: the sign of the larger mass.
    agree = has & (np.sign(x) == sign) & (sign != 0)
    number = np.maximum(agree.sum(0), 1).astype(np.float32)
    return _sum(np.where(agree, x, np.float32(0)), agree) / number

  trimmed = [_trim(delta, density) for delta in listed(deltas)]  # Step 1.
  return _merge(trimmed, elect)


def _trim(delta: Delta, density: float) -> Delta:
  """Sets all but the largest numbers to zero; their places stay."""
  if density == 1 or not delta.values:
    return delta
  total = sum(x.size for x in delta.values.values())
  ratio = counts.exact(density).as_integer_ratio()
  keep = keep_largest(
    {name: jnp.abs(x) for name, x in delta.values.items()},
    counts.share_of(total, *ratio, 'nearest'),
  )
  values = {n: jnp.where(keep[n], x, 0) for n, x in delta.values.items()}
  return delta._replace(values=values)


def _merge(deltas: Sequence[Delta], rule: Rule) -> Delta:
  """Lays deltas over each other at all their places."""
  values: dict[str, Any] = {}
  indices: dict[str, Any] = {}
  hosts = [_host(delta) for delta in listed(deltas)]
  for name in dict.fromkeys(n for d in hosts for n in d.values):
    mine = [d for d in hosts if name in d.values]
    places = np.unique(np.concatenate([d.indices[name] for d in mine]))
    x = np.zeros((len(mine), places.size), np.float32)
    has = np.zeros(x.shape, bool)
    for row, d in enumerate(mine):
      at = np.searchsorted(places, d.indices[name])
      # Padding comes several times, with values of zero.
      x[row, at], has[row, at] = d.values[name], True
    values[name] = jnp.asarray(rule(x, has))
    indices[name] = jnp.asarray(places, jnp.int32)
  return Delta(values, indices)


def _host(delta: Delta) -> Delta:
  known = [trees.concrete(table) for table in delta]
  if known[0] is None or known[1] is None:
    raise TypeError(
      'The deltas are traced, but must be known outside of `jax.jit` to be'
      ' merged: the places of the result follow from them.'
    )
  return Delta(known[0], known[1])


def _sum(x: np.ndarray, has: np.ndarray) -> np.ndarray:
  """Sums the smallest first, so that the order of the deltas is no matter."""
  found = np.zeros(x.shape[1:], np.float32)
  for row in np.sort(x, axis=0):
    found = found + row
  # What is alone keeps its bits, -0.0 too.
  alone = np.take_along_axis(x, has.argmax(0)[None], 0)[0]
  return np.where(has.sum(0) == 1, alone, found)
