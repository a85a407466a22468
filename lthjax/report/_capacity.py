"""The contents of a report."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import chex
import numpy as np

from lthjax.axes import Axes
from lthjax.report import _leaves
from lthjax.report._distance_moved import DistanceMoved, distances_of
from lthjax.report._layers import Layer, layers_of
from lthjax.report._saliency import saliency_of
from lthjax.report._similarity import Similarity, check, similarity_of


class Capacity(NamedTuple):
  """Where the capacity of a sparse network lives.

  Attributes:
    layers: one `Layer` per leaf.
    movement: how far the weights of each prunable leaf moved, or `None`.
    input_layers: the layers whose weights or paths `saliency` counts.
    saliency: number of weights or paths that leave each input, or `None`.
    overlaps: similarity of several trees of masks, or `None`.
  """

  layers: tuple[Layer, ...]
  movement: dict[str, DistanceMoved] | None = None
  input_layers: tuple[str, ...] = ()
  saliency: np.ndarray | None = None
  overlaps: Similarity | None = None


def capacity(
  masks: chex.ArrayTree,
  *,
  initial: chex.ArrayTree | None = None,
  final: chex.ArrayTree | None = None,
  input_layers: str | Sequence[str] = (),
  input_shape: Sequence[int] | None = None,
  compared: Mapping[str, chex.ArrayTree] | None = None,
  axes: Mapping[str, Axes] | None = None,
) -> Capacity:
  """Reports where the capacity of one sparse network lives.

  Args:
    masks: tree of masks of one run, not traced. For replicated runs, select one
      with ``jax.tree.map(lambda m: m[0], masks)``.
    initial: params before dense training; needed to report movement, see
      `lthjax.report.distance_moved`.
    final: params after dense training.
    input_layers: name of the kernel that reads the input, or names of a chain
      of dense kernels, for a map of the inputs; see
      `lthjax.report.input_saliency`.
    input_shape: shape of one example, for that map.
    compared: ``{name: masks}`` of two or more trees of masks like these, for
      `lthjax.report.similarity`; include ``masks`` itself to compare it too.
    axes: ``{name or glob: lthjax.axes.Axes}``; see `lthjax.report.layers`.

  Returns:
    The `Capacity`, for `lthjax.report.text`, `figure`, `html` and `write_html`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'fc': jnp.array([[True, False], [False, False]]), 'b': None}
    >>> found = lth.report.capacity(masks, input_layers='fc')
    >>> found.saliency
    array([1, 0])
    >>> print(lth.report.text(found).partition('.')[0])
    1 of 4 weights alive: 25
  """
  if (initial is None) != (final is None):
    names = ('initial', 'final')[:: 1 if final is None else -1]
    raise ValueError('`{}` was given without `{}`. Give both.'.format(*names))
  if input_shape is not None and not input_layers:
    raise ValueError(
      f'`input_shape` was given, {input_shape}, without `input_layers`. Name'
      ' the kernel that reads the input, as in `input_layers="fc1/kernel"`.'
    )
  leaves = _leaves.arrays(masks)  # Flattened and checked once.
  names = (input_layers,) if isinstance(input_layers, str) else input_layers
  moved = saliency = common = None
  if initial is not None and final is not None:
    moved = distances_of(leaves, initial, final)
  if names:
    saliency = saliency_of(leaves, names, input_shape, axes)
  if compared is not None:
    check('compared', compared)
    common = similarity_of(
      {name: _leaves.arrays(tree, name) for name, tree in compared.items()},
      like=leaves,
    )
  return Capacity(
    layers_of(leaves, axes), moved, tuple(names), saliency, common
  )
