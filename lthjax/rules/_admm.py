"""Pruning by the alternating direction method of multipliers."""

import jax
import jax.numpy as jnp

from lthjax import _checks, counts
from lthjax.calibration import stats
from lthjax.patterns import NM
from lthjax.rules import _hessian
from lthjax.rules._refit import refit
from lthjax.rules._rule import Pruned, Ratio, Rule, Target, Within


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


def alps(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  within: Within = 'layer',
  damping: float = 0.01,
  steps: int = 300,
  refit_steps: int = 10,
) -> Rule:
  """ALPS: ADMM with a penalty that grows until the mask stays, then a refit.

  The penalty starts at 0.1. Every third step it grows by 1.3 if more than 10 %
  of the mask has changed, by 1.2 if more than 0.5 % has, and else by 1.1, and
  the iteration stops where nothing has. One eigendecomposition of the scaled
  Gram matrix serves all penalties.

  Args:
    sparsity: dead share of the weights, in [0, 1].
    pattern: N:M along the inputs, instead.
    within: where weights are compared.
    damping: added to the scaled Gram matrix.
    steps: the most iterations.
    refit_steps: steps of conjugate gradients for the weights that stay.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> lth.rules.alps(0.7).needs.__name__
    'gram'

  References:
    Meng et al., ALPS: Improved Optimization for Highly Sparse One-Shot Pruning
    for Large Language Models, arXiv:2406.07831, algorithms 1 and 2.
  """
  options = {
    'damping': _checks.positive('damping', damping),
    'steps': _checks.at_least('steps', steps, 1),
  }
  target = Target.of(sparsity, pattern, within)
  rule = Rule(_alps, target, stats.gram, True, tuple(options.items()))
  return refit(rule, steps=refit_steps, damping=damping)


def _scaled(kernel, gram, damping):
  """Gives inputs unit norm: the kernel, the damped Gram matrix, the norms."""
  norms = jnp.sqrt(jnp.diagonal(gram)) + 1e-8
  gram = gram / norms[:, None] / norms
  gram += damping * jnp.mean(jnp.diagonal(gram)) * jnp.eye(len(gram))
  return kernel * norms[:, None], gram, norms[:, None]


def _alps(kernel, gram, alive, target, ratio, damping, steps) -> Pruned:
  seen = gram
  kernel, gram = _hessian.without_dead(kernel, gram)
  first, gram, norms = _scaled(kernel, gram, damping)
  values, vectors = jnp.linalg.eigh(gram)
  moments = _hessian.matmul(gram, first)

  def unfinished(state):
    step, *_, changed = state
    return (step < steps) & changed

  def turn(state):
    step, sparse, dual, keep, last, rho, _ = state
    inner = _hessian.matmul(vectors.T, moments + rho * (sparse - dual))
    weights = _hessian.matmul(vectors, inner / (values[:, None] + rho))
    keep = target.select(jnp.abs(weights + dual), alive, ratio)
    sparse = jnp.where(keep, weights + dual, 0.0)
    dual += weights - sparse
    third = (step + 1) % 3 == 0
    moved = jnp.sum(keep != last, dtype=jnp.int32) / jnp.maximum(
      jnp.sum(keep, dtype=jnp.int32), 1
    )
    growth = jnp.where(moved > 0.1, 1.3, jnp.where(moved > 0.005, 1.2, 1.1))
    growth = jnp.where(third, growth, 1.0)
    # The dual is in units of the penalty.
    return (
      step + 1,
      sparse,
      dual / growth,
      keep,
      jnp.where(third, keep, last),
      rho * growth,
      ~third | (moved > 0),
    )

  zeros, nothing = jnp.zeros_like(first), jnp.zeros_like(alive)
  start = (0, first, zeros, nothing, nothing, jnp.float32(0.1), True)
  _, sparse, _, keep, *_ = jax.lax.while_loop(unfinished, turn, start)
  # Rotations leave rounding errors at inputs that are always zero.
  new, _ = _hessian.without_dead(sparse / norms, seen)
  return Pruned(keep, new, ~jnp.all(jnp.isfinite(values)))


def _prune(kernel, gram, alive, target, ratio, damping, steps, ramp) -> Pruned:
  kernel, gram = _hessian.without_dead(kernel, gram)
  first, gram, norms = _scaled(kernel, gram, damping)
  eye = jnp.eye(len(gram))
  # rho is 1: inverse(H + rho I) = U^T U.
  upper, found = _hessian.upper_factor(gram + eye, 0.0)
  moments = _hessian.matmul(gram, first)
  top, bottom = _fraction(target, ratio)

  def select(scores, step):
    if target.pattern is not None:
      return target.select(scores, alive)
    # Counted in millionths, so that the last steps are exact.
    rise = 1 - (1 - jnp.minimum((step + 1) / ramp, 1)) ** 3
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
  return Pruned(keep, sparse / norms, ~found)


def _fraction(target: Target, ratio: Ratio | None) -> Ratio:
  """The sparsity in large enough integers for a smooth ramp."""
  if target.pattern is not None:
    return 0, 1
  top, bottom = ratio or counts.ratio_of(target.sparsity).as_integer_ratio()
  more = jnp.maximum(2**20 // bottom, 1)
  return top * more, bottom * more
