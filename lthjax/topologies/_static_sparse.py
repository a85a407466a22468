"""Random masks that stay as they are: the baseline of sparse training."""

import chex
import optax

from lthjax import masks as masks_lib
from lthjax._sparsify import Topology, sparsify
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies._fixed import FixedState
from lthjax.topologies._moving import start_masks


def static_sparse(
  inner: optax.GradientTransformation,
  *,
  sparsity: float,
  key: chex.PRNGKey,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  pattern: Pattern = Unstructured(),
) -> optax.GradientTransformationExtraArgs:
  """Trains a random sparse network whose masks never move.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: dead share of all prunable weights, in [0, 1).
    key: random key of the first masks.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    pattern: which shapes may survive, such as `lthjax.patterns.NM`.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: from ``init``, if the budget does not fit the params.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.static_sparse(
    ...   optax.sgd(0.1), sparsity=0.75, key=jax.random.key(0)
    ... )
    >>> lth.masks.count(lth.get_masks(tx.init({'w': jnp.ones((4, 4))})))
    4

  References:
    Evci et al., Rigging the Lottery: Making All Tickets Winners,
    arXiv:1911.11134, section 4 ("Static").
  """

  def init_fn(params):
    return FixedState(
      start_masks(
        key,
        params,
        sparsity,
        densities=densities,
        where=where,
        pattern=pattern,
      )
    )

  return sparsify(inner, Topology(init_fn))
