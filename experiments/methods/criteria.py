"""Pruning at initialization: criteria as functions of the params, and masks."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common.classification import Classification, image_shape
from lthjax import accounting, data, trees

Criterion = Callable[[chex.ArrayTree], chex.ArrayTree]

EXAMPLES = 100  # in a batch to score by
TEMPERATURE = 200.0  # of GraSP, as in its code


def criteria(
  task: Classification,
  model_state: Any,
  keys: Sequence[chex.PRNGKey],
  batches: int,
) -> dict[str, list[Criterion]]:
  """Makes the criteria of all seeds, by name; each is compiled once.

  Each key chooses so many batches of training examples to score by. Criteria
  that need no data are the same function for all keys.
  """
  shape = image_shape(task.dataset)
  apply, loss = functions(task, model_state)

  def synflow(params):
    return lth.scores.synflow(apply, params, shape)

  def examples(key):
    return draw(task, key, batches)

  def snip(key):
    whole = jax.tree.map(lambda *x: jnp.concatenate(x), *examples(key))
    return lambda params: lth.scores.snip(loss, params, whole)

  def grasp(key):
    several = examples(key)
    return lambda params: lth.scores.grasp(
      loss, params, several, temperature=TEMPERATURE
    )

  snips = [snip(key) for key in keys]
  return {
    'random': [functools.partial(lth.scores.noise, key) for key in keys],
    'magnitude': [lth.scores.magnitude] * len(keys),
    'snip': snips,
    'iterative_snip': snips,
    'grasp': [grasp(key) for key in keys],
    'synflow': [synflow] * len(keys),
  }


def functions(
  task: Classification, model_state: Any
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
  """Outputs ``apply(params, x)``, and ``loss(params, batch, temperature)``."""
  dataset = task.dataset

  def apply(params, x):
    return task.model.apply(params, model_state, x)[0]

  def loss(params, batch, temperature=1.0):
    x = data.normalize(batch.images, dataset.mean, dataset.std)
    logits, _ = task.model.apply(params, model_state, x, train=True)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits / temperature, batch.labels
    ).mean()

  return apply, loss


def draw(task: Classification, key: chex.PRNGKey, batches: int) -> list[Any]:
  """Draws batches of training examples to score by."""
  return [
    data.batch(task.dataset.train, key, jnp.int32(i), batch_size=EXAMPLES)
    for i in range(batches)
  ]


def imp_ratios(ratios: Sequence[float], fraction: float) -> list[float]:
  """The ratios that IMP goes through, pruning at most a fraction per round."""
  found, last = [], 1.0
  for ratio in sorted(ratios):
    rounds = math.log(ratio / last) / -math.log(1 - fraction)
    # Rounding error above a whole number is not another round.
    rounds = max(1, math.ceil(round(rounds, 9)))
    factor = (ratio / last) ** (1 / rounds)
    found += [last * factor**i for i in range(1, rounds)] + [ratio]
    last = ratio
  return found


def shuffle_masks(
  key: chex.PRNGKey, masks: chex.ArrayTree, keep_inputs_of: str | None
) -> chex.ArrayTree:
  """Shuffles masks within layers or, in one kernel, within each input.

  The other kernels are shuffled whole: keeping their busy inputs, while the
  units that feed these are shuffled, would cut paths.
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


def kernels(task: Classification) -> list[str]:
  """Names the kernels, from the one that sees the image to the output."""
  image = jnp.zeros((1, *image_shape(task.dataset)))
  uses = lth.program.uses(
    task.model.apply, task.params, task.model_state, image
  )
  return list(dict.fromkeys(use.name for use in uses if use.name is not None))


def passes(method: str, batches: int, steps: int) -> int:
  """Training examples whose gradient costs about as much as a method's scores.

  A product with the Hessian counts as two gradients, and pruning in steps as if
  the network stayed dense.
  """
  gradients = batches * EXAMPLES
  return {
    'snip': gradients,
    'iterative_snip': steps * gradients,
    'grasp': 3 * gradients,
    'synflow': steps,
  }.get(method, 0)


def forward_cost(task: Classification) -> accounting.MultiplyAdds:
  """Multiply-adds of a forward pass on one example."""
  image = jax.ShapeDtypeStruct((1, *image_shape(task.dataset)), jnp.float32)
  return accounting.multiply_adds(
    task.model.apply, task.params, task.model_state, image
  )


def shares(
  cost: accounting.MultiplyAdds,
  dense: chex.ArrayTree,
  alive: Mapping[str, Sequence[int]],
) -> list[float]:
  """Costs of each seed's networks, with so many weights alive, over dense."""
  masks = trees.by_name(dense)
  return [
    cost.at({n: x / masks[n].size for n, x in zip(alive, counts, strict=True)})
    / cost.total_dense
    for counts in zip(*alive.values(), strict=True)
  ]
