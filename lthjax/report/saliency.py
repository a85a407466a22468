"""Which inputs a network looks at."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import chex
import numpy as np

from lthjax import patterns
from lthjax.report import _leaves
from lthjax.topologies import fan_in


def input_saliency(
  masks: chex.ArrayTree,
  layers: str | Sequence[str],
  input_shape: Sequence[int] | None = None,
  *,
  neuron_axes: patterns.Axes | None = None,
) -> np.ndarray:
  """Counts the alive weights that leave each input, or the paths to the end.

  With one layer, these are the weights of the first kernel. With the names of a
  chain of dense kernels, these are the paths of alive weights through all of
  them: weights that lead to a dead neuron do not count.

  Args:
    masks: tree of masks, not traced.
    layers: name of the kernel that reads the input, such as ``'fc1/kernel'``,
      or the names of kernels, each of which reads the outputs of the one
      before.
    input_shape: shape of one example, such as ``(28, 28, 1)``. By default that
      of the kernel without its neurons: a vector, or the window of a
      convolution, whose weights look at all pixels alike.
    neuron_axes: as for `lthjax.report.layers`.

  Returns:
    int64 array of that shape.

  Raises:
    ValueError: if a name is no kernel with a mask, kernels do not form a chain,
      or the first of them does not read inputs of that shape.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> first = jnp.array([[True, True], [False, True], [False, False]])
    >>> masks = {'fc1': first, 'fc2': jnp.array([[True], [False]])}
    >>> lth.report.input_saliency(masks, 'fc1')
    array([2, 1, 0])
    >>> lth.report.input_saliency(masks, ['fc1', 'fc2'])
    array([1, 0, 0])

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, appendix F: the pixels that the first
    layer of a winning ticket keeps.
  """
  names = [layers] if isinstance(layers, str) else list(layers)
  kernels = {
    name: mask
    for name, mask in _leaves.arrays(masks).items()
    if mask is not None and mask.ndim > 1
  }
  unknown = [name for name in names if name not in kernels]
  if unknown or not names:
    raise ValueError(
      f'The layers were {", ".join(map(repr, names)) or "none"}, but must be'
      ' kernels that have masks. Choose among'
      f' {", ".join(map(repr, kernels)) or "none"}.'
    )
  axes = fan_in.axes_by_name(
    neuron_axes, {name: mask.shape for name, mask in kernels.items()}
  )
  matrices: list[Any] = [
    fan_in.columns(kernels[name], axes[name])[0] for name in names
  ]
  _check_chain(names, matrices)
  counts = np.ones(matrices[-1].shape[1], np.int64)
  for matrix in reversed(matrices):
    counts = matrix @ counts

  first = kernels[names[0]]
  neurons = {axis % first.ndim for axis in axes[names[0]]}
  shape = [n for i, n in enumerate(first.shape) if i not in neurons]
  if input_shape is not None:
    shape = list(input_shape)
  if math.prod(shape) != counts.size:
    raise ValueError(
      f'`input_shape` was {tuple(shape)}, which has {math.prod(shape)} values,'
      f' but {names[0]!r} {first.shape} has {counts.size} inputs. Give the'
      ' shape of one example, without the axis of a batch; for a convolution'
      ' leave it out, and the map is that of its window.'
    )
  return counts.reshape(shape)


def _check_chain(names: list[str], matrices: list[Any]) -> None:
  """Checks that every kernel reads what the one before gives."""
  pairs = itertools.pairwise(zip(names, matrices, strict=True))
  faults = [
    f'{a!r} has {x.shape[1]} outputs, but {b!r} has {y.shape[0]} inputs'
    for (a, x), (b, y) in pairs
    if x.shape[1] != y.shape[0]
  ]
  if faults:
    raise ValueError(
      f'The layers are no chain of dense kernels: {"; ".join(faults)}. Name'
      ' kernels in the order in which they are applied, or the first one only.'
    )
