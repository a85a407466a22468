"""Data: which examples a step sees, and what a name loads."""

import functools
import io
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lthjax import data

_PREPARED = os.environ.get('TFDS_DATA_DIR')
_KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnames=('batch_size', 'size'))
def _draw(key, steps, *, batch_size, size):
  return jax.vmap(
    lambda step: data.epoch_indices(key, step, batch_size=batch_size, size=size)
  )(steps)


def _epoch(key, epoch, *, batch_size, size):
  """All indices of one epoch, in the order the training loop sees them."""
  steps = size // batch_size
  drawn = _draw(
    key, epoch * steps + jnp.arange(steps), batch_size=batch_size, size=size
  )
  return np.asarray(drawn).ravel()


# Which examples a step sees.


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 100, 1297, 4096, 55_000])
def test_an_epoch_visits_every_example_once(size):
  order = _epoch(_KEY, 3, batch_size=1, size=size)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_the_largest_array_does_not_overflow():
  size = 2**31 - 1
  draw = jax.jit(
    lambda step: data.epoch_indices(_KEY, step, batch_size=50_000, size=size)
  )
  last = np.concatenate([draw(0), draw(size // 50_000 - 1)])
  assert last.min() >= 0
  assert last.max() < size
  assert len(np.unique(last)) == 100_000


def test_the_remainder_of_an_epoch_is_another_one_each_time():
  epochs = [_epoch(_KEY, e, batch_size=30, size=100) for e in range(20)]
  for order in epochs:
    assert len(np.unique(order)) == 90
  left_out = {tuple(np.setdiff1d(np.arange(100), order)) for order in epochs}
  assert len(left_out) == 20


def test_epochs_and_keys_have_different_orders():
  orders = [
    tuple(_epoch(jax.random.key(seed), epoch, batch_size=10, size=50))
    for seed in range(5)
    for epoch in range(5)
  ]
  assert len(set(orders)) == 25


def test_indices_match_a_permutation_worked_out_in_python():
  size, batch_size, step = 1257, 60, 47
  steps = size // batch_size
  round_keys = [
    int(k)
    for k in jax.random.bits(
      jax.random.fold_in(_KEY, step // steps), (24,), jnp.uint32
    )
  ]

  def scramble(x):
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
    return x ^ (x >> 16)

  def permute(x):
    for key in round_keys:
      partner = (key - x) % size
      if scramble(max(x, partner) ^ key) >= 2**31:
        x = partner
    return x

  first = step % steps * batch_size
  expected = [permute(first + i) for i in range(batch_size)]
  found = data.epoch_indices(_KEY, step, batch_size=batch_size, size=size)
  assert found.tolist() == expected


@pytest.mark.parametrize('size', [7, 36, 50])
def test_every_position_and_pair_of_positions_is_uniform(size):
  """Chi-square over 20,000 keys, within five deviations of what is expected."""
  keys = jax.random.split(_KEY, 20_000)
  draw = jax.vmap(
    lambda key: data.epoch_indices(key, 0, batch_size=size, size=size)
  )
  orders = np.asarray(jax.jit(draw)(keys))

  def deviation(cells, count):
    expected, freedom = len(keys) / count, count - 1
    counts = np.bincount(cells, minlength=count)
    square = ((counts - expected) ** 2 / expected).sum()
    return (square - freedom) / math.sqrt(2 * freedom)

  first = orders[:, 0]
  for position in (0, 1, size // 2, size - 1):
    assert abs(deviation(orders[:, position], size)) < 5
  for position in (1, size // 2, size - 1):
    other = orders[:, position]
    pair = first * (size - 1) + other - (other > first)
    assert abs(deviation(pair, size * (size - 1))) < 5


def test_a_step_may_be_traced_and_compiles_once():
  traces = []

  @jax.jit
  def draw(key, step):
    traces.append(step)
    return data.epoch_indices(key, step, batch_size=8, size=20)

  for step in range(6):
    expected = data.epoch_indices(_KEY, step, batch_size=8, size=20)
    np.testing.assert_array_equal(draw(_KEY, step), expected)
    np.testing.assert_array_equal(draw(_KEY, jnp.int32(step)), expected)
  assert len(traces) <= 2  # A Python int is weakly typed, an int32 is not.


def test_indices_map_over_keys_and_scan_over_steps():
  keys = jax.random.split(_KEY, 3)

  def draw(key, step):
    return data.epoch_indices(key, step, batch_size=4, size=10)

  def body(step, _):
    return step + 1, jax.vmap(draw, in_axes=(0, None))(keys, step)

  _, drawn = jax.lax.scan(body, jnp.int32(0), length=5)
  for step in range(5):
    for i, key in enumerate(keys):
      np.testing.assert_array_equal(drawn[step, i], draw(key, step))


def test_old_style_keys_draw_the_same():
  for key in (_KEY, jax.random.key_data(_KEY)):
    found = data.epoch_indices(key, 5, batch_size=4, size=10)
    np.testing.assert_array_equal(
      found, data.epoch_indices(_KEY, 5, batch_size=4, size=10)
    )


@pytest.mark.parametrize('batch_size', [0, -3, 11])
def test_a_batch_that_does_not_fit_is_refused(batch_size):
  with pytest.raises(ValueError, match='must be from 1 to 10'):
    data.epoch_indices(_KEY, 0, batch_size=batch_size, size=10)


def test_a_batch_is_a_pure_function_of_key_and_step():
  split = data.Split(
    images=jnp.arange(20, dtype=jnp.uint8)[:, None, None, None],
    labels=jnp.arange(20, dtype=jnp.int32),
  )
  take = jax.jit(lambda key, step: data.batch(split, key, step, batch_size=6))
  for step in (0, 1, 2, 3, 50):
    images, labels = data.batch(split, _KEY, step, batch_size=6)
    again = take(_KEY, step)
    assert images.shape == (6, 1, 1, 1)
    assert images.dtype == jnp.uint8
    np.testing.assert_array_equal(images.ravel(), labels)
    np.testing.assert_array_equal(again.images, images)
    np.testing.assert_array_equal(again.labels, labels)
    np.testing.assert_array_equal(
      labels, data.epoch_indices(_KEY, step, batch_size=6, size=20)
    )


# What happens to the pixels.


def test_normalize_is_worked_out_a_channel():
  images = jnp.array([[[[0, 255], [51, 102]]]], jnp.uint8)
  found = jax.jit(data.normalize)(
    images, jnp.array([0.5, 0.2]), jnp.array([0.25, 0.1])
  )
  assert found.dtype == jnp.float32
  expected = [[[[-2.0, 8.0], [-1.2, 2.0]]]]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_crops_and_flips_are_those_of_the_padded_image():
  count, pad, shape = 400, 2, (5, 4, 3)
  image = np.arange(1, 61, dtype=np.uint8).reshape(shape)
  images = jnp.broadcast_to(image, (count, *shape))
  found = data.random_crop_flip(_KEY, images, pad=pad)
  assert found.shape == images.shape
  assert found.dtype == jnp.uint8

  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  candidates = {}
  for top in range(2 * pad + 1):
    for left in range(2 * pad + 1):
      crop = padded[top : top + 5, left : left + 4]
      candidates[crop.tobytes()] = top, left, False
      candidates[crop[:, ::-1].tobytes()] = top, left, True
  assert len(candidates) == 50
  seen = [candidates[np.asarray(x).tobytes()] for x in found]
  assert len(set(seen)) == 50  # 400 draws miss one of 50 with p = 0.015.
  assert 150 < sum(flip for _, _, flip in seen) < 250


def test_augmentation_without_padding_only_mirrors():
  images = jax.random.bits(_KEY, (64, 8, 8, 3), jnp.uint8)
  found = data.random_crop_flip(_KEY, images, pad=0)
  same = (found == images).all((1, 2, 3))
  mirrored = (found == images[:, :, ::-1]).all((1, 2, 3))
  assert (same ^ mirrored).all()
  assert 10 < same.sum() < 54


def test_augmentation_jits_and_maps_over_keys():
  images = jax.random.bits(_KEY, (3, 4, 8, 8, 1), jnp.uint8)
  keys = jax.random.split(_KEY, 3)
  mapped = jax.jit(jax.vmap(data.random_crop_flip))(keys, images)
  for key, x, found in zip(keys, images, mapped, strict=True):
    np.testing.assert_array_equal(found, data.random_crop_flip(key, x))


def test_a_negative_pad_is_refused():
  with pytest.raises(ValueError, match='`pad` must be 0 or more'):
    data.random_crop_flip(_KEY, jnp.zeros((1, 4, 4, 1), jnp.uint8), pad=-1)


# Digits.


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
  with pytest.raises(ValueError, match="of 'digits': choose from 0 to 1436"):
    data.load('digits', validation=validation)


def test_a_data_set_is_an_argument_of_jitted_functions():
  dataset = data.load('digits')

  @jax.jit
  def step(dataset, key, i):
    images, labels = data.batch(dataset.train, key, i, batch_size=60)
    return data.normalize(images, dataset.mean, dataset.std), labels

  x, y = step(dataset, _KEY, 5)
  assert x.shape == (60, 8, 8, 1)
  assert y.shape == (60,)


# TensorFlow Datasets: small sets written here, as TFDS lays them out.


@pytest.fixture
def folders(tmp_path, monkeypatch):
  """Empty folders for prepared sets and for the cache."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  monkeypatch.setenv('LTHJAX_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'tfds').mkdir()
  return tmp_path


def _images(count, shape=(4, 6, 3), seed=0):
  rng = np.random.default_rng(seed)
  return list(rng.integers(0, 256, (count, *shape), np.uint8))


def _prepare(folders, splits, *, labels=True, file_format='array_record'):
  """Writes the data set `tiny`, labels counting 0, 1, 2, 0 and so on."""
  import tensorflow_datasets as tfds
  from array_record.python import array_record_module
  from PIL import Image

  folder = folders / 'tfds' / 'tiny' / '1.0.0'
  folder.mkdir(parents=True)
  features = {'image': tfds.features.Image(shape=(None, None, 3))}
  if labels:
    features['label'] = tfds.features.ClassLabel(num_classes=3)
  features = tfds.features.FeaturesDict(features)
  features.save_config(str(folder))
  for split, images in splits.items():
    file = folder / f'tiny-{split}.{file_format}-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
    for i, image in enumerate(images):
      png = io.BytesIO()
      Image.fromarray(image).save(png, 'png')
      png.seek(0)
      example = {'image': png, **({'label': i % 3} if labels else {})}
      writer.write(features.serialize_example(example))
    writer.close()
  info = {
    'name': 'tiny',
    'version': '1.0.0',
    'fileFormat': file_format,
    'splits': [
      {
        'name': split,
        'numBytes': '1',
        'shardLengths': [str(len(images))],
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }
      for split, images in splits.items()
    ],
  }
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  return folder


def test_a_prepared_set_is_read_by_name(folders):
  train, test = _images(45), _images(7, seed=1)
  _prepare(folders, {'train': train, 'test': test})
  dataset = data.load('tiny')
  assert len(dataset.validation.labels) == 4  # A tenth.
  np.testing.assert_array_equal(dataset.test.images, np.stack(test))
  np.testing.assert_array_equal(dataset.test.labels, np.arange(7) % 3)
  everything = data.Split(np.stack(train), np.arange(45) % 3)
  assert sorted(_rows(dataset.train) + _rows(dataset.validation)) == sorted(
    _rows(everything)
  )
  assert data.num_classes(dataset) == 3
  pixels = np.asarray(dataset.train.images, np.float64) / 255
  np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_a_constant_channel_normalizes_to_zero(folders):
  train = [image * np.array([1, 0, 1], np.uint8) for image in _images(20)]
  _prepare(folders, {'train': train, 'test': _images(5)})
  dataset = data.load('tiny')
  x = data.normalize(dataset.train.images, dataset.mean, dataset.std)
  assert np.isfinite(x).all()
  assert (x[..., 1] == 0).all()


def test_the_second_load_reads_the_cache(folders):
  _prepare(folders, {'train': _images(20), 'test': _images(5)})
  first = data.load('tiny')
  (file,) = (folders / 'cache').iterdir()
  assert file.name.startswith('tiny-1.0.0-')
  jax.tree.map(np.testing.assert_array_equal, first, data.load('tiny'))

  with np.load(file) as arrays:
    marked = {**arrays, 'test_labels': np.full(5, 2, np.int32)}
  np.savez(file, **marked)
  assert data.load('tiny').test.labels.tolist() == [2] * 5


@pytest.mark.parametrize(
  'damage', ['empty', 'garbage', 'cut', 'flipped', 'npy']
)
def test_a_damaged_cache_is_made_again(folders, damage):
  _prepare(folders, {'train': _images(20), 'test': _images(5)})
  first = data.load('tiny')
  (file,) = (folders / 'cache').iterdir()
  good = file.read_bytes()
  middle = len(good) // 4
  if damage == 'npy':
    with file.open('wb') as stream:
      np.save(stream, np.arange(3))
  else:
    file.write_bytes(
      {
        'empty': b'',
        'garbage': b'no zip file',
        'cut': good[:-100],
        'flipped': good[:middle] + b'\x5a' * 9 + good[middle + 9 :],
      }[damage]
    )
  jax.tree.map(np.testing.assert_array_equal, first, data.load('tiny'))
  with np.load(file) as arrays:
    np.testing.assert_array_equal(arrays['test_images'], first.test.images)
  assert list((folders / 'cache').iterdir()) == [file]


def test_a_set_prepared_anew_is_not_mistaken_for_the_cached_one(folders):
  folder = _prepare(folders, {'train': _images(20), 'test': _images(5)})
  data.load('tiny')
  for file in folder.iterdir():
    file.unlink()
  folder.rmdir()
  _prepare(folders, {'train': _images(20), 'test': _images(6)})
  assert len(data.load('tiny').test.labels) == 6


def test_a_cache_that_cannot_be_written_is_done_without(folders, monkeypatch):
  _prepare(folders, {'train': _images(20), 'test': _images(5)})
  (folders / 'file').touch()
  monkeypatch.setenv('LTHJAX_CACHE', str(folders / 'file' / 'cache'))
  with pytest.warns(UserWarning, match='set LTHJAX_CACHE') as caught:
    dataset = data.load('tiny')
  assert len(dataset.test.labels) == 5
  assert caught[0].filename == __file__


def test_the_cache_follows_xdg(folders, monkeypatch):
  _prepare(folders, {'train': _images(20), 'test': _images(5)})
  monkeypatch.delenv('LTHJAX_CACHE')
  monkeypatch.setenv('XDG_CACHE_HOME', str(folders / 'xdg'))
  data.load('tiny')
  assert len(list((folders / 'xdg' / 'lthjax').iterdir())) == 1


def test_loading_is_silent_and_imports_late(folders):
  """In a process of its own, since some lines are logged once a process."""
  _prepare(folders, {'train': _images(20), 'test': _images(5)})
  program = (
    'import sys\n'
    'from lthjax import data\n'
    "late = {'sklearn', 'tensorflow_datasets', 'tensorflow'}\n"
    'assert not late & set(sys.modules)\n'
    "data.load('tiny')\n"
  )
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', program],
    capture_output=True,
    check=False,
    cwd=pathlib.Path(__file__).parents[1],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    text=True,
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


# Sets that cannot be used.


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(folders):
  with pytest.raises(FileNotFoundError) as caught:
    data.load('mnist')
  message = str(caught.value)
  assert "'mnist' is not prepared" in message
  assert str(folders / 'tfds') in message
  assert 'pip install tensorflow importlib_resources' in message
  assert "tfds.data_source('mnist')" in message
  assert 'TFDS_DATA_DIR' in message
  assert '--dataset digits' in message


def test_the_default_folder_is_below_home(folders, monkeypatch):
  monkeypatch.delenv('TFDS_DATA_DIR')
  monkeypatch.setenv('HOME', str(folders))
  with pytest.raises(FileNotFoundError) as caught:
    data.load('cifar10')
  assert str(folders / 'tensorflow_datasets' / 'cifar10') in str(caught.value)


@pytest.mark.parametrize(
  ('name', 'close'),
  [
    ('mnits', "'mnist'"),
    ('fashion-mnist', "'fashion_mnist'"),
    ('mnist:9.9.9', "'mnist'"),
    ('digit', "'digits'"),
  ],
)
def test_an_unknown_name_suggests_the_closest(folders, name, close):
  with pytest.raises(ValueError, match=f"cannot open '{name}'") as caught:
    data.load(name)
  message = str(caught.value)
  assert close in message.partition('Did you mean')[2]
  assert str(folders / 'tfds') in message
  assert len(message) < 1000


def test_a_set_without_labels_or_test_split_lists_all_it_lacks(folders):
  _prepare(folders, {'train': _images(5), 'dev': _images(5)}, labels=False)
  with pytest.raises(ValueError, match="lacks a feature 'label'") as caught:
    data.load('tiny')
  message = str(caught.value)
  assert "a split 'test'" in message
  assert "features ['image'] and splits ['dev', 'train']" in message


@pytest.mark.parametrize('where', ['within', 'between'])
def test_images_of_several_shapes_are_refused(folders, where):
  small, large = _images(5), _images(5, shape=(8, 8, 3))
  _prepare(
    folders,
    {
      'train': small + large if where == 'within' else large,
      'test': small,
    },
  )
  with pytest.raises(ValueError, match=r'\(4, 6, 3\)') as caught:
    data.load('tiny')
  assert '(8, 8, 3)' in str(caught.value)


def test_a_format_without_random_access_is_refused(folders):
  splits = {'train': _images(5), 'test': _images(5)}
  _prepare(folders, splits, file_format='tfrecord')
  with pytest.raises(ValueError, match='array_record is required'):
    data.load('tiny')


@pytest.mark.parametrize(
  ('name', 'module'), [('mnist', 'tensorflow_datasets'), ('digits', 'sklearn')]
)
def test_a_missing_package_says_what_to_install(monkeypatch, name, module):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError, match=r"pip install 'lthjax\[experiments\]'"):
    data.load(name)


# Real data.


@pytest.mark.skipif(
  not _PREPARED or not pathlib.Path(_PREPARED, 'mnist').is_dir(),
  reason='TFDS_DATA_DIR does not name a folder with mnist prepared',
)
def test_mnist_is_mnist(folders, monkeypatch):
  assert _PREPARED is not None
  monkeypatch.setenv('TFDS_DATA_DIR', _PREPARED)
  dataset = data.load('mnist')
  splits = (dataset.train, dataset.validation, dataset.test)
  counts = [len(split.labels) for split in splits]
  assert counts == [55_000, 5_000, 10_000]
  assert dataset.train.images.shape[1:] == (28, 28, 1)
  assert np.bincount(dataset.test.labels).tolist() == [
    980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
  ]  # fmt: skip
  assert dataset.mean.tolist() == [np.float32(0.1307)]
  pixels = np.asarray(dataset.train.images)
  np.testing.assert_allclose(pixels.mean() / 255, dataset.mean[0], atol=5e-4)
  np.testing.assert_allclose(pixels.std() / 255, dataset.std[0], atol=5e-4)
  again = data.load('mnist')
  jax.tree.map(np.testing.assert_array_equal, dataset, again)
