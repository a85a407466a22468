"""Input saliency: the alive weights or paths that leave each input."""

import collections
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import numpy as np

from lthjax import _checks
from lthjax import axes as axes_lib
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.report import _leaves


def input_saliency(
  masks: chex.ArrayTree,
  layers: str | Sequence[str],
  input_shape: Sequence[int] | None = None,
  *,
  axes: Mapping[str, Axes] | None = None,
) -> np.ndarray:
  """Counts the alive weights, or paths of them, that leave each input of a run.

  With one layer, it counts weights of the first kernel. With a chain of dense
  kernels, it counts paths of alive weights through all of them: weights that
  lead to a dead neuron do not count.

  Args:
    masks: tree of masks of one run, not traced. For replicated runs, select one
      with ``jax.tree.map(lambda m: m[0], masks)``.
    layers: name of the kernel that reads the input, such as ``'fc1/kernel'``,
      or the names of different kernels, each ``[inputs, outputs]``, which reads
      the outputs of the one before.
    input_shape: shape of one example, such as ``(28, 28, 1)``. By default
      the shape of the kernel without its neurons: a vector, or the window of a
      convolution, whose weights are the same at all pixels.
    axes: as for `lthjax.report.layers`.

  Returns:
    int64 array of that shape; float64, and rounded, if an input has more than
      2**53 paths.

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
  return saliency_of(_leaves.arrays(masks), layers, input_shape, axes)


def saliency_of(
  leaves: Mapping[str, Any],
  layers: str | Sequence[str],
  input_shape: Sequence[int] | None,
  axes: Mapping[str, Axes] | None,
) -> np.ndarray:
  """Does the same for NumPy masks by name."""
  names = _checks.globs('layers', layers)
  kernels = {
    name: mask
    for name, mask in leaves.items()
    if mask is not None and mask.ndim > 1
  }
  unknown = [name for name in names if name not in kernels]
  if unknown or not names:
    given, known = (', '.join(map(repr, x)) or 'none' for x in (names, kernels))
    raise ValueError(
      f'The layers were {given}, but must be kernels that have masks. Choose'
      f' from {known}.'
    )
  its = axes_lib.resolve(axes, {name: kernels[name].shape for name in names})
  refuse(
    (repr(name) for name in names if its[name].stack),
    '{} stacks several layers, but a map of inputs belongs to one. Pass the'
    ' masks of one layer, as in `jax.tree.map(lambda m: m[0], masks)`.',
  )
  matrices: list[Any] = [
    axes_lib.columns(kernels[name], its[name])[0][0] for name in names
  ]
  _check_chain(names, kernels, matrices)
  # Paths are counted by a product of matrices, from the outputs back. Sums of
  # doubles are exact up to 2**53.
  counts = np.ones(matrices[-1].shape[1])
  for matrix in reversed(matrices):
    counts = matrix @ counts
  if counts.max() <= 2**53:
    counts = counts.astype(np.int64)

  first = kernels[names[0]]
  shape = [first.shape[axis] for axis in its[names[0]].summed]
  if input_shape is not None:
    shape = _sizes(input_shape)
  if math.prod(shape) != counts.size:
    raise ValueError(
      f'`input_shape` was {tuple(shape)}, which has {math.prod(shape)} values,'
      f' but {names[0]!r} {first.shape} has {counts.size} inputs. Give the'
      ' shape of one example, without the batch axis; for a convolution, give'
      ' none: the map is of its window.'
    )
  return counts.reshape(shape)


def _sizes(input_shape: Any) -> list[int]:
  """Returns the shape of one example as Python integers."""
  try:
    sizes = [operator.index(size) for size in input_shape]
  except TypeError:
    sizes = [0]
  if any(size < 1 for size in sizes):
    wanted = 'be positive integers: the shape of one example, as (28, 28, 1)'
    raise _checks.wrong_value('input_shape', input_shape, wanted)
  return sizes


def _check_chain(
  names: list[str], kernels: dict[str, Any], matrices: list[Any]
) -> None:
  """Raises unless different dense kernels read each other's outputs."""
  if len(names) == 1:
    return
  sentence = (
    'These layers do not form a chain of dense kernels: {}. Paths are counted'
    ' through different kernels of shape (inputs, outputs): name them in the'
    ' order in which they are applied, or name one layer alone.'
  )
  faults = [
    f'{name!r} has shape {kernels[name].shape}'
    for name in dict.fromkeys(names)
    if kernels[name].ndim != 2
  ]
  faults += [
    f'{name!r} is named {n} times'
    for name, n in collections.Counter(names).items()
    if n > 1
  ]
  refuse(faults, sentence)
  pairs = itertools.pairwise(zip(names, matrices, strict=True))
  refuse(
    (
      f'{a!r} has {x.shape[1]} outputs, but {b!r} has {y.shape[0]} inputs'
      for (a, x), (b, y) in pairs
      if x.shape[1] != y.shape[0]
    ),
    sentence,
  )
