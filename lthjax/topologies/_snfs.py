"""SNFS: grow where the smoothed gradient is large."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax._sparsify import sparsify
from lthjax.densities import Densities
from lthjax.selection import keep_largest
from lthjax.topologies import _moving
from lthjax.topologies._drop_and_grow import drop_and_grow


class SNFSState(NamedTuple):
  """State of `snfs`.

  Attributes:
    masks: which weights are alive.
    key: random key of the first masks, if they were random.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
    counts: ``{name: int32[moves]}``, how many weights each move leaves alive;
      empty where that never changes.
    dense_momentum: ``{name: array}``, the smoothed gradient of all weights.
  """

  masks: chex.ArrayTree
  key: chex.PRNGKey | None
  drop_ratios: jax.Array
  counts: dict[str, jax.Array]
  dense_momentum: dict[str, jax.Array]


def snfs(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule | None = None,
  masks: chex.ArrayTree | None = None,
  key: chex.PRNGKey | None = None,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
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
  that are not finite leave their average as it was.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: dead share of all prunable weights, in [0, 1), or an optax
      schedule of it over steps, which may rise and fall.
    masks: masks to start from, such as a ticket's, instead of random ones; they
      tell the sparsity of every layer, and what is dense.
    key: random key of the first masks; not needed with ``masks``.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    update_every: steps between moves, which come at its multiples, counted
      from 1.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights of a layer that a move replaces:
      a number, which falls by a cosine to zero at ``stop_step``, or an optax
      schedule over steps.
    momentum: weight of the past in the average.
    redistribute: grow in each layer in proportion to the mean absolute momentum
      of its alive weights, as in the paper. Then only the total stays constant.
    applies_gradient: whether a step that moves masks also trains, before they
      move.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: if times, sparsities, fractions or the momentum are out of
      range, both of ``sparsity`` and ``masks`` are given, or neither, or
      ``redistribute`` meets a schedule of sparsity; from ``init`` if the budget
      or the masks do not fit the params.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.snfs(
    ...   optax.sgd(0.1), sparsity=0.75, stop_step=1000, key=jax.random.key(0)
    ... )
    >>> lth.masks.count(lth.get_masks(tx.init({'w': jnp.ones((4, 4))})))
    4

  References:
    Dettmers & Zettlemoyer, Sparse Networks from Scratch: Faster Training
    without Losing Performance, arXiv:1907.04840, algorithm 1.
  """
  if not 0 <= momentum < 1:
    raise ValueError(f'`momentum` was {momentum}, but must be in [0, 1).')
  if redistribute and callable(sparsity):
    raise ValueError(
      '`redistribute` keeps the number of all alive weights, so `sparsity` must'
      ' be a number then, not a schedule.'
    )

  def grow_score(state, name, grad, step):
    del grad, step
    return _moving.magnitude(state.dense_momentum[name])

  topology = drop_and_grow(
    grow_score,
    sparsity=sparsity,
    masks=masks,
    key=key,
    densities=densities,
    where=where,
    update_every=update_every,
    stop_step=stop_step,
    drop_fraction=drop_fraction,
    applies_gradient=applies_gradient,
  )

  def init_fn(params):
    state = topology.init(params)
    values = trees.by_name(params)
    zeros = {
      name: jnp.zeros_like(values[name])
      for name in _moving.shapes_of(state.masks)
    }
    return SNFSState(*state, dense_momentum=zeros)

  def observe_fn(state, grads):
    values = trees.by_name(grads)

    def smooth(m, g):
      mean = (momentum * m + (1 - momentum) * g).astype(m.dtype)
      return jnp.where(jnp.isfinite(mean), mean, m)

    smoothed = {
      name: smooth(m, values[name]) for name, m in state.dense_momentum.items()
    }
    return state._replace(dense_momentum=smoothed)

  def redistribute_fn(state, params, grads, step):
    del grads
    kept, means = {}, {}
    for name, mask in trees.by_name(state.masks).items():
      if mask is None:
        continue
      w, m = trees.by_name(params)[name], state.dense_momentum[name]
      alive = jnp.sum(mask, dtype=jnp.int32)
      drop = _moving.drop_count(state.drop_ratios, alive, step, update_every)
      kept[name] = keep_largest(_moving.magnitude(w), alive - drop, mask)
      total = jnp.sum(jnp.where(mask, jnp.abs(m), 0), dtype=jnp.float32)
      means[name] = total / jnp.maximum(alive, 1)
    dropped = masks_total(state.masks) - masks_total(kept)
    room = {n: k.size - jnp.sum(k, dtype=jnp.int32) for n, k in kept.items()}
    grown = share_out(dropped, means, room)
    masks = trees.map_alive(
      lambda name, _: (
        kept[name]
        | keep_largest(
          grow_score(state, name, None, step), grown[name], ~kept[name]
        )
      ),
      state.masks,
    )
    return state._replace(masks=masks)

  return sparsify(
    inner,
    topology._replace(
      init=init_fn,
      observe=observe_fn,
      move=redistribute_fn if redistribute else topology.move,
    ),
  )


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
