"""Random masks with the counts of others."""

from collections.abc import Mapping
from typing import Any, Literal

import chex
import jax

from lthjax import _checks, _sharding, counts, trees
from lthjax import axes as axes_lib
from lthjax.axes import Axes
from lthjax.masks import _algebra
from lthjax.selection import keep_largest

_WITHIN = {
  'layer': 'keeps the number alive in each layer',
  'global': 'keeps their total only',
  'input': 'keeps the number at each input of a layer',
}


def shuffle(
  key: chex.PRNGKey,
  masks: chex.ArrayTree,
  within: Literal['layer', 'global', 'input'] = 'layer',
  *,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Moves the alive weights to random places.

  Args:
    key: random key; each leaf folds in its name.
    masks: tree of masks.
    within: ``'layer'`` keeps the number alive in every layer, ``'global'`` only
      their total, and ``'input'`` also the number at every input: a pixel that
      no weight looked at stays unseen.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs or a stack of layers.

  Returns:
    Tree of masks with exactly as many alive weights.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'w': jnp.arange(100).reshape(10, 10) < 7}
    >>> lth.masks.count(lth.masks.shuffle(jax.random.key(0), masks))
    7

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, appendix on random sparsity; Frankle et
    al., Pruning Neural Networks at Initialization: Why Are We Missing the
    Mark?, arXiv:2009.08576, section 5.
  """
  key = _checks.key('key', key)
  _checks.one_of('within', within, _WITHIN)
  prunable = _algebra.prunable(masks)
  # The k largest of random numbers are at k random places. They are drawn where
  # the masks are, and are the same on any number of devices.
  noise = {
    name: _sharding.uniform(trees.fold_in_name(key, name), mask)
    for name, mask in prunable.items()
  }
  if within == 'global':
    keep = keep_largest(noise, _algebra.count(masks)) if noise else {}
    return trees.map_alive(lambda name, _: keep[name], masks)
  its = axes_lib.resolve(axes, masks, strict=within == 'input')
  its = {name: its.get(name, Axes()) for name in prunable}
  alive = {} if within == 'input' else counts.alive(prunable, its)

  def draw(name: str, mask: jax.Array) -> jax.Array:
    along = its[name].outputs
    if within == 'input':
      # Counted along the neurons, every input keeps its number.
      number = counts.along(mask, along)
    else:
      number = alive[name]
      along = its[name].layer or tuple(range(mask.ndim))
    return keep_largest(noise[name], number, axis=along)

  return trees.map_alive(draw, masks)
