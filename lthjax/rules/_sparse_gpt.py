"""SparseGPT: input by input, later weights make up for those that go."""

import functools

import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.calibration import stats
from lthjax.patterns import NM
from lthjax.rules import _hessian, _quantize
from lthjax.rules._rule import Pruned, Rule, Target
from lthjax.selection import keep_largest


def sparse_gpt(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  damping: float = 0.01,
  block: int = 128,
  bits: int | None = None,
  group: int = 128,
) -> Rule:
  """SparseGPT: prunes input by input, and updates the weights of later inputs.

  Counts are exact in each block of inputs, also at sparsities 0 and 1. It takes
  about 5 tokens per input or more; with fewer than 2 it overfits.

  Args:
    sparsity: dead share of the weights, in [0, 1].
    pattern: N:M along the inputs, instead; it does not depend on the block.
    damping: added to the Gram matrix, as a share of the mean of its diagonal;
      ten times more, up to three times, where it is not positive definite.
    block: number of inputs among whose weights a sparsity selects at once.
    bits: 8 or 4 to round what stays to integers times a scale, jointly: int8
      with a scale per output, int4 with one per output and group of inputs.
      Zeros stay exact.
    group: number of inputs that share a scale of int4.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> rule = lth.rules.sparse_gpt(pattern=lth.patterns.NM(1, 2), damping=0)
    >>> gram = jnp.array([[1.0, 0.8], [0.8, 1.0]])
    >>> alive = jnp.ones((2, 1), bool)
    >>> rule('w', jnp.array([[0.3], [2.0]]), gram, alive).kernel.ravel()
    Array([0.  , 2.24], dtype=float32)

  References:
    Frantar & Alistarh, SparseGPT: Massive Language Models Can Be Accurately
    Pruned in One-Shot, arXiv:2301.00774, algorithm 1.
  """
  if bits is not None and _checks.integer('bits', bits) not in (4, 8):
    raise ValueError(f'`bits` was {bits!r}, but must be 8, 4 or None.')
  options = {
    'damping': _hessian.check_damping(damping),
    'block': _checks.at_least('block', block, 1),
    'bits': bits,
    'group': _checks.at_least('group', group, 1),
  }
  target = Target.of(sparsity, pattern, 'layer')
  return Rule(_prune, target, stats.gram, True, tuple(options.items()))


