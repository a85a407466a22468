"""SR-STE: straight-through, and what does not run forward decays."""

import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies._largest import check_decay, run_largest


def sr_ste(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule | None = None,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  pattern: Pattern = Unstructured(),
  decay: float = 2e-4,
  update_every: int = 1,
  stop_step: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains with the sparse-refined straight-through estimator.

  As `lthjax.straight_through`, but weights that do not run forward are drawn
  towards zero, so that the choice of masks settles. Params stay dense: give the
  loss ``lthjax.forward_params(opt_state, params)``.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: as for `lthjax.straight_through`.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    pattern: which shapes may run forward, such as `lthjax.patterns.NM`.
    decay: how strongly: ``decay * w`` is added to the gradient of the weights
      that do not run forward, before ``inner`` sees it. The paper's lambda.
    update_every: steps after which masks are chosen anew.
    stop_step: the last step at which they are; `None` for no end.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: if the decay is negative; or as `lthjax.straight_through`.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.sr_ste(optax.sgd(0.5), sparsity=0.5, decay=0.2)
    >>> params = {'w': jnp.array([[2.0, 1.0]])}
    >>> grads = {'w': jnp.zeros((1, 2))}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([[2. , 0.9]], dtype=float32)}

  References:
    Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch, arXiv:2102.04010, section 3.3.
  """
  check_decay(decay)

  def penalize(state, grads, params):
    def refine(m, g, w):
      if m is None or g is None:
        return g
      return jnp.where(m, g, (g + decay * w).astype(g.dtype))

    return jax.tree.map(
      refine, state.masks, grads, params, is_leaf=trees.is_none
    )

  return run_largest(
    inner,
    sparsity=sparsity,
    penalize=penalize,
    densities=densities,
    where=where,
    pattern=pattern,
    update_every=update_every,
    stop_step=stop_step,
  )
