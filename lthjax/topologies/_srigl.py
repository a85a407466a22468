"""SRigL: RigL with the same fan-in for every neuron, and neuron ablation.

A neuron is an output of a kernel, such as ``out`` of ``[in, out]``. Its fan-in
is the number of its alive weights.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _branches, _checks, trees
from lthjax import axes as axes_lib
from lthjax._sparsify import Topology, sparsify
from lthjax._sums import count_true
from lthjax.axes import Axes
from lthjax.counts import ratio_of, share_of, tables
from lthjax.densities import Densities
from lthjax.patterns import Unstructured
from lthjax.topologies import (
  _batches,
  _fan_in,
  _layers,
  _moves,
  _select,
  _start,
)


class SRigLState(NamedTuple):
  """State of `srigl`.

  Attributes:
    masks: which weights are alive.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
    budgets: ``{name: int32[moves]}``, the most alive weights that each move
      may leave in a layer; of length one where that never changes, with axes of
      the layers for stacks whose layers differ.
    stacks: as in `DropAndGrowState`.
  """

  masks: Any
  drop_ratios: jax.Array
  budgets: dict[str, jax.Array]
  stacks: dict[str, jax.Array]


def srigl(
  inner: optax.GradientTransformation,
  masks: _start.Masks,
  *,
  sparsity: optax.Schedule | None = None,
  densities: Densities | None = None,
  update_every: int = 100,
  stop_step: int,
  drop_fraction: float | optax.Schedule = 0.3,
  min_salient: float | None = 0.3,
  never_ablate: str | list[str] = 'output/*',
  axes: Mapping[str, Axes] | None = None,
  applies_gradient: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Trains sparse from scratch with a constant fan-in per neuron (SRigL).

  At a move each layer drops its smallest alive weights, and every neuron grows
  where its gradient is largest until all have the same fan-in. Neurons with too
  few salient weights are ablated, and the others get their share; a neuron can
  come back at a later move.

  Two bugs of the reference code are fixed: weights of ablated neurons do not
  count among those kept, and a neuron above its fan-in loses its smallest
  weights rather than arbitrary ones. And the mask decides what is alive: the
  reference code drops alive weights that happen to be zero, so that its masks
  move even where the drop fraction is zero.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    masks: initial masks: `lthjax.random_masks`, which are drawn with a constant
      fan-in here, so that what does not divide by the number of neurons is left
      out; or a tree, or another function of params, with the same fan-in in all
      neurons of a layer that are not ablated.
    sparsity: optional schedule, as for `lthjax.rigl`.
    densities: how a schedule of sparsity spreads over layers.
    update_every: steps between moves.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights to replace, as for `lthjax.rigl`.
    min_salient: the share of its fan-in that must be salient for a neuron to
      stay, or, from 1 on, how many weights; `None` ablates nothing. The paper
      has 0.3 for convolutional networks and 0.95 for transformers.
    never_ablate: globs over names of layers that keep all their neurons, such
      as the classifier. Globs that match nothing are ignored.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes count neurons. Each layer of a stack moves on its
      own.
    applies_gradient: whether a step that moves masks also trains, before they
      move.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> masks = lth.random_masks(jax.random.key(0), sparsity=0.75)
    >>> tx = lth.srigl(optax.sgd(0.1), masks, stop_step=1000)
    >>> masks = lth.get_masks(tx.init({'w': jnp.ones((8, 4))}))
    >>> masks['w'].sum(axis=0)
    Array([2, 2, 2, 2], dtype=int32)

  References:
    Lasby et al., Dynamic Sparse Training with Structured Sparsity,
    arXiv:2305.02299, section 3.
  """
  _start.check(inner, masks)
  masks = _start.completed(masks, None, axes)
  times = _moves.times(update_every, stop_step, applies_gradient)
  ratios = _moves.drop_ratios(drop_fraction, times)
  wanted = _moves.scheduled(sparsity, densities, Unstructured(), times)
  densities = densities or _start.densities_of(masks)
  least = _ablation(min_salient, never_ablate)

  def faults(params, masks):
    names = trees.prunable(masks)
    given, _ = _layers.remember(axes, params, masks)
    return _fan_in.faults(names, axes_lib.resolve(given, masks), least(names))

  def init_fn(params):
    budgets = None
    if isinstance(masks, _start.RandomMasks) and masks.pattern is None:
      first, budgets = _draw(masks, params, least)
    else:
      own = functools.partial(faults, params)
      first = _start.initial_masks(masks, params, own)
    given, stacks = _layers.remember(axes, params, first)
    its = axes_lib.resolve(given, first)
    _moves.check_alive(first, its)
    if wanted.size:
      shapes = _moves.shapes_of(first)
      budgets = tables(shapes, wanted, densities, 'ceil', its)
      _fan_in.check_budgets(shapes, its, budgets, least(shapes))
    elif budgets is None:
      budgets = _constant(_select.count(trees.prunable(first), its))
    budgets = jax.tree.map(jnp.asarray, budgets)
    return SRigLState(first, jnp.asarray(ratios), budgets, stacks)

  def move_fn(state, params, grads, step):
    given = _layers.recall(axes, state.stacks, state.masks)
    its = axes_lib.resolve(given, state.masks)
    masks = trees.prunable(state.masks)
    weights = _select.leaves_of(state.masks, params)
    grads = _select.leaves_of(state.masks, grads)

    move = functools.partial(_move, state, step, times, least)
    batches = _batches.make(
      Unstructured(), masks, [weights, grads], its, least(masks)
    )
    new = batches.in_turn(move, step > 0, masks, weights, grads)
    return state._replace(masks=_select.put(state.masks, new))

  return sparsify(
    inner,
    Topology(
      init_fn,
      _branches.TakesLate(move_fn),
      times.due,
      applies_gradient=applies_gradient,
    ),
  )


