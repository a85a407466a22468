"""Images for many hosts through grain: the same order on any number of them.

Each host reads its share of every batch. What an example looks like, and which
one comes when, depends on the seed and on its number alone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

# Mean and standard deviation of ImageNet's training pixels.
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


class Generated:
  """Noise with labels, to see that a program starts."""

  def __init__(self, examples: int, size: int, classes: int):
    self.examples, self.size, self.classes = examples, size, classes

  def __len__(self) -> int:
    return self.examples

  def __getitem__(self, i: Any) -> dict[str, Any]:
    rng = np.random.default_rng(int(i))
    shape = self.size, self.size, 3
    image = rng.integers(0, 256, shape, np.uint8)
    return {'image': image, 'label': int(rng.integers(self.classes))}


class RandomCropFlip(grain.transforms.RandomMap):
  """A part of the image of random size and shape, perhaps mirrored.

  8 to 100 % of the area, 3:4 to 4:3, as in arXiv:1409.4842, section 6.
  """

  def __init__(self, size: int):
    self.size = size

  def random_map(self, element: Any, rng: np.random.Generator) -> Any:
    image = _rgb(element['image'])
    height, width = image.shape[:2]
    box = (0, 0, width, height)  # if none of ten fits
    for _ in range(10):
      area = height * width * rng.uniform(0.08, 1)
      ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
      w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
      if 0 < w <= width and 0 < h <= height:
        left = int(rng.integers(width - w + 1))
        top = int(rng.integers(height - h + 1))
        box = (left, top, left + w, top + h)
        break
    image = _resized(image, self.size, box)
    if rng.random() < 0.5:
      image = image[:, ::-1]
    return {'image': image, 'label': np.int32(element['label'])}


class CenterCrop(grain.transforms.Map):
  """The central part: 7/8 of the shorter side, as networks are tested."""

  def __init__(self, size: int):
    self.size = size

  def map(self, element: Any) -> Any:
    image = _rgb(element['image'])
    height, width = image.shape[:2]
    side = round(min(height, width) * 7 / 8)
    left, top = (width - side) // 2, (height - side) // 2
    image = _resized(image, self.size, (left, top, left + side, top + side))
    return {'image': image, 'label': np.int32(element['label'])}


def _rgb(image: np.ndarray) -> np.ndarray:
  """Three channels, also of gray images."""
  return np.broadcast_to(image, (*image.shape[:2], 3))


def _resized(image: np.ndarray, size: int, box: Any) -> np.ndarray:
  how = Image.Resampling.BICUBIC
  found = Image.fromarray(np.ascontiguousarray(image))
  return np.asarray(found.resize((size, size), how, box=box))


class Input(NamedTuple):
  """Where images come from, and how they are put together."""

  source: Any  # with `len` and examples by their number
  size: int  # height and width of the images of a batch
  batch_size: int  # of all hosts together
  threads: int = 16

  def training(self, seed: int) -> Any:
    """An iterator of this host's shares of batches, without end."""
    data = grain.MapDataset.source(self.source).seed(seed).shuffle().repeat()
    # Drawn before hosts part ways: on any number of them by the same numbers.
    data = data.random_map(RandomCropFlip(self.size))
    data = data[jax.process_index() :: jax.process_count()]
    return iter(self._read(data.batch(self._share, drop_remainder=True)))

  def testing(self) -> Iterator[dict[str, np.ndarray]]:
    """This host's shares of batches, once; labels of what is missing are -1."""
    count = jax.process_count()
    data = grain.MapDataset.source(self.source).map(CenterCrop(self.size))
    data = data[jax.process_index() :: count].batch(self._share)
    batches = iter(self._read(data))
    image = np.zeros((self._share, self.size, self.size, 3), np.uint8)
    label = np.full(self._share, -1, np.int32)
    for _ in range(-(-len(self.source) // self.batch_size)):
      found = next(batches, {'image': image[:0], 'label': label[:0]})
      left = len(found['label'])
      yield {
        'image': np.concatenate([found['image'], image[left:]]),
        'label': np.concatenate([found['label'], label[left:]]),
      }

  @property
  def _share(self) -> int:
    return self.batch_size // jax.process_count()

  def _read(self, data: Any) -> Any:
    options = grain.ReadOptions(
      num_threads=self.threads, prefetch_buffer_size=2 * self.threads
    )
    return data.to_iter_dataset(options)


def source(name: str, split: str, size: int, examples: int) -> Any:
  """ImageNet as tensorflow-datasets has prepared it, or noise."""
  if name == 'generated':
    return Generated(examples, size, 1000)
  import tensorflow_datasets as tfds

  return tfds.data_source(name, split=split)


def place(batch: Any, mesh: jax.sharding.Mesh, *before: None) -> Any:
  """Puts hosts' shares together, spread over all devices."""
  sharding = NamedSharding(mesh, PartitionSpec(*before, mesh.axis_names))
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
