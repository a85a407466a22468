"""Data sets by name, split and measured, on the device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks
from lthjax.data import _sources
from lthjax.data._batches import Split

# Mean and standard deviation per channel, as in most published results.
_STATISTICS = {
  'mnist': ((0.1307,), (0.3081,)),
  'fashion_mnist': ((0.2860,), (0.3530,)),
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


class Dataset(NamedTuple):
  """An image classification set: a pytree of arrays on the device.

  Pass it to jitted functions as an argument: XLA would copy a closed-over
  one into the program.

  Attributes:
    train: what to train on.
    validation: held out from the training examples.
    test: for reporting only.
    mean: ``float32[C]``, of training pixels between 0 and 1.
    std: ``float32[C]``, of training pixels between 0 and 1.
  """

  train: Split
  validation: Split
  test: Split
  mean: jax.Array
  std: jax.Array


def load(name: str, *, validation: int | None = None, seed: int = 0) -> Dataset:
  """Loads an image classification set by name.

  ``'digits'`` (1,797 images, 8x8x1) comes with scikit-learn and needs no
  download. Any other name is a prepared set of TensorFlow Datasets with
  features ``image`` and ``label`` and splits ``train`` and ``test``, such as
  ``'mnist'``, ``'fashion_mnist'``, ``'cifar10'`` or ``'emnist/balanced'``; it
  is looked for in ``TFDS_DATA_DIR`` (default ``~/tensorflow_datasets``) and
  read without TensorFlow. Decoding takes seconds and happens once: the pixels
  are kept in ``LTHJAX_CACHE`` (default ``~/.cache/lthjax``).

  Args:
    name: name of the data set.
    validation: how many training examples to hold out; 0 for none. By default
      180 of digits, otherwise 5,000 or a tenth, whichever is smaller.
    seed: integer that selects the held-out examples. The test set never
      depends on it.

  Returns:
    The data set on the default device. Mean and standard deviation are the
    usual constants for MNIST, Fashion-MNIST and CIFAR-10, and otherwise those
    of the training images that are not held out.

  Raises:
    FileNotFoundError: if the set is not prepared; says how to do it.
    ImportError: if scikit-learn or tensorflow-datasets is missing.

  Example:
    >>> dataset = load('digits')
    >>> dataset.train.images.shape, dataset.train.images.dtype
    ((1257, 8, 8, 1), dtype('uint8'))
    >>> len(dataset.validation.labels), len(dataset.test.labels)
    (180, 360)
  """
  _checks.text('name', name)
  seed = _checks.integer('seed', seed)
  digits = name == 'digits'
  source = _sources.read_digits() if digits else _sources.read_tfds(name)
  size = len(source.train_labels)
  if validation is None:
    validation = 180 if digits else min(5_000, size // 10)
  validation = _checks.between(
    'validation', validation, 0, size - 1,
    f'{name!r} has {size} training examples',
  )  # fmt: skip
  held_out = np.zeros(size, bool)
  held_out[np.random.default_rng(seed).permutation(size)[:validation]] = True
  images, labels = source.train_images, source.train_labels
  train_images = images[~held_out]
  # A config or version does not change the constants: 'mnist:3.0.1'.
  base_name = name.split(':')[0].split('/')[0]
  mean, std = _STATISTICS.get(base_name) or _channel_statistics(train_images)
  return Dataset(
    train=_on_device(train_images, labels[~held_out]),
    validation=_on_device(images[held_out], labels[held_out]),
    test=_on_device(source.test_images, source.test_labels),
    mean=jnp.asarray(mean, jnp.float32),
    std=jnp.asarray(std, jnp.float32),
  )


def _on_device(images: np.ndarray, labels: np.ndarray) -> Split:
  return Split(jnp.asarray(images), jnp.asarray(labels, jnp.int32))


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation per channel of uint8 images, over 255."""
  axes = (0, 1, 2)
  # A square of uint8 fits in uint16, so no float copy of the data is made.
  squares = np.square(images, dtype=np.uint16).mean(axes, dtype=np.float64)
  mean = images.mean(axes, dtype=np.float64)
  std = np.sqrt(np.maximum(squares - mean**2, 0))
  # At least one gray level: a constant channel must not divide by zero.
  return mean / 255, np.maximum(std, 1) / 255


def check_dataset(dataset: Any) -> None:
  """Raises unless a data set has its splits."""
  what = 'a `lthjax.data.Dataset`, as `lthjax.data.load` returns it'
  _checks.having('dataset', dataset, 'train validation test', what)


def num_classes(dataset: Dataset) -> int:
  """Counts the classes: one more than the largest label in any split.

  Args:
    dataset: as `load` returns it; its values must be known, so call this
      outside ``jit``.

  Returns:
    The number of logits a classifier needs.

  Example:
    >>> num_classes(load('digits'))
    10
  """
  check_dataset(dataset)
  splits = (dataset.train, dataset.validation, dataset.test)
  return 1 + max(int(split.labels.max(initial=0)) for split in splits)
