"""Files of the GGUF format: metadata, and tensors of blocks of 32 numbers."""

import math
import os
import pathlib
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_MAGIC = b'GGUF'
_VERSIONS = (2, 3)
_BLOCK = 32
_STRING, _ARRAY = 8, 9
# Codes of metadata types, in the notation of `struct`.
_SCALARS = {
  0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?',
  10: 'Q', 11: 'q', 12: 'd',
}  # fmt: skip
# Names of tensor types that we do not read, for the error.
_OTHERS = {
  6: 'Q5_0', 7: 'Q5_1', 9: 'Q8_1', 10: 'Q2_K', 11: 'Q3_K', 12: 'Q4_K',
  13: 'Q5_K', 14: 'Q6_K', 15: 'Q8_K', 16: 'IQ2_XXS', 17: 'IQ2_XS',
  18: 'IQ3_XXS', 19: 'IQ1_S', 20: 'IQ4_NL', 21: 'IQ3_S', 22: 'IQ2_S',
  23: 'IQ4_XS', 24: 'I8', 25: 'I16', 26: 'I32', 27: 'I64', 28: 'F64',
  29: 'IQ1_M', 34: 'TQ1_0', 35: 'TQ2_0', 39: 'MXFP4',
}  # fmt: skip


class Tensor(NamedTuple):
  """Where a tensor is in a file.

  Attributes:
    shape: of rows first, as NumPy has it.
    kind: code of its type.
    start: first byte, from the start of the file.
  """

  shape: tuple[int, ...]
  kind: int
  start: int


class Kind(NamedTuple):
  """A type of tensors: how many bytes hold how many numbers.

  Attributes:
    name: as in llama.cpp.
    numbers: in a block.
    size: bytes of a block.
    decode: makes float32 ``[blocks, numbers]`` of bytes ``[blocks, size]``.
  """

  name: str
  numbers: int
  size: int
  decode: Callable[[np.ndarray], np.ndarray]


class File(NamedTuple):
  """What is in a GGUF file.

  Attributes:
    path: of the file.
    metadata: names to values.
    tensors: names to places.
    data: the bytes, mapped.
  """

  path: pathlib.Path
  metadata: dict[str, Any]
  tensors: dict[str, Tensor]
  data: np.ndarray

  def read(self, name: str) -> np.ndarray:
    """Reads a tensor as float32."""
    tensor = self.tensors[name]
    kind = KINDS[tensor.kind]
    stop = tensor.start + _bytes(tensor)
    blocks = self.data[tensor.start : stop].reshape(-1, kind.size)
    return kind.decode(blocks).reshape(tensor.shape)


def _halves(blocks: np.ndarray, column: int) -> np.ndarray:
  """The float16 that starts at a byte of each block, as a column."""
  half = np.ascontiguousarray(blocks[:, column : column + 2]).view(np.float16)
  return half.astype(np.float32)


def _nibbles(blocks: np.ndarray) -> np.ndarray:
  """Numbers of 4 bits: the low ones are the first 16, the high ones follow."""
  return np.concatenate([blocks & 15, blocks >> 4], axis=1).astype(np.float32)


