"""Drop some weights, grow as many: the frame of SET, RigL and SNFS."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lthjax import _branches, _checks, trees
from lthjax._late import like, now
from lthjax._sharding import may_be_sharded
from lthjax._sparsify import Topology
from lthjax.axes import Axes
from lthjax.counts import tables
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.topologies import _batches, _layers, _moves, _select, _start

Table = dict[str, jax.Array]  # of arrays by the name of the layer
# grow_scores(state, grads, step) -> scores
GrowScores = Callable[[Any, Table, jax.Array], dict[str, Any]]


class DropAndGrowState(NamedTuple):
  """State of a topology that drops and grows.

  Attributes:
    masks: which weights are alive.
    drop_ratios: int32[moves, 2], numerators and denominators of the share of
      the alive weights that each move drops.
    counts: ``{name: int32[moves]}``, how many weights each move leaves alive;
      empty where that never changes.
    stacks: ``{name: int8 array}``, of size 2 along axes that count layers; only
      of leaves that Flax's metadata said this of, or params that have no mask.
    grow_state: what growth depends on: the random key of SET, the `SNFSState`
      of SNFS, nothing for RigL.
  """

  masks: Any
  drop_ratios: jax.Array
  counts: Table
  stacks: Table
  grow_state: Any


def drop_and_grow(
  grow_scores: GrowScores,
  masks: _start.Masks,
  *,
  init_growth: Callable[[Table], Any] = lambda leaves: (),
  observe: Callable[[Any, Table], Any] | None = None,
  sparsity: optax.Schedule | None,
  densities: Densities | None,
  pattern: Pattern = Unstructured(),
  axes: Mapping[str, Axes] | None,
  update_every: int,
  stop_step: int,
  drop_fraction: float | optax.Schedule,
  applies_gradient: bool,
) -> Topology:
  """Makes the topology: drop by magnitude, grow by a score, layer by layer.

  The number alive in a layer changes with a schedule of sparsity only. Where it
  falls, the smallest weights die first, and the drop fraction applies to those
  that are left. Weights just dropped may grow again at once, and then keep
  their value and their optimizer slots.

  Args:
    grow_scores: ``grow_scores(grow_state, grads, step) -> {name: scores}``, of
      the gradients ``{name: array}`` of the prunable leaves. The scores with
      the largest magnitudes grow.
    masks: initial masks, as a tree or a function of params.
    init_growth: ``init_growth({name: array}) -> grow_state``, of the params.
    observe: ``observe(grow_state, {name: gradient}) -> grow_state``, called at
      every step.
    sparsity: schedule of the dead share of all prunable weights.
    densities: how the schedule spreads over layers; by default as random masks
      do.
    pattern: which shapes may survive.
    axes: ``{name or glob: Axes}``; by layout where not given.
    update_every: steps between moves.
    stop_step: the last step at which masks may move.
    drop_fraction: share of the alive weights to replace.
    applies_gradient: whether a step that moves masks also trains.

  Returns:
    A topology for `lthjax.sparsify`.
  """
  _checks.pattern('pattern', pattern)
  masks = _start.completed(masks, pattern, axes)
  times = _moves.times(update_every, stop_step, applies_gradient)
  ratios = _moves.drop_ratios(drop_fraction, times)
  wanted = _moves.scheduled(sparsity, densities, pattern, times)
  densities = densities or _start.densities_of(masks)

  def init_fn(params):
    faults = functools.partial(_faults, pattern, axes, params)
    alive = _start.initial_masks(masks, params, faults)
    given, stacks = _layers.remember(axes, params, alive)
    its, counts = pattern.fit(given, alive), {}
    _moves.check_alive(alive, its)
    if wanted.size:
      shapes = _moves.shapes_of(alive)
      _moves.check_not_empty(shapes, wanted.max(), densities, its)
      counts = tables(shapes, wanted, densities, axes=its)
    return DropAndGrowState(
      alive,
      jnp.asarray(ratios),
      jax.tree.map(jnp.asarray, counts),
      stacks,
      init_growth(_select.leaves_of(alive, params)),
    )

  def observe_fn(state, grads):
    grads = _select.leaves_of(state.masks, grads)
    assert observe is not None
    return state._replace(grow_state=observe(state.grow_state, grads))

  def move_fn(state, params, grads, step):
    given = _layers.recall(axes, state.stacks, state.masks)
    its = pattern.fit(given, state.masks)
    masks = trees.prunable(state.masks)
    weights = _select.leaves_of(state.masks, params)
    grads = _select.leaves_of(state.masks, grads)
    scores = grow_scores(state.grow_state, grads, step)
    ratio = state.drop_ratios[times.entry(step)]  # once for all parts

    def move(part, masks, *tables):
      total = stay = _select.count(masks, part.axes)
      if wanted.size:
        total = part.entries(state.counts, times.entry(step))
        stay = {n: jnp.minimum(stay[n], total[n]) for n in stay}
      drop = _moves.drop_counts(ratio, stay)
      left = {n: stay[n] - drop[n] for n in stay}
      return _moved(pattern, part, tables, masks, left, total)

    batches = _batches.make(pattern, masks, [weights, scores], its)
    new = batches.in_turn(move, step > 0, masks, weights, scores)
    return state._replace(masks=_select.put(state.masks, new))

  return Topology(
    init_fn,
    _branches.TakesLate(move_fn),
    times.due,
    observe=None if observe is None else observe_fn,
    applies_gradient=applies_gradient,
  )


def _faults(
  pattern: Pattern,
  axes: Mapping[str, Axes] | None,
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
) -> list[str]:
  """Says where masks do not have the pattern."""
  given, _ = _layers.remember(axes, params, masks)
  return pattern.faults(trees.prunable(masks), pattern.fit(given, masks))


def _moved(
  pattern: Pattern,
  part: _batches.Batches,
  tables: tuple[Any, ...],
  masks: Table,
  left: Table,
  total: Table,
) -> Table:
  """Moves masks as in algorithm 1 of the RigL paper."""
  weights, scores = tables
  if _are_alike(pattern, masks, weights, scores):
    return _moved_in_a_loop(part, masks, tables, left, total)
  magnitudes = _select.magnitudes(part.join(weights))
  # Keep the largest weights ...
  keep = _select.drop(pattern, magnitudes, masks, left, part.axes)
  # ... and grow among all others, those just dropped included.
  magnitudes = _select.magnitudes(part.join(scores))
  return _select.fill(pattern, magnitudes, keep, total, part.axes)


def _are_alike(
  pattern: Pattern,
  masks: Table,
  weights: Mapping[str, Any],
  scores: Mapping[str, Any],
) -> bool:
  """Whether one program may select among weights and then among scores."""
  if not (isinstance(pattern, Unstructured) and masks):
    return False
  for name, mask in masks.items():
    each = [table[name] for table in (weights, scores)]
    places = {jax.typeof(like(x)).sharding for x in each}
    # What is late may have another type than what it is like.
    types = {jax.eval_shape(functools.partial(now, x)).dtype for x in each}
    if len(places) > 1 or len(types) > 1 or not may_be_sharded(mask):
      return False
    if jnp.finfo(types.pop()).bits < 16:
      return False  # Of few bits, no integer may be above all numbers.
  return trees.is_traced(*masks.values())


def _moved_in_a_loop(
  part: _batches.Batches,
  masks: Table,
  tables: tuple[Any, ...],
  left: Table,
  total: Table,
) -> Table:
  """The same for many devices: one program drops, and then it grows."""
  weights, scores = tables

  def select(turn):
    drops, _, keep = turn

    # In branches, so that only one of the tables is ever in memory.
    def images_of_weights():
      return part.join(weights, lambda n, x: _select.image(x, keep[n]))

    def images_of_scores():
      return part.join(scores, lambda n, x: _select.image_after(keep[n], x))

    images = jax.lax.cond(drops, images_of_weights, images_of_scores)
    count = {n: jnp.where(drops, left[n], total[n]) for n in keep}
    keep = _select.search(images, count, _select.layers(part.axes))
    return False, drops, keep

  # Flags that move on: XLA would compile each operation on a counter.
  turns = True, True, masks
  return jax.lax.while_loop(lambda turn: turn[1], select, turns)[-1]
