"""Random weights that make good supermasks: only their signs differ, or scaled.

References:
  Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?,
  arXiv:1911.13299, section 4.3.
"""

import math
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.axes import Axes


def signed_kaiming_constant(
  params: chex.ArrayTree,
  *,
  sparsity: float = 0.0,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
) -> chex.ArrayTree:
  """Keeps the signs, with one magnitude a layer: Kaiming's deviation.

  That is ``sqrt(2 / fan_in)``. (`lthjax.tickets.signed_constant` keeps the
  deviation that a layer has.)

  Args:
    params: params at initialization, to take the signs from.
    sparsity: share of the weights that a mask will leave out, in [0, 1); what
      is left is larger by ``1 / sqrt(1 - sparsity)``, so that activations keep
      their size.
    where: which leaves, as for `lthjax.masks.full`; others stay as they are.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say what feeds a neuron.

  Returns:
    Tree like the params.

  Raises:
    ValueError: if the sparsity is out of range, or no leaf is chosen.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = jnp.array([[0.1], [-2.0]])
    >>> lth.supermasks.signed_kaiming_constant(params, sparsity=0.75)
    Array([[ 2.], [-2.]], dtype=float32)
  """

  def flatten(name, w, deviation):
    del name
    return (jnp.sign(w) * deviation).astype(w.dtype)

  return _replace(flatten, params, sparsity, where, axes)


def scaled_kaiming(
  key: chex.PRNGKey,
  params: chex.ArrayTree,
  *,
  sparsity: float = 0.0,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
) -> chex.ArrayTree:
  """Draws Gaussian weights with Kaiming's deviation, for sparse layers.

  That is ``sqrt(2 / (fan_in * (1 - sparsity)))``.

  Args:
    key: random key; each leaf folds in its name.
    params: tree of arrays, of which the shapes and dtypes matter.
    sparsity: share of the weights that a mask will leave out, in [0, 1).
    where: which leaves, as for `lthjax.masks.full`; others stay as they are.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say what feeds a neuron.

  Returns:
    Tree like the params.

  Raises:
    ValueError: if the sparsity is out of range, or no leaf is chosen.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'kernel': jnp.zeros((200, 300)), 'bias': jnp.zeros(300)}
    >>> drawn = lth.supermasks.scaled_kaiming(
    ...   jax.random.key(0), params, sparsity=0.5
    ... )
    >>> round(float(drawn['kernel'].std()) / (2 / (200 * 0.5)) ** 0.5, 1)
    1.0

  References:
    He et al., Delving Deep into Rectifiers: Surpassing Human-Level Performance
    on ImageNet Classification, arXiv:1502.01852.
  """

  def draw(name, w, deviation):
    own = trees.fold_in_name(key, name)
    normal = jax.random.normal(own, w.shape, w.dtype)
    return (normal * deviation).astype(w.dtype)

  return _replace(draw, params, sparsity, where, axes)


def _replace(make, params, sparsity, where, axes):
  """Maps ``make(name, leaf, deviation)`` over the chosen leaves."""
  if not 0 <= sparsity < 1:
    raise ValueError(
      f'`sparsity` was {sparsity}, but must be in [0, 1): the share of the'
      ' weights that a mask will leave out.'
    )
  masks = masks_lib.full(params, where)
  its = axes_lib.resolve(axes, masks)

  def visit(path, mask, w):
    if mask is None:
      return w
    name = trees.path_name(path)
    inputs = max(1, axes_lib.fan_in(w.shape, its[name]))
    return make(name, w, math.sqrt(2 / (inputs * (1 - sparsity))))

  return jax.tree_util.tree_map_with_path(
    visit, masks, params, is_leaf=trees.is_none
  )
