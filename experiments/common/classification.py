"""Image classification: data, a network, and training of several seeds."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common import interruption, tables
from common.images import load
from lthjax import data, models
from lthjax.training import TrainState

TRAIN_EXAMPLES = 10_000  # that the loss after training is measured on


class Classification:
  """A data set and a network for it, trained for several seeds side by side."""

  def __init__(
    self,
    dataset: str | data.Dataset,
    model: str | models.Model,
    *,
    validation: int | None = None,
    batch_size: int,
    augment: bool = False,
    width: float = 1.0,
  ):
    """Reads the data and builds the network, unless they are given."""
    if isinstance(dataset, str):
      dataset = load(dataset, validation)
    self.dataset = dataset
    if batch_size > (examples := len(dataset.train.labels)):
      raise ValueError(
        f'batch_size was {batch_size}, but there are {examples} training'
        ' examples. Take smaller batches.'
      )
    if isinstance(model, str):
      how = {} if width == 1 else {'width': width}
      build: Callable[..., models.Model] = getattr(models, model)
      classes = data.num_classes(dataset)
      model = build(image_shape(dataset), classes=classes, **how)
    self.model: models.Model = model
    self.params, self.model_state = jax.eval_shape(
      self.model.init, jax.random.key(0)
    )
    self.compilations = 0  # of training steps
    self._batch_size, self._augment = batch_size, augment
    self._test = jax.jit(jax.vmap(self._ends, in_axes=(0, 0, None)))
    self._valid = jax.jit(jax.vmap(self._validate, in_axes=(0, 0, None)))

  @classmethod
  def of(cls, config: Any, **how: Any) -> 'Classification':
    """The data set and the network that a config names."""
    return cls(
      config.dataset,
      config.model,
      validation=config.validation,
      batch_size=config.batch_size,
      augment=getattr(config, 'augment', False),
      **how,
    )

  def with_model(self, model: models.Model) -> 'Classification':
    """The same data for another network."""
    return Classification(
      self.dataset, model, batch_size=self._batch_size, augment=self._augment
    )

  def trainer(
    self, tx: Any, *, every: int, vmapped: bool = True
  ) -> lth.Trainer:
    """A training loop that validates after every ``every`` steps."""
    return interruption.trainer(
      self.model.init,
      self._loss,
      tx,
      self._batch,
      evaluate=self._validate,
      every=every,
      vmapped=vmapped,
      scanned=scans_well(self.params),
      check_finite=vmapped,  # One of several runs may diverge.
    )

  def check_compiled(self, programs: int = 1) -> None:
    """Raises if there were more programs for training steps than needed."""
    if self.compilations > programs:
      raise RuntimeError(
        f'Training steps were compiled {self.compilations} times instead of'
        f' {programs}.'
      )

  def test_accuracy(
    self, params: chex.ArrayTree, model_state: chex.ArrayTree
  ) -> list[float]:
    """Accuracy of each seed on the test set."""
    ends = self._test(params, model_state, self.dataset)
    return ends['test_accuracy'].tolist()

  def validate(self, state: TrainState) -> dict[str, jax.Array]:
    """Loss and accuracy of each seed on the validation set."""
    params = lth.forward_params(state.opt_state, state.params)
    return self._valid(params, state.model_state, self.dataset)

  def test(self, state: TrainState, params: Any = None) -> dict[str, Any]:
    """Tests the seeds, and says which of them have diverged."""
    params = state.params if params is None else params
    ends = self._test(params, state.model_state, self.dataset)
    ends = {name: tables.finite(x.tolist()) for name, x in ends.items()}
    return {**ends, **diverged(state)}

  def _batch(self, dataset, key, step):
    size = self._batch_size
    batch = data.batch(dataset.train, key, step, batch_size=size)
    return batch, dataset.mean, dataset.std

  def _loss(self, params, model_state, batch, key):
    self.compilations += 1  # Python runs only when JAX traces.
    (images, labels), mean, std = batch
    if self._augment:
      images = data.random_crop_flip(key, images)
    x = data.normalize(images, mean, std)
    logits, state = self.model.apply(params, model_state, x, train=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), state

  def _measure(self, params, model_state, dataset, split):
    """Mean loss and accuracy over a split, a thousand examples at a time."""

    def one(example):
      x = data.normalize(example.images[None], dataset.mean, dataset.std)
      logits, _ = self.model.apply(params, model_state, x)
      labels = example.labels[None]
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return loss[0], jnp.argmax(logits[0]) == example.labels

    losses, hits = jax.lax.map(one, split, batch_size=1000)
    return losses.mean(), hits.mean()

  def _validate(self, params, model_state, dataset):
    loss, accuracy = self._measure(
      params, model_state, dataset, dataset.validation
    )
    return {'loss': loss, 'accuracy': accuracy}

  def _ends(self, params, model_state, dataset):
    """Loss and accuracy on the test set and on the first training examples."""
    train = jax.tree.map(lambda x: x[:TRAIN_EXAMPLES], dataset.train)
    splits = {'test': dataset.test, 'train': train}
    found = {}
    for name, split in splits.items():
      loss, accuracy = self._measure(params, model_state, dataset, split)
      found |= {f'{name}_loss': loss, f'{name}_accuracy': accuracy}
    return found


def networks(state: TrainState) -> dict[str, Any]:
  return {
    'params': state.params,
    'masks': lth.get_masks(state.opt_state),
    'model_state': state.model_state,
  }


def diverged(*states: TrainState) -> dict[str, Any]:
  """The first step at which each seed has diverged, if any of them has."""
  steps = [
    min((step for step in of_seed if step >= 0), default=None)
    for of_seed in zip(
      *(jnp.asarray(x.diverged).tolist() for x in states), strict=True
    )
  ]
  return {'diverged': steps} if set(steps) - {None} else {}


def static_optimizer(
  config: Any, masks: chex.ArrayTree
) -> optax.GradientTransformation:
  """The optimizer of a `TicketConfig`, under masks that stay."""
  return lth.static(plain_optimizer(config, masks), masks)


def plain_optimizer(
  config: Any, masks: chex.ArrayTree
) -> optax.GradientTransformation:
  """The optimizer of a `TicketConfig`, without masks."""
  learning_rate = steps_down(config.learning_rate, config.decay_steps)
  if config.schedule == 'cosine':
    learning_rate = optax.cosine_decay_schedule(
      config.learning_rate, config.steps
    )
  return make_optimizer(
    config.optimizer, learning_rate, config.weight_decay, masks
  )


def make_optimizer(
  name: Literal['adam', 'sgd'],
  learning_rate: float | optax.Schedule,
  weight_decay: float,
  masks: chex.ArrayTree,
) -> optax.GradientTransformation:
  """Adam, or SGD with momentum, with an L2 penalty on prunable leaves."""
  if name == 'adam':
    inner = optax.adam(learning_rate)
  else:
    inner = optax.sgd(learning_rate, momentum=0.9)
  return decay_kernels(weight_decay, masks, inner)


def steps_down(learning_rate: float, steps: Sequence[int]) -> optax.Schedule:
  """A learning rate that falls to a tenth at each of these steps."""
  return optax.piecewise_constant_schedule(
    learning_rate, dict.fromkeys(steps, 0.1)
  )


def decay_kernels(
  weight_decay: float,
  masks: chex.ArrayTree,
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Adds an L2 penalty on prunable leaves to the gradients of ``inner``."""
  if not weight_decay:
    return inner
  kernels = jax.tree.map(
    lambda m: m is not None, masks, is_leaf=lambda m: m is None
  )
  return optax.chain(optax.add_decayed_weights(weight_decay, kernels), inner)


def scans_well(params: chex.ArrayTree) -> bool:
  """Returns whether to loop on the device: not with convolutions on a CPU."""
  convolutional = any(p.ndim == 4 for p in jax.tree.leaves(params))
  return not (convolutional and jax.default_backend() == 'cpu')


def image_shape(dataset: data.Dataset) -> tuple[int, int, int]:
  _, height, width, channels = dataset.train.images.shape
  return height, width, channels
