"""Initial masks: a tree, or a function of params such as `random_masks`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax

from lthjax import _checks, _sharding, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.axes import Axes
from lthjax.counts import Rounding, layer_counts
from lthjax.densities import Densities
from lthjax.patterns import Pattern, Unstructured
from lthjax.pruning import prune
from lthjax.scores import noise
from lthjax.topologies import _moves

# A tree of masks, or a function of params that returns one.
Masks = chex.ArrayTree | Callable[[Any], chex.ArrayTree]


@dataclasses.dataclass(frozen=True)
class RandomMasks:
  """A function of params that draws masks; see `random_masks`."""

  key: chex.PRNGKey
  sparsity: float | None
  densities: Densities | None
  where: masks_lib.Where | str | list[str]
  pattern: Pattern | None
  axes: Mapping[str, Axes] | None

  def __call__(self, params: chex.ArrayTree) -> Any:
    """Draws the masks."""
    dense, axes = self.dense(params)
    pattern = self.pattern or Unstructured()
    its = pattern.fit(axes, dense)
    sparsity = self.sparsity
    if _moves.fixed_sparsity(sparsity, self.densities, pattern) is not None:
      return prune(self.noise(dense), dense, pattern=pattern, axes=its)
    assert sparsity is not None
    shapes = _moves.shapes_of(dense)
    _moves.check_not_empty(shapes, sparsity, self.densities, its)
    return prune(
      self.noise(dense),
      dense,
      sparsity=sparsity,
      densities=self.densities,
      pattern=pattern,
      axes=its,
    )

  def dense(
    self, params: chex.ArrayTree
  ) -> tuple[chex.ArrayTree, dict[str, Axes]]:
    """Chooses the prunable leaves, and reads their axes as far as possible."""
    _checks.arrays(params, shapes=True)
    dense = masks_lib.full(params, self.where)
    found = axes_lib.resolve(self.axes, params, strict=False)
    names = trees.prunable(dense)
    return dense, {name: its for name, its in found.items() if name in names}

  def noise(self, dense: chex.ArrayTree) -> Any:
    """Draws the scores by which masks are chosen."""
    return noise(self.key, dense)

  def counts(
    self,
    shapes: Mapping[str, tuple[int, ...]],
    rounding: Rounding,
    axes: Mapping[str, Axes],
  ) -> dict[str, int]:
    """Counts the alive weights of each layer."""
    _moves.fixed_sparsity(self.sparsity, self.densities, Unstructured())
    assert self.sparsity is not None
    return layer_counts(shapes, self.sparsity, self.densities, rounding, axes)


def random_masks(
  key: chex.PRNGKey,
  *,
  sparsity: float | None = None,
  densities: Densities | None = None,
  where: masks_lib.Where | str | list[str] = masks_lib.kernels,
  pattern: Pattern | None = None,
  axes: Mapping[str, Axes] | None = None,
) -> Callable[[chex.ArrayTree], Any]:
  """Returns a function of params that draws masks of exactly a budget.

  Pass it to an optimizer in the place of masks, as in ``lthjax.rigl(tx,
  random_masks(key, sparsity=0.9), ...)``, or call it with params. The mask of a
  layer depends on the key, its name and its budget only, and has the sharding
  of its params.

  Args:
    key: random key.
    sparsity: dead share of all prunable weights, in [0, 1). Optional for a
      pattern that fixes it, such as `lthjax.patterns.NM`.
    densities: how the budget spreads over layers, such as
      `lthjax.densities.erk`; evenly by default.
    where: which leaves may be pruned, as for `lthjax.masks.full`.
    pattern: which shapes may survive. By default that of the optimizer it is
      passed to, or any.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs, neurons or a stack of layers; by default
      those of the optimizer. Each layer of a stack has a budget of its own.

  Returns:
    ``draw(params) -> masks``. Only the shapes of the params matter.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> draw = lth.random_masks(jax.random.key(0), sparsity=0.9)
    >>> lth.masks.count(draw({'w': jnp.ones((10, 10))}))
    10
  """
  _checks.key('key', key)
  _checks.densities('densities', densities)
  _checks.predicate('where', where)
  if pattern is not None:
    _checks.pattern('pattern', pattern)
  if sparsity is not None and (pattern is None or pattern.density is None):
    sparsity = _checks.share('sparsity', sparsity)
  return RandomMasks(key, sparsity, densities, where, pattern, axes)


def initial_masks(
  masks: Masks,
  params: chex.ArrayTree,
  faults: Callable[[chex.ArrayTree], list[str]],
) -> Any:
  """Copies the masks that a topology starts from, if nothing is wrong."""
  alive = evaluate(masks, params)
  if alive is masks:
    # Checked even where `init` is compiled: the masks are not traced there.
    with jax.ensure_compile_time_eval():
      wrong = _faults(alive, faults)
  else:
    wrong = _faults(alive, faults)
  refuse(
    wrong,
    'Training cannot start from these `masks`: {}. Correct them, or leave a'
    ' layer dense with None.',
  )
  return _sharding.copy_into(params, alive)


def evaluate(masks: Any, params: chex.ArrayTree) -> Any:
  """Returns the masks, which a function makes of params, if they fit."""
  tree: Any = masks(params) if is_function(masks) else _part(masks, params)
  trees.check_like(tree, params, 'params')
  return tree


def _part(masks: Any, params: chex.ArrayTree) -> Any:
  """Returns the masks of what `optax.partition` or `optax.masked` passes on."""
  # Leaves of other optimizers are hidden; masks for them are left out as well.
  shown = trees.part_for(params, masks)
  if len(shown) == len(trees.by_name(masks)):
    return masks
  trees.check_like(shown, trees.by_name(params), 'params')
  return trees.copy_into(params, shown)


def is_function(masks: Any) -> bool:
  """Returns whether masks are a function; Equinox modules are trees."""
  return callable(masks) and jax.tree_util.all_leaves([masks])


def check(inner: Any, masks: Any) -> None:
  """Raises if the optimizer or the masks are something else, or swapped."""
  _checks.optimizer(inner)
  if is_function(masks) and not isinstance(masks, type):
    return
  if isinstance(masks, int | float | str | type):
    wanted = (
      'be a tree of masks or a function of params, such as'
      ' `lthjax.random_masks(jax.random.key(0), sparsity=0.9)`'
    )
    raise _checks.wrong_type('masks', masks, wanted)
  _checks.bool_masks(masks)


def completed(
  masks: Masks, pattern: Pattern | None, axes: Mapping[str, Axes] | None
) -> Masks:
  """Lets random masks take the pattern and axes that they leave open."""
  if not isinstance(masks, RandomMasks):
    return masks
  return dataclasses.replace(
    masks, pattern=masks.pattern or pattern, axes=masks.axes or axes
  )


def densities_of(masks: Masks) -> Densities | None:
  """Returns how random masks spread over layers."""
  return masks.densities if isinstance(masks, RandomMasks) else None


def _faults(
  masks: chex.ArrayTree, faults: Callable[[chex.ArrayTree], list[str]]
) -> list[str]:
  return faults(masks) if trees.prunable(masks) else ['every one is None']
