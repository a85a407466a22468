"""Straight-through: dense weights train through the largest of them."""

import optax

from lthjax import masks as masks_lib
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
  update_every: int = 1,
  stop_step: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains dense weights of which only the largest run forward.

  The gradient at the sparse weights moves all of them: a weight that is left
  out keeps its value, is trained on, and comes back once it is large enough.
  Params therefore stay dense. Give the loss, in training and in evaluation, and
  whatever leaves training, ``lthjax.forward_params(opt_state, params)``.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: share of all prunable weights that do not run forward, in [0, 1);
      or an optax schedule of it over steps, from 0 for the first masks on. A
      pattern that fixes the sparsity, such as N:M, needs none.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    pattern: which shapes may run forward, such as `lthjax.patterns.NM`.
    update_every: steps after which masks are chosen anew, by the weights just
      trained.
    stop_step: the last step at which they are; `None` for no end. A schedule
      needs it.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: if times or sparsities are out of range or contradict each
      other; from ``init`` if a layer would be left empty or the pattern does
      not fit one.

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
    update_every=update_every,
    stop_step=stop_step,
  )
