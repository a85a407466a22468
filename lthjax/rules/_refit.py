"""The best weights for a mask."""

import jax
import jax.numpy as jnp

from lthjax import _checks
from lthjax.calibration import stats
from lthjax.rules import _hessian
from lthjax.rules._rule import Pruned, Rule, check_matrices


def refit(rule: Rule, *, steps: int = 20, damping: float = 0.01) -> Rule:
  """Prunes by a rule, then fits the weights that stay to the dense kernel.

  Args:
    rule: any rule.
    steps: steps of conjugate gradients.
    damping: as for `sparse_gpt`.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import lthjax as lth
    >>> rule = lth.rules.refit(lth.rules.wanda(0.5))
    >>> rule.needs.__name__, rule.updates
    ('gram', True)
  """
  options = {
    'rule': check_rule(rule),
    'steps': _checks.at_least('steps', steps, 1),
    'damping': _hessian.check_damping(damping),
  }
  return Rule(_prune, rule.target, stats.gram, True, tuple(options.items()))


def refit_kernel(
  kernel: jax.Array,
  keep: jax.Array,
  gram: jax.Array,
  *,
  start: jax.Array | None = None,
  steps: int = 20,
  damping: float = 0.01,
) -> jax.Array:
  """Minimizes ``tr (W - kernel)^T gram (W - kernel)`` over weights of a mask.

  Projected conjugate gradients with a Jacobi preconditioner, all outputs at
  once. What does not improve an output is not taken, so the loss never rises.

  Args:
    kernel: dense kernel ``[inputs, outputs]``.
    keep: bool, of its shape.
    gram: ``[inputs, inputs]``.
    start: initial weights; by default those of the kernel.
    steps: steps of conjugate gradients.
    damping: as for `sparse_gpt`.

  Returns:
    The weights, exactly zero off the mask.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> gram = jnp.array([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    >>> kernel = jnp.array([[1.0], [-2.0], [3.0]])
    >>> keep = jnp.array([[True], [False], [True]])
    >>> lth.rules.refit_kernel(kernel, keep, gram, damping=0).ravel().round(5)
    Array([0., 0., 2.], dtype=float32)

  References:
    Meng et al., ALPS: Improved Optimization for Highly Sparse One-Shot Pruning
    for Large Language Models, arXiv:2406.07831, algorithm 2.
  """
  check_matrices(kernel, gram, start=start, keep=keep)
  steps = _checks.at_least('steps', steps, 1)
  damping = _hessian.check_damping(damping)
  start = jnp.where(keep, kernel if start is None else start, 0.0)
  diagonal = jnp.diagonal(gram)
  damped = gram + damping * jnp.mean(diagonal) * jnp.eye(len(gram))
  scale = jnp.diagonal(damped)[:, None]
  scale = jnp.where(scale > 0, scale, 1.0)

  def product(x):
    return jnp.where(keep, _hessian.matmul(damped, x), 0.0)

  def turn(_, state):
    weights, residual, direction, old = state
    image = product(direction)
    curvature = jnp.sum(direction * image, 0)
    length = _divide(old, curvature)
    weights = weights + length * direction
    residual = residual - length * image
    new = jnp.sum(residual * residual / scale, 0)
    direction = residual / scale + _divide(new, old) * direction
    return weights, residual, direction, new

  residual = product(kernel - start)
  first = residual / scale
  state = start, residual, first, jnp.sum(residual * first, 0)
  weights, *_ = jax.lax.fori_loop(0, steps, turn, state)
  better = _loss(weights - kernel, gram) < _loss(start - kernel, gram)
  return jnp.where(keep & better, weights, start)


def check_rule(rule: Rule) -> Rule:
  """Returns a rule whose statistic a Gram matrix contains."""
  if not isinstance(rule, Rule):
    raise TypeError(
      f'`rule` was {_checks.describe(rule)}, but must be a rule, such as'
      ' `lthjax.rules.wanda(0.5)`.'
    )
  if rule.needs not in (None, stats.squares, stats.gram):
    raise ValueError(
      'The rule needs a statistic that does not follow from a Gram matrix; it'
      ' must be `None`, `stats.squares` or `stats.gram`.'
    )
  return rule


def apply_inner(rule: Rule, kernel, gram, alive, ratio) -> Pruned:
  """Applies a rule, whatever statistic it needs."""
  statistic = gram
  if rule.needs is None:
    statistic = None
  elif rule.needs is stats.squares:
    statistic = jnp.diagonal(gram)
  return rule('', kernel, statistic, alive, ratio)


def _prune(kernel, gram, alive, target, ratio, rule, steps, damping) -> Pruned:
  del target
  kernel, _ = _hessian.without_dead(kernel, gram)
  found = apply_inner(rule, kernel, gram, alive, ratio)
  new = refit_kernel(
    kernel,
    found.keep,
    gram,
    start=found.kernel,
    steps=steps,
    damping=damping,
  )
  return found._replace(kernel=new)


def _loss(difference, gram):
  return jnp.sum(difference * _hessian.matmul(gram, difference), 0)


def _divide(a, b):
  """A quotient that is zero where the denominator is."""
  return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)
