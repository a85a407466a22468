"""SNFS: grow where the smoothed gradient is large."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _checks, trees
from lthjax._sparsify import sparsify
from lthjax.axes import Axes
from lthjax.densities import Densities
from lthjax.patterns import Unstructured
from lthjax.topologies import _layers, _moves, _select, _start
from lthjax.topologies._drop_and_grow import DropAndGrowState, drop_and_grow


class SNFSState(NamedTuple):
  """The ``grow_state`` of `snfs`.

  Attributes:
    dense_momentum: ``{name: array}``, the smoothed gradient of all weights.
  """

  dense_momentum: dict[str, jax.Array]


def snfs(
  inner: optax.GradientTransformation,
  masks: _start.Masks,
  *,
  sparsity: optax.Schedule | None = None,
  densities: Densities | None = None,
  axes: Mapping[str, Axes] | None = None,
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

  Two arguments are its own: ``momentum`` is the weight of the past in the
  average; with ``redistribute``, layers grow in proportion to the mean absolute
  momentum of their alive weights, as in the paper, so that only the total
  number of alive weights is constant. All other arguments are as in
  `lthjax.rigl`, but a step that moves masks also trains by default.

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
  _start.check(inner, masks)
  momentum = _checks.share('momentum', momentum, 'at 1 nothing is learned')
  _checks.flag('redistribute', redistribute)
  if redistribute and sparsity is not None:
    raise ValueError(
      '`redistribute` keeps the number of all alive weights, so it takes no'
      ' schedule of `sparsity`. Leave one of them out.'
    )

  def init_growth(leaves):
    return SNFSState({name: jnp.zeros_like(w) for name, w in leaves.items()})

  def observe(state, grads):
    def smooth(m, g):
      # M <- alpha M + (1 - alpha) dL/dW, of dead weights too.
      mean = (momentum * m + (1 - momentum) * g).astype(m.dtype)
      return jnp.where(jnp.isfinite(mean), mean, m)

    old = state.dense_momentum
    return SNFSState({name: smooth(m, grads[name]) for name, m in old.items()})

  def grow_scores(state, grads, step):
    del grads, step
    return state.dense_momentum

  topology = drop_and_grow(
    grow_scores,
    masks,
    init_growth=init_growth,
    observe=observe,
    sparsity=sparsity,
    densities=densities,
    axes=axes,
    update_every=update_every,
    stop_step=stop_step,
    drop_fraction=drop_fraction,
    applies_gradient=applies_gradient,
  )
  if redistribute:
    times = _moves.Times(update_every, stop_step)
    move = functools.partial(_redistribute, axes=axes, times=times)
    topology = topology._replace(move=move)
  return sparsify(inner, topology)


def _redistribute(
  state: DropAndGrowState,
  params: chex.ArrayTree,
  grads: chex.ArrayTree,
  step: jax.Array,
  *,
  axes: Mapping[str, Axes] | None,
  times: _moves.Times,
) -> DropAndGrowState:
  """Moves masks so that layers with more momentum get more of the budget."""
  del grads
  its = Unstructured().fit(
    _layers.recall(axes, state.stacks, state.masks), state.masks
  )
  masks = trees.prunable(state.masks)
  weights = _select.magnitudes(_select.leaves_of(state.masks, params))
  momenta = state.grow_state.dense_momentum
  # Step 1: drop the smallest share of each layer.
  alive = _select.count(masks, its)
  drop = _moves.drop_counts(state.drop_ratios[times.entry(step)], alive)
  left = {n: alive[n] - drop[n] for n in masks}
  kept = _select.largest(weights, left, masks, _select.layers(its))
  # Step 2: the part of a layer is the mean momentum magnitude of its weights.
  total = {
    n: jnp.sum(
      jnp.where(mask, jnp.abs(momenta[n]), 0),
      axis=its[n].layer,
      keepdims=True,
      dtype=jnp.float32,
    )
    for n, mask in masks.items()
  }
  means = {n: total[n] / jnp.maximum(alive[n], 1) for n in masks}
  # A layer cannot grow more weights than it has dead ones.
  room = _select.count({n: ~k for n, k in kept.items()}, its)
  dropped = sum(jnp.sum(alive[n]) - jnp.sum(left[n]) for n in masks)
  # Step 3: grow that part of all that was dropped, by momentum.
  flat = [jnp.concatenate([x[n].ravel() for n in masks]) for x in (means, room)]
  grown = _share_out(jnp.asarray(dropped), *flat)
  ends = np.cumsum([alive[n].size for n in masks])[:-1]
  parts = zip(masks, jnp.split(grown, ends), strict=True)
  grow = {n: part.reshape(alive[n].shape) for n, part in parts}
  scores = _select.magnitudes(momenta)
  new = _select.grow(scores, grow, kept, _select.layers(its))
  return state._replace(masks=_select.put(state.masks, new))


def _share_out(
  total: jax.Array, weights: jax.Array, room: jax.Array
) -> jax.Array:
  """Splits a total into integers in proportion to weights, within ``room``."""
  weights = jnp.where(jnp.isfinite(weights), weights, 0)
  even = jnp.full_like(weights, 1 / len(weights))
  shares = jnp.where(weights.sum() > 0, weights / weights.sum(), even)
  # Rounding the ends of intervals, not their lengths, keeps the total.
  ends = jnp.round(jnp.cumsum(shares) * total).astype(jnp.int32)
  ends = jnp.minimum(ends, total).at[-1].set(total)  # Never past the total.
  wanted = jnp.diff(ends, prepend=0)

  # What does not fit goes on to the next layer that has room ...
  def give(rest, layer):
    wanted, room = layer
    more = jnp.clip(rest + wanted, 0, room)
    return rest + wanted - more, more

  rest, given = jax.lax.scan(give, jnp.int32(0), (wanted, room))
  # ... and from the last one to the first.
  nothing = jnp.zeros_like(wanted)
  _, more = jax.lax.scan(give, rest, (nothing, room - given))
  return given + more
