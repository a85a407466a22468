"""Pruning by weights and activations."""

import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.calibration import stats
from lthjax.patterns import NM
from lthjax.rules._rule import Pruned, Rule, Target, Within
from lthjax.selection import keep_largest


def wanda(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  within: Within = 'output',
  variant: bool = False,
) -> Rule:
  """Wanda: keeps the largest ``|w| * norm of the input`` within each output.

  Args:
    sparsity: dead share of the weights, in [0, 1].
    pattern: N:M along the inputs, instead.
    within: where scores are compared.
    variant: prune each output while the sum of what goes stays within a share
      of its total, found by bisection: outputs differ in sparsity. The layer's
      is then within 0.001, where scores allow.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> lth.rules.wanda(pattern=lth.patterns.NM(2, 4)).needs.__name__
    'squares'

  References:
    Sun et al., A Simple and Effective Pruning Approach for Large Language
    Models, arXiv:2306.11695, eq. 1 and appendix on variants.
  """
  target = Target.of(sparsity, pattern, within)
  if variant and pattern is not None:
    raise ValueError(
      'The variant of Wanda chooses how many weights each output keeps, which'
      ' N:M fixes. Pass `sparsity=` instead of `pattern=`.'
    )
  return Rule(_variant if variant else _wanda, target, stats.squares)


def ria(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  within: Within = 'output',
  power: float = 0.5,
) -> Rule:
  """RIA: weights relative to their input and output, times activations.

  Scores are ``(|w| / sum over inputs + |w| / sum over outputs) * norm**power``.

  Args:
    sparsity: dead share of the weights, in [0, 1].
    pattern: N:M along the inputs, instead.
    within: where scores are compared.
    power: exponent of the norm of the inputs.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> lth.rules.ria(0.5).target.sparsity
    0.5

  References:
    Zhang et al., Plug-and-Play: An Efficient Post-training Pruning Method for
    Large Language Models, ICLR 2024.
  """
  target = Target.of(sparsity, pattern, within)
  options = (('power', _checks.not_negative('power', power)),)
  return Rule(_ria, target, stats.squares, options=options)


def _scores(kernel, squares):
  return jnp.abs(kernel) * jnp.sqrt(squares)[:, None]


def _wanda(kernel, squares, alive, target, ratio) -> Pruned:
  return Pruned(target.select(_scores(kernel, squares), alive, ratio))


def _ria(kernel, squares, alive, target, ratio, power) -> Pruned:
  size = jnp.where(alive, jnp.abs(kernel), 0.0)

  def share(axis):
    total = size.sum(axis, keepdims=True)
    return size / jnp.where(total > 0, total, 1.0)

  norms = jnp.sqrt(squares)[:, None] ** power
  return Pruned(target.select((share(0) + share(1)) * norms, alive, ratio))


def _variant(kernel, squares, alive, target, ratio) -> Pruned:
  """Bisects the share alpha of an output's scores that may go."""
  depth, width = kernel.shape
  scores = jnp.where(alive, _scores(kernel, squares), 0.0)
  summed = jnp.cumsum(jnp.sort(scores, axis=0), axis=0)
  size = depth * width
  left = target.kept(size, ratio)
  wanted = 1 - left / size

  def pruned(alpha):
    return jnp.sum(summed <= alpha * summed[-1], axis=0)

  def unfinished(state):
    low, high, alpha = state
    off = jnp.mean(pruned(alpha) / depth) - wanted
    return (jnp.abs(off) > 1e-3) & (high - low >= 1e-3)

  def halve(state):
    low, high, alpha = state
    above = jnp.mean(pruned(alpha) / depth) > wanted
    low, high = jnp.where(above, low, alpha), jnp.where(above, alpha, high)
    return low, high, jnp.where(above, alpha + low, alpha + high) / 2

  # The bracket of the reference, unless so much has to go that it is too small.
  more = jnp.mean(pruned(jnp.float32(0.8)) / depth) < wanted + 1e-3
  low, high = jnp.where(more, 0.8, 0.0), jnp.where(more, 1.0, 0.8)
  start = (low, high, (low + high) / 2)
  *_, alpha = jax.lax.while_loop(unfinished, halve, start)
  kept = (depth - pruned(alpha)).astype(jnp.int32)
  kept = jnp.where(left > 0, jnp.where(left < size, kept, depth), 0)
  return Pruned(keep_largest(scores, kept[None], alive, axis=0))
