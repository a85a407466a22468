"""SRigL: RigL with the same fan-in for every neuron, and neuron ablation.

A neuron is a column of a kernel whose last axis is the output: ``[in, out]`` or
``[height, width, in, out]``. Its fan-in is the number of its alive weights.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.densities import Densities
from lthjax.prune import layer_counts, ratio_of, share_of
from lthjax.selection import keep_largest
from lthjax.sparsify import Topology, sparsify
from lthjax.topologies import moving


class SRigLState(NamedTuple):
  """State of `srigl`.

  Attributes:
    masks: which weights are alive.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
    budgets: ``{name: int32}``, the most alive weights a layer may have.
  """

  masks: chex.ArrayTree
  drop_ratios: jax.Array
  budgets: dict[str, jax.Array]


def srigl(
  inner: optax.GradientTransformation,
  *,
  sparsity: float,
  key: chex.PRNGKey,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  update_every: int = 100,
  stop_step: int,
  drop_fraction: float | optax.Schedule = 0.3,
  min_salient: float | None = 0.3,
  never_ablate: str | list[str] = 'output/*',
  applies_gradient: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Trains sparse from scratch with a constant fan-in a neuron (SRigL).

  At a move each layer drops its smallest alive weights, and every neuron grows
  where its gradient is largest until all have the same fan-in. Neurons with too
  few salient weights are ablated, and the others get their share; a neuron can
  come back at a later move.

  Two defects of the reference code are mended: weights of ablated neurons do
  not count among those kept, and a neuron over its fan-in loses its smallest
  weights rather than arbitrary ones.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: dead share of all prunable weights, in [0, 1). What does not
      divide by the number of neurons is left out.
    key: random key of the first masks.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.dense`.
    update_every: steps between moves, which come at its multiples, counted
      from 1.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights of a layer that a move replaces:
      a number, which falls by a cosine to zero at ``stop_step``, or an optax
      schedule over steps.
    min_salient: the share of its fan-in that must be salient for a neuron to
      stay, or, from 1 on, how many weights; `None` ablates nothing. The paper
      has 0.3 for convolutional networks and 0.95 for transformers.
    never_ablate: globs over names of layers that keep all their neurons, such
      as the classifier. Globs that match nothing are ignored.
    applies_gradient: whether a step that moves masks also trains, before they
      move.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Raises:
    ValueError: if times or fractions are out of range; from ``init`` if a layer
      has a budget below one weight a neuron.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.srigl(
    ...   optax.sgd(0.1), sparsity=0.75, stop_step=1000, key=jax.random.key(0)
    ... )
    >>> masks = lth.get_masks(tx.init({'w': jnp.ones((8, 4))}))
    >>> masks['w'].sum(axis=0)
    Array([2, 2, 2, 2], dtype=int32)

  References:
    Lasby et al., Dynamic Sparse Training with Structured Sparsity,
    arXiv:2305.02299, section 3.
  """
  moving.check_times(update_every, stop_step)
  moving.check_sparsity(sparsity)
  ratios = moving.drop_ratios(drop_fraction, update_every, stop_step)
  if min_salient is not None and min_salient <= 0:
    raise ValueError(
      f'`min_salient` was {min_salient}, but must be positive. To ablate'
      ' nothing, give None.'
    )
  globs = [never_ablate] if isinstance(never_ablate, str) else never_ablate

  def init_fn(params):
    dense = masks_lib.dense(params, where)
    shapes = moving.shapes_of(dense)
    budgets = layer_counts(shapes, sparsity, densities, rounding='ceil')
    _check_budgets(shapes, budgets)

    def draw(name, mask):
      noise = jax.random.uniform(trees.fold_in_name(key, name), mask.shape)
      fan_in = budgets[name] // mask.shape[-1]
      return _per_neuron(noise, fan_in, mask)

    return SRigLState(
      masks=trees.map_alive(draw, dense),
      drop_ratios=jnp.asarray(ratios),
      budgets={name: jnp.int32(count) for name, count in budgets.items()},
    )

  def move_fn(state, params, grads, step):
    def move(name, mask, w, g):
      alive = jnp.sum(mask, dtype=jnp.int32)
      ablates = min_salient is not None and not trees.matches(globs, name)
      return move_layer(
        mask,
        moving.magnitude(w),
        moving.magnitude(g),
        moving.drop_count(state.drop_ratios, alive, step, update_every),
        state.budgets[name],
        min_salient if ablates else None,
      )

    masks = trees.map_alive(move, state.masks, params, grads)
    return state._replace(masks=masks)

  topology = Topology(
    init_fn,
    move_fn,
    moving.moves(update_every, stop_step),
    applies_gradient=applies_gradient,
  )
  return sparsify(inner, topology)


