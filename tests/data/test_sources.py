"""Prepared data sets, written here as TFDS lays them out, and their cache."""

import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lthjax import data


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


def _prepare(folders, splits, *, labels=(0, 1, 2), file_format='array_record'):
  """Writes the data set `tiny`, whose labels repeat the given ones."""
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
      example = {'image': png, **({'label': labels[i % 3]} if labels else {})}
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
  found = np.concatenate([dataset.train.images, dataset.validation.images])
  assert sorted(x.tobytes() for x in found) == sorted(
    x.tobytes() for x in train
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


@pytest.mark.slow
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
    cwd=pathlib.Path(__file__).parents[2],
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
  _prepare(folders, {'train': _images(5), 'dev': _images(5)}, labels=())
  with pytest.raises(ValueError, match="lacks a feature 'label'") as caught:
    data.load('tiny')
  message = str(caught.value)
  assert "a split 'test'" in message
  assert "features ['image'] and splits ['dev', 'train']" in message


def test_examples_without_a_label_are_refused(folders):
  splits = {'train': _images(6), 'test': _images(3)}
  _prepare(folders, splits, labels=(0, 1, -1))
  with pytest.raises(ValueError, match='2 examples without a label'):
    data.load('tiny')


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
  with pytest.raises(ImportError, match=r"pip install -e '\.\[experiments\]'"):
    data.load(name)


# Real data.


@pytest.mark.slow
def test_mnist_is_mnist(tfds_data_dir, folders, monkeypatch):
  if not (tfds_data_dir / 'mnist').is_dir():
    pytest.skip(f'needs mnist, which is not prepared in {tfds_data_dir}')
  monkeypatch.setenv('TFDS_DATA_DIR', str(tfds_data_dir))
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
