"""Decoded images from scikit-learn and TensorFlow Datasets, and their cache."""

import contextlib
import difflib
import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lthjax._errors import refuse


class Source(NamedTuple):
  """Decoded training and test examples on the host.

  Attributes:
    train_images: ``uint8[N, H, W, C]``.
    train_labels: ``int32[N]``.
    test_images: ``uint8[M, H, W, C]``.
    test_labels: ``int32[M]``.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray


def read_digits() -> Source:
  """Reads scikit-learn's digits; the 360 test examples are always the same."""
  try:
    from sklearn import datasets, model_selection
  except ModuleNotFoundError as error:
    raise _missing('digits', 'scikit-learn') from error
  digits: Any = datasets.load_digits()
  # Gray levels are 0 to 16.
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  labels = digits.target.astype(np.int32)
  train, test = model_selection.train_test_split(
    np.arange(len(labels)), test_size=360, random_state=0, stratify=labels
  )
  return Source(images[train], labels[train], images[test], labels[test])


def read_tfds(name: str) -> Source:
  """Reads a prepared set of TensorFlow Datasets, or its cache."""
  with _quiet():
    builder = _open(name)
    path = _cache_path(builder)
    if (cached := _read_cache(path)) is not None:
      return cached
    train, test = _data_sources(name, builder)
    source = Source(*_decode(name, train), *_decode(name, test))
  shapes = source.train_images.shape[1:], source.test_images.shape[1:]
  if shapes[0] != shapes[1]:
    raise _several_shapes(name, *shapes)
  _write_cache(path, source)
  return source


def _missing(name: str, package: str) -> ImportError:
  return ImportError(
    f'Data set {name!r} is read with {package}, which is not installed: run'
    f" `pip install {package}`, or `pip install -e '.[experiments]'` for all"
    ' that the experiments need.'
  )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Suppresses log messages below errors, such as the choice of decoder."""
  from absl import logging

  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def _open(name: str) -> Any:
  """Finds the prepared set, or says what to do."""
  try:
    import tensorflow_datasets as tfds
  except ModuleNotFoundError as error:
    raise _missing(name, 'tensorflow-datasets') from error
  folder = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  folder = os.path.expanduser(folder)
  try:
    builder = tfds.builder(name, data_dir=folder)
  except (AssertionError, ImportError, ValueError) as error:
    unknown = isinstance(error, tfds.core.DatasetNotFoundError)
    reason = 'no such data set' if unknown else str(error).partition('\n')[0]
    names = ['digits', *tfds.list_builders(with_community_datasets=False)]
    close = [] if name in names else difflib.get_close_matches(name, names)
    hint = f' Did you mean {" or ".join(map(repr, close))}?' if close else ''
    raise ValueError(
      f'tensorflow-datasets cannot open {name!r} in {folder}:'
      f' {reason.rstrip(".")}.{hint} The data set `digits` needs no download.'
    ) from (None if unknown else error)  # Its text lists every known name.
  if not builder.is_prepared():
    raise FileNotFoundError(
      f'Data set {name!r} is not prepared: {builder.data_path} does not hold'
      f' it.\n{_how_to_prepare(name)}'
    )
  return builder


def _how_to_prepare(name: str) -> str:
  # The command line `tfds build` would need apache-beam besides, and writes a
  # format without random access unless told otherwise.
  return (
    'To download and prepare it once (only this needs TensorFlow), run\n'
    '  pip install tensorflow importlib_resources\n'
    f'  python -c "import tensorflow_datasets as tfds;'
    f" tfds.data_source('{name}')\"\n"
    'or set TFDS_DATA_DIR to the folder where it is. The data set `digits`'
    ' (--dataset digits) needs no download.'
  )


def _data_sources(name: str, builder: Any) -> Any:
  """Checks that it is an image classification set; opens train and test."""
  import tensorflow_datasets as tfds

  features, splits = dict(builder.info.features), builder.info.splits
  image, label = features.get('image'), features.get('label')
  lacks = []
  if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
    lacks.append("a feature 'image' of uint8 pixels")
  if not isinstance(label, tfds.features.ClassLabel):
    lacks.append("a feature 'label' with one class per image")
  lacks += [f'a split {s!r}' for s in ('train', 'test') if s not in splits]
  refuse(
    lacks,
    f'Data set {name!r} lacks {{}}. It has features {sorted(features)} and'
    f' splits {sorted(splits)}. Choose an image classification set with splits'
    ' train and test, such as mnist.',
  )
  try:
    return builder.as_data_source(split=['train', 'test'])
  except NotImplementedError as error:
    raise ValueError(
      f'Data set {name!r} is prepared in {builder.data_path} in a format'
      ' without random access, but array_record is required: remove that'
      f' folder and prepare it again.\n{_how_to_prepare(name)}'
    ) from error


def _decode(name: str, source: Any) -> tuple[np.ndarray, np.ndarray]:
  """Decodes all examples; their images must have one shape."""
  shape = source[0]['image'].shape
  images = np.empty((len(source), *shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  for i, example in enumerate(source):
    if example['image'].shape != shape:
      raise _several_shapes(name, shape, example['image'].shape)
    images[i], labels[i] = example['image'], example['label']
  if (labels < 0).any():
    raise ValueError(
      f'Data set {name!r} has {(labels < 0).sum()} examples without a label.'
      ' Choose another set.'
    )
  return images, labels


def _several_shapes(name: str, *shapes: tuple[int, ...]) -> ValueError:
  return ValueError(
    f'Data set {name!r} has images of several shapes'
    f' ({" and ".join(map(str, shapes))}), but a batch is one array: choose a'
    ' set whose images have one shape, or prepare a resized copy.'
  )


def _cache_path(builder: Any) -> pathlib.Path:
  """Names the cache file by set, version and a digest of what is prepared."""
  digest = hashlib.sha256()
  for file in sorted(builder.data_path.iterdir()):
    digest.update(f'{file.name} {file.stat().length}\n'.encode())
    if file.suffix == '.json':
      digest.update(file.read_bytes())
  folder = os.environ.get('LTHJAX_CACHE') or os.path.join(
    os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'lthjax'
  )
  name = builder.info.full_name.replace('/', '-')
  file_name = f'{name}-{digest.hexdigest()[:16]}.npz'
  return pathlib.Path(folder).expanduser() / file_name


def _read_cache(path: pathlib.Path) -> Source | None:
  """Returns what `_write_cache` wrote, or None if that is missing or bad."""
  try:
    # Opened here, because `np.load` leaves a damaged file open.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      return Source(**arrays)
  except Exception:  # Whatever a damaged file raises, it can be made again.
    return None


def _write_cache(path: pathlib.Path, source: Source) -> None:
  """Writes the cache file in one piece, or warns that it cannot."""
  partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with partial.open('wb') as file:
        np.savez(file, **source._asdict())
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)
  except OSError as error:
    warnings.warn(
      f'The decoded images cannot be kept in {path.parent} ({error}), so they'
      ' will be decoded again next time: set LTHJAX_CACHE to a folder that can'
      ' be written.',
      stacklevel=4,
    )
