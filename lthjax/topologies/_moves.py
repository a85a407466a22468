"""When masks move, and the numbers of weights at each move."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _checks, counts, trees
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.densities import Densities
from lthjax.patterns import Pattern
from lthjax.schedules import cosine_drop_fraction

_LAST = 2**31 - 1  # Steps are counted in int32.
# Tables of more moves have an entry for several in a row.
_MAX_ENTRIES = 2**15


class Times(NamedTuple):
  """When masks move: at multiples of `update_every`, up to `stop_step`."""

  update_every: int
  stop_step: int

  def due(self, step: Any) -> Any:
    """Returns whether masks move at a step."""
    last = min(self.stop_step, _LAST)
    return (step % self.update_every == 0) & (step <= last)

  def table_steps(self) -> np.ndarray:
    """Returns the steps of all moves, or evenly spaced ones of very many."""
    # The last move is always among them.
    moves = min(self.stop_step, _LAST) // self.update_every
    ends = np.arange(self._stride, moves + self._stride, self._stride)
    return np.minimum(ends, moves) * self.update_every

  def entry(self, step: Any) -> Any:
    """Returns the entry of a table for the move at a step."""
    return (step // self.update_every - 1) // self._stride

  @property
  def _stride(self) -> int:
    """The number of consecutive moves that share the entry of the last one."""
    moves = min(self.stop_step, _LAST) // self.update_every
    return -(-moves // _MAX_ENTRIES)


def times(
  update_every: Any, stop_step: Any, applies_gradient: bool = True
) -> Times:
  """Checks when masks move, and that some steps train before they stop."""
  _checks.flag('applies_gradient', applies_gradient)
  update_every = _checks.at_least('update_every', update_every, 1)
  stop_step = _checks.integer('stop_step', stop_step)
  if update_every > _LAST:
    raise ValueError(
      f'`update_every` was {update_every}, but must be below 2^31: steps are'
      ' counted in int32.'
    )
  if stop_step < update_every:
    raise ValueError(
      f'`stop_step` was {stop_step}, before the first move at step'
      f' {update_every}. Give a later step, or move masks more often.'
    )
  if update_every == 1 and not applies_gradient:
    raise ValueError(
      '`update_every` was 1 and `applies_gradient` False: no step would train'
      f' until step {stop_step}. Raise `update_every`, or give'
      ' `applies_gradient=True`.'
    )
  return Times(update_every, stop_step)


def drop_ratios(
  drop_fraction: float | optax.Schedule, times: Times
) -> np.ndarray:
  """Evaluates the drop fraction at every move: int32[moves, 2] fractions."""
  if not callable(drop_fraction):
    drop_fraction = cosine_drop_fraction(drop_fraction, times.stop_step)
  steps = times.table_steps()
  shares = counts.at_steps(drop_fraction, steps)
  if (wrong := ~((shares >= 0) & (shares <= 1))).any():
    i = int(np.argmax(wrong))
    raise ValueError(
      f'`drop_fraction` gave {shares[i]:g} at step {steps[i]}, but must be in'
      ' [0, 1].'
    )
  return counts.ratios(shares)


def drop_counts(
  ratio: jax.Array, alive: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Counts how many weights of each layer a move drops."""
  # Rounded down as in RigL's code, in integers: exact above 2^24 weights too.
  numerator, denominator = ratio

  def share(n):
    return counts.share_of(n, numerator, denominator, 'floor')

  # Leaves of a single layer share one division: XLA compiles fewer operations.
  single = [name for name, n in alive.items() if n.size == 1]
  found = {name: share(n) for name, n in alive.items() if n.size != 1}
  if single:
    together = share(jnp.stack([alive[name].reshape(()) for name in single]))
    for i, name in enumerate(single):
      found[name] = together[i].reshape(alive[name].shape)
  return {name: found[name] for name in alive}


