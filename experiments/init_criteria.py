"""The criteria that prune at initialization, as functions of the params."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from classification import Classification, image_shape

import lthjax as lth
from lthjax import data

Criterion = Callable[[chex.ArrayTree], chex.ArrayTree]

EXAMPLES = 100  # in a batch to score by
TEMPERATURE = 200.0  # of GraSP, as in its code


def criteria(
  task: Classification, model_state: Any, key: chex.PRNGKey, batches: int
) -> dict[str, Criterion]:
  """Makes the criteria of one seed; keep them, as each is compiled once.

  Args:
    task: the network and its data.
    model_state: what the network carries beside params at initialization.
    key: decides which training examples there are to score by.
    batches: how many batches of them.

  Returns:
    ``{name: criterion}``; a criterion gives scores of params.
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

  several = [
    data.batch(dataset.train, key, jnp.int32(i), batch_size=EXAMPLES)
    for i in range(batches)
  ]
  whole = jax.tree.map(lambda *x: jnp.concatenate(x), *several)

  def snip(params):
    return lth.scores.snip(loss, params, whole)

  return {
    'random': lambda params: lth.scores.random(key, params),
    'magnitude': lth.scores.magnitude,
    'snip': snip,
    'iterative_snip': snip,
    'grasp': lambda params: lth.scores.grasp(
      loss, params, several, temperature=TEMPERATURE
    ),
    'synflow': lambda params: lth.scores.synflow(apply, params, shape),
  }
