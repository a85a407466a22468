"""Optimal Brain Damage and Optimal Brain Surgeon, layer by layer."""

import jax
import jax.numpy as jnp

from lthjax.calibration import stats
from lthjax.patterns import NM
from lthjax.rules import _hessian
from lthjax.rules._rule import Pruned, Rule, Target, Within
from lthjax.selection import keep_largest


def obd(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  within: Within = 'layer',
) -> Rule:
  """Optimal Brain Damage: keeps the largest ``w^2 * sum of squared inputs``.

  Args:
    sparsity: dead share of the weights, in [0, 1].
    pattern: N:M along the inputs, instead.
    within: where scores are compared.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> lth.rules.obd(0.5).updates
    False

  References:
    LeCun et al., Optimal Brain Damage, NeurIPS 1989, eq. 5, for the squared
    error of a layer's outputs.
  """
  return Rule(_damage, Target.of(sparsity, pattern, within), stats.squares)


def obs(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  damping: float = 0.01,
) -> Rule:
  """Optimal Brain Surgeon: removes weights one by one, each time the cheapest.

  After each removal all weights left of that output make up for it exactly. It
  takes time and memory like ``inputs^2 * outputs`` or more: for small layers.

  Args:
    sparsity: dead share of the weights of each output, in [0, 1].
    pattern: N:M along the inputs, instead.
    damping: as for `sparse_gpt`.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> gram = jnp.array([[1.0, 0.8], [0.8, 1.0]])
    >>> rule = lth.rules.obs(0.5, damping=0)
    >>> alive = jnp.ones((2, 1), bool)
    >>> rule('w', jnp.array([[2.0], [0.3]]), gram, alive).kernel.ravel()
    Array([2.24, 0.  ], dtype=float32)

  References:
    Hassibi & Stork, Second Order Derivatives for Network Pruning: Optimal Brain
    Surgeon, NeurIPS 1992, eq. 5.
  """
  target = Target.of(sparsity, pattern)
  options = (('damping', _hessian.check_damping(damping)),)
  return Rule(_surgeon, target, stats.gram, True, options)


def _damage(kernel, squares, alive, target, ratio) -> Pruned:
  scores = jnp.square(kernel) * squares[:, None] / 2
  return Pruned(target.select(scores, alive, ratio))


def _surgeon(kernel, gram, alive, target, ratio, damping) -> Pruned:
  kernel, gram = _hessian.without_dead(kernel, gram)
  upper, found = _hessian.upper_factor(gram, damping)
  inverse = _hessian.matmul(upper.T, upper)
  depth = len(kernel)
  m = target.pattern.m if target.pattern else depth
  kept = target.pattern.n if target.pattern else target.kept(depth, ratio)

  def removable(keep, alive):
    """Dead weights first; then those of groups that keep too many."""
    groups = keep.reshape(-1, m)
    many = groups & (groups.sum(1, keepdims=True) > kept)
    dead = keep & ~alive
    return jnp.where(dead.any(), dead, many.reshape(-1))

  def column(weights, alive):
    def unfinished(state):
      return removable(state[1], alive).any()

    def remove(state):
      weights, keep, inverse = state
      cost = jnp.square(weights) / jnp.diagonal(inverse)
      # Of equal ones the last goes, so that the lowest index stays.
      cheap = keep_largest(-cost[::-1], 1, removable(keep, alive)[::-1])[::-1]
      at = jnp.argmax(cheap)
      ratios = inverse[:, at] / inverse[at, at]
      inverse = inverse - ratios[:, None] * inverse[at]
      weights = jnp.where(keep & ~cheap, weights - ratios * weights[at], 0.0)
      return weights, keep & ~cheap, inverse

    start = weights, jnp.ones_like(alive), inverse
    weights, keep, _ = jax.lax.while_loop(unfinished, remove, start)
    return weights, keep

  new, keep = jax.vmap(column, 1, 1)(jnp.where(found, kernel, 0.0), alive)
  return Pruned(keep, new, ~found)