def _move(
  state: SRigLState,
  step: Any,
  times: _moves.Times,
  least: Callable[[Iterable[str]], dict[str, float]],
  part: Any,
  masks: dict[str, jax.Array],
  *tables: Any,
) -> dict[str, jax.Array]:
  """Moves the masks of one part of the layers."""
  weights, grads = map(part.join, tables)
  budgets = part.entries(state.budgets, times.entry(step))
  alive = _select.count(masks, part.axes)
  stay = {n: jnp.minimum(alive[n], budgets[n]) for n in masks}
  return move_layers(
    masks,
    _select.magnitudes(weights),
    _select.magnitudes(grads),
    _moves.drop_counts(state.drop_ratios[times.entry(step)], stay),
    budgets,
    least(masks),
    part.axes,
  )


def _ablation(min_salient: Any, never_ablate: Any) -> Callable[..., Any]:
  """Checks what says which neurons are ablated."""
  if min_salient is not None:
    min_salient = _checks.positive('min_salient', min_salient)
  globs = _checks.globs('never_ablate', never_ablate)
  return functools.partial(_least, min_salient, globs)


def _constant(alive: Mapping[str, Any]) -> dict[str, Any]:
  """Tables of one entry, for budgets that never change."""
  return {n: k[None] if k.size > 1 else k.reshape(1) for n, k in alive.items()}


def _least(
  min_salient: float | None, globs: list[str], names: Iterable[str]
) -> dict[str, float]:
  """Returns the salient weights that neurons need, if they may be ablated."""
  if min_salient is None:
    return {}
  return {n: min_salient for n in names if not trees.matches(globs, n)}


