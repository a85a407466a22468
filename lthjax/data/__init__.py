"""Image classification data that lives on the device as uint8.

A data set is a pytree of arrays, read once and passed to jitted functions as
an argument. The batch at a step is a pure function of a key and the step, so
that a rewound or resumed run sees the same data again without any iterator
to restore:

    dataset = data.load('mnist')
    images, labels = data.batch(dataset.train, key, step, batch_size=60)
    x = data.normalize(images, dataset.mean, dataset.std)
"""

from lthjax.data._batches import (
  Split,
  batch,
  epoch_indices,
  normalize,
  random_crop_flip,
)
from lthjax.data._loading import Dataset, load, num_classes
from lthjax.data._partitions import partition

__all__ = [
  'Dataset',
  'Split',
  'batch',
  'epoch_indices',
  'load',
  'normalize',
  'num_classes',
  'partition',
  'random_crop_flip',
]
