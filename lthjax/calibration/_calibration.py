"""What a calibration has collected."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import trees


class Calibration(NamedTuple):
  """Sums of a statistic over tokens, for each kernel.

  Calibrations of several batches add up with ``+``, in any order. This is a
  pytree, so `calibrate` may be jitted.

  Attributes:
    sums: ``{name: float32[loops.., batch.., inputs]}``, or ``[.., inputs,
      inputs]`` for Grams. There is a leading axis for each loop over the leaf,
      such as the layers of a `jax.lax.scan`, and for each batch axis of the
      matmul, such as experts, or for the groups of a convolution, if it has
      several. Inputs are all contracted axes, merged; of a convolution, first
      its window and then channels. Parts of a fused leaf that are used apart
      are numbered, as ``'qkv[0]'``.
    counts: ``{name: int32[loops..]}``: the numbers of tokens.
  """

  sums: dict[str, jax.Array]
  counts: dict[str, jax.Array]

  def __add__(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, other: 'Calibration'
  ) -> 'Calibration':
    """Adds the sums and counts of another batch."""
    if not isinstance(other, Calibration):
      return NotImplemented
    shapes = [
      {name: x.shape for name, x in each.sums.items()} for each in (self, other)
    ]
    if shapes[0] != shapes[1]:
      off = sorted(
        name
        for name in {*shapes[0], *shapes[1]}
        if shapes[0].get(name) != shapes[1].get(name)
      )
      raise ValueError(
        f'Calibrations differ in {", ".join(off)}: add those of one program,'
        ' one choice of leaves and one statistic.'
      )
    return jax.tree.map(jnp.add, self, other)

  def means(self) -> dict[str, jax.Array]:
    """Returns the sums divided by the numbers of tokens."""
    return {
      name: x / _lifted(self.counts[name], x.ndim).astype(x.dtype)
      for name, x in self.sums.items()
    }


def _lifted(count: jax.Array, rank: int) -> jax.Array:
  return count.reshape(count.shape + (1,) * (rank - count.ndim))


def check(found: Calibration) -> Calibration:
  """Raises where a statistic is zero or not finite, if values are known."""
  values = trees.concrete(found.sums)
  faults = []
  for name, x in (values or {}).items():
    lead = found.counts[name].ndim
    layers = np.asarray(x).reshape(*x.shape[:lead], -1)
    if not np.isfinite(layers).all():
      faults.append(f'{name} are not finite')
    elif not layers.any(-1).all():
      faults.append(f'{name} are all zero')
  if faults:
    raise ValueError(
      f'Statistics cannot be used: those of {"; those of ".join(faults)}. Look'
      ' for NaN in the params and inputs, for inputs of zeros, and for a'
      ' `token_mask` that leaves nothing.'
    )
  return found
