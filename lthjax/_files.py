"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file atomically; an earlier one stays if that fails.

  The temporary file has a fresh name in the same folder, so that no other
  process and no link that lies there is in the way.
  """
  path = Path(path).absolute()
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(name, 0o666 & ~_umask())
    os.replace(name, path)
  except BaseException:
    Path(name).unlink(missing_ok=True)
    raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file atomically, in UTF-8."""
  write_bytes(path, text.encode('utf-8'))


def _umask() -> int:
  """Returns the mask of new files' permissions, which can only be swapped."""
  mask = os.umask(0)
  os.umask(mask)
  return mask
