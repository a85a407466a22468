"""Parts of a data set: nothing lost, nothing twice, none empty."""

import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import data

SPLITS = ('train', 'validation', 'test')


def rows(split):
  """Each example as bytes, to compare splits as multisets."""
  images, labels = np.asarray(split.images), np.asarray(split.labels)
  return [x.tobytes() + bytes([y]) for x, y in zip(images, labels, strict=True)]


@pytest.fixture(scope='module')
def digits():
  return data.load('digits')


def odd_and_even(split):
  return split.labels % 2


def by_remainder(split):
  return np.asarray(split.labels) % 3


@pytest.mark.parametrize(
  ('by', 'parts'),
  [
    *[
      pytest.param(by, n, marks=pytest.mark.slow if n == 2 else [])
      for by in ('example', 'class', 'cluster')
      for n in (2, 3)
    ],
    (odd_and_even, 2),
    (by_remainder, 3),
  ],
)
def test_every_example_is_in_one_part(digits, by, parts):
  found = data.partition(digits, by, parts=parts)
  assert len(found) == parts
  for name in SPLITS:
    together = [row for part in found for row in rows(getattr(part, name))]
    assert sorted(together) == sorted(rows(getattr(digits, name)))
  for part in found:
    assert part.train.images.dtype == jnp.uint8
    assert part.train.labels.dtype == jnp.int32
    assert part.mean is digits.mean
    assert part.std is digits.std


def test_examples_are_divided_evenly_and_by_seed(digits):
  one, same, other = (
    data.partition(digits, 'example', parts=3, seed=seed) for seed in (1, 1, 2)
  )
  assert [len(part.train.labels) for part in one] == [419] * 3
  assert [len(part.test.labels) for part in one] == [120] * 3
  assert [rows(x.train) for x in one] == [rows(x.train) for x in same]
  assert [rows(x.train) for x in one] != [rows(x.train) for x in other]
  for part in one:  # Each part looks like the whole.
    assert set(part.test.labels.tolist()) == set(range(10))


def test_classes_are_in_a_row(digits):
  found = data.partition(digits, 'class', parts=3)
  classes = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
  for part, expected in zip(found, classes, strict=True):
    for name in SPLITS:
      labels = getattr(part, name).labels.tolist()
      assert sorted(set(labels)) == expected
  relabeled = data.partition(digits, 'class', parts=3, relabel=True)
  for part, plain, expected in zip(relabeled, found, classes, strict=True):
    for name in SPLITS:
      labels = np.asarray(getattr(part, name).labels)
      assert labels.dtype == np.int32
      np.testing.assert_array_equal(
        np.array(expected)[labels], getattr(plain, name).labels
      )
  assert [data.num_classes(part) for part in relabeled] == [4, 3, 3]


def test_a_part_can_be_divided_again(digits):
  """Classes in a row are those that there are, and not those from zero."""
  _, high = data.partition(digits, 'class')
  for part, expected in zip(
    data.partition(high, 'class', parts=3), [[5, 6], [7, 8], [9]], strict=True
  ):
    for name in SPLITS:
      assert sorted(set(getattr(part, name).labels.tolist())) == expected
  with pytest.raises(ValueError, match='from 2 to 5: every part needs classes'):
    data.partition(high, 'class', parts=6)


def test_the_number_of_parts_is_an_integer(digits):
  with pytest.raises(TypeError, match='must be an integer'):
    data.partition(digits, 'example', parts=2.5)


def test_clusters_are_nearest_to_the_mean_of_their_training_examples(digits):
  found = data.partition(digits, 'cluster', parts=3)
  again = data.partition(digits, 'cluster', parts=3)
  assert [rows(x.train) for x in found] == [rows(x.train) for x in again]

  def pixels(split):
    images = np.asarray(split.images, np.float64)
    return images.reshape(len(images), -1)

  centers = np.stack([pixels(part.train).mean(0) for part in found])
  wrong, total = 0, 0
  for number, part in enumerate(found):
    for name in SPLITS:
      x = pixels(getattr(part, name))
      distance = np.linalg.norm(x[:, None] - centers, axis=-1)
      wrong += (distance.argmin(1) != number).sum()
      total += len(x)
  assert total == 1797
  assert wrong <= 3  # On the border: k-means stops when it hardly moves.


def test_splits_without_examples_stay_so():
  dataset = data.load('digits', validation=0)
  for by in ('example', 'class', 'cluster'):
    for part in data.partition(dataset, by):
      assert part.validation.images.shape == (0, 8, 8, 1)
      assert len(part.train.labels)


@pytest.mark.parametrize(
  ('by', 'parts', 'message'),
  [
    ('class', 11, '`parts` was 11, but must be from 2 to 10: every part needs'
                  ' classes of its own.'),
    ('example', 1258, '`parts` was 1258, but must be from 2 to 1257: every part'
                      ' needs training examples of its own.'),
    ('cluster', 1, '`parts` was 1, but must be from 2'),
    ('pixel', 2, '`by` was \'pixel\', but must be "example" (at '),
    ('example', 200, 'part 199 has no validation example. Every part needs'),
    (odd_and_even, 3, 'The partition has empty parts: part 2 has no train'
                      ' example; part 2 has no validation example; part 2 has'
                      ' no test example. Every part needs examples'),
    (lambda split: split.labels, 3,
     '`by` put train examples into parts 0 to 9, but `parts` was 3: parts'),
    (lambda split: split.labels / 2, 2,
     '`by` gave float32[1257] for the 1257 train'),
    (lambda split: np.zeros(3, int), 2,
     'gave int64[3] for the 1257 train examples, but must give an integer for'),
    (np.arange(3), 2,
     '`by` was int64[3], but must be "example" (at random), "class"'),
  ],
)  # fmt: skip
def test_bad_partitions(digits, by, parts, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    data.partition(digits, by, parts=parts)


def test_clusters_need_scikit_learn(digits, monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  with pytest.raises(ImportError, match='run `pip install scikit-learn`, or'):
    data.partition(digits, 'cluster')
