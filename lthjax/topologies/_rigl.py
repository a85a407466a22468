"""RigL: drop small weights, grow where the gradient is large."""

import chex
import optax

from lthjax import masks as masks_lib
from lthjax._sparsify import sparsify
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies import _moving
from lthjax.topologies._drop_and_grow import drop_and_grow


def rigl(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule | None = None,
  masks: chex.ArrayTree | None = None,
  key: chex.PRNGKey | None = None,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  pattern: Pattern = Unstructured(),
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
    sparsity: dead share of all prunable weights, in [0, 1), or an optax
      schedule of it over steps, which may rise and fall: GraNet is RigL with
      one that rises from a lower sparsity.
    masks: masks to start from, such as a ticket's, instead of random ones; they
      tell the sparsity of every layer, and what is dense.
    key: random key of the first masks; not needed with ``masks``.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    pattern: which shapes may survive. Under `lthjax.patterns.NM` every group
      keeps exactly n after every move.
    update_every: steps between moves, which come at its multiples, counted
      from 1.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights of a layer that a move replaces:
      a number, which falls by a cosine to zero at ``stop_step``, or an optax
      schedule over steps.
    applies_gradient: whether a step that moves masks also trains, before they
      move. RigL's own code moves masks instead: no weight, moment or other slot
      changes then, but counts of steps go on, so that learning-rate schedules
      and bias corrections stay in time.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: if times, sparsities or fractions are out of range, or both of
      ``sparsity`` and ``masks`` are given, or neither; from ``init`` if the
      budget or the masks do not fit the params or the pattern.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.rigl(
    ...   optax.sgd(0.1, momentum=0.9),
    ...   sparsity=0.75,
    ...   densities=lth.densities.erk,
    ...   update_every=2,
    ...   stop_step=8,
    ...   key=jax.random.key(0),
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

  def grow_score(state, name, grad, step):
    del state, name, step
    return _moving.magnitude(grad)

  topology = drop_and_grow(
    grow_score,
    sparsity=sparsity,
    masks=masks,
    key=key,
    densities=densities,
    where=where,
    pattern=pattern,
    update_every=update_every,
    stop_step=stop_step,
    drop_fraction=drop_fraction,
    applies_gradient=applies_gradient,
  )
  return sparsify(inner, topology)
