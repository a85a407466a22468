"""Optax schedules of sparsity and drop fraction."""

from typing import Any

import jax.numpy as jnp
import optax

from lthjax import _checks


def polynomial_sparsity(
  final: float,
  begin_step: int,
  end_step: int,
  *,
  initial: float = 0.0,
  power: float = 3.0,
) -> optax.Schedule:
  """Raises the sparsity quickly at first, then more and more slowly.

  Args:
    final: sparsity from ``end_step`` on.
    begin_step: last step at the initial sparsity.
    end_step: first step at the final sparsity.
    initial: sparsity up to ``begin_step``.
    power: exponent of the polynomial: 3 in the paper, 1 for a straight line.

  Returns:
    ``sparsity(step)``.

  Example:
    >>> import lthjax as lth
    >>> sparsity = lth.schedules.polynomial_sparsity(0.8, 0, 100)
    >>> [round(float(sparsity(step)), 3) for step in (0, 50, 100, 200)]
    [0.0, 0.7, 0.8, 0.8]

  References:
    Zhu & Gupta, To prune, or not to prune: exploring the efficacy of pruning
    for model compression, arXiv:1710.01878, equation 1.
  """
  final = _checks.share('final', final)
  initial = _checks.share('initial', initial)
  power = _checks.not_negative('power', power)
  begin_step = _checks.integer('begin_step', begin_step)
  end_step = _checks.integer('end_step', end_step)
  if end_step <= begin_step:
    wanted = f'come after `begin_step`, {begin_step}'
    raise _checks.wrong_value('end_step', end_step, wanted)

  def schedule(step: Any) -> Any:
    # Equation 1, with floats, as steps above 2^31 would not fit an int32.
    past = (step - float(begin_step)) / float(end_step - begin_step)
    return final + (initial - final) * (1 - jnp.clip(past, 0, 1)) ** power

  return schedule


def cosine_drop_fraction(initial: float, stop_step: int) -> optax.Schedule:
  """Lowers the drop fraction by half a cosine, to zero at ``stop_step``.

  Args:
    initial: drop fraction at step 0, in [0, 1].
    stop_step: the step at which it reaches zero, at least 1.

  Returns:
    ``drop_fraction(step)``.

  Example:
    >>> import lthjax as lth
    >>> drop_fraction = lth.schedules.cosine_drop_fraction(0.3, 100)
    >>> [round(float(drop_fraction(step)), 3) for step in (0, 50, 100)]
    [0.3, 0.15, 0.0]

  References:
    Evci et al., Rigging the Lottery, arXiv:1911.11134, section 3 (2).
  """
  initial = _checks.closed_share('drop_fraction', initial)
  last = float(_checks.at_least('stop_step', stop_step, 1))
  # Equation 2: alpha / 2 * (1 + cos(pi * t / T_end)).
  return lambda step: (
    initial / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / last, 1)))
  )
