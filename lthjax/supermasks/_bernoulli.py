"""Learned Bernoulli masks: every weight is there with a learned probability."""

import math

import chex
import jax
import jax.numpy as jnp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.supermasks._gates import check_scores, gate


def init_logits(
  params: chex.ArrayTree,
  *,
  probability: float = 0.5,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
) -> chex.ArrayTree:
  """Makes logits under which every weight is as likely to be there.

  Args:
    params: tree of arrays, of which only shapes and dtypes matter.
    probability: of every weight, between 0 and 1.
    where: which leaves get logits, as for `lthjax.masks.full`; all others run
      as they are.

  Returns:
    Tree like the params, `None` at the leaves without logits.

  Raises:
    ValueError: if the probability is out of range, or no leaf is chosen.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'kernel': jnp.ones((1, 2)), 'bias': jnp.ones(2)}
    >>> lth.supermasks.init_logits(params)
    {'bias': None, 'kernel': Array([[0., 0.]], dtype=float32)}
  """
  if not 0 < probability < 1:
    raise ValueError(
      f'`probability` was {probability}, but must be between 0 and 1: at either'
      ' end the logits are infinite.'
    )
  logit = math.log(probability / (1 - probability))
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
) -> chex.ArrayTree:
  """Returns the params that a network under drawn masks runs with.

  The gradient goes straight through the draw to the probability: by a logit it
  is ``p * (1 - p) * w * g``, with the gradient ``g`` of the loss by the weight
  as the network runs with it, there or not.

  Evaluate as it was trained, under masks that are drawn. The likely weights
  alone make another network, until most probabilities are close to 0 or 1.

  Args:
    params: random weights, which nothing changes.
    logits: what trains, from `init_logits`: ``sigmoid(logit)`` is the
      probability ``p`` that a weight is there. Leaves without logits run as
      they are.
    key: random key of the draw, a new one for each step; `None` takes the
      likely weights, those with a probability of at least a half.
    rescale: whether the weights of a layer with n weights, of which k are
      there, grow by n / k (dynamic weight rescaling).

  Returns:
    Tree like the params, +0.0 where a weight is not there; differentiable by
    the logits.

  Raises:
    TypeError: if logits are not floating point.
    ValueError: if logits do not fit the params.

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
  check_scores(logits, params, 'logits')
  keep = bernoulli_masks(logits, key)

  def run(m, w, logit):
    if m is None:
      return w
    if rescale:
      # No gradient flows through the number of weights that are there.
      there = jnp.maximum(jnp.sum(m, dtype=jnp.int32), 1)
      w = (w * (m.size / there)).astype(w.dtype)
    return gate(m, w, jax.nn.sigmoid(logit))

  return jax.tree.map(run, keep, params, logits, is_leaf=trees.is_none)


def bernoulli_masks(
  logits: chex.ArrayTree, key: chex.PRNGKey | None = None
) -> chex.ArrayTree:
  """Returns the masks behind `bernoulli`, to count, keep or deploy.

  Args:
    logits: as for `bernoulli`.
    key: as for `bernoulli`; each leaf folds in its name.

  Returns:
    Tree of masks, `None` at the leaves without logits.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.supermasks.bernoulli_masks(jnp.array([[-1.0, 0.5, 0.0]]))
    Array([[False,  True,  True]], dtype=bool)
  """

  def draw(path, logit):
    if key is None:
      return logit >= 0
    own = trees.fold_in_name(key, trees.path_name(path))
    return jax.random.bernoulli(own, jax.nn.sigmoid(logit))

  return jax.tree_util.tree_map_with_path(draw, logits)
