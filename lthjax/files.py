"""Files that appear whole or not at all, and folders that one process works in.

What is written goes into a fresh folder beside its place and is renamed.
Leftovers of killed processes are removed by the next one that writes there;
folders of living processes are locked and stay.
"""

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
  import fcntl
except ImportError:  # Not on Windows, where nothing is locked.
  fcntl = None

_LOCK = '.lock'
_ALIVE = '.alive-'
_SECONDS_TO_MARK = 3600  # A folder that is older and has no mark is dead.


def local_path(path: str | os.PathLike[str]) -> Path:
  """Returns an absolute path, with ``~`` expanded; URLs are refused."""
  if not isinstance(path, str | os.PathLike) or not os.fspath(path):
    raise TypeError(f'The path was {path!r}, but must be a string or a Path.')
  text = os.fspath(path)
  # A `Path` has lost the second slash of a URL.
  if '://' in text or re.match(r'[A-Za-z][\w+.-]+:/', text):
    raise ValueError(
      f'{text} is a URL, but files are written to local folders only. Mount'
      ' the storage, or write to a local folder and copy it.'
    )
  if '\0' in text:
    raise ValueError(f'The path {text!r} has a null character. Remove it.')
  try:
    return Path(text).expanduser().absolute()
  except RuntimeError as error:
    raise ValueError(
      f'{text} begins with the home of a user whom this machine does not know'
      f' ({error}). Write the folder out.'
    ) from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file atomically, or raises `OSError` and keeps an earlier one."""
  path = local_path(path)
  _check_no_folder(path)
  with temporary_folder(path) as folder:
    os.replace(_write(folder / path.name, data), path)


def create_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a new file atomically, or raises `FileExistsError`."""
  path = local_path(path)
  with temporary_folder(path) as folder:
    # Unlike a rename, a link never replaces the file of a faster writer.
    os.link(_write(folder / path.name, data), path)


def rename_folder(folder: Path, path: Path) -> None:
  """Moves a folder to where there is none, or raises `FileExistsError`."""
  try:
    os.rename(folder, path)
  except OSError as error:
    if not path.exists():
      raise
    raise FileExistsError(
      f'{path} exists already: another process was faster. Choose another path,'
      ' or remove it first.'
    ) from error


def _write(path: Path, data: bytes) -> Path:
  with open(path, 'wb') as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())  # Before the rename, or a crash leaves it empty.
  return path


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file atomically, in UTF-8, as `write_bytes`.

  Example:
    >>> import pathlib, tempfile
    >>> from lthjax import files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   files.write_text(f'{folder}/a.txt', 'hello')
    ...   pathlib.Path(folder, 'a.txt').read_text()
    'hello'
  """
  write_bytes(path, text.encode('utf-8'))


@contextlib.contextmanager
def temporary_folder(path: Path, token: str | None = None) -> Iterator[Path]:
  """Makes a hidden folder beside a path, and removes it and dead ones.

  Processes that share the folder give the same token.
  """
  _make_folder(path.parent)
  prefix = f'.{path.name}.tmp-'
  remove_dead(path.parent, prefix)
  if token is None:
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
  else:
    folder = path.parent / f'{prefix}{token}'
    folder.mkdir(exist_ok=True)
  try:
    with _marked_alive(folder):
      yield folder
  finally:
    for _ in range(20):
      shutil.rmtree(folder, ignore_errors=True)
      if not folder.exists():
        break
      time.sleep(0.05)  # Threads of a failed write may still create files.


def _make_folder(folder: Path) -> None:
  """Makes a folder and those above it, or names the file in the way."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    above = [path for path in (folder, *folder.parents) if path.is_file()]
    raise NotADirectoryError(
      f'{above[0] if above else folder} is in the way: there must be a folder.'
      ' Move it away, and start again.'
    ) from error


def _check_no_folder(path: Path) -> None:
  if path.is_dir():
    raise IsADirectoryError(
      f'{path} is in the way: it is a folder, and there must be a file. Move it'
      ' away, and start again.'
    )


def remove_dead(parent: Path, prefix: str) -> None:
  """Removes temporary folders whose processes are gone."""
  for folder in parent.iterdir():
    if folder.name.startswith(prefix) and folder.is_dir() and _is_dead(folder):
      shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
  """Whether all processes that marked a folder are gone."""
  try:
    marks = [*folder.glob(f'{_ALIVE}*')]
    for mark in marks:
      with _locked(mark):
        pass
    # Without a mark it may be so new that it has none yet.
    old = time.time() - folder.stat().st_mtime > _SECONDS_TO_MARK
    return fcntl is not None and (old or bool(marks))
  except OSError:  # Locked, or removed by another process meanwhile.
    return False


@contextlib.contextmanager
def _marked_alive(folder: Path) -> Iterator[None]:
  """Puts a locked file into a folder, which appears only when it is locked."""
  handle, name = tempfile.mkstemp(dir=folder, prefix='new-')
  os.close(handle)
  with _locked(Path(name)):
    os.rename(name, folder / (_ALIVE + Path(name).name))
    yield


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
  """Holds a folder for this process, or raises `RuntimeError`."""
  # The operating system drops the lock with the process, however that ends.
  path = folder / _LOCK
  _check_no_folder(path)
  try:
    with _locked(path, owner=f'{os.getpid()} on {socket.gethostname()}'):
      yield
  except BlockingIOError:
    owner = path.read_text(encoding='utf-8').strip() or 'unknown'
    raise RuntimeError(
      f'Another process works in {folder}: process {owner}. Wait until it has'
      ' finished, or stop it; then start this command again.'
    ) from None


@contextlib.contextmanager
def _locked(path: Path, owner: str = '', wait: bool = False) -> Iterator[None]:
  """Locks a file, or raises `BlockingIOError`; ``wait`` shares the lock."""
  with open(path, 'a+', encoding='utf-8') as file:
    if fcntl is not None:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if owner:
      file.truncate(0)
      file.write(owner + '\n')
      file.flush()
    try:
      yield
    finally:
      if owner:
        file.truncate(0)
