"""Sparsity and drop fraction over steps, as optax schedules."""

from typing import Any

import jax.numpy as jnp
import optax


def polynomial_sparsity(
  final: float,
  begin_step: int,
  end_step: int,
  *,
  initial: float = 0.0,
  power: float = 3.0,
) -> optax.Schedule:
  """Raises sparsity fast at first and ever more slowly.

  Args:
    final: sparsity from ``end_step`` on.
    begin_step: last step at the initial sparsity.
    end_step: first step at the final sparsity.
    initial: sparsity up to ``begin_step``.
    power: of the polynomial; 3 in the paper, 1 is a straight line.

  Returns:
    ``sparsity(step)``.

  Raises:
    ValueError: if a sparsity is outside [0, 1), or ``end_step`` is not after
      ``begin_step``.

  Example:
    >>> import lthjax as lth
    >>> sparsity = lth.schedules.polynomial_sparsity(0.8, 0, 100)
    >>> [round(float(sparsity(step)), 3) for step in (0, 50, 100, 200)]
    [0.0, 0.7, 0.8, 0.8]

  References:
    Zhu & Gupta, To prune, or not to prune: exploring the efficacy of pruning
    for model compression, arXiv:1710.01878, equation 1.
  """
  for name, value in (('initial', initial), ('final', final)):
    if not 0 <= value < 1:
      raise ValueError(
        f'`{name}` was {value}, but a sparsity must be in [0, 1): at 1'
        ' no weight would be left.'
      )
  if end_step <= begin_step:
    raise ValueError(
      f'`end_step` was {end_step}, but must come after `begin_step`,'
      f' {begin_step}.'
    )

  def schedule(step: Any) -> Any:
    past = jnp.clip((step - begin_step) / (end_step - begin_step), 0, 1)
    return final + (initial - final) * (1 - past) ** power

  return schedule


def cosine_drop_fraction(initial: float, stop_step: int) -> optax.Schedule:
  """Lowers the drop fraction by half a cosine, to zero at ``stop_step``.

  Args:
    initial: drop fraction at step 0, in [0, 1].
    stop_step: where it reaches zero, at least 1.

  Returns:
    ``drop_fraction(step)``.

  Raises:
    ValueError: if the fraction is outside [0, 1], or ``stop_step`` below 1.

  Example:
    >>> import lthjax as lth
    >>> drop_fraction = lth.schedules.cosine_drop_fraction(0.3, 100)
    >>> [round(float(drop_fraction(step)), 3) for step in (0, 50, 100)]
    [0.3, 0.15, 0.0]

  References:
    Evci et al., Rigging the Lottery, arXiv:1911.11134, section 3 (2).
  """
  if not 0 <= initial <= 1:
    raise ValueError(
      f'`drop_fraction` was {initial}, but must be in [0, 1]: it is the share'
      ' of the alive weights that a move replaces.'
    )
  if stop_step < 1:
    raise ValueError(f'`stop_step` was {stop_step}, but must be at least 1.')
  return lambda step: (
    initial / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / stop_step, 1)))
  )
