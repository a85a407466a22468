"""SNFS: grow where the smoothed gradient is large."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import trees
from lthjax._sparsify import sparsify
from lthjax.densities import Densities
from lthjax.selection import keep_largest
from lthjax.topologies import _moves
from lthjax.topologies._drop_and_grow import drop_and_grow
from lthjax.topologies._start import Masks


class SNFSState(NamedTuple):
  """The ``grow_state`` of `snfs`.

  Attributes:
    dense_momentum: ``{name: array}``, the smoothed gradient of all weights.
  """

  dense_momentum: dict[str, jax.Array]


def snfs(
  inner: optax.GradientTransformation,
  masks: Masks,
  *,
  sparsity: optax.Schedule | None = None,
  densities: Densities | None = None,
  update_every: int = 100,
  stop_step: int,
  drop_fraction: float | optax.Schedule = 0.3,
  momentum: float = 0.9,
  redistribute: bool = False,
  applies_gradient: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Trains sparse from scratch with sparse momentum (SNFS).

  As `lthjax.rigl`, but weights grow where an average of past gradients of the
  dense layer is large. It starts at zero and is not debiased, as in the code of
  RigL, and it needs the dense gradient at every step. Entries of a gradient
  that are not finite leave their average unchanged.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    masks: initial masks, as for `lthjax.rigl`.
    sparsity: optional schedule, as for `lthjax.rigl`.
    densities: how a schedule of sparsity spreads over layers.
    update_every: steps between moves.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights to replace, as for `lthjax.rigl`.
    momentum: weight of the past in the average.
    redistribute: grow in each layer in proportion to the mean absolute momentum
      of its alive weights, as in the paper. Then only the total stays constant.
    applies_gradient: whether a step that moves masks also trains, before they
      move.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> masks = lth.random_masks(jax.random.key(0), sparsity=0.75)
    >>> tx = lth.snfs(optax.sgd(0.1), masks, stop_step=1000)
    >>> lth.masks.count(lth.get_masks(tx.init({'w': jnp.ones((4, 4))})))
    4

  References:
    Dettmers & Zettlemoyer, Sparse Networks from Scratch: Faster Training
    without Losing Performance, arXiv:1907.04840, algorithm 1.
  """
  if not 0 <= momentum < 1:
    raise ValueError(f'`momentum` was {momentum}, but must be in [0, 1).')
  if redistribute and sparsity is not None:
    raise ValueError(
      '`redistribute` keeps the number of all alive weights, so it takes no'
      ' schedule of `sparsity`. Leave one of them out.'
    )

  def init_growth(masks, params):
    values = trees.by_name(params)
    return SNFSState(
      {name: jnp.zeros_like(values[name]) for name in _moves.shapes_of(masks)}
    )

  def grow_score(grow_state, name, grad, step):
    del grad, step
    return _moves.magnitude(grow_state.dense_momentum[name])

  topology = drop_and_grow(
    grow_score,
    masks,
    init_growth=init_growth,
    sparsity=sparsity,
    densities=densities,
    update_every=update_every,
    stop_step=stop_step,
    drop_fraction=drop_fraction,
    applies_gradient=applies_gradient,
  )

  def observe_fn(state, grads):
    values = trees.by_name(grads)

    def smooth(m, g):
      # M <- alpha M + (1 - alpha) dL/dW, of dead weights too.
      mean = (momentum * m + (1 - momentum) * g).astype(m.dtype)
      return jnp.where(jnp.isfinite(mean), mean, m)

    old = state.grow_state.dense_momentum
    smoothed = {name: smooth(m, values[name]) for name, m in old.items()}
    return state._replace(grow_state=SNFSState(smoothed))

  times = _moves.Times(update_every, stop_step)

  def redistribute_fn(state, params, grads, step):
    del grads
    momenta = state.grow_state.dense_momentum
    kept, means = {}, {}
    for name, mask in trees.by_name(state.masks).items():
      if mask is None:
        continue
      w, m = trees.by_name(params)[name], momenta[name]
      # Step 1: drop the smallest share of each layer.
      alive = jnp.sum(mask, dtype=jnp.int32)
      drop = _moves.drop_count(state.drop_ratios, alive, step, times)
      kept[name] = keep_largest(_moves.magnitude(w), alive - drop, mask)
      # Step 2: the layer's part is its mean momentum magnitude.
      total = jnp.sum(jnp.where(mask, jnp.abs(m), 0), dtype=jnp.float32)
      means[name] = total / jnp.maximum(alive, 1)
    dropped = masks_total(state.masks) - masks_total(kept)
    room = {n: k.size - jnp.sum(k, dtype=jnp.int32) for n, k in kept.items()}
    # Step 3: regrow that part of all that was dropped, by momentum.
    grown = share_out(dropped, means, room)

    def grow(name, _):
      score = _moves.magnitude(momenta[name])
      return kept[name] | keep_largest(score, grown[name], ~kept[name])

    return state._replace(masks=trees.map_alive(grow, state.masks))

  move_fn = redistribute_fn if redistribute else topology.move
  return sparsify(inner, topology._replace(observe=observe_fn, move=move_fn))


def masks_total(masks: chex.ArrayTree) -> jax.Array:
  """Counts all alive weights, traced."""
  leaves = jax.tree.leaves(masks)
  return sum((jnp.sum(m, dtype=jnp.int32) for m in leaves), jnp.int32(0))


def share_out(
  total: jax.Array, weights: dict[str, jax.Array], room: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """Splits a number into integers in proportion to weights, within limits.

  Args:
    total: int32, at most the sum of ``room``.
    weights: ``{name: float}``, not negative.
    room: ``{name: int32}``, the most that each may get.

  Returns:
    ``{name: int32}`` with exactly the sum ``total``. What does not fit goes on
    to the next that has room.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.topologies._snfs import share_out
    >>> room = {'a': jnp.int32(9), 'b': jnp.int32(1)}
    >>> weights = {'a': jnp.float32(1), 'b': jnp.float32(3)}
    >>> {k: int(v) for k, v in share_out(jnp.int32(4), weights, room).items()}
    {'a': 3, 'b': 1}
  """
  names = list(weights)
  stacked = jnp.stack([weights[name] for name in names])
  stacked = jnp.where(jnp.isfinite(stacked), stacked, 0)
  even = jnp.full_like(stacked, 1 / len(names))
  shares = jnp.where(stacked.sum() > 0, stacked / stacked.sum(), even)
  ends = jnp.round(jnp.cumsum(shares) * total).astype(jnp.int32)
  ends = jnp.minimum(ends, total).at[-1].set(total)  # Never past the total.
  wanted = jnp.diff(ends, prepend=0)
  given = {name: jnp.int32(0) for name in names}
  rest = jnp.int32(0)
  for lap in range(2):  # What the last ones cannot take, the first ones can.
    for i, name in enumerate(names):
      rest += wanted[i] if lap == 0 else 0
      more = jnp.clip(rest, 0, room[name] - given[name])
      given[name] += more
      rest -= more
  return given
