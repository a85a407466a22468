"""Loading: how digits are split and measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import data


def _rows(split):
  """Each example as bytes, to compare splits as multisets."""
  images, labels = np.asarray(split.images), np.asarray(split.labels)
  return [x.tobytes() + bytes([y]) for x, y in zip(images, labels, strict=True)]


def test_digits_are_split_without_overlap_or_loss():
  dataset = data.load('digits')
  splits = (dataset.train, dataset.validation, dataset.test)
  assert [len(split.labels) for split in splits] == [1257, 180, 360]
  for split in splits:
    assert split.images.shape[1:] == (8, 8, 1)
    assert split.images.dtype == jnp.uint8
    assert split.labels.dtype == jnp.int32

  from sklearn import datasets

  digits = datasets.load_digits()
  grey = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191,
                   207, 223, 239, 255], np.uint8)  # fmt: skip
  images = grey[digits.images.astype(int)][..., None]
  everything = _rows(data.Split(images, digits.target))
  assert sorted(row for split in splits for row in _rows(split)) == sorted(
    everything
  )


def test_the_digits_test_set_is_stratified_and_always_the_same():
  one, other = data.load('digits'), data.load('digits', seed=1)
  np.testing.assert_array_equal(one.test.images, other.test.images)
  np.testing.assert_array_equal(one.test.labels, other.test.labels)
  counts = np.bincount(one.test.labels)
  assert counts.min() >= 34
  assert counts.max() <= 37


def test_a_seed_fixes_what_is_held_out():
  one, same = data.load('digits', seed=3), data.load('digits', seed=3)
  jax.tree.map(np.testing.assert_array_equal, one, same)
  other = data.load('digits', seed=4)
  assert _rows(one.validation) != _rows(other.validation)


def test_digits_statistics_are_those_of_the_training_images():
  dataset = data.load('digits')
  pixels = np.asarray(dataset.train.images, np.float64) / 255
  np.testing.assert_allclose(dataset.mean, [pixels.mean()], rtol=1e-6)
  np.testing.assert_allclose(dataset.std, [pixels.std()], rtol=1e-6)
  normal = data.normalize(dataset.train.images, dataset.mean, dataset.std)
  assert abs(normal.mean()) < 1e-5
  assert abs(normal.std() - 1) < 1e-5


@pytest.mark.parametrize('validation', [0, 1, 1436])
def test_any_number_of_examples_can_be_held_out(validation):
  dataset = data.load('digits', validation=validation)
  assert len(dataset.validation.labels) == validation
  assert len(dataset.train.labels) == 1437 - validation
  if validation < 1000:
    assert data.num_classes(dataset) == 10


@pytest.mark.parametrize('validation', [-1, 1437])
def test_holding_out_too_many_is_refused(validation):
  with pytest.raises(ValueError, match="from 0 to 1436: 'digits' has 1437"):
    data.load('digits', validation=validation)


def test_a_data_set_is_an_argument_of_jitted_functions():
  dataset = data.load('digits')

  @jax.jit
  def step(dataset, key, i):
    images, labels = data.batch(dataset.train, key, i, batch_size=60)
    return data.normalize(images, dataset.mean, dataset.std), labels

  x, y = step(dataset, jax.random.key(0), 5)
  assert x.shape == (60, 8, 8, 1)
  assert y.shape == (60,)


@pytest.mark.parametrize('seed', [None, 1.5, '0', True])
def test_seeds_are_integers(seed):
  with pytest.raises(TypeError, match='`seed` was '):
    data.load('digits', seed=seed)


@pytest.mark.parametrize('batch_size', [2.7, None, '8'])
def test_batch_sizes_are_integers(batch_size):
  with pytest.raises(TypeError, match='`batch_size` was '):
    data.epoch_indices(jax.random.key(0), 0, batch_size=batch_size, size=10)