def sparsities(schedule: optax.Schedule, steps: np.ndarray) -> np.ndarray:
  """Evaluates a schedule of sparsity at steps, after checks."""
  if not callable(schedule):
    raise TypeError(
      f'`sparsity` was {schedule!r}, but must be an optax schedule, such as'
      ' `lthjax.schedules.polynomial_sparsity(0.9, 0, 1000)`. A fixed sparsity'
      ' belongs to the initial masks: `lthjax.random_masks(key, sparsity=...)`.'
    )
  values = counts.at_steps(schedule, steps)
  if (wrong := ~((values >= 0) & (values < 1))).any():
    i = int(np.argmax(wrong))
    raise ValueError(
      f'`sparsity` was {values[i]} at step {steps[i]}, but must be in [0, 1).'
    )
  return values


def scheduled(
  sparsity: optax.Schedule | None,
  densities: Densities | None,
  pattern: Pattern,
  times: Times,
) -> np.ndarray:
  """Evaluates an optional schedule of sparsity at every move, after checks."""
  if sparsity is None:
    if densities is not None:
      raise ValueError(
        '`densities` spread a schedule of `sparsity` over layers, but there is'
        ' none. Give those of the initial masks to `lthjax.random_masks`.'
      )
    return np.zeros(0)
  if pattern.density is not None:
    raise ValueError(
      f'{pattern} fixes the density of every layer, so it takes no schedule of'
      ' `sparsity`. Leave it out.'
    )
  _checks.densities('densities', densities)
  return sparsities(sparsity, times.table_steps())


def fixed_sparsity(
  sparsity: Any, densities: Densities | None, pattern: Pattern
) -> float | None:
  """Returns the sparsity that a pattern fixes, or `None` if it is given."""
  if pattern.density is None:
    if sparsity is None:
      raise ValueError(
        f'`sparsity` was not given, but {pattern} leaves it open: give a number'
        ' in [0, 1), or a pattern such as `lthjax.patterns.NM(2, 4)`.'
      )
    return None
  fixed = max(0, 1 - pattern.density)  # `fit` checks n and m later.
  if callable(sparsity) or densities is not None:
    raise ValueError(
      f'{pattern} fixes the sparsity of every layer to {fixed:g}, so it takes'
      ' no schedule of `sparsity` and no `densities`. Leave them out.'
    )
  if sparsity is not None and not abs(sparsity - fixed) <= 1e-6:
    raise ValueError(
      f'{pattern} has a sparsity of {fixed:g}, but `sparsity` was {sparsity}.'
      ' Leave it out.'
    )
  return fixed


def check_not_empty(
  shapes: Mapping[str, tuple[int, ...]],
  sparsity: float,
  densities: Densities | None,
  axes: Mapping[str, Axes] | None = None,
) -> None:
  """Raises if a sparsity leaves a layer empty, and names every such layer."""
  kept = counts.layer_counts(shapes, sparsity, densities, axes=axes)
  sizes = counts.layer_sizes(shapes, axes)
  refuse(
    (
      f'{name} (of {size} weights; keeping one is a sparsity of'
      f' {sparsity_of(1, size)})'
      for name, count in kept.items()
      if not count and (size := sizes[name])
    ),
    f'A sparsity of {sparsity} leaves no weight alive in {{}}. Lower it, spread'
    ' it with `densities=`, or leave these layers dense with `where=`.',
  )


def sparsity_of(alive: int, size: int) -> float:
  """Returns the sparsity of so many alive weights, to six digits."""
  # Rounded down: whoever follows a message keeps at least as many.
  return math.floor((1 - Fraction(alive, size)) * 10**6) / 10**6


def check_alive(masks: chex.ArrayTree, axes: Mapping[str, Axes]) -> None:
  """Raises if more weights of a layer are alive than an int32 can count."""
  sizes = counts.layer_sizes(shapes_of(masks), axes)
  large = {
    name: mask
    for name, mask in trees.prunable(masks).items()
    if sizes[name] > _LAST
  }
  if large and trees.concrete(large) is not None:
    alive = counts.alive(large, axes)
    counts.check_int32({n: int(np.max(x)) for n, x in alive.items()})


def shapes_of(masks: chex.ArrayTree) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the prunable leaves by name."""
  leaves = trees.by_name(masks).items()
  return {name: mask.shape for name, mask in leaves if mask is not None}


def layer_key(key: chex.PRNGKey, step: jax.Array, name: str) -> chex.PRNGKey:
  """Derives the key of one layer at one step."""
  return trees.fold_in_name(jax.random.fold_in(key, step), name)
