"""Libraries found or created."""

import contextlib
import os

from lthjax import _checks
from lthjax.library import _format, _store
from lthjax.library._library import Library

_MARKER, _FORMAT = 'library.json', 'lthjax-library-1'


def open(path: str | os.PathLike[str], *, create: bool = True) -> Library:
  """Opens a library of tickets, or creates one.

  Args:
    path: a local folder, or the URL of a folder in a bucket, gs:// or s3://.
    create: whether to create it if there is none.

  Returns:
    The `Library`.

  Raises:
    FileNotFoundError: if there is none, and it is not to be created.
    ImportError: without the package for the bucket, gcsfs or s3fs.
    ValueError: if something else is there.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.array([[3.0, 4.0]])}
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> ticket = lth.tickets.Ticket(1, 0.5, masks, None, params, 0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   library = lth.library.open(folder)
    ...   key = library.add(ticket, params=lambda state: state)
    ...   change = library.promote(key, 'live')
    ...   library.load('live')
    {'w': Array([[3., 0.]], dtype=float32)}
  """
  create = _checks.flag('create', create)
  store = _store.open_store(path)
  marker = _format.canonical({'format': _FORMAT}).encode()
  if not store.exists(_MARKER):
    if found := store.names(''):
      raise ValueError(
        f'{store.root} is not a library: it has {", ".join(found[:3])}, but no'
        f' {_MARKER}. It is left untouched; choose an empty folder.'
      )
    if not create:
      raise FileNotFoundError(
        f'There is no library at {store.root}. Leave `create` out to make one.'
      )
    with contextlib.suppress(FileExistsError):  # Another process was faster.
      store.create(_MARKER, marker)
  if store.read(_MARKER) != marker:
    raise ValueError(
      f'{store.root / _MARKER} is not that of {_FORMAT}. It is left untouched;'
      ' open it with the version that wrote it.'
    )
  return Library(store)
