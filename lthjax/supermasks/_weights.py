"""Random weights for supermasks: constant magnitudes, or Kaiming's, rescaled.

References:
  Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?,
  arXiv:1911.13299, section 4.3.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, _sharding, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax.axes import Axes


def signed_kaiming_constant(
  params: chex.ArrayTree,
  *,
  sparsity: float = 0.0,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Keeps the signs; the magnitude is ``sqrt(2 / fan_in)`` in each layer.

  (`lthjax.tickets.signed_constant` keeps the deviation that a layer has.)

  Args:
    params: params at initialization, to take the signs from.
    sparsity: share of the weights that a mask will leave out, in [0, 1); the
      others are larger by ``1 / sqrt(1 - sparsity)``, so that activations keep
      their size.
    where: which leaves, as in `lthjax.masks.full`; others are unchanged.
    axes: `lthjax.axes.Axes` by name or glob; by layout where not given.

  Returns:
    Tree like the params.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = jnp.array([[0.1], [-2.0]])
    >>> lth.supermasks.signed_kaiming_constant(params, sparsity=0.75)
    Array([[ 2.], [-2.]], dtype=float32)
  """
  return _replace(
    lambda name, w, deviation: jnp.sign(w) * deviation,
    params, sparsity, where, axes,
  )  # fmt: skip


def scaled_kaiming(
  key: chex.PRNGKey,
  params: chex.ArrayTree,
  *,
  sparsity: float = 0.0,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Draws Gaussian weights with Kaiming's deviation for sparse layers.

  The deviation is ``sqrt(2 / (fan_in * (1 - sparsity)))``.

  Args:
    key: random key; each leaf folds in its name.
    params: tree of arrays, of which only shapes and dtypes matter.
    sparsity: share of the weights that a mask will leave out, in [0, 1).
    where: which leaves, as in `lthjax.masks.full`; others are unchanged.
    axes: `lthjax.axes.Axes` by name or glob; by layout where not given.

  Returns:
    Tree like the params.

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
  key = _checks.key('key', key)

  def draw(name, w, deviation):
    own = trees.fold_in_name(key, name)
    return _sharding.draw(jax.random.normal, own, w, w.dtype) * deviation

  return _replace(draw, params, sparsity, where, axes)


def fan_ins(
  params: chex.ArrayTree,
  where: masks_lib.Where | str | list[str],
  axes: Mapping[str, Axes] | None,
) -> dict[str, int]:
  """Returns the inputs per neuron of the chosen leaves, by name."""
  _checks.arrays(params)
  masks = masks_lib.full(params, where)
  found = axes_lib.resolve(axes, masks)
  return {
    name: max(1, axes_lib.fan_in(mask.shape, found[name]))
    for name, mask in trees.prunable(masks).items()
  }


def _replace(
  make: Callable[[str, Any, float], Any],
  params: chex.ArrayTree,
  sparsity: float,
  where: masks_lib.Where | str | list[str],
  axes: Mapping[str, Axes] | None,
) -> chex.ArrayTree:
  """Maps ``make(name, leaf, deviation)`` over the chosen leaves."""
  kept = 1 - _checks.share('sparsity', sparsity)
  inputs = fan_ins(params, where, axes)

  def visit(path, w):
    if (name := trees.path_name(path)) not in inputs:  # Not chosen.
      return w
    # Kaiming's deviation, sqrt(2 / fan_in), of the weights that are kept.
    deviation = math.sqrt(2 / (inputs[name] * kept))
    return make(name, w, deviation).astype(w.dtype)

  return jax.tree_util.tree_map_with_path(visit, params)
