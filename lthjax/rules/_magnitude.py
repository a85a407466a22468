"""Magnitude pruning, as a rule."""

from typing import Any

import jax.numpy as jnp

from lthjax.patterns import NM
from lthjax.rules._rule import Pruned, Rule, Target, Within


def magnitude(
  sparsity: float | None = None,
  *,
  pattern: NM | None = None,
  within: Within = 'layer',
) -> Rule:
  """Keeps the largest weights; looks at no activations.

  Args:
    sparsity: dead share of the weights, in [0, 1].
    pattern: N:M along the inputs, instead.
    within: ``'layer'`` compares the weights of a kernel, ``'output'`` those of
      each output.

  Returns:
    A rule for `lthjax.prune_program`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> rule = lth.rules.magnitude(0.5)
    >>> kernel = jnp.array([[3.0, -4.0], [2.0, 1.0]])
    >>> rule('w', kernel, None, jnp.ones((2, 2), bool)).keep
    Array([[ True,  True],
           [False, False]], dtype=bool)
  """
  return Rule(_prune, Target.of(sparsity, pattern, within))


def _prune(
  kernel: Any, statistic: Any, alive: Any, target: Target, ratio: Any
) -> Pruned:
  del statistic
  return Pruned(target.select(jnp.abs(kernel), alive, ratio))
