"""SET: drop small weights, grow at random."""

import functools
from collections.abc import Mapping

import chex
import jax.numpy as jnp
import optax

from lthjax import _chance, _checks, _sharding
from lthjax._late import Late
from lthjax._sparsify import sparsify
from lthjax.axes import Axes
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies import _batches, _moves, _start
from lthjax.topologies._drop_and_grow import drop_and_grow


def sparse_evolution(
  inner: optax.GradientTransformation,
  masks: _start.Masks,
  *,
  key: chex.PRNGKey,
  sparsity: optax.Schedule | None = None,
  densities: Densities | None = None,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
  update_every: int = 100,
  stop_step: int,
  drop_fraction: float | optax.Schedule = 0.3,
  applies_gradient: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Trains sparse from scratch with Sparse Evolutionary Training (SET).

  At a move each layer drops its smallest alive weights and grows as many at
  random among the others. The gradient is applied first.

  The paper drops the smallest positive and the largest negative weights; like
  the code of RigL, this drops by magnitude.

  All growth is drawn from ``key``. All other arguments are as in `lthjax.rigl`,
  but a step that moves masks also trains by default.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> first, growth = jax.random.split(jax.random.key(0))
    >>> tx = lth.sparse_evolution(
    ...   optax.sgd(0.1, momentum=0.9),
    ...   lth.random_masks(first, sparsity=0.75, densities=lth.densities.erk),
    ...   key=growth,
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
    Mocanu et al., Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science, arXiv:1707.04780,
    algorithm 1.
  """

  def init_growth(leaves):
    del leaves
    return jnp.copy(key)  # Donating the state must not delete the user's key.

  def grow_scores(key, grads, step):
    # Algorithm 1, "add randomly new weights in the same amount".
    def draw(name, g):
      # The same bits in less memory, or as a smaller program.
      large = _batches.is_large(g)
      uniform = _chance.uniform if large else _sharding.uniform
      return uniform(_moves.layer_key(key, step, name), g)

    return {
      name: Late(
        g, functools.partial(draw, name, g), cheap=True, dtype=jnp.float32
      )
      for name, g in grads.items()
    }

  _start.check(inner, masks)
  _checks.key('key', key)
  topology = drop_and_grow(
    grow_scores,
    masks,
    init_growth=init_growth,
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
