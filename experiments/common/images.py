"""Data sets made from others, beside those of `lthjax.data.load`."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from lthjax import data

Change = Callable[[np.ndarray], np.ndarray]


def transpose(images: np.ndarray) -> np.ndarray:
  """Mirrors square images along their diagonal."""
  return images.swapaxes(1, 2)


def permute(images: np.ndarray) -> np.ndarray:
  """Permutes the pixels at random, in the same way in each image."""
  places = np.random.default_rng(0).permutation(images[0].size)
  return images.reshape(len(images), -1)[:, places].reshape(images.shape)


def grey_28(images: np.ndarray) -> np.ndarray:
  """Crops to the middle 28 x 28 pixels, and averages the colors."""
  top, left = (np.array(images.shape[1:3]) - 28) // 2
  window = images[:, top : top + 28, left : left + 28]
  return np.round(window.mean(-1, keepdims=True)).astype(np.uint8)


# By name: the data set that each is made from, and how.
DERIVED: dict[str, tuple[str, Change]] = {
  'digits_transposed': ('digits', transpose),
  'digits_permuted': ('digits', permute),
  'cifar10_grey': ('cifar10', grey_28),
}


def load(name: str, validation: int | None = None) -> data.Dataset:
  """Loads a data set by name, whether it is derived from another or not."""
  if name not in DERIVED:
    return data.load(name, validation=validation)
  origin, change = DERIVED[name]
  dataset = data.load(origin, validation=validation)
  train, held_out, test = (
    split._replace(images=jnp.asarray(change(np.asarray(split.images))))
    for split in (dataset.train, dataset.validation, dataset.test)
  )
  pixels = np.asarray(train.images) / np.float32(255)
  mean, std = (
    jnp.asarray(f(pixels, axis=(0, 1, 2), dtype=np.float64), jnp.float32)
    for f in (np.mean, np.std)
  )
  return data.Dataset(train, held_out, test, mean, std)
