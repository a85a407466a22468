"""When masks move, and the numbers of weights at each move."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import trees
from lthjax.axes import Axes
from lthjax.counts import (
  Rounding,
  layer_counts,
  layer_sizes,
  ratio_of,
  share_of,
)
from lthjax.densities import Densities
from lthjax.patterns import Pattern
from lthjax.schedules import cosine_drop_fraction


def check_times(
  update_every: int, stop_step: int, applies_gradient: bool = True
) -> None:
  """Checks when masks move.

  Args:
    update_every: steps between moves.
    stop_step: the last step at which they may.
    applies_gradient: whether a step that moves masks also trains.

  Raises:
    ValueError: if a number is not an integer, no move would fit, or no step
      between them would train.
  """
  for name, number in ('update_every', update_every), ('stop_step', stop_step):
    try:
      operator.index(number)
    except TypeError:
      raise ValueError(
        f'`{name}` was {number!r}, but steps are counted in integers. Give one,'
        ' such as 100.'
      ) from None
  if update_every < 1:
    raise ValueError(
      f'`update_every` was {update_every}, but must be at least 1 step.'
    )
  if stop_step < update_every:
    raise ValueError(
      f'`stop_step` was {stop_step}, before the first move at step'
      f' {update_every}: masks would never move. Give a later step, or move'
      ' them more often.'
    )
  if update_every == 1 and not applies_gradient:
    raise ValueError(
      '`update_every` was 1 and `applies_gradient` False: every step would move'
      f' masks and none would train until step {stop_step}. Raise'
      ' `update_every`, or give `applies_gradient=True`.'
    )


def moves(
  update_every: int, stop_step: int
) -> Callable[[jax.Array], jax.Array]:
  """Tells the steps ``update_every, 2 * update_every, ... <= stop_step``."""
  return lambda step: (step % update_every == 0) & (step <= stop_step)


def at_move(table: jax.Array, step: jax.Array, every: int) -> jax.Array:
  """Looks up the entry of the move at a step."""
  return table[step // every - 1]


def drop_ratios(
  drop_fraction: float | optax.Schedule, update_every: int, stop_step: int
) -> np.ndarray:
  """Evaluates the drop fraction at every move, as fractions of integers.

  Args:
    drop_fraction: share of the alive weights to replace at a move; a number
      falls by a cosine to zero at ``stop_step``.
    update_every: steps between moves.
    stop_step: the last step at which masks may move.

  Returns:
    int32[moves, 2]: numerators and denominators.

  Raises:
    ValueError: if a drop fraction is outside [0, 1].
  """
  if not callable(drop_fraction):
    drop_fraction = cosine_drop_fraction(drop_fraction, stop_step)
  shares = at_moves(drop_fraction, update_every, stop_step)
  if wrong := [share for share in shares if not 0 <= share <= 1]:
    raise ValueError(
      f'`drop_fraction` gave {wrong[0]:g}, but must be in [0, 1]: it is the'
      ' share of the alive weights that a move replaces.'
    )
  ratios = [ratio_of(share).as_integer_ratio() for share in shares]
  return np.asarray(ratios, np.int32)


def drop_count(
  ratios: jax.Array, alive: jax.Array, step: jax.Array, every: int
) -> jax.Array:
  """Counts how many weights the move at a step drops.

  Rounded down as in RigL's code, but exact above 2^24 weights too.
  """
  numerator, denominator = at_move(ratios, step, every)
  return share_of(alive, numerator, denominator, 'floor')


def at_moves(
  schedule: optax.Schedule, update_every: int, stop_step: int
) -> list[float]:
  """Evaluates a schedule at every step that moves masks, in double precision.

  Args:
    schedule: of numbers over steps.
    update_every: steps between moves.
    stop_step: the last step at which masks may move.

  Returns:
    Python numbers, one a move, to nine decimals.
  """
  return _evaluate(schedule, range(update_every, stop_step + 1, update_every))


def sparsities(schedule: optax.Schedule, steps: Iterable[int]) -> list[float]:
  """Evaluates a schedule of sparsity.

  Args:
    schedule: of sparsity over steps.
    steps: where to.

  Returns:
    Python numbers, one a step, to nine decimals.

  Raises:
    ValueError: if a sparsity is out of range.
  """
  if not callable(schedule):
    raise TypeError(
      f'`sparsity` was {schedule!r}, but must be an optax schedule, such as'
      ' `lthjax.schedules.polynomial_sparsity(0.9, 0, 1000)`. A fixed sparsity'
      ' is that of the initial masks: pass `lthjax.random_masks(key,'
      ' sparsity=...)` as the second argument.'
    )
  values = _evaluate(schedule, steps)
  for step, value in zip(steps, values, strict=True):
    if not 0 <= value < 1:
      raise ValueError(
        f'`sparsity` was {value} at step {step}, but must be in [0, 1).'
      )
  return values


def scheduled(
  sparsity: optax.Schedule | None,
  densities: Densities | None,
  pattern: Pattern,
  update_every: int,
  stop_step: int,
) -> list[float]:
  """Evaluates an optional schedule of sparsity at every move, after checks."""
  if sparsity is None:
    if densities is not None:
      raise ValueError(
        '`densities` spread a schedule of `sparsity` over layers, but there is'
        ' none. Those of the initial masks go to `lthjax.random_masks(key,'
        ' sparsity=..., densities=...)`.'
      )
    return []
  if pattern.density is not None:
    raise ValueError(
      f'{pattern} fixes the density of every layer, so it takes no schedule of'
      ' `sparsity`. Leave it out.'
    )
  return sparsities(sparsity, range(update_every, stop_step + 1, update_every))


def count_tables(
  shapes: Mapping[str, tuple[int, ...]],
  wanted: list[float],
  densities: Densities | None,
  rounding: Rounding = 'nearest',
  axes: Mapping[str, Axes] | None = None,
) -> dict[str, np.ndarray]:
  """Counts how many weights of each layer every move leaves alive.

  Args:
    shapes: ``{name: shape}`` of the prunable leaves.
    wanted: sparsity after every move.
    densities: how it spreads over layers.
    rounding: of the number removed.
    axes: of the leaves; of those that stack layers, one layer is counted.

  Returns:
    ``{name: int32[moves]}``.
  """
  counts = {
    sparsity: layer_counts(shapes, sparsity, densities, rounding, axes)
    for sparsity in set(wanted)
  }
  return {
    name: np.asarray([counts[sparsity][name] for sparsity in wanted], np.int32)
    for name in shapes
  }


def _evaluate(schedule: optax.Schedule, steps: Iterable[int]) -> list[float]:
  with jax.ensure_compile_time_eval(), jax.enable_x64(True):
    values = [np.asarray(schedule(step))[()] for step in steps]
  # By way of the shortest decimal: a float32 that prints as 0.29 is 0.29.
  return [round(float(str(value)), 9) for value in values]


def check_not_empty(
  shapes: Mapping[str, tuple[int, ...]],
  sparsity: float,
  densities: Densities | None,
  axes: Mapping[str, Axes] | None = None,
) -> None:
  """Raises if a sparsity leaves a layer empty, and names every such layer."""
  counts = layer_counts(shapes, sparsity, densities, axes=axes)
  sizes = layer_sizes(shapes, axes)
  empty = [
    f'{name} (of {size} weights; keeping one is a sparsity of'
    f' {sparsity_of(1, size)})'
    for name, count in counts.items()
    if not count and (size := sizes[name])
  ]
  if empty:
    raise ValueError(
      f'A sparsity of {sparsity} leaves no weight alive in {", ".join(empty)}.'
      ' Lower it, spread it with `densities=`, or leave these layers dense with'
      ' `where=`.'
    )


def check_sparsity(sparsity: float) -> None:
  """Raises if a sparsity is out of range."""
  if not 0 <= sparsity < 1:
    raise ValueError(
      f'`sparsity` was {sparsity}, but must be in [0, 1): at 1 no weight would'
      ' be left.'
    )


def sparsity_of(alive: int, size: int) -> float:
  """Returns the sparsity of so many alive weights, rounded down to six digits.

  That is for messages: whoever follows them keeps at least as many.
  """
  return math.floor((1 - Fraction(alive, size)) * 10**6) / 10**6


def shapes_of(masks: chex.ArrayTree) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the prunable leaves by name."""
  leaves = trees.by_name(masks).items()
  return {name: mask.shape for name, mask in leaves if mask is not None}


def layer_key(key: chex.PRNGKey, step: jax.Array, name: str) -> chex.PRNGKey:
  """Derives the key of one layer at one step."""
  return trees.fold_in_name(jax.random.fold_in(key, step), name)


def magnitude(x: jax.Array) -> jax.Array:
  """Absolute values, with NaN lowest, so that counts stay exact."""
  return jnp.where(jnp.isnan(x), -1, jnp.abs(x))
