"""SRigL: RigL with the same fan-in for every neuron, and neuron ablation.

A neuron is an output of a kernel, such as ``out`` of ``[in, out]``. Its fan-in
is the number of its alive weights.
"""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax import trees
from lthjax._sparsify import Topology, sparsify
from lthjax.axes import Axes
from lthjax.counts import ratio_of, share_of
from lthjax.counts import tables as count_tables
from lthjax.densities import Densities
from lthjax.patterns import Unstructured, count_along
from lthjax.selection import keep_largest
from lthjax.topologies import _fan_in, _moves, _start


class SRigLState(NamedTuple):
  """State of `srigl`.

  Attributes:
    masks: which weights are alive.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
    budgets: ``{name: int32[moves]}``, the most alive weights that each move
      may leave in a layer.
  """

  masks: chex.ArrayTree
  drop_ratios: jax.Array
  budgets: dict[str, jax.Array]


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
  times = _moves.times(update_every, stop_step, applies_gradient)
  ratios = _moves.drop_ratios(drop_fraction, times)
  wanted = _moves.scheduled(sparsity, densities, Unstructured(), times)
  densities = densities or _start.densities_of(masks)
  if min_salient is not None and not min_salient > 0:
    raise ValueError(
      f'`min_salient` was {min_salient}, but must be positive. To ablate'
      ' nothing, give None.'
    )
  globs = [never_ablate] if isinstance(never_ablate, str) else never_ablate

  def ablates(name):
    return min_salient is not None and not trees.matches(globs, name)

  def needed_by_name(names):
    # A share of the fan-in is never too much.
    least = 1 if min_salient is None or min_salient < 1 else min_salient
    return {name: least for name in names if ablates(name)}

  def faults(masks):
    its = axes_lib.resolve(axes, masks)
    prunable = trees.prunable(masks)
    return _fan_in.faults(prunable, its, needed_by_name(prunable))

  def draw(masks, params):
    dense = masks_lib.full(params, masks.where)
    shapes, its = _moves.shapes_of(dense), axes_lib.resolve(axes, dense)
    counts = masks.counts(shapes, 'ceil', its)
    tables = {name: np.full(1, count) for name, count in counts.items()}
    _fan_in.check_budgets(shapes, its, tables, needed_by_name(shapes))

    def draw_one(name, mask, noise):
      del mask
      neurons = axes_lib.size(noise.shape, its[name].outputs)
      count = counts[name] // neurons
      return keep_largest(noise, count, axis=its[name].summed)

    return trees.map_alive(draw_one, dense, masks.noise(dense)), counts

  def init_fn(params):
    if isinstance(masks, _start.RandomMasks) and masks.pattern is None:
      first, counts = draw(masks, params)
    else:
      first = _start.initial_masks(masks, params, faults)
      counts = masks_lib.alive_by_name(first)
    its = axes_lib.resolve(axes, first)
    if wanted.size:
      shapes = _moves.shapes_of(first)
      tables = count_tables(shapes, wanted, densities, 'ceil', its)
      _fan_in.check_budgets(shapes, its, tables, needed_by_name(shapes))
      budgets = jax.tree.map(jnp.asarray, tables)
    else:
      budgets = {
        name: jnp.full(len(ratios), n, jnp.int32) for name, n in counts.items()
      }
      for name, mask in trees.prunable(first).items():
        if its[name].stack:
          each = count_along(mask, its[name].layer)
          budgets[name] = jnp.broadcast_to(each, (len(ratios), *each.shape))
    return SRigLState(first, jnp.asarray(ratios), budgets)

  def move_fn(state, params, grads, step):
    its = axes_lib.resolve(axes, state.masks)

    def move(name, mask, w, g):
      budget = state.budgets[name][times.entry(step)]
      alive = count_along(mask, its[name].layer)
      stay = jnp.minimum(alive, budget)
      return move_layer(
        mask,
        _moves.magnitude(w),
        _moves.magnitude(g),
        _moves.drop_count(state.drop_ratios, stay, step, times),
        budget,
        min_salient if ablates(name) else None,
        its[name],
      )

    masks = trees.map_alive(move, state.masks, params, grads)
    return state._replace(masks=masks)

  topology = Topology(
    init_fn, move_fn, times.due, applies_gradient=applies_gradient
  )
  return sparsify(inner, topology)


def move_layer(
  mask: jax.Array,
  magnitude: jax.Array,
  growth: jax.Array,
  drop: jax.Array | int,
  budget: jax.Array | int,
  min_salient: float | None,
  axes: Axes = Axes(inputs=(0,), outputs=(1,)),
) -> jax.Array:
  """Moves the mask of one layer.

  Args:
    mask: bool array, which weights are alive.
    magnitude: absolute weights.
    growth: absolute gradients of all weights.
    drop: how many weights to drop of those that the budget lets stay.
    budget: the most alive weights of the layer.
    min_salient: see `srigl`.
    axes: of the kernel; the numbers above are those of one layer of a stack.

  Returns:
    The new mask: ``budget // active neurons`` weights in every active neuron.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.topologies._srigl import move_layer
    >>> mask = jnp.array([[True, False], [False, True], [False, False]])
    >>> weights = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> grads = jnp.array([[0.0, 0.0], [0.0, 0.0], [2.0, 9.0]])
    >>> move_layer(mask, weights, grads, 1, 2, None).astype(int)
    Array([[1, 0],
           [0, 0],
           [0, 1]], dtype=int32)

  References:
    Lasby et al., Dynamic Sparse Training with Structured Sparsity,
    arXiv:2305.02299, section 3.1, steps 1 to 7.
  """
  neurons = axes_lib.size(mask.shape, axes.outputs)
  # Steps 1 and 2 give `magnitude`, `growth` and `drop`, the paper's K.
  stay = jnp.minimum(count_along(mask, axes.layer), budget) - drop

  # Whether each neuron is active, along axes of size one where it sums.
  active = jnp.any(jnp.ones_like(mask), axis=axes.summed, keepdims=True)
  if min_salient is not None:
    # 3. Count the salient weights of each neuron: those kept by magnitude, and
    # the K largest gradients.
    salient = keep_largest(magnitude, stay, mask, axis=axes.layer)
    salient |= keep_largest(growth, drop, ~mask, axis=axes.layer)
    count = count_along(salient, axes.summed)
    enough = min_salient
    if min_salient < 1:
      ratio = ratio_of(min_salient).as_integer_ratio()
      enough = jnp.maximum(1, share_of(budget // neurons, *ratio, 'floor'))
    # 4. Ablate neurons with too few; never so many that the others would need
    # more than all their inputs.
    least = -(-budget // axes_lib.fan_in(mask.shape, axes))
    most_salient = keep_largest(
      count.astype(jnp.float32), least, axis=axes.layer
    )
    active = (count >= enough) | most_salient

  # 5. Compute the fan-in of the neurons that are left.
  each = budget // count_along(active, axes.layer)
  # 6. Drop the K smallest weights of the layer, and what exceeds the fan-in.
  keep = keep_largest(magnitude, stay, mask & active, axis=axes.layer)
  keep = keep_largest(magnitude, each, keep, axis=axes.summed)
  # 7. Grow each active neuron to its fan-in, largest gradients first.
  missing = each - count_along(keep, axes.summed)
  missing = jnp.where(active, missing, 0)
  return keep | keep_largest(growth, missing, ~keep, axis=axes.summed)
