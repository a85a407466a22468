"""The error on the straight line between two trained networks or decoders."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

import lthjax as lth
from common import seeds
from common.classification import Classification
from common.language import Language
from lthjax import data


class Line:
  """Measures the error between networks, on test and on training examples.

  Batch statistics are recomputed at each point, from the same training
  examples, in batches of the size used in training.
  """

  def __init__(
    self,
    task: Classification,
    *,
    points: int,
    train_examples: int,
    batch_size: int,
    augment: bool,
  ):
    """Takes the first training examples; their order has no meaning."""
    self.task, self.points = task, points
    self.test = task.dataset.test
    self.train = jax.tree.map(lambda x: x[:train_examples], task.dataset.train)
    self.batch_size = min(batch_size, len(self.train.labels))
    self.augment = augment
    self._classes = jax.jit(self._compute_classes)

  def between(self, a: chex.ArrayTree, b: chex.ArrayTree) -> dict[str, Any]:
    """Measures the line between two networks, for each seed."""
    found = list(map(self._between, seeds.unstack(a), seeds.unstack(b)))
    return {name: [x[name].tolist() for x in found] for name in found[0]}

  def classes(self, split: data.Split, params: chex.ArrayTree) -> jax.Array:
    """The class that a network predicts for each example."""
    dataset = self.task.dataset._replace(train=self.train)
    return self._classes(params, dataset, split.images)

  def error(self, split: data.Split, params: chex.ArrayTree) -> jax.Array:
    """The share of the examples that a network classifies wrongly."""
    return jnp.mean(self.classes(split, params) != split.labels)

  def _between(self, a, b):
    # One point at a time is fastest on a CPU, and needs the least memory.
    options = {'points': self.points, 'batch_size': 1}
    test = lth.landscape.compare(
      [a, b],
      error=functools.partial(self.error, self.test),
      predict=functools.partial(self.classes, self.test),
      **options,
    )
    train = lth.landscape.error_barrier(
      functools.partial(self.error, self.train), a, b, **options
    )
    assert test.disagreements is not None
    return {
      'distance': test.distances[0],
      'cosine': test.cosines[0],
      'disagreement': test.disagreements[0],
      'test_barrier': test.barriers.barrier[0],
      'test_above_line': test.barriers.above_line[0],
      'test_errors': test.barriers.errors[0],
      'train_barrier': train.barrier,
      'train_above_line': train.above_line,
      'train_errors': train.errors,
    }

  def _compute_classes(self, params, dataset, images):
    model, size = self.task.model, self.batch_size

    def normalize(images):
      return data.normalize(images, dataset.mean, dataset.std)

    count = len(dataset.train.images) // size
    seen = dataset.train.images[: count * size]
    if self.augment:
      seen = data.random_crop_flip(jax.random.key(0), seen)
    model_state = lth.landscape.batch_statistics(
      functools.partial(model.apply, train=True),
      params,
      jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), self.task.model_state
      ),
      normalize(seen.reshape(count, size, *seen.shape[1:])),
    )

    def one(image):
      logits, _ = model.apply(params, model_state, normalize(image[None]))
      return jnp.argmax(logits[0])

    return jax.lax.map(one, images, batch_size=1000)


class TextLine(Line):
  """The same for decoders: errors are shares of next tokens guessed wrongly.

  There are no batch statistics. Training examples are the first sequences of
  the text, as many as those to test on.
  """

  def __init__(self, task: Language, *, points: int):
    self.points = points
    self.test, self.train = (
      data.Split(tokens, tokens[:, 1:])
      for tokens in map(task.sequences, ('test', 'train'))
    )
    self._tokens = jax.jit(
      lambda params, tokens: jax.lax.map(
        lambda x: jnp.argmax(task.model.apply(params, x[None])[0, :-1], -1),
        tokens,
        batch_size=64,
      )
    )

  def classes(self, split: data.Split, params: chex.ArrayTree) -> jax.Array:
    """The token that a decoder predicts after each but the last."""
    return self._tokens(params, split.images)
