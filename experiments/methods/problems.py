"""What submissions are scored on: images, or the next characters of a text."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

import lthjax as lth
from common.classification import Classification, diverged, image_shape
from common.language import Language, LanguageConfig, measure_runs
from methods import criteria


class Problem(NamedTuple):
  """Data, a network for them, and training of several seeds side by side."""

  params: chex.ArrayTree  # shapes
  data: Any  # what training reads
  trainer: Callable[..., lth.Trainer]  # (tx, every=steps)
  test: Callable[[Any], dict[str, Any]]  # (state) -> what comes out at the end
  apply: Callable[..., jax.Array]  # (params, x) -> outputs
  loss: Callable[..., jax.Array]  # (params, batch) -> mean over the examples
  shape: tuple[int, ...]  # of one input
  draw: Callable[[chex.PRNGKey, int], list[Any]]  # training batches
  compilations: Callable[[], int]  # of training steps


def images(config: Any) -> Problem:
  """Classification of images."""
  return of_images(Classification.of(config))


def of_images(task: Classification) -> Problem:
  model_state = task.model.init(jax.random.key(0))[1]  # As for any seed.
  apply, loss = criteria.functions(task, model_state)
  return Problem(
    task.params,
    task.dataset,
    task.trainer,
    task.test,
    apply,
    loss,
    image_shape(task.dataset),
    lambda key, count: criteria.draw(task, key, count),
    lambda: task.compilations,
  )


def characters(config: Any) -> Problem:
  """A causal decoder of characters."""
  return of_text(language(config))


def language(config: Any) -> Language:
  """The text and the decoder that a config describes."""
  options = LanguageConfig(
    text=config.dataset,
    width=config.width,
    layers=config.layers,
    heads=config.heads,
    key_value_heads=config.heads,
    mlp=3 * config.width,
    time=config.time,
    batch_size=config.batch_size,
    eval_tokens=config.eval_tokens,
    validation=config.validation,
  )
  return Language(options)


def of_text(task: Language) -> Problem:

  def apply(params, x):
    # Criteria without data put ones in the place of tokens. Equal tokens would
    # make attention uniform, and its queries and keys worthless.
    if not jnp.issubdtype(x.dtype, jnp.integer):
      some = jnp.arange(x.shape[1]) % task.config.vocabulary
      x = jnp.broadcast_to(some, x.shape)
    return task.model.apply(params, x)

  def draw(key, count):
    stream = task.dataset['train']
    keys = [jax.random.fold_in(key, i) for i in range(count)]
    return [task.batch(stream, one) for one in keys]

  def test(state):
    loss, accuracy = measure_runs(
      task.model.apply, state.params, task.sequences()
    )
    ends = {'test_loss': loss.tolist(), 'test_accuracy': accuracy.tolist()}
    return {**ends, **diverged(state)}

  return Problem(
    task.params,
    task.dataset,
    lambda tx, *, every: task.trainer(tx, every=every, vmapped=True),
    test,
    apply,
    task.loss,
    (task.options.time,),
    draw,
    lambda: task.compilations,
  )


def check_compiled(problem: Problem) -> None:
  """Raises if there were several programs for training steps."""
  if (count := problem.compilations()) > 1:
    raise RuntimeError(
      f'Training steps were compiled {count} times instead of once.'
    )
