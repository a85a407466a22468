"""RigL: drop small weights, grow where the gradient is large."""

from collections.abc import Mapping

import optax

from lthjax._sparsify import sparsify
from lthjax.axes import Axes
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies import _start
from lthjax.topologies._drop_and_grow import drop_and_grow


def rigl(
  inner: optax.GradientTransformation,
  masks: _start.Masks,
  *,
  sparsity: optax.Schedule | None = None,
  densities: Densities | None = None,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
  update_every: int = 100,
  stop_step: int,
  drop_fraction: float | optax.Schedule = 0.3,
  applies_gradient: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Trains sparse from scratch with RigL.

  At a move each layer drops its smallest alive weights and grows as many where
  the gradient of the dense layer is largest, weights just dropped included.
  What comes alive is zero and has empty optimizer slots.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    masks: initial masks: a tree, such as a ticket's, or a function of params,
      such as `lthjax.random_masks`. Layers without a mask stay dense.
    sparsity: optax schedule over steps of the dead share of all prunable
      weights, which may rise and fall; by default every layer keeps its number
      of alive weights. GraNet is RigL with a sparsity that rises.
    densities: how a schedule of sparsity spreads over layers; by default as the
      random masks do, or evenly.
    pattern: which shapes may survive. Under `lthjax.patterns.NM` every group
      keeps exactly n after every move.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs, neurons or a stack of layers. Each layer
      of a stack moves separately.
    update_every: steps between moves, which come at its multiples, counted
      from 1.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights of a layer that a move replaces:
      a number, which falls by a cosine to zero at ``stop_step``, or an optax
      schedule over steps.
    applies_gradient: whether a step that moves masks also trains, before they
      move. RigL's own code moves masks instead. Then ``inner`` does not see the
      step, and its schedules count the steps that train; see
      `lthjax.sparsify`.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.rigl(
    ...   optax.sgd(0.1, momentum=0.9),
    ...   lth.random_masks(
    ...     jax.random.key(0), sparsity=0.75, densities=lth.densities.erk
    ...   ),
    ...   update_every=2,
    ...   stop_step=8,
    ... )
    >>> params = {'w': jnp.ones((8, 4))}
    >>> opt_state = tx.init(params)
    >>> params = lth.masks.apply(lth.get_masks(opt_state), params)
    >>> for step in range(2):
    ...   grads = {'w': jnp.arange(32.0).reshape(8, 4)}
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    >>> lth.masks.count(lth.get_masks(opt_state))
    8

  References:
    Evci et al., Rigging the Lottery: Making All Tickets Winners,
    arXiv:1911.11134, algorithm 1; Liu et al., Sparse Training via Boosting
    Pruning Plasticity with Neuroregeneration, arXiv:2106.10404, section 4
    (GraNet).
  """

  def grow_scores(grow_state, grads, step):
    del grow_state, step
    # Algorithm 1: grow the largest |gradient of the loss| of the dense layer.
    return grads

  _start.check(inner, masks)
  topology = drop_and_grow(
    grow_scores,
    masks,
    sparsity=sparsity,
    densities=densities,
    pattern=pattern,
    axes=axes,
    update_every=update_every,
    stop_step=stop_step,
    drop_fraction=drop_fraction,
    applies_gradient=applies_gradient,
  )
  return sparsify(inner, topology)
