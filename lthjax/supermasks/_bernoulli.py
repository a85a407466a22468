"""Bernoulli supermasks: every weight is kept with a learned probability."""

import math
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, _sharding, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax.axes import Axes
from lthjax.supermasks._gates import gate, run_gates, tables


def init_logits(
  params: chex.ArrayTree,
  *,
  probability: float = 0.5,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
) -> Any:
  """Makes logits that keep every weight with the same probability.

  Args:
    params: tree of arrays, of which only shapes and dtypes matter.
    probability: of keeping a weight, strictly between 0 and 1.
    where: which leaves get logits, as in `lthjax.masks.full`; all others run
      unchanged.

  Returns:
    Tree like the params, `None` at the leaves without logits.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'kernel': jnp.ones((1, 2)), 'bias': jnp.ones(2)}
    >>> lth.supermasks.init_logits(params)
    {'bias': None, 'kernel': Array([[0., 0.]], dtype=float32)}
  """
  p = _checks.closed_share('probability', probability)
  if p in (0, 1):
    wanted = 'be between 0 and 1: at either end the logits are infinite'
    raise _checks.wrong_value('probability', probability, wanted)
  _checks.arrays(params)
  logit = math.log(p / (1 - p))
  return trees.map_alive(
    lambda name, mask, w: jnp.full_like(w, logit),
    masks_lib.full(params, where),
    params,
  )


def bernoulli(
  params: chex.ArrayTree,
  logits: chex.ArrayTree,
  key: chex.PRNGKey | None = None,
  *,
  rescale: bool = False,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Returns the params that a network under drawn masks runs with.

  The gradient goes straight through the draw to the probability: with respect
  to a logit it is ``p * (1 - p) * w * g``, where ``g`` is the gradient of the
  loss with respect to the weight as the network runs with it, kept or not.

  Evaluate the network the way it was trained, under drawn masks. The likely
  weights alone make a different network until most probabilities are close to 0
  or 1.

  Args:
    params: random weights, which never change.
    logits: the values to train, from `init_logits`: ``sigmoid(logit)`` is the
      probability ``p`` of keeping a weight. Leaves without logits run
      unchanged.
    key: random key of the draw, a new one for each step; `None` keeps the
      likely weights, those with a probability of at least one half.
    rescale: whether to multiply a layer of n weights, of which k are kept, by
      n / k (dynamic weight rescaling).
    axes: `lthjax.axes.Axes` by name or glob; by layout where not given. A
      stacked leaf is rescaled layer by layer.

  Returns:
    Tree like the params, +0.0 where a weight is not kept; differentiable with
    respect to the logits.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = jnp.array([[2.0, -3.0]])
    >>> logits = jnp.array([[-1.0, 0.5]])
    >>> lth.supermasks.bernoulli(params, logits)
    Array([[ 0., -3.]], dtype=float32)
    >>> lth.supermasks.bernoulli(params, logits, rescale=True)
    Array([[ 0., -6.]], dtype=float32)

  References:
    Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the
    Supermask, arXiv:1905.01067, section 5.2.
  """
  rescale = _checks.flag('rescale', rescale)
  leaves, values, structure = tables(logits, params, 'logits')
  keep = _draw(values, key)
  stacks = axes_lib.stacks(axes, logits) if rescale else {}

  def run(name, w, logit):
    m = keep[name]
    if rescale:
      layer = tuple(axis for axis in range(m.ndim) if axis not in stacks[name])
      size = math.prod(m.shape[axis] for axis in layer)
      # Dynamic weight rescaling, section 5.2. No gradient flows through the
      # number of weights that are kept.
      kept = jnp.sum(m, axis=layer, keepdims=True, dtype=jnp.int32)
      w = (w * (size / jnp.maximum(kept, 1))).astype(w.dtype)
    return gate(m, w, jax.nn.sigmoid(logit))

  return run_gates(run, leaves, values, structure)


def bernoulli_masks(
  logits: chex.ArrayTree, key: chex.PRNGKey | None = None
) -> Any:
  """Returns the masks behind `bernoulli`, to count, keep or deploy.

  Both arguments are as in `bernoulli`; each leaf folds its name into the key.

  Returns:
    Tree of masks, `None` at the leaves without logits.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.supermasks.bernoulli_masks(jnp.array([[-1.0, 0.5, 0.0]]))
    Array([[False,  True,  True]], dtype=bool)
  """
  values, structure = trees.flatten(logits)
  _checks.check_arrays(values, 'logits')
  return structure.unflatten(_draw(values, key).values())


def _draw(logits: dict[str, Any], key: chex.PRNGKey | None) -> dict[str, Any]:
  """Draws masks by name; `None` where there are no logits."""
  if key is not None:
    key = _checks.key('key', key)

  def draw(name, logit):
    if logit is None:
      return None
    if key is None:
      return logit >= 0
    own = trees.fold_in_name(key, name)
    # In the logits' dtype: u < p with probability p, up to its resolution.
    p = jax.nn.sigmoid(logit)
    return _sharding.draw(jax.random.uniform, own, p, p.dtype) < p

  return {name: draw(name, logit) for name, logit in logits.items()}
