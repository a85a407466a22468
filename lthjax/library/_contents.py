"""Files of tickets: masks at one bit per weight, and values where alive.

A file has the tensors ``masks/name`` (packed bits) and ``part/name`` (the
values that are kept, in C order). What an ancestor holds already is not stored
again: the file then names this source, and holds the values that differ, with
``changed/part/name``, one bit per kept value. None of that is in the key, which
depends on what a ticket is and not on how it is stored.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lthjax._errors import refuse
from lthjax.library import _format, _manifest
from lthjax.library._format import Head
from lthjax.library._store import Store

_DEEPEST = 8  # Files that are read for one leaf.
_METADATA = {'format', 'manifest', 'storage', 'digest'}


class Opened(NamedTuple):
  """The head of a file, checked: the sizes of tensors fit the manifest."""

  head: Head
  manifest: dict[str, Any]
  storage: dict[str, Any]


class Leaf(NamedTuple):
  """The kept values of a leaf, flat, and which they are; `None` for all."""

  values: np.ndarray
  shape: tuple[int, ...]
  mask: np.ndarray | None


def path(key: str) -> str:
  """Returns the name of a ticket's file in its library."""
  return f'tickets/{key}.safetensors'


class Reader:
  """Files of tickets, each read once."""

  def __init__(self, store: Store):
    self.store = store
    self._opened: dict[str, Opened] = {}
    self._data: dict[str, memoryview] = {}

  def open(self, key: str) -> Opened:
    """Returns what is in a file, or raises `LookupError` or `ValueError`."""
    if key not in self._opened:
      name = path(key)
      try:
        head = _format.read_head(
          lambda start, stop: self.store.read(name, start, stop),
          self.store.size(name),
        )
        self._opened[key] = _open(head, key)
      except FileNotFoundError:
        raise LookupError(
          f'There is no ticket {key} in {self.store.root}. See `list()`.'
        ) from None
      except (ValueError, RecursionError) as error:
        raise self.damage(key, error) from None
    return self._opened[key]

  def damage(self, key: str, error: Exception | str) -> ValueError:
    """Returns the error of a damaged file."""
    return ValueError(
      f'{self.store.root / path(key)} is damaged: {error}. It is left'
      ' untouched; restore it from a copy, or move it away.'
    )

  def data(self, key: str) -> memoryview:
    """Returns the bytes after the head."""
    head = self.open(key).head
    if key not in self._data:
      self._data[key] = memoryview(self.store.read(path(key)))[head.size :]
    return self._data[key]

  def check_digest(self, key: str) -> None:
    """Raises unless the whole file is as it was written."""
    head = self.open(key).head
    if _format.digest(head, self.data(key)) != head.metadata['digest']:
      raise self.damage(key, 'it does not have the digest it was written with')

  def tensor(self, key: str, name: str) -> np.ndarray:
    """Returns a tensor, flat."""
    return _format.values(self.open(key).head.tensors[name], self.data(key))

  def mask(self, key: str, name: str) -> np.ndarray | None:
    """Returns the mask of a leaf, flat, or `None`."""
    record = self.open(key).manifest['masks'][name]
    if record is None:
      return None
    packed = self.tensor(key, f'masks/{name}')
    bits = np.unpackbits(packed).astype(bool)
    mask = bits[: math.prod(record['shape'])]
    if (
      _format.sha256(packed.data) != record['sha256']
      or mask.sum() != record['alive']
      or bits[mask.size :].any()
    ):
      raise self.damage(key, f'the mask of {name or "the array"} has changed')
    return mask

  def masks(self, key: str) -> dict[str, np.ndarray | None]:
    """Returns all masks in their shapes."""
    found = {}
    for name, record in self.open(key).manifest['masks'].items():
      mask = self.mask(key, name)
      found[name] = None if mask is None else mask.reshape(record['shape'])
    return found

  def part(self, key: str, part: str) -> dict[str, np.ndarray | None]:
    """Returns all leaves of a part, with +0.0 where they are not kept."""
    leaves = {
      name: self.leaf(key, part, name)
      for name in self.open(key).manifest['parts'][part]
    }
    return {n: None if x is None else dense(x) for n, x in leaves.items()}

  def leaf(self, key: str, part: str, name: str) -> Leaf | None:
    """Returns a leaf of a part, or `None`."""
    opened = self.open(key)
    record = opened.manifest['parts'][part][name]
    if record is None:
      return None
    mask = None if part == 'model_state' else self.mask(key, name)
    source = opened.storage['sources'].get(f'{part}/{name}')
    if source is None:
      values = self.tensor(key, f'{part}/{name}')
    else:
      values = self._from_source(key, part, name, record, mask)
    if _format.sha256(_format.raw(values)) != record['sha256']:
      raise self.damage(key, f'{part}/{name} has changed')
    return Leaf(values, tuple(record['shape']), mask)

  def _from_source(
    self, key: str, part: str, name: str, record: Any, mask: Any
  ) -> np.ndarray:
    """Returns values of which an ancestor holds some."""
    source = self.open(key).storage['sources'][f'{part}/{name}']
    own = self.open(source['key'])
    there = own.manifest['parts'].get(source['part'], {}).get(name)
    if there is None or any(there[x] != record[x] for x in ('shape', 'dtype')):
      raise self.damage(key, f'{part}/{name} is not in {source["key"]}')
    nested = own.storage['sources'].get(f'{source["part"]}/{name}')
    if nested is not None and nested['depth'] >= source['depth']:
      raise self.damage(key, f'the sources of {part}/{name} are circular')
    leaf = self.leaf(source['key'], source['part'], name)
    assert leaf is not None
    dense, alive = _spread(leaf)
    places = np.arange(dense.size) if mask is None else np.flatnonzero(mask)
    if source['changed']:
      bits = np.unpackbits(
        self.tensor(key, f'changed/{part}/{name}'), count=places.size
      ).astype(bool)
      if bits.sum() != source['changed']:
        raise self.damage(key, f'{part}/{name} has changed')
    else:
      bits = np.zeros(places.size, bool)
    if not alive[places[~bits]].all():
      raise self.damage(key, f'{part}/{name} is not in {source["key"]}')
    values = dense[places]
    if source['changed']:
      values[bits] = self.tensor(key, f'{part}/{name}')
    return values

  def origin(self, key: str, part: str, name: str) -> tuple[str, str, int]:
    """Returns the file that holds a leaf as it is, its part and depth."""
    depth = 0
    while source := self.open(key).storage['sources'].get(f'{part}/{name}'):
      depth = source['depth']
      if source['changed']:
        break
      key, part, depth = source['key'], source['part'], 0
    return key, part, depth


