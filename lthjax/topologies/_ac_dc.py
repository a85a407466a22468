"""AC/DC: dense and sparse phases in turn."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lthjax import _branches, _checks, trees
from lthjax import masks as masks_lib
from lthjax._late import like
from lthjax._sparsify import Topology, sparsify
from lthjax.axes import Axes
from lthjax.counts import check_int32, layer_counts, layer_sizes
from lthjax.densities import Densities
from lthjax.patterns import Unstructured
from lthjax.topologies import _batches, _layers, _moves, _select


class ACDCState(NamedTuple):
  """State of `ac_dc`.

  Attributes:
    masks: which weights are alive.
    counts: ``{name: int32}``, how many weights of a layer a sparse phase keeps.
    stacks: as in `DropAndGrowState`.
  """

  masks: Any
  counts: dict[str, jax.Array]
  stacks: dict[str, jax.Array]


def ac_dc(
  inner: optax.GradientTransformation,
  *,
  sparsity: float,
  sparse_steps: Sequence[int],
  dense_steps: Sequence[int],
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  axes: Mapping[str, Axes] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Alternates compressed and decompressed training (AC/DC).

  Starts dense. After each step of ``sparse_steps`` the largest weights of every
  layer are kept and the others are held at zero; after each step of
  ``dense_steps`` all may train again. Give a last sparse step without a dense
  one after it, and the network ends sparse.

  Args:
    inner: any optax transformation; wrap a whole chain, not a part of it.
    sparsity: dead share of all prunable weights in a sparse phase, in [0, 1).
    sparse_steps: when sparse phases begin, counted from 1.
    dense_steps: when dense phases begin; these alternate with the sparse ones.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    axes: as for `lthjax.rigl`.

  Returns:
    A transformation whose ``update`` requires ``params``.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> import lthjax as lth
    >>> tx = lth.ac_dc(
    ...   optax.sgd(0.1), sparsity=0.5, sparse_steps=[1, 3], dense_steps=[2]
    ... )
    >>> params = {'w': jnp.arange(1.0, 5.0).reshape(2, 2)}
    >>> opt_state = tx.init(params)
    >>> for step in range(3):
    ...   grads = {'w': jnp.zeros((2, 2))}
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    ...   print(lth.masks.count(lth.get_masks(opt_state)))
    2
    4
    2

  References:
    Peste et al., AC/DC: Alternating Compressed/DeCompressed Training of Deep
    Neural Networks, arXiv:2106.12379, algorithm 1.
  """
  _checks.optimizer(inner)
  _checks.densities('densities', densities)
  _checks.predicate('where', where)
  sparsity = _checks.share('sparsity', sparsity)
  phases = _phases(
    _checks.integers('sparse_steps', sparse_steps),
    _checks.integers('dense_steps', dense_steps),
  )

  def init_fn(params):
    masks = masks_lib.full(params, where)
    given, stacks = _layers.remember(axes, params, masks)
    its, shapes = Unstructured().fit(given, masks), _moves.shapes_of(masks)
    _moves.check_not_empty(shapes, sparsity, densities, its)
    counts = layer_counts(shapes, sparsity, densities, axes=its)
    check_int32(counts)
    return ACDCState(
      masks, {name: jnp.int32(n) for name, n in counts.items()}, stacks
    )

  # Phases are at given steps, not at multiples of a period.
  def moves(step):
    return jnp.any(step == jnp.asarray(phases))

  def move_fn(state, params, grads, step):
    del grads
    given = _layers.recall(axes, state.stacks, state.masks)
    its = Unstructured().fit(given, state.masks)
    # Phases take turns, beginning with a sparse one.
    dense = jnp.any(step == jnp.asarray(phases[1::2], jnp.int32))
    masks = trees.prunable(state.masks)
    # Algorithm 1: the mask is the top k of each layer, or all ones.
    sizes = layer_sizes(_moves.shapes_of(masks), its)
    counts = {
      name: jnp.where(dense, sizes[name], count)
      for name, count in state.counts.items()
    }
    weights = _select.leaves_of(state.masks, params)

    def move(part, _, weights):
      weights = _select.magnitudes(part.join(weights))
      return _select.largest(
        weights,
        part.join_numbers(counts),
        {n: jnp.ones_like(like(x), bool) for n, x in weights.items()},
        _select.layers(part.axes),
      )

    batches = _batches.make(Unstructured(), masks, [weights], its)
    new = batches.in_turn(move, step > 0, masks, weights)
    return state._replace(masks=_select.put(state.masks, new))

  topology = Topology(
    init_fn, _branches.TakesLate(move_fn), moves, applies_gradient=True
  )
  return sparsify(inner, topology)


def _phases(sparse: Sequence[int], dense: Sequence[int]) -> list[int]:
  """Returns the steps at which phases begin, in order."""
  steps = sorted([*sparse, *dense])
  take_turns = (sorted(sparse), sorted(dense)) == (steps[::2], steps[1::2])
  one_by_one = all(a < b for a, b in itertools.pairwise([0, *steps]))
  if not (steps and take_turns and one_by_one):
    raise ValueError(
      f'`sparse_steps` were {list(sparse)} and `dense_steps` {list(dense)}, but'
      ' phases must take turns at different steps from 1 on, a sparse one'
      ' first.'
    )
  return steps
