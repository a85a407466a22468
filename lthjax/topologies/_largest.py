"""Dense weights of which the largest run forward: for STE, SR-STE, Top-KAST."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lthjax import _branches, _checks, trees
from lthjax import masks as masks_lib
from lthjax._late import like
from lthjax._sparsify import Topology, sparsify
from lthjax.axes import Axes
from lthjax.counts import check_int32, layer_counts, tables
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies import _batches, _layers, _moves, _select


class LargestState(NamedTuple):
  """State of the methods that run the largest weights forward.

  Attributes:
    masks: the weights that the network runs with.
    backward: the weights that train; `None` at a leaf where all of them do.
    counts: ``{name: int32[moves + 1]}``, how many weights each move keeps in
      ``masks``, the initial ones included; one entry if that never changes, and
      none if the pattern fixes it.
    backward_counts: ``{name: int32}``, how many train; empty where all do.
    stacks: as in `DropAndGrowState`.
  """

  masks: Any
  backward: Any
  counts: dict[str, jax.Array]
  backward_counts: dict[str, jax.Array]
  stacks: dict[str, jax.Array]


def run_largest(
  inner: optax.GradientTransformation,
  *,
  sparsity: float | optax.Schedule | None,
  backward_sparsity: float | None = None,
  penalize: Callable[[Any, optax.Updates, optax.Params], Any] | None = None,
  densities: Densities | None,
  where: masks_lib.Where | str | list[str],
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None = None,
  update_every: int,
  stop_step: int | None,
) -> optax.GradientTransformationExtraArgs:
  """Trains dense weights, of which the largest run forward in each layer."""
  _checks.pattern('pattern', pattern)
  last = update_every if stop_step is None else stop_step
  times = _moves.times(update_every, last)
  scheduled = times if stop_step is not None else None
  wanted = _sparsities(sparsity, pattern, densities, scheduled)

  def init_fn(params):
    masks = masks_lib.full(params, where)
    given, stacks = _layers.remember(axes, params, masks)
    shapes, its = _moves.shapes_of(masks), pattern.fit(given, masks)
    counts, backward_counts = {}, {}
    if wanted.size:
      _moves.check_not_empty(shapes, wanted.max(), densities, its)
      counts = tables(shapes, wanted, densities, axes=its)
      counts = jax.tree.map(jnp.asarray, counts)
    if backward_sparsity is not None:
      trained = layer_counts(shapes, backward_sparsity, densities, axes=its)
      check_int32(trained)
      backward_counts = _at_least(counts, trained)
    every = jax.tree.map(lambda _: None, params)
    first = LargestState(masks, every, counts, backward_counts, stacks)
    return move_fn(first, params, None, 0)

  def move_fn(state, params, _, step):
    given = _layers.recall(axes, state.stacks, state.masks)
    its = pattern.fit(given, state.masks)
    weights = _select.leaves_of(state.masks, params)
    masks = trees.prunable(state.masks)
    batches = _batches.make(pattern, masks, [weights], its)
    entry = times.entry(step) + 1

    def forward(part, _, weights):  # Every weight may come back.
      weights, every = _everything(part, weights)
      fixed: dict[str, Any] = dict.fromkeys(every)
      counts = part.entries(state.counts, entry) if state.counts else fixed
      return _select.select(pattern, weights, every, counts, part.axes)

    def backward(part, _, weights):
      weights, every = _everything(part, weights)
      counts = part.join_numbers(state.backward_counts)
      return _select.largest(weights, counts, every, _select.layers(part.axes))

    new = batches.in_turn(forward, step >= 0, masks, weights)
    state = state._replace(masks=_select.put(state.masks, new))
    if state.backward_counts:
      new = batches.in_turn(backward, step >= 0, new, weights)
      state = state._replace(backward=_select.put(state.masks, new))
    return state

  # Without a last step, masks are chosen again for as long as training lasts.
  always = functools.partial(_always, update_every)
  topology = Topology(
    init_fn,
    _branches.TakesLate(move_fn),
    always if stop_step is None else times.due,
    penalize=penalize,
    applies_gradient=True,
    grows=backward_sparsity is not None or penalize is not None,
  )
  return sparsify(inner, topology)


def _at_least(
  counts: Mapping[str, Any], trained: Mapping[str, int]
) -> dict[str, jax.Array]:
  """How many weights train: as A is part of B in Top-KAST, at least those."""
  return {n: jnp.maximum(counts[n][0], k) for n, k in trained.items()}


def _everything(part: Any, weights: Any) -> tuple[Any, dict[str, jax.Array]]:
  """Magnitudes of one part of the layers, and masks of all their weights."""
  weights = _select.magnitudes(part.join(weights))
  return weights, {n: jnp.ones_like(like(x), bool) for n, x in weights.items()}


def _always(update_every: int, step: Any) -> Any:
  return update_every == 1 or step % update_every == 0


def _sparsities(
  sparsity: float | optax.Schedule | None,
  pattern: Pattern,
  densities: Densities | None,
  times: _moves.Times | None,
) -> np.ndarray:
  """Returns the sparsity at the start and at each move; none if fixed."""
  if _moves.fixed_sparsity(sparsity, densities, pattern) is not None:
    return np.zeros(0)
  if not callable(sparsity):
    return np.array([_checks.share('sparsity', sparsity)])
  if times is None:
    raise ValueError(
      '`sparsity` is a schedule, so `stop_step` is needed: give the step at'
      ' which it ends.'
    )
  return _moves.sparsities(sparsity, np.array([0, *times.table_steps()]))
