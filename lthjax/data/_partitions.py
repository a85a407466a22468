"""Partitions of a data set into data sets."""

from collections.abc import Callable, Iterable
from typing import Literal

import chex
import jax.numpy as jnp
import numpy as np

from lthjax import _checks
from lthjax._errors import refuse
from lthjax.data._batches import Split
from lthjax.data._loading import Dataset, check_dataset

Assign = Callable[[Split], chex.Array]

_WAYS = {
  'example': 'at random',
  'class': 'consecutive classes',
  'cluster': 'nearest centers; or pass a function of a split that returns the'
  ' numbers of the parts, such as `lambda split: split.labels % 2`',
}


def partition(
  dataset: Dataset,
  by: Literal['example', 'class', 'cluster'] | Assign,
  *,
  parts: int = 2,
  seed: int = 0,
  relabel: bool = False,
) -> list[Dataset]:
  """Divides a data set so that every example is in exactly one part.

  Training, validation and test examples are all divided in the same way.
  All parts keep the mean and standard deviation of the whole, so that a network
  of one part can be tested on another.

  | `by`        | a part has                                              |
  |-------------|---------------------------------------------------------|
  | `'example'` | random examples: parts are alike, and equally large up  |
  |             | to one example                                          |
  | `'class'`   | consecutive classes: of ten, the first part has 0 to 4, |
  |             | the second 5 to 9                                       |
  | `'cluster'` | examples nearest to one center of k-means over the      |
  |             | pixels of the training examples                         |
  | a function  | the examples for which ``by(split)`` is its number,     |
  |             | such as ``lambda split: split.labels % 2``              |

  Args:
    dataset: the data set to divide.
    by: one of the options above.
    parts: number of parts.
    seed: seed of random examples and of the initial centers.
    relabel: whether to count the classes of each part from 0, for heads with
      only those classes. By default labels stay, so that networks of all parts
      can share a head: size it with `lthjax.data.num_classes` of the whole set,
      because `num_classes` of a part sees only that part.

  Returns:
    One data set per part.

  Raises:
    ImportError: if scikit-learn, which finds clusters, is missing.

  Example:
    >>> from lthjax import data
    >>> low, high = data.partition(data.load('digits'), 'class')
    >>> sorted(set(high.test.labels.tolist()))
    [5, 6, 7, 8, 9]
    >>> len(low.train.labels) + len(high.train.labels)
    1257

  References:
    By class: Hossain et al., COLT, arXiv:2212.12770, section 3.
  """
  parts, seed = _checks.integer('parts', parts), _checks.integer('seed', seed)
  check_dataset(dataset)
  relabel = _checks.flag('relabel', relabel)
  if not callable(by):
    _checks.one_of('by', by, _WAYS)
  assign = _assign(dataset, by, parts, seed)
  splits = {
    name: split
    for name, split in dataset._asdict().items()
    if isinstance(split, Split)
  }
  numbers = {
    name: _checked(name, np.asarray(assign(split)), split, parts)
    for name, split in splits.items()
  }
  _check_not_empty(numbers, parts)

  def part(number):
    chosen = {
      name: _take(split, numbers[name] == number)
      for name, split in splits.items()
    }
    return dataset._replace(**(_relabeled(chosen) if relabel else chosen))

  return [part(number) for number in range(parts)]


def _assign(
  dataset: Dataset, by: str | Assign, parts: int, seed: int
) -> Assign:
  """Returns a function that numbers the part of every example of a split."""
  classes = _classes(x for x in dataset if isinstance(x, Split))
  most, what = len(dataset.train.labels), 'training examples'
  if by == 'class':
    most, what = len(classes), 'classes'
  _checks.between(
    'parts', parts, 2, most, f'every part needs {what} of its own'
  )
  if callable(by):
    return by
  if by == 'example':
    rng = np.random.default_rng(seed)
    return lambda split: rng.permutation(len(split.labels)) % parts
  if by == 'class':
    # Consecutive classes; the first parts have one more if they do not divide.
    groups = np.array_split(classes, parts)
    part_of = np.repeat(np.arange(parts), [len(group) for group in groups])
    return lambda split: part_of[np.searchsorted(classes, split.labels)]
  return _nearest_center(dataset.train, parts, seed)


def _classes(splits: Iterable[Split]) -> np.ndarray:
  """Returns the sorted labels that occur in any split."""
  return np.unique(np.concatenate([np.asarray(x.labels) for x in splits]))


def _nearest_center(train: Split, parts: int, seed: int) -> Assign:
  """Finds centers by k-means, on one thread, so that sums have one order."""
  try:
    import threadpoolctl
    from sklearn import cluster
  except ModuleNotFoundError as error:
    raise ImportError(
      'Clusters are found with scikit-learn, which is not installed: run'
      " `pip install scikit-learn`, or `pip install -e '.[experiments]'` for"
      ' all that the experiments need.'
    ) from error

  def pixels(split):
    images = np.asarray(split.images, np.float32) / 255
    return images.reshape(len(images), -1)

  with threadpoolctl.threadpool_limits(1):
    found = cluster.KMeans(parts, random_state=seed).fit(pixels(train))

  def assign(split):
    if not len(split.labels):
      return np.zeros(0, int)
    with threadpoolctl.threadpool_limits(1):
      return np.asarray(found.predict(pixels(split)))

  return assign


def _checked(
  name: str, numbers: np.ndarray, split: Split, parts: int
) -> np.ndarray:
  """Returns the numbers of the parts, if every example has a valid one."""
  size = len(split.labels)
  integers = np.issubdtype(numbers.dtype, np.integer)
  if numbers.shape != (size,) or not integers:
    raise ValueError(
      f'`by` gave {_checks.describe(numbers)} for the {size} {name} examples,'
      ' but must give an integer for each.'
    )
  if size and not 0 <= numbers.min() <= numbers.max() < parts:
    raise ValueError(
      f'`by` put {name} examples into parts {numbers.min()} to'
      f' {numbers.max()}, but `parts` was {parts}: parts are numbered from 0.'
    )
  return numbers


def _check_not_empty(numbers: dict[str, np.ndarray], parts: int) -> None:
  """Raises if a part is empty where the whole is not."""
  refuse(
    (
      f'part {part} has no {name} example'
      for name, of_split in numbers.items()
      for part in np.setdiff1d(np.arange(parts), of_split)
      if len(of_split)
    ),
    'The partition has empty parts: {}. Every part needs examples in every'
    ' split that has some: divide into fewer parts or in another way, or hold'
    ' out more examples.',
  )


def _take(split: Split, chosen: np.ndarray) -> Split:
  """Returns the chosen examples, in order."""
  return Split(*(jnp.asarray(np.asarray(x)[chosen]) for x in split))


def _relabeled(splits: dict[str, Split]) -> dict[str, Split]:
  """Counts the classes of a part from 0, consistently over splits."""
  classes = _classes(splits.values())
  return {
    name: split._replace(
      labels=jnp.asarray(np.searchsorted(classes, split.labels), jnp.int32)
    )
    for name, split in splits.items()
  }
