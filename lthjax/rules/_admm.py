"""Pruning by the alternating direction method of multipliers."""

import jax
import jax.numpy as jnp

from lthjax import _checks, counts
from lthjax.calibration import stats
from lthjax.patterns import NM
from lthjax.rules import _hessian
from lthjax.rules._rule import Pruned, Rule, Target, Within


def admm(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  within: Within = 'output',
  damping: float = 0.1,
  steps: int = 20,
  ramp: int = 15,
) -> Rule:
  """ADMM: alternates between the best weights and the best mask.

  Inputs are scaled to unit norm. The sparsity rises as a cubic over the first
  steps; the released code computes this ramp but ignores it where masks are
  unstructured, and here it holds there.

  Args:
    sparsity: dead share of the weights, in [0, 1].
    pattern: N:M along the inputs, instead, at all steps.
    within: where weights are compared.
    damping: added to the scaled Gram matrix.
    steps: number of iterations.
    ramp: number of steps over which the sparsity rises.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> lth.rules.admm(0.5).updates
    True

  References:
    Boza, Fast and Optimal Weight Update for Pruned Large Language Models,
    arXiv:2401.02938, algorithm 1.
  """
  options = {
    'damping': _checks.positive('damping', damping),
    'steps': _checks.at_least('steps', steps, 1),
    'ramp': _checks.at_least('ramp', ramp, 1),
  }
  target = Target.of(sparsity, pattern, within)
  return Rule(_prune, target, stats.gram, True, tuple(options.items()))


def _prune(kernel, gram, alive, target, ratio, damping, steps, ramp) -> Pruned:
  kernel, gram = _hessian.without_dead(kernel, gram)
  norms = jnp.sqrt(jnp.diagonal(gram)) + 1e-8
  first = kernel * norms[:, None]
  gram = gram / norms[:, None] / norms
  eye = jnp.eye(len(gram))
  gram += damping * jnp.mean(jnp.diagonal(gram)) * eye
  # rho is 1: inverse(H + rho I) = U^T U.
  upper, found = _hessian.upper_factor(gram + eye, 0.0)
  moments = _hessian.matmul(gram, first)

  def select(scores, step):
    if target.pattern is not None:
      return target.select(scores, alive)
    # Counted in millionths, so that the last steps are exact.
    rise = 1 - (1 - jnp.minimum((step + 1) / ramp, 1)) ** 3
    top, bottom = ratio or _fraction(target.sparsity)
    share = jnp.round(rise * top).astype(jnp.int32)
    return target.select(scores, alive, (share, jnp.int32(bottom)))

  def turn(step, state):
    weights, dual, _, _ = state
    keep = select(jnp.abs(weights + dual), step)
    sparse = jnp.where(keep, weights + dual, 0.0)
    dual = dual + weights - sparse
    inner = _hessian.matmul(upper, moments + sparse - dual)
    return _hessian.matmul(upper.T, inner), dual, sparse, keep

  start = first, jnp.zeros_like(first), first, jnp.zeros_like(alive)
  *_, sparse, keep = jax.lax.fori_loop(0, steps, turn, start)
  return Pruned(keep, sparse / norms[:, None], ~found)


def _fraction(sparsity: float) -> tuple[int, int]:
  """Large enough integers for a smooth ramp."""
  top, bottom = counts.ratio_of(sparsity).as_integer_ratio()
  more = max(2**20 // bottom, 1)
  return top * more, bottom * more
