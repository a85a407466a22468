"""Straight-through estimators: STE, and SR-STE with decay on unused weights."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from lthjax import _checks, trees
from lthjax import masks as masks_lib
from lthjax.axes import Axes
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies._largest import run_largest


def straight_through(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule | None = None,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
  update_every: int = 1,
  stop_step: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains dense weights of which the network runs with the largest.

  The gradient at the sparse weights moves all of them: a weight that is left
  out keeps its value, is trained on, and comes back once it is large enough.
  Params therefore stay dense. Give the loss, in training and in evaluation, and
  whatever leaves training, ``lthjax.forward_params(opt_state, params)``.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: share of all prunable weights left out of the forward pass, in
      [0, 1); or an optax schedule of it over steps, from 0 for the initial
      masks on. Optional for a pattern that fixes it, such as N:M.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    pattern: which shapes may survive, such as `lthjax.patterns.NM`.
    axes: as for `lthjax.rigl`.
    update_every: steps after which masks are chosen again, from the weights
      just trained.
    stop_step: the last step at which masks are chosen; `None` for no end. A
      schedule needs one.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.straight_through(optax.sgd(0.5), pattern=lth.patterns.NM(1, 2))
    >>> params = {'w': jnp.array([[2.0], [1.0]])}
    >>> opt_state = tx.init(params)
    >>> loss = lambda params: 3 * params['w'][0, 0]
    >>> grads = jax.grad(loss)(lth.forward_params(opt_state, params))
    >>> updates, opt_state = tx.update(grads, opt_state, params)
    >>> params = optax.apply_updates(params, updates)
    >>> lth.forward_params(opt_state, params)['w'].ravel()
    Array([0., 1.], dtype=float32)

  References:
    Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch, arXiv:2102.04010, section 3.2 (as "STE"); Bengio et al.,
    Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation, arXiv:1308.3432.
  """
  return run_largest(
    inner,
    sparsity=sparsity,
    densities=densities,
    where=where,
    pattern=pattern,
    axes=axes,
    update_every=update_every,
    stop_step=stop_step,
  )


def sr_ste(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule | None = None,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
  decay: float = 2e-4,
  update_every: int = 1,
  stop_step: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains with the sparse-refined straight-through estimator (SR-STE).

  As `lthjax.straight_through`, but weights left out of the forward pass are
  pulled toward zero, so that the choice of masks settles. Params stay dense:
  give the loss ``lthjax.forward_params(opt_state, params)``.

  The strength of the pull is ``decay``, the paper's lambda: ``decay * w`` is
  added to the gradient of the weights left out, before ``inner`` sees it. All
  other arguments are as in `lthjax.straight_through`.

  Returns:
    A transformation whose ``update`` requires ``params``.

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
  if not trees.is_traced(decay):
    _checks.not_negative('decay', decay)

  def penalize(state, grads, params):
    def refine(m, g, w):
      if m is None or g is None:
        return g
      # Equation 9: g + lambda * (1 - mask) * w.
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
    axes=axes,
    update_every=update_every,
    stop_step=stop_step,
  )
