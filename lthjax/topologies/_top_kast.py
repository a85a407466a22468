"""Top-KAST: the largest weights run forward, and some more train."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax.axes import Axes
from lthjax.densities import Densities
from lthjax.topologies._largest import run_largest


def top_kast(
  inner: optax.GradientTransformation,
  *,
  sparsity: float,
  backward_sparsity: float,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
  decay: float = 1e-4,
  update_every: int = 100,
  stop_step: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains with Top-KAST, sparse in the forward and the backward pass.

  In each layer the network runs with the largest weights (set A), and these and
  the next largest train (set B). All others keep their values. A penalty pulls
  A toward zero, and the rest of B more strongly, so that weights of B have to
  earn their place in A, and those of A make room.

  `lthjax.get_masks` returns A; B is the field ``backward`` of the state, where
  ``optax.tree.get(opt_state, 'backward')`` finds it. Params stay dense: give
  the loss ``lthjax.forward_params(opt_state, params)``. Weights that enter B
  start with empty optimizer slots.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: share of all prunable weights left out of the forward pass.
    backward_sparsity: share that does not train either, below ``sparsity``.
    densities: how both budgets spread over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    axes: as for `lthjax.rigl`.
    decay: strength of the penalty: ``decay * w`` is added to the gradient of A,
      and ``decay * w / D`` to that of the rest of B, before ``inner`` sees it;
      D is the share of the layer's weights that run forward. It replaces weight
      decay in ``inner``.
    update_every: steps after which both sets are chosen again, from the weights
      just trained.
    stop_step: the last step at which sets are chosen; `None` for no end.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.top_kast(
    ...   optax.sgd(0.5), sparsity=0.75, backward_sparsity=0.5, decay=0.1
    ... )
    >>> params = {'w': jnp.array([[4.0, 2.0, 1.0, 0.5]])}
    >>> state = tx.init(params)
    >>> updates, state = tx.update({'w': jnp.zeros((1, 4))}, state, params)
    >>> params = optax.apply_updates(params, updates)
    >>> params['w']
    Array([[3.8, 1.6, 1. , 0.5]], dtype=float32)
    >>> lth.forward_params(state, params)['w']
    Array([[3.8, 0. , 0. , 0. ]], dtype=float32)

  References:
    Jayakumar et al., Top-KAST: Top-K Always Sparse Training, arXiv:2106.03517,
    section 2. The penalty is the L2 form of its exploration loss, as in its
    experiments: half the square of each weight, divided by D in B without A.
  """
  sparsity = _checks.share('sparsity', sparsity)
  backward_sparsity = _checks.real('backward_sparsity', backward_sparsity)
  if not 0 <= backward_sparsity < sparsity:
    raise ValueError(
      f'`backward_sparsity` was {backward_sparsity} and `sparsity` {sparsity},'
      ' but more weights must train than run forward: give a backward sparsity'
      ' from 0 to below the other.'
    )
  if not trees.is_traced(decay):
    _checks.not_negative('decay', decay)

  def penalize(state, grads, params):
    def strength(name, m):
      return jnp.where(m, decay, decay * m.size / state.counts[name][0])

    # The gradient of half the square of w, divided by D in the rest of B.
    def pull(strength, g, w):
      if strength is None or g is None:
        return g
      return (g + strength * w).astype(g.dtype)

    strengths = trees.map_alive(strength, state.masks)
    return jax.tree.map(pull, strengths, grads, params, is_leaf=trees.is_none)

  return run_largest(
    inner,
    sparsity=sparsity,
    backward_sparsity=backward_sparsity,
    penalize=penalize if trees.is_traced(decay) or decay else None,
    densities=densities,
    where=where,
    axes=axes,
    update_every=update_every,
    stop_step=stop_step,
  )
