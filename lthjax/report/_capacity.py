"""Everything that a report shows, gathered."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import chex
import numpy as np

from lthjax import trees
from lthjax.axes import Axes
from lthjax.report._distance_moved import DistanceMoved, distance_moved
from lthjax.report._layers import Layer, layers
from lthjax.report._saliency import input_saliency
from lthjax.report._similarity import Similarity, similarity


class Capacity(NamedTuple):
  """Where the capacity of a sparse network lives.

  Attributes:
    layers: what the masks keep of each leaf.
    movement: how far the weights of each prunable leaf moved, or `None`.
    input_layers: the layers whose weights or paths `saliency` counts.
    saliency: weights or paths that leave each input, or `None`.
    overlaps: what several trees of masks have in common, or `None`.
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
  """Finds where the capacity of one sparse network lives.

  Args:
    masks: tree of masks of one run, not traced. Of several seeds side by side
      take one with ``jax.tree.map(lambda m: m[0], masks)``.
    initial: params before the training of the dense network, if how far weights
      moved shall be told; see `lthjax.report.distance_moved`.
    final: params after it.
    input_layers: name of the kernel that reads the input, or names of a chain
      of dense kernels, for a map of the inputs; see
      `lthjax.report.input_saliency`.
    input_shape: shape of one example, for that map.
    compared: ``{name: masks}`` of two or more trees of masks like these, and
      these among them if they shall be, for `lthjax.report.similarity`.
    axes: ``{name or glob: lthjax.axes.Axes}``; see `lthjax.report.layers`.

  Returns:
    What `lthjax.report.text`, `figure`, `html` and `write_html` show.

  Raises:
    ValueError: if there is no mask, or something does not fit the masks.

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
    given, other = (
      ('initial', 'final') if final is None else ('final', 'initial')
    )
    raise ValueError(
      f'`{given}` was given without `{other}`, but movement is between params'
      ' before and after training. Give both or neither.'
    )
  if input_shape is not None and not input_layers:
    raise ValueError(
      f'`input_shape` was given, {input_shape}, without `input_layers`.'
      ' Name the kernel that reads the input, as in'
      ' `input_layers="fc1/kernel"`.'
    )
  names = (input_layers,) if isinstance(input_layers, str) else input_layers
  saliency = None
  if names:
    saliency = input_saliency(masks, names, input_shape, axes=axes)
  common = None
  if compared is not None:
    common = similarity(compared)
    # They are alike, so that one of them speaks for all.
    name, other = next(iter(compared.items()))
    trees.check_like(masks, other, f'compared masks {name!r}')
    trees.check_like(other, masks, '`masks`')
  moved = None
  if initial is not None and final is not None:
    moved = distance_moved(initial, final, masks)
  return Capacity(
    layers(masks, axes=axes),
    moved,
    tuple(names),
    saliency,
    common,
  )
