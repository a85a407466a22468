"""Where the files of a library are: a local folder, or a bucket."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from lthjax import files

# fsspec's system of each scheme, and the package that has it. Both can create
# an object only if there is none, which the backends of etils cannot.
_PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}


class Store(NamedTuple):
  """Files by name below a root; they are created and never changed."""

  root: epath.Path
  system: Any  # Of fsspec, or `None` for a local folder.

  def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Returns the bytes of a file, or raises `FileNotFoundError`."""
    if self.system is not None:
      if stop is None:
        return self.system.cat_file(self._path(name))
      return self.system.cat_file(self._path(name), start=start, end=stop)
    with self._local(name).open('rb') as file:
      file.seek(start)
      data: Any = file.read(-1 if stop is None else stop - start)
      return data

  def size(self, name: str) -> int:
    """Returns the number of bytes, or raises `FileNotFoundError`."""
    if self.system is not None:
      self.system.invalidate_cache(self._path(os.path.dirname(name)))
      return self.system.size(self._path(name))
    with self._local(name).open('rb') as file:
      return file.seek(0, os.SEEK_END)

  def exists(self, name: str) -> bool:
    """Returns whether there is such a file."""
    try:
      self.size(name)
    except (FileNotFoundError, NotADirectoryError):
      return False
    return True

  def create(self, name: str, data: bytes) -> None:
    """Writes a new file, whole or not at all, or raises `FileExistsError`."""
    if self.system is None:
      files.create_bytes(self._local(name), data)
      return
    try:
      self.system.pipe_file(self._path(name), data, mode='create')
    except Exception as error:
      # How packages say that the condition of the request failed.
      text = f'{error} {getattr(error, "code", "")}'
      if isinstance(error, FileExistsError) or any(
        x in text for x in ('PreconditionFailed', 'pre-condition', '412')
      ):
        raise FileExistsError(f'{self._path(name)} exists.') from error
      raise

  def names(self, folder: str) -> list[str]:
    """Returns the sorted names of what is in a folder, hidden ones left out."""
    try:
      if self.system is None:
        found = [path.name for path in self._local(folder).iterdir()]
      else:
        self.system.invalidate_cache(self._path(folder))
        paths = self.system.ls(self._path(folder), detail=False)
        found = [path.rstrip('/').rpartition('/')[2] for path in paths]
    except FileNotFoundError:
      return []
    except NotADirectoryError:
      raise ValueError(
        f'{self.root / folder} is a file, where a folder of a library should'
        ' be. It is left untouched; choose another path.'
      ) from None
    return sorted(x for x in found if not x.startswith('.'))

  def remove(self, name: str) -> None:
    """Removes a file."""
    if self.system is None:
      self._local(name).unlink()
    else:
      self.system.rm_file(self._path(name))

  def remove_dead(self, folder: str) -> None:
    """Removes what killed processes left in a local folder."""
    if self.system is None and (path := Path(self._local(folder))).is_dir():
      files.remove_dead(path, '.')

  def _path(self, name: str) -> str:
    return os.fspath(self.root / name)

  def _local(self, name: str) -> epath.Path:
    """Returns a path, unless a link in the library leads out of it."""
    root, path = os.path.realpath(self.root), self.root / name
    if not os.path.realpath(path).startswith(root + os.sep * bool(name)):
      raise ValueError(
        f'{path} leads out of the library {self.root}, and is not followed.'
        ' Replace the link with the files it points at.'
      )
    return path


def open_store(path: str | os.PathLike[str]) -> Store:
  """Returns the store at a path or URL; schemes other than these are refused.

  Raises:
    ImportError: without the package that reads the scheme.
  """
  if not isinstance(path, str | os.PathLike) or not os.fspath(path):
    raise TypeError(f'`path` was {path!r}, but must be a string or a path.')
  text = os.fspath(path)
  if '\0' in text:
    raise ValueError(f'`path` was {text!r}, but a path has no null bytes.')
  scheme, colon, rest = text.partition('://')
  if not colon:
    return Store(epath.Path(files.local_path(text)), None)
  if scheme not in _PACKAGES:
    raise ValueError(
      f'{text} has the scheme {scheme}://, but libraries are in local folders,'
      ' gs:// or s3://. Mount the storage, or choose one of these.'
    )
  if not rest.strip('/') or '..' in rest.split('/'):
    raise ValueError(
      f'{text} is not the place of a library. Name a bucket and a folder, such'
      f' as {scheme}://bucket/tickets.'
    )
  import fsspec  # It comes with etils.

  try:
    system = fsspec.filesystem(scheme)
  except ImportError:
    raise ImportError(
      f'Libraries at {scheme}:// need the package {_PACKAGES[scheme]}: `pip'
      f' install {_PACKAGES[scheme]}`.'
    ) from None
  return Store(epath.Path(text), system)