def _prune(
  kernel, gram, alive, target, ratio, damping, block, bits, group
) -> Pruned:
  kernel, gram = _hessian.without_dead(kernel, gram)
  upper, found = _hessian.upper_factor(gram, damping)
  scales = None
  if bits is not None:
    scales = _quantize.scales(kernel, alive, bits, group)
  # The last block may be smaller: it is filled up with dead inputs.
  depth, width = kernel.shape
  step = target.pattern.m if target.pattern else 1
  block = min(max(block // step, 1) * step, -(-depth // step) * step)
  number = -(-depth // block)
  more = number * block - depth
  kernel, alive = (jnp.pad(x, ((0, more), (0, 0))) for x in (kernel, alive))
  upper = jnp.pad(upper, ((0, more), (0, more)))
  upper += jnp.diag(jnp.arange(depth + more) >= depth).astype(upper.dtype)
  if scales is not None:
    scales = jnp.pad(scales, ((0, more), (0, 0)), constant_values=1.0)
  sweep = _Sweep(upper, alive, scales, target, block, bits)
  counts = [None] * number
  if target.pattern is None:
    sizes = [block * width] * (number - 1) + [(block - more) * width]
    counts = [target.kept(size, ratio) for size in sizes]
  starts = block * jnp.arange(number)
  kept = None if counts[0] is None else jnp.array(counts, jnp.int32)
  kernel, keep = jax.lax.scan(sweep, kernel, (starts, kept))
  keep = keep.reshape(-1, width)[:depth]
  return Pruned(keep, kernel[:depth], ~found)


class _Sweep:
  """Prunes one block of inputs, and updates all that come later."""

  def __init__(self, upper, alive, scales, target, block, bits):
    self.upper, self.alive, self.scales = upper, alive, scales
    self.target, self.block, self.bits = target, block, bits
    self.step = target.pattern.m if target.pattern else 1

  def __call__(self, kernel, turn):
    start, count = turn

    def rows_of(x):
      return jax.lax.dynamic_slice_in_dim(x, start, self.block)

    rows, alive, across = map(rows_of, (kernel, self.alive, self.upper))
    scales = None if self.scales is None else rows_of(self.scales)
    corner = jax.lax.dynamic_slice_in_dim(across, start, self.block, axis=1)
    if count is None:
      keep = jnp.zeros_like(alive)
    else:  # (w / U_ii)^2, where U_ii^2 is in the inverse of what is left.
      scores = jnp.square(rows / jnp.diagonal(corner)[:, None])
      keep = keep_largest(scores, count, alive)
    rows, keep, errors = self._rows(rows, keep, alive, corner, scales)
    kernel = self._later(kernel, start + self.block, across, errors)
    return jax.lax.dynamic_update_slice_in_dim(kernel, rows, start, 0), keep

  def _later(self, kernel, start, across, errors):
    """Updates the inputs from a start on, and computes few others."""

    def update(first):
      later = jnp.arange(first, len(kernel)) >= start
      change = _hessian.matmul(across[:, first:].T, errors)
      return kernel.at[first:].add(-jnp.where(later[:, None], change, 0.0))

    quarter = -(-len(kernel) // (4 * self.block)) * self.block
    firsts = range(0, len(kernel), quarter)
    branches = [functools.partial(update, first) for first in firsts]
    return jax.lax.switch(start // quarter, branches)

  def _rows(self, rows, keep, alive, corner, scales):
    """Goes through the inputs of a block, a few at a time."""
    # Updates of few rows stay in the cache; a product updates all later ones.
    size = _part(self.block, self.step)

    def part(state, start):
      rows, errors = state

      def its(x):
        return jax.lax.dynamic_slice_in_dim(x, start, size)

      ahead = its(corner)
      square = jax.lax.dynamic_slice_in_dim(ahead, start, size, axis=1)
      given = None if scales is None else its(scales)
      new, chosen, missed = self._few(
        its(rows), its(keep), its(alive), square, given
      )
      later = jnp.arange(self.block) >= start + size
      change = _hessian.matmul(ahead.T, missed)
      rows -= jnp.where(later[:, None], change, 0.0)
      rows = jax.lax.dynamic_update_slice_in_dim(rows, new, start, 0)
      errors = jax.lax.dynamic_update_slice_in_dim(errors, missed, start, 0)
      return (rows, errors), chosen

    starts = size * jnp.arange(self.block // size)
    state = rows, jnp.zeros_like(rows)
    (rows, errors), keep = jax.lax.scan(part, state, starts)
    return rows, keep.reshape(rows.shape), errors

  def _few(self, rows, keep, alive, corner, scales):
    """Goes through a few inputs, in groups of m."""
    pattern = self.target.pattern

    def group(number, state):
      rows, keep, errors = state
      start = number * self.step
      if pattern is not None:
        its = [
          jax.lax.dynamic_slice_in_dim(x, start, self.step)
          for x in (rows, alive, jnp.diagonal(corner)[:, None])
        ]
        chosen = keep_largest(
          jnp.square(its[0] / its[2]), pattern.n, its[1], axis=0
        )
        keep = jax.lax.dynamic_update_slice_in_dim(keep, chosen, start, 0)
      for i in range(self.step):
        at = start + i
        row, ahead = rows[at], corner[at]
        value = row
        if scales is not None:
          value = _quantize.rounded(row, scales[at], self.bits)
        value = jnp.where(keep[at], value, 0.0)
        error = (row - value) / ahead[at]
        # U is upper triangular, so rows before this one stay.
        rows = (rows - ahead[:, None] * error).at[at].set(value)
        errors = errors.at[at].set(error)
      return rows, keep, errors

    state = rows, keep, jnp.zeros_like(rows)
    return jax.lax.fori_loop(0, len(rows) // self.step, group, state)


def _part(block: int, step: int) -> int:
  """The largest size up to 16 that divides a block into whole groups."""
  fits = [n for n in range(step, 17, step) if block % n == 0]
  return max(fits, default=step)