def _draw(
  masks: _start.RandomMasks,
  params: chex.ArrayTree,
  least: Callable[[Iterable[str]], dict[str, float]],
) -> tuple[chex.ArrayTree, dict[str, Any]]:
  """Draws random masks with a constant fan-in; and the budgets, of one move."""
  dense, given = masks.dense(params)
  shapes, its = _moves.shapes_of(dense), axes_lib.resolve(given, dense)
  counts = masks.counts(shapes, 'ceil', its)
  budgets = {name: np.full(1, count) for name, count in counts.items()}
  _fan_in.check_budgets(shapes, its, budgets, least(shapes))
  neurons = {n: axes_lib.size(shapes[n], its[n].outputs) for n in shapes}
  first = _select.largest(
    trees.prunable(masks.noise(dense)),
    {n: count // max(neurons[n], 1) for n, count in counts.items()},
    trees.prunable(dense),
    {n: its[n].summed for n in shapes},
  )
  return _select.put(dense, first), budgets


def move_layers(
  masks: _select.Table,
  magnitude: _select.Table,
  growth: _select.Table,
  drop: Mapping[str, Any],
  budget: Mapping[str, Any],
  least: Mapping[str, float],
  axes: Mapping[str, Axes],
) -> dict[str, jax.Array]:
  """Moves the masks: ``budget // active neurons`` weights per active neuron."""
  layer = _select.layers(axes)
  summed = {n: its.summed for n, its in axes.items()}
  # The numbers are the paper's, section 3.1. Steps 1 and 2 give `magnitude` of
  # the weights, `growth` of the gradients, and `drop`, the paper's K.
  alive = _select.count(masks, axes)
  stay = {n: jnp.minimum(alive[n], budget[n]) - drop[n] for n in masks}
  # 3. Count the salient weights of each neuron: those kept by magnitude, and
  # the K largest gradients.
  some = {n: masks[n] for n in least}
  kept = _select.largest(magnitude, stay, some, layer)
  # None of `kept` is dead, but XLA does not know it, and searches one by one.
  dead = _select.others(growth, {n: m | kept[n] for n, m in some.items()})
  grown = _select.largest(growth, drop, dead, layer)
  salient = {
    n: count_true(kept[n], summed[n]) + count_true(grown[n], summed[n])
    for n in least
  }
  # 4. Ablate neurons with too few.
  active = {
    n: jnp.any(jnp.ones_like(mask), summed[n], keepdims=True)
    for n, mask in masks.items()
  }
  shapes = {n: mask.shape for n, mask in masks.items()}
  active |= _active(salient, budget, least, shapes, axes)
  # 5. Compute the fan-in of the neurons that are left.
  neurons = _select.count(active, axes)
  fan_in = {n: budget[n] // neurons[n] for n in masks}
  # 6. Drop the K smallest weights of the layer, and what exceeds the fan-in.
  keep = {n: mask & active[n] for n, mask in masks.items()}
  keep = _select.largest(magnitude, stay, keep, layer)
  keep = _select.largest(magnitude, fan_in, keep, summed)
  # 7. Grow each active neuron to its fan-in, largest gradients first.
  missing = {
    n: jnp.where(active[n], fan_in[n] - count_true(k, summed[n]), 0)
    for n, k in keep.items()
  }
  return _select.grow(growth, missing, keep, summed)


def _active(
  salient: _select.Table,
  budget: Mapping[str, Any],
  least: Mapping[str, float],
  shapes: Mapping[str, tuple[int, ...]],
  axes: Mapping[str, Axes],
) -> dict[str, jax.Array]:
  """Returns the neurons with enough salient weights, or the most of them."""
  needed: dict[str, Any] = dict(least)
  for n, share in least.items():
    if share < 1:
      fan_in = budget[n] // max(axes_lib.size(shapes[n], axes[n].outputs), 1)
      ratio = ratio_of(share).as_integer_ratio()
      needed[n] = jnp.maximum(1, share_of(fan_in, *ratio, 'floor'))
  # Never so few neurons that a neuron would need more than all of its inputs.
  most_salient = _select.largest(
    {n: k.astype(jnp.float32) for n, k in salient.items()},
    {
      n: -(-budget[n] // max(axes_lib.fan_in(shapes[n], axes[n]), 1))
      for n in least
    },
    {n: jnp.ones_like(k, bool) for n, k in salient.items()},
    _select.layers(axes),
  )
  return {n: (salient[n] >= needed[n]) | most_salient[n] for n in least}
