"""Better masks, by exchanging a kept weight for a pruned one."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.calibration import stats
from lthjax.rules._refit import apply_inner, check_rule
from lthjax.rules._rule import Pruned, Rule, check_matrices

_TOGETHER = 2**24  # Pairs of weights looked at in one go on accelerators.


def swaps(rule: Rule, *, most: int = 50) -> Rule:
  """Prunes by a rule, then exchanges weights while the error of outputs falls.

  Weights keep their values, also after a rule that updates them; `refit` can
  follow. Each output keeps its number of weights, and N:M holds.

  Args:
    rule: any rule.
    most: the most exchanges per output.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> rule = lth.rules.refit(lth.rules.swaps(lth.rules.wanda(0.5)))
    >>> rule.needs.__name__
    'gram'

  References:
    Zimmer et al., SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale,
    arXiv:2512.10922.
  """
  options = {
    'rule': check_rule(rule),
    'most': _checks.at_least('most', most, 0),
  }
  return Rule(_prune, rule.target, stats.gram, False, tuple(options.items()))


def swap(
  kernel: jax.Array,
  keep: jax.Array,
  gram: jax.Array,
  *,
  most: int = 50,
  m: int | None = None,
  alive: jax.Array | None = None,
) -> jax.Array:
  """Exchanges kept weights for pruned ones, the best pair of an output first.

  Args:
    kernel: dense kernel ``[inputs, outputs]``.
    keep: bool, of its shape.
    gram: ``[inputs, inputs]``.
    most: the most exchanges per output.
    m: exchange only within groups of ``m`` inputs, a divisor of their number.
    alive: weights that may come back; all by default.

  Returns:
    The new mask.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> gram = jnp.array([[1.0, -0.8, 0.0], [-0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> kernel = jnp.array([[1.0], [1.2], [0.9]])
    >>> keep = jnp.array([[False], [True], [False]])
    >>> lth.rules.swap(kernel, keep, gram).ravel()
    Array([False, False,  True], dtype=bool)
  """
  check_matrices(kernel, gram, keep=keep, alive=alive)
  most = _checks.at_least('most', most, 0)
  kernel, keep, gram = map(jnp.asarray, (kernel, keep, gram))
  alive = jnp.ones_like(keep) if alive is None else jnp.asarray(alive)
  if m is not None and len(gram) % _checks.at_least('m', m, 1):
    raise ValueError(
      f'`m` was {m}, but must divide the {len(gram)} inputs. Pass a divisor, or'
      ' leave `m` out.'
    )
  one = functools.partial(_output, gram=gram, m=m or len(gram), most=most)
  batch = max(min(_TOGETHER // max(gram.size, 1), kernel.shape[1]), 1)
  if jax.default_backend() == 'cpu':
    batch = None  # What one output looks at stays in the cache.
  new = jax.lax.map(
    lambda each: one(*each), (kernel.T, keep.T, alive.T), batch_size=batch
  )
  return new.T


def _prune(kernel, gram, alive, target, ratio, rule, most) -> Pruned:
  found = apply_inner(rule, kernel, gram, alive, ratio)
  m = target.pattern.m if target.pattern else None
  keep = swap(kernel, found.keep, gram, most=most, m=m, alive=alive)
  return found._replace(keep=keep, kernel=None)


def _output(w, keep, alive, gram, m, most):
  """Exchanges weights of one output while its error falls."""
  own = jnp.square(w) * jnp.diagonal(gram)
  start, fewer = _start(w, keep, alive, gram, m)

  def best(keep, errors, rows, shared):
    """The change of the best pair, its column, and its place among rows."""
    # What each of two weights changes by itself; they also share something.
    change = own + jnp.where(keep, 2.0, -2.0) * w * errors
    others = (alive | keep) & (keep != jnp.repeat(fewer.kept, m))
    here = jnp.where(fewer.used, change[rows], jnp.inf)
    least = _least(here[:, :, None] - shared).ravel()
    least = jnp.where(others, least + change, jnp.inf)
    column = jnp.argmin(least)
    group = column // m
    pairs = here[group] - shared[group, :, column % m]
    # Rows are in no order: of equal pairs, that of the lowest index.
    ties = jnp.where(pairs == jnp.min(pairs), rows[group], len(w))
    return least[column], column, jnp.argmin(ties)

  def unfinished(state):
    number, *_, (change, _, _) = state
    return (number < most) & (change < 0)

  def exchange(state):
    number, keep, errors, rows, shared, (_, column, place) = state
    group = column // m
    for i in (column, rows[group, place]):
      errors = errors + jnp.where(keep[i], w[i], -w[i]) * gram[i]
      keep = keep.at[i].set(~keep[i])
    rows = rows.at[group, place].set(column)
    shared = shared.at[group, place].set(_shared(w, gram, m, column))
    found = keep, errors, rows, shared
    return number + 1, *found, best(*found)

  _, keep, *_ = jax.lax.while_loop(
    unfinished, exchange, (0, *start, best(*start))
  )
  return keep


def _least(pairs):
  """The least along the rows of each group, ``[groups, rows, m]``."""
  for _ in range(4):  # XLA compares halves twice as fast as it reduces rows.
    if pairs.shape[1] % 2 == 0:
      pairs = jnp.minimum(*jnp.split(pairs, 2, axis=1))
  return jnp.min(pairs, 1)


class _Fewer(NamedTuple):
  """The side of each group that has fewer weights: at most half of them.

  Only these have rows of pairs, ``[groups, m // 2, m]``: an exchange replaces
  one row, and a search reads half of the matrix.
  """

  kept: jax.Array  # [groups]: whether they are the kept ones
  used: jax.Array  # [groups, m // 2]: the rows that hold a weight


def _start(w, keep, alive, gram, m):
  """The state before the first exchange, and which sides have rows."""
  keeps, comes = keep.reshape(-1, m), (alive & ~keep).reshape(-1, m)
  numbers = keeps.sum(1), comes.sum(1)
  kept = numbers[0] <= numbers[1]
  side = jnp.where(kept[:, None], keeps, comes)
  rows = jnp.argsort(~side, axis=1, stable=True)[:, : max(m // 2, 1)]
  used = jnp.arange(rows.shape[1]) < jnp.minimum(*numbers)[:, None]
  rows += m * jnp.arange(len(rows))[:, None]
  errors = jnp.matmul(gram, jnp.where(keep, 0.0, w), precision='highest')
  shared = _shared(w, gram, m, rows)
  return (keep, errors, rows, shared), _Fewer(kept, used)


def _shared(w, gram, m, rows):
  """What rows share with each input of their groups, ``[.., m]``."""
  groups = rows // m
  near = gram.reshape(len(w), -1, m)[rows, groups]
  return 2 * w[rows][..., None] * w.reshape(-1, m)[groups] * near
