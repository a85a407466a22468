"""The criteria that prune at initialization, as functions of the params."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common.classification import Classification, image_shape
from lthjax import data

Criterion = Callable[[chex.ArrayTree], chex.ArrayTree]

EXAMPLES = 100  # in a batch to score by
TEMPERATURE = 200.0  # of GraSP, as in its code


def criteria(
  task: Classification,
  model_state: Any,
  keys: Sequence[chex.PRNGKey],
  batches: int,
) -> dict[str, list[Criterion]]:
  """Makes the criteria of all seeds; keep them, as each is compiled once.

  Args:
    task: the network and its data.
    model_state: what the network carries beside params at initialization.
    keys: one for every seed; decides which training examples there are to score
      by.
    batches: how many batches of them.

  Returns:
    ``{name: criteria}``, one for every key; a criterion gives scores of params.
    Those that need no data are the same function for all keys.
  """
  dataset, shape = task.dataset, image_shape(task.dataset)

  def apply(params, x):
    return task.model.apply(params, model_state, x)[0]

  def loss(params, batch, temperature=1.0):
    x = data.normalize(batch.images, dataset.mean, dataset.std)
    logits, _ = task.model.apply(params, model_state, x, train=True)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits / temperature, batch.labels
    ).mean()

  def synflow(params):
    return lth.scores.synflow(apply, params, shape)

  def examples(key):
    return [
      data.batch(dataset.train, key, jnp.int32(i), batch_size=EXAMPLES)
      for i in range(batches)
    ]

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
