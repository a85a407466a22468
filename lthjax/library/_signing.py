"""Signatures of manifests, which another package makes and checks.

What is signed is a folder that is named by the key and has one file,
``manifest.json``: the text whose hash is the key. It names the hashes of all
masks and values, so that a signature of it is one of the whole ticket.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from lthjax import _checks
from lthjax.library import _format
from lthjax.library._contents import Reader
from lthjax.library._store import Store


def sign(reader: Reader, key: str, signer: Any) -> str:
  """Keeps a signature of a ticket, and returns its hash."""
  what = 'a `model_signing.signing.Config`, or have `sign(folder, path)`'
  _checks.having('signer', signer, 'sign', what)
  with _folder(reader, key) as (folder, path):
    signer.sign(folder, path)
    if not path.is_file():
      raise ValueError(
        f'`signer` wrote no signature to {path}, but `sign(folder, path)` must.'
      )
    data = path.read_bytes()
  digest = _format.sha256(data)
  with contextlib.suppress(FileExistsError):  # The same signature.
    reader.store.create(f'{_path(key)}/{digest}.sig', data)
  return digest


def accepted(reader: Reader, key: str, verifier: Any) -> str:
  """Returns the hash of a signature that is accepted, or raises."""
  what = 'a `model_signing.verifying.Config`, or have `verify(folder, path)`'
  _checks.having('verifier', verifier, 'verify', what)
  faults = []
  for name, data in _read(reader.store, key):
    with _folder(reader, key) as (folder, path):
      path.write_bytes(data)
      try:
        verifier.verify(folder, path)
      except Exception as error:  # Packages raise many kinds.
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        faults.append(f'{name[:12]} ({reason})')
      else:
        return name
  if faults:
    raise ValueError(
      f'No signature of {key[:12]} in {reader.store.root} is accepted:'
      f' {"; ".join(faults)}. Do not serve it, unless another key is known to'
      ' be right.'
    )
  raise ValueError(
    f'{key[:12]} in {reader.store.root} has no signature. Sign it with'
    ' `library.sign`.'
  )


def verify(store: Store, key: str) -> None:
  """Raises `ValueError` if a signature is not as it was written."""
  for _ in _read(store, key):
    pass


def collect(store: Store, keep: Collection[str]) -> None:
  """Removes the signatures of tickets that are gone."""
  for key in store.names('signatures'):
    if key in keep:
      continue
    if store.system is None:
      shutil.rmtree(Path(store.root) / _path(key))
      continue
    for name in store.names(_path(key)):
      store.remove(f'{_path(key)}/{name}')


def _path(key: str) -> str:
  return f'signatures/{key}'


def _read(store: Store, key: str) -> Iterator[tuple[str, bytes]]:
  """Yields the hash and the bytes of each signature."""
  for file in store.names(_path(key)):
    name = file.removesuffix('.sig')
    data = store.read(f'{_path(key)}/{file}')
    if _format.sha256(data) != name:
      raise ValueError(
        f'{store.root / _path(key) / file} is damaged: it does not have the'
        ' hash that it is named by. It is left untouched; restore it from a'
        ' copy, or move it away.'
      )
    yield name, data


@contextlib.contextmanager
def _folder(reader: Reader, key: str) -> Iterator[tuple[Path, Path]]:
  """Yields a folder with the manifest, and a path for its signature."""
  text = reader.open(key).head.metadata['manifest']
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name) / key
    folder.mkdir()
    (folder / 'manifest.json').write_bytes(text.encode())
    yield folder, Path(name) / 'signature'