def dense(leaf: Leaf) -> np.ndarray:
  """Returns a leaf in its shape, with +0.0 where it is not kept."""
  return _spread(leaf)[0].reshape(leaf.shape)


def _spread(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
  """Returns all values of a leaf, flat, and which of them are kept."""
  if leaf.mask is None:
    return leaf.values.copy(), np.ones(leaf.values.size, bool)
  values = np.zeros(leaf.mask.size, leaf.values.dtype)
  values[leaf.mask] = leaf.values
  return values, leaf.mask


def encode(
  manifest: dict[str, Any],
  storage: dict[str, Any],
  masks: dict[str, np.ndarray | None],
  parts: dict[str, dict[str, Leaf | None]],
  reader: Reader,
) -> bytes:
  """Returns the file of a ticket; what its parent holds is not stored again."""
  tensors = {
    f'masks/{name}': np.packbits(mask)
    for name, mask in masks.items()
    if mask is not None
  }
  sources = {}
  for part, leaves in parts.items():
    for name, leaf in leaves.items():
      if leaf is None:
        continue
      source, changed = _share(reader, manifest['parent'], part, name, leaf)
      own = f'{part}/{name}'
      if source is None:
        tensors[own] = leaf.values
        continue
      sources[own] = source
      if source['changed']:
        tensors[own] = leaf.values[changed]
        tensors[f'changed/{own}'] = np.packbits(changed)
  metadata = {
    'format': _manifest.FORMAT,
    'manifest': _format.canonical(manifest),
    'storage': _format.canonical({**storage, 'sources': sources}),
  }
  return _format.encode(tensors, metadata)


def _share(
  reader: Reader, parent: str | None, part: str, name: str, leaf: Leaf
) -> tuple[dict[str, Any] | None, np.ndarray]:
  """Returns where values are already, and which are not; or `None`."""
  best, bits = None, np.zeros(0, bool)
  if parent is None:
    return best, bits
  least = leaf.values.nbytes
  there = reader.open(parent).manifest['parts']
  for other in dict.fromkeys([part, 'trained']):
    record = there.get(other, {}).get(name)
    like = {'shape': list(leaf.shape), 'dtype': str(leaf.values.dtype)}
    if record is None or any(record[x] != like[x] for x in like):
      continue
    key, where, depth = reader.origin(parent, other, name)
    if depth >= _DEEPEST:
      continue
    found = reader.leaf(key, where, name)
    assert found is not None
    changed = _changed(leaf, found)
    number = int(changed.sum())
    size = number and -(-changed.size // 8) + number * leaf.values.itemsize
    if size < least:
      least, bits = size, changed
      best = {'key': key, 'part': where, 'depth': depth + 1, 'changed': number}
  return best, bits


def _changed(leaf: Leaf, source: Leaf) -> np.ndarray:
  """Returns which kept values are not those of another leaf, to the bit."""
  values, alive = _spread(source)
  places = slice(None) if leaf.mask is None else leaf.mask
  kind = f'u{leaf.values.itemsize}'  # Bits, since -0.0 == 0.0.
  different = values[places].view(kind) != leaf.values.view(kind)
  return different | ~alive[places]


def _open(head: Head, key: str) -> Opened:
  """Returns what a head says, once all sizes are known to fit."""
  if head.metadata.keys() != _METADATA:
    raise ValueError('its metadata are not those of a ticket')
  manifest = _manifest.parse(head.metadata['manifest'], key)
  storage = json.loads(head.metadata['storage'])
  if (
    not isinstance(storage, dict)
    or storage.keys() != {'added', 'machine', 'sources'}
    or not isinstance(storage['added'], str)
    or not isinstance(storage['sources'], dict)
  ):
    raise ValueError('its metadata do not say how it is stored')
  wanted = _wanted(manifest, storage['sources'])
  refuse(
    [
      f'{name} is {x[0]}{list(x[1])}' if x else f'{name} is missing'
      for name, size in wanted.items()
      if (x := head.tensors.get(name)) is None or tuple(x[:2]) != size
    ],
    'its tensors do not fit its manifest: {}',
  )
  refuse(
    sorted(head.tensors.keys() - wanted.keys()),
    '{} belongs to none of its leaves',
  )
  return Opened(head, manifest, storage)


def _wanted(
  manifest: dict[str, Any], sources: dict[str, Any]
) -> dict[str, tuple[str, tuple[int]]]:
  """Returns dtype and shape of all tensors that a file should have."""
  masks = manifest['masks']
  wanted = {
    f'masks/{name}': ('uint8', (-(-math.prod(mask['shape']) // 8),))
    for name, mask in masks.items()
    if mask is not None
  }
  unused = set(sources)
  for part, leaves in manifest['parts'].items():
    for name, leaf in leaves.items():
      if leaf is None:
        continue
      own = f'{part}/{name}'
      mask = None if part == 'model_state' else masks[name]
      number = math.prod(leaf['shape']) if mask is None else mask['alive']
      if own in sources:
        unused.remove(own)
        kept, number = number, _check_source(own, sources[own], number)
        if not number:
          continue
        wanted[f'changed/{own}'] = ('uint8', (-(-kept // 8),))
      wanted[own] = (leaf['dtype'], (number,))
  refuse(sorted(unused), 'its metadata have sources of {}, which it lacks')
  return wanted


def _check_source(own: str, source: Any, number: int) -> int:
  """Returns how many values differ from a source that is sound."""
  fields = {'key', 'part', 'depth', 'changed'}
  if not isinstance(source, dict) or source.keys() != fields:
    raise ValueError(f'the source of {own} has other fields')
  if not _manifest.is_key(source['key']):
    raise ValueError(f'the source of {own} is not a key: {source["key"]!r}')
  if source['part'] not in _manifest.PARTS:
    raise ValueError(f'the source of {own} is not a part')
  for field, least, most in (('depth', 1, _DEEPEST), ('changed', 0, number)):
    if type(source[field]) is not int or not least <= source[field] <= most:
      raise ValueError(f'the source of {own} has a {field} out of range')
  return source['changed']


def check_dtypes(parts: Mapping[str, Mapping[str, Any]]) -> None:
  """Raises if leaves would not come back as they are."""
  faults = []
  for part, leaves in parts.items():
    for name, x in leaves.items():
      if x is None:
        continue
      dtype = x.dtype
      if not jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = dtype.newbyteorder('=')
      if str(dtype) not in _format.CODES:
        faults.append(f'{part}/{name} is {dtype}, which its file cannot hold')
      elif (kept := jax.dtypes.canonicalize_dtype(dtype)) != dtype:
        faults.append(f'{part}/{name} is {dtype}, which JAX makes {kept}')
  refuse(
    faults,
    'This ticket would not come back as it is: {}. Convert such leaves to a'
    ' dtype that JAX keeps.',
  )
