"""Files in the safetensors format, of which the head can be read alone.

Eight bytes give the length of a JSON table, which gives the place of each
tensor in the bytes that follow. The package safetensors reads these files; it
writes its own with the table in any order, and reads no head without the rest.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_CODES = {
  'BOOL': 'bool',
  **{f'I{n}': f'int{n}' for n in (8, 16, 32, 64)},
  **{f'U{n}': f'uint{n}' for n in (8, 16, 32, 64)},
  **{f'F{n}': f'float{n}' for n in (16, 32, 64)},
  'BF16': 'bfloat16',
  'C64': 'complex64',
  'F8_E4M3': 'float8_e4m3fn',
  'F8_E5M2': 'float8_e5m2',
}
CODES = {dtype: code for code, dtype in _CODES.items()}
_LARGEST = 100_000_000  # Bytes of a head, as for the package safetensors.

Read = Callable[[int, int], bytes]


class Tensor(NamedTuple):
  """What a head says about a tensor; places count from the end of the head."""

  dtype: str
  shape: tuple[int, ...]
  start: int
  stop: int


class Head(NamedTuple):
  """The head of a file, and where the values begin."""

  tensors: dict[str, Tensor]
  metadata: dict[str, str]
  size: int


def canonical(value: Any) -> str:
  """Returns the one JSON text of a value: sorted, without spaces."""
  return json.dumps(
    value, sort_keys=True, separators=(',', ':'), allow_nan=False
  )


def sha256(data: Any) -> str:
  """Returns the SHA-256 of bytes or of a text, in hexadecimal digits."""
  data = data.encode() if isinstance(data, str) else data
  return hashlib.sha256(data).hexdigest()


def raw(x: np.ndarray) -> memoryview:
  """Returns the bytes of an array: little-endian, in C order."""
  x = np.ascontiguousarray(x)
  if x.dtype.byteorder == '>' or (sys.byteorder == 'big' and x.itemsize > 1):
    x = x.byteswap()
  return x.reshape(-1).view(np.uint8).data


def encode(
  tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> bytes:
  """Returns a file; a digest of all the rest is added to the metadata."""
  # Wide types first, so that all are aligned.
  order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
  table, place = {}, 0
  for name in order:
    x = tensors[name]
    table[name] = Tensor(str(x.dtype), x.shape, place, place + x.nbytes)
    place += x.nbytes
  data = b''.join(raw(tensors[name]) for name in order)
  head = Head(table, dict(metadata), 0)
  metadata = {**metadata, 'digest': digest(head, data)}
  entries: dict[str, Any] = {
    name: {
      'dtype': CODES[x.dtype],
      'shape': x.shape,
      'data_offsets': [x.start, x.stop],
    }
    for name, x in table.items()
  }
  text = json.dumps({'__metadata__': metadata, **entries}).encode()
  text += b' ' * (-len(text) % 8)
  return len(text).to_bytes(8, 'little') + text + data


def digest(head: Head, data: Any) -> str:
  """Returns a hash of all that a file holds besides this hash."""
  metadata = {k: x for k, x in head.metadata.items() if k != 'digest'}
  text = canonical([metadata, head.tensors])
  return sha256(sha256(text) + sha256(data))


def read_head(read: Read, size: int) -> Head:
  """Reads and checks the head of a file of a given size.

  Args:
    read: ``read(start, stop)`` returns these bytes of the file.
    size: length of the file in bytes.

  Raises:
    ValueError: if it is not a head whose tensors fill the file exactly.
  """
  if size < 8:
    raise ValueError(f'it has {size} bytes, and so no head')
  # Most heads need no second request.
  first = read(0, min(size, 65_536))
  length = int.from_bytes(first[:8], 'little')
  if not 0 < length <= min(size - 8, _LARGEST):
    raise ValueError(f'its head cannot have {length} bytes')
  text = first[8 : 8 + length]
  if len(text) < length:
    text += read(8 + len(text), 8 + length)
  try:
    table = json.loads(text)
    metadata = table.pop('__metadata__')
    tensors = {name: _tensor(x) for name, x in table.items()}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    raise ValueError('its head is not that of a safetensors file') from None
  if not isinstance(metadata, dict) or not all(
    isinstance(x, str) for x in metadata.values()
  ):
    raise ValueError('its metadata are not texts')
  place = 0
  for name, x in sorted(tensors.items(), key=lambda item: item[1][2:]):
    itemsize = jnp.dtype(x.dtype).itemsize
    if x.start != place or x.stop - x.start != math.prod(x.shape) * itemsize:
      raise ValueError(f'{name} does not have the size of its shape')
    place = x.stop
  if place != size - 8 - length:
    raise ValueError(f'it should have {8 + length + place} bytes, not {size}')
  return Head(tensors, metadata, 8 + length)


def _tensor(entry: Any) -> Tensor:
  start, stop = entry['data_offsets']
  shape = tuple(entry['shape'])
  if not all(type(n) is int and n >= 0 for n in (start, stop, *shape)):
    raise ValueError
  return Tensor(_CODES[entry['dtype']], shape, start, stop)


def values(tensor: Tensor, data: Any) -> np.ndarray:
  """Returns a tensor as a flat array, out of the bytes after the head."""
  dtype = jnp.dtype(tensor.dtype)
  found = np.frombuffer(data[tensor.start : tensor.stop], dtype)
  return found.byteswap() if sys.byteorder == 'big' else found