def move_layer(
  mask: jax.Array,
  magnitude: jax.Array,
  growth: jax.Array,
  drop: jax.Array | int,
  budget: jax.Array | int,
  min_salient: float | None,
) -> jax.Array:
  """Moves the mask of one layer; the last axis counts its neurons.

  Args:
    mask: which weights are alive.
    magnitude: absolute weights.
    growth: absolute gradients of all weights.
    drop: how many alive weights to drop.
    budget: the most alive weights of the layer.
    min_salient: see `srigl`.

  Returns:
    The new mask: ``budget // active neurons`` weights in every active neuron.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax.topologies.srigl import move_layer
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
  neurons = mask.shape[-1]
  dense_fan_in = mask.size // neurons
  alive = jnp.sum(mask, dtype=jnp.int32)

  active = jnp.ones(neurons, bool)
  if min_salient is not None:
    salient = keep_largest(magnitude, alive - drop, mask)
    salient |= keep_largest(growth, drop, ~mask)
    count = _fan_in(salient)
    enough = min_salient
    if min_salient < 1:
      ratio = ratio_of(min_salient).as_integer_ratio()
      enough = jnp.maximum(1, share_of(budget // neurons, *ratio, 'floor'))
    # Never so few neurons that they would need more than all their inputs.
    least = -(-budget // dense_fan_in)
    most_salient = keep_largest(count.astype(jnp.float32), least)
    active = (count >= enough) | most_salient

  fan_in = budget // jnp.sum(active, dtype=jnp.int32)
  keep = keep_largest(magnitude, alive - drop, mask & active)
  keep = _per_neuron(magnitude, fan_in, keep)
  missing = jnp.where(active, fan_in - _fan_in(keep), 0)
  return keep | _per_neuron(growth, missing, ~keep)


def _per_neuron(
  scores: jax.Array, count: jax.Array | int, eligible: jax.Array
) -> jax.Array:
  """Keeps the ``count`` largest scores of every neuron."""
  columns = (-1, scores.shape[-1])
  keep = keep_largest(
    scores.reshape(columns), count, eligible.reshape(columns), axis=0
  )
  return keep.reshape(scores.shape)


def _fan_in(mask: jax.Array) -> jax.Array:
  """Counts the alive weights of every neuron."""
  return jnp.sum(mask, axis=tuple(range(mask.ndim - 1)), dtype=jnp.int32)


def _check_budgets(
  shapes: dict[str, tuple[int, ...]], budgets: dict[str, int]
) -> None:
  faults = [
    f'{name} has {budgets[name]} weights for {shape[-1]} neurons; one each is a'
    f' sparsity of {moving.sparsity_of(shape[-1], math.prod(shape))}'
    for name, shape in shapes.items()
    if budgets[name] < shape[-1]
  ]
  if faults:
    raise ValueError(
      'A constant fan-in needs at least one weight a neuron, but'
      f' {"; ".join(faults)}. Lower the sparsity, spread it with `densities=`,'
      ' or leave these layers dense with `where=`.'
    )
