"""What pruning at initialization does with masks, beside making them."""

import math
from collections.abc import Iterable, Sequence

import chex
import jax
import jax.numpy as jnp

import lthjax as lth
from common.classification import Classification, image_shape
from lthjax import trees


def imp_ratios(ratios: Sequence[float], fraction: float) -> list[float]:
  """The ratios that IMP goes through, pruning at most a fraction a round."""
  found, last = [], 1.0
  for ratio in sorted(ratios):
    rounds = math.log(ratio / last) / -math.log(1 - fraction)
    # A hair above a whole number is that number.
    rounds = max(1, math.ceil(round(rounds, 9)))
    factor = (ratio / last) ** (1 / rounds)
    found += [last * factor**i for i in range(1, rounds)] + [ratio]
    last = ratio
  return found


def shuffle_masks(
  key: chex.PRNGKey, masks: chex.ArrayTree, keep_inputs_of: str | None
) -> chex.ArrayTree:
  """Shuffles masks within layers; in one kernel perhaps at every input.

  Not in the others: they would keep their busy inputs, while the units that
  feed those are drawn anew, and paths would end.
  """
  shuffled = lth.masks.shuffle(key, masks)
  if keep_inputs_of is None:
    return shuffled
  kept = trees.by_name(lth.masks.shuffle(key, masks, 'input'))
  return jax.tree_util.tree_map_with_path(
    lambda path, mask: (
      kept[keep_inputs_of] if trees.path_name(path) == keep_inputs_of else mask
    ),
    shuffled,
  )


def first_kernel(task: Classification) -> str:
  """Names the kernel that sees the image."""
  image = jnp.zeros((1, *image_shape(task.dataset)))
  uses = lth.program.uses(
    task.model.apply, task.params, task.model_state, image
  )
  return next(use.name for use in uses if use.name is not None)


def stack(trees_of_seeds: Iterable[chex.ArrayTree]) -> chex.ArrayTree:
  """Puts the trees of all seeds into one."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees_of_seeds)