def _plain(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
  """Decodes numbers that stand for themselves."""
  return lambda x: np.ascontiguousarray(x).view(dtype).astype(np.float32)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
  return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
  return _halves(blocks, 0) * _nibbles(blocks[:, 4:]) + _halves(blocks, 2)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
  return _halves(blocks, 0) * blocks[:, 2:].view(np.int8)


KINDS = {
  0: Kind('F32', 1, 4, _plain(np.float32)),
  1: Kind('F16', 1, 2, _plain(np.float16)),
  2: Kind('Q4_0', _BLOCK, 18, _q4_0),
  3: Kind('Q4_1', _BLOCK, 20, _q4_1),
  8: Kind('Q8_0', _BLOCK, 34, _q8_0),
  30: Kind('BF16', 1, 2, _plain(ml_dtypes.bfloat16)),
}


def _bytes(tensor: Tensor) -> int:
  """How many bytes a tensor takes."""
  kind = KINDS[tensor.kind]
  return math.prod(tensor.shape) // kind.numbers * kind.size


class _Reader:
  """Reads a file from its start, and never beyond its end."""

  def __init__(self, path: pathlib.Path, data: np.ndarray):
    self.path = path
    self.data = data
    self.place = 0

  def take(self, count: int) -> bytes:
    """Returns the next bytes."""
    if self.place + count > len(self.data):
      raise ValueError(
        f'{self.path} is truncated or damaged: its header asks for {count}'
        f' bytes at {self.place}, but the file has'
        f' {len(self.data)}. Download it again.'
      )
    self.place += count
    return self.data[self.place - count : self.place].tobytes()

  def number(self, kind: str) -> Any:
    """Returns the next number."""
    return struct.unpack(f'<{kind}', self.take(struct.calcsize(kind)))[0]

  def text(self) -> str:
    """Returns the next string."""
    return self.take(self.number('Q')).decode('utf-8', 'replace')

  def value(self, kind: int) -> Any:
    """Returns the next value of a type of metadata."""
    if kind == _STRING:
      return self.text()
    if kind == _ARRAY:
      kind, count = self.number('I'), self.number('Q')
      if kind not in _SCALARS:
        return [self.value(kind) for _ in range(count)]
      code = _SCALARS[kind]
      size = struct.calcsize(code) * count
      return list(struct.unpack(f'<{count}{code}', self.take(size)))
    if kind not in _SCALARS:
      raise ValueError(
        f'{self.path} is damaged: metadata of the unknown type {kind}.'
      )
    return self.number(_SCALARS[kind])


def read(path: str | os.PathLike[str]) -> File:
  """Reads the header of a GGUF file, and checks that all tensors are there.

  Args:
    path: the file.

  Returns:
    What is in it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not a GGUF file, or is truncated.
  """
  path = pathlib.Path(path).expanduser()
  if path.stat().st_size < len(_MAGIC):
    raise ValueError(f'{path} is not a GGUF file: it has no header.')
  data = np.memmap(path, np.uint8, 'r')
  reader = _Reader(path, data)
  if reader.take(4) != _MAGIC:
    raise ValueError(f'{path} is not a GGUF file: it does not start with GGUF.')
  if (version := reader.number('I')) not in _VERSIONS:
    raise ValueError(
      f'{path} has version {version} of GGUF, but only 2 and 3 with the least'
      ' significant byte first are read. Convert it with a newer llama.cpp.'
    )
  count, fields = reader.number('Q'), reader.number('Q')
  metadata = {}
  for _ in range(fields):
    name = reader.text()
    metadata[name] = reader.value(reader.number('I'))
  places = {}
  for _ in range(count):
    name = reader.text()
    sizes = [reader.number('Q') for _ in range(reader.number('I'))]
    places[name] = Tensor(
      tuple(reversed(sizes)), reader.number('I'), reader.number('Q')
    )
  step = metadata.get('general.alignment', 32)
  if not isinstance(step, int) or step < 1:
    raise ValueError(
      f'{path} is damaged: its general.alignment is {step!r}, but must be a'
      ' number of bytes. Download it again.'
    )
  start = -(-reader.place // step) * step
  tensors = {x: t._replace(start=start + t.start) for x, t in places.items()}
  return File(path, metadata, tensors, data)


def check(file: File) -> None:
  """Raises if tensors have types that are not read, or are cut off."""
  others = {
    name: t.kind for name, t in file.tensors.items() if t.kind not in KINDS
  }
  if others:
    kinds = sorted({_OTHERS.get(k, f'type {k}') for k in others.values()})
    raise ValueError(
      f'{file.path} has tensors of the unsupported {", ".join(kinds)}:'
      f' {", ".join(sorted(others))}. Use a file of'
      f' {", ".join(k.name for k in KINDS.values())}.'
    )
  ragged = [
    f'{name} {t.shape}'
    for name, t in file.tensors.items()
    if not t.shape or t.shape[-1] % KINDS[t.kind].numbers
  ]
  if ragged:
    raise ValueError(
      f'{file.path} is damaged: rows of {", ".join(ragged)} are not made of'
      f' blocks of {_BLOCK}.'
    )
  size = len(file.data)
  cut = [n for n, t in file.tensors.items() if t.start + _bytes(t) > size]
  if cut:
    raise ValueError(
      f'{file.path} is truncated: it ends after {size} bytes, before'
      f' {", ".join(cut)}. Download it again.'
    )
