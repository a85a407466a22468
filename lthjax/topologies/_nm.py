"""N:M magnitude pruning while training: n of every m weights stay."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax._sparsify import Topology, sparsify
from lthjax.patterns import NM, Axis
from lthjax.schedules import polynomial_sparsity
from lthjax.topologies import _moving


class NMState(NamedTuple):
  """State of `nm`.

  Attributes:
    masks: which weights are alive.
    kept: int32[moves], how many weights of a group each move keeps.
  """

  masks: chex.ArrayTree
  kept: jax.Array


def nm(
  inner: optax.GradientTransformation,
  *,
  n: int,
  m: int,
  axis: Axis | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  update_every: int = 100,
  stop_step: int,
) -> optax.GradientTransformationExtraArgs:
  """Prunes by magnitude to n of every m weights while training.

  Starts dense. After the steps ``update_every``, ``2 * update_every`` and so on
  every group keeps its largest alive weights: m at first, and n at
  ``stop_step``, along the polynomial of gradual pruning. Masks nest.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    n: how many weights of a group survive.
    m: how many weights a group has.
    axis: the axis of the groups, as for `lthjax.patterns.NM`; the contraction
      axis by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    update_every: steps between moves.
    stop_step: the last step at which weights may die. Equal to
      ``update_every``, it prunes once.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: if times are out of range; from ``init`` if n, m or an axis does
      not fit, naming the layers.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.nm(optax.sgd(0.1), n=2, m=4, update_every=1, stop_step=2)
    >>> params = {'w': jnp.arange(1.0, 9.0).reshape(8, 1)}
    >>> opt_state = tx.init(params)
    >>> for step in range(2):
    ...   grads = {'w': jnp.zeros((8, 1))}
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    >>> params['w'].ravel()
    Array([0., 0., 3., 4., 0., 0., 7., 8.], dtype=float32)

  References:
    Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378,
    section 3; Zhu & Gupta, To prune, or not to prune, arXiv:1710.01878, for the
    schedule.
  """
  _moving.check_times(update_every, stop_step)
  pattern = NM(n, m, axis)

  def init_fn(params):
    masks = masks_lib.full(params, where)
    pattern.check(_moving.shapes_of(masks))
    sparsity = polynomial_sparsity(1 - n / m, 0, stop_step)
    wanted = _moving.at_moves(sparsity, update_every, stop_step)
    kept = [max(n, round(m * (1 - share))) for share in wanted]
    return NMState(masks, jnp.asarray([*kept[:-1], n], jnp.int32))

  def move_fn(state, params, grads, step):
    del grads
    count = _moving.at_move(state.kept, step, update_every)

    def move(name, mask, w):
      return pattern.select(name, _moving.magnitude(w), mask, count)

    masks = trees.map_alive(move, state.masks, params)
    return state._replace(masks=masks)

  topology = Topology(
    init_fn,
    move_fn,
    _moving.moves(update_every, stop_step),
    applies_gradient=True,
  )
  return sparsify(inner, topology)
