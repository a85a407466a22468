"""Deltas as files that know which params they belong to."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, files, trees
from lthjax.lota._delta import Delta, check, check_names

_FORMAT = 'lthjax-delta-1'


def fingerprint(params: chex.ArrayTree) -> str:
  """Returns a hash of the names, types, shapes and bits of params.

  Args:
    params: tree of arrays.

  Returns:
    64 hexadecimal digits.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.lota.fingerprint({'w': jnp.ones(2)})[:8]
    '653a0160'
  """
  digest = hashlib.sha256()
  leaves = {
    name: jax.random.key_data(x)
    if x is not None and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    else x
    for name, x in _checks.arrays(params).items()
  }
  known = trees.concrete({n: x for n, x in leaves.items() if x is not None})
  if known is None:
    raise TypeError('`params` are traced, but only values have a fingerprint.')
  for name in sorted(known):
    x = np.ascontiguousarray(known[name])
    digest.update(json.dumps([name, str(x.dtype), x.shape]).encode())
    digest.update(x.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def save(
  path: str | os.PathLike[str], delta: Delta, base: chex.ArrayTree
) -> None:
  """Writes a delta, and the fingerprint of its base.

  The file has the safetensors format and appears whole or not at all. For each
  leaf it holds ``name.values``, and its places in the shorter of two forms: one
  bit per weight (``name.bits``), or the gaps between places with 7 bits per
  byte (``name.gaps``), which is shorter where less than about an eighth of the
  weights have changed.

  Args:
    path: the file.
    delta: of the params; what `lthjax.lota.pad` added is left out.
    base: the params that it is added to.

  Raises:
    ImportError: without the package safetensors.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> base = {'w': jnp.ones(100)}
    >>> delta = lth.lota.Delta({'w': jnp.ones(1)}, {'w': jnp.array([9])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   lth.lota.save(f'{folder}/task.safetensors', delta, base)
    ...   lth.lota.load(f'{folder}/task.safetensors', base).indices
    {'w': Array([9], dtype=int32)}
  """
  library = _safetensors()
  leaves = _checks.arrays(base, 'base')
  check_names(check(delta), leaves)
  path = files.local_path(path)
  tensors, table = {}, {}
  for name, values in delta.values.items():
    size = int(leaves[name].size)
    places = np.asarray(delta.indices[name])
    real = places < size
    places = places[real]
    if np.any(np.diff(places) <= 0):
      raise ValueError(
        f'The indices of {name} do not ascend. Make the delta with'
        ' `lthjax.lota.zeros`, `difference` or a merge.'
      )
    table[name] = {'size': size, 'changed': int(places.size)}
    tensors[f'{name}.values'] = np.asarray(values)[real]
    bits, gaps = -(-size // 8), _encode(places)
    if gaps.size < bits:
      tensors[f'{name}.gaps'] = gaps
    else:
      mask = np.zeros(size, bool)
      mask[places] = True
      tensors[f'{name}.bits'] = np.packbits(mask)
  metadata = {
    'format': _FORMAT,
    'base': fingerprint(base),
    'leaves': json.dumps(table),
  }
  files.write_bytes(path, library.numpy.save(tensors, metadata))


def load(path: str | os.PathLike[str], base: chex.ArrayTree) -> Delta:
  """Reads what `save` wrote, for the same params.

  Args:
    path: the file.
    base: the params that the delta is added to.

  Returns:
    The delta, to the bit.

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: without the package safetensors.
    ValueError: if the file is damaged, or was written for other params.
  """
  library = _safetensors()
  leaves = _checks.arrays(base, 'base')
  path = files.local_path(path)
  data = path.read_bytes()
  try:
    tensors = library.numpy.load(data)
    with library.safe_open(os.fspath(path), 'np') as file:
      metadata = file.metadata() or {}
    if metadata.get('format') != _FORMAT:
      raise ValueError('it has another format')
    delta = _decoded(json.loads(metadata['leaves']), tensors)
  except Exception as error:
    raise ValueError(
      f'{path} is damaged, or was not written by `lthjax.lota.save`: {error}.'
    ) from error
  if (own := fingerprint(base)) != metadata.get('base'):
    raise ValueError(
      f'{path} is for params of the fingerprint {metadata.get("base")}, but'
      f' these have {own}. Load the params that the delta was trained on.'
    )
  check_names(delta, leaves)
  return delta


def _decoded(table: Mapping[str, Any], tensors: Mapping[str, Any]) -> Delta:
  """Values and places; all counts are checked first."""
  values, indices, used = {}, {}, set()
  for name, leaf in table.items():
    size, changed = leaf['size'], leaf['changed']
    if f'{name}.gaps' in tensors:
      used.add(f'{name}.gaps')
      places = _decode(tensors[f'{name}.gaps'])
    else:
      used.add(f'{name}.bits')
      bits = np.unpackbits(tensors[f'{name}.bits'])
      places = np.flatnonzero(bits)
      if bits.size != -(-size // 8) * 8:
        raise ValueError(f'{name}.bits is not of {size} weights')
    used.add(f'{name}.values')
    own = tensors[f'{name}.values']
    if own.shape != (changed,) or places.shape != (changed,):
      raise ValueError(f'{name} should have {changed} values and places')
    if own.dtype != np.float32 or (changed and places[-1] >= size):
      raise ValueError(f'{name} has other values or places')
    values[name] = jnp.asarray(own)
    indices[name] = jnp.asarray(places, jnp.int32)
  if extra := sorted(tensors.keys() - used):
    raise ValueError(f'{extra[0]} belongs to no leaf')
  return Delta(values, indices)


def _encode(places: np.ndarray) -> np.ndarray:
  """Gaps between ascending places, low 7 bits first; 128 marks more."""
  gaps = np.diff(places.astype(np.int64), prepend=-1) - 1
  digits = gaps[:, None] >> np.arange(0, 35, 7)
  more = digits >> 7 > 0
  there = np.concatenate([np.ones_like(more[:, :1]), more[:, :-1]], 1)
  return ((digits & 127) + 128 * more).astype(np.uint8)[there]


def _decode(data: np.ndarray) -> np.ndarray:
  """Places from gaps."""
  last = data < 128
  if data.size and not last[-1]:
    raise ValueError('its gaps end in the middle of one')
  starts = np.flatnonzero(np.concatenate([[True], last[:-1]])[: data.size])
  lengths = np.diff(starts, append=data.size)
  shifts = 7 * (np.arange(data.size) - np.repeat(starts, lengths))
  if data.size and shifts.max() > 28:
    raise ValueError('a gap is too long')
  parts = (data & 127).astype(np.int64) << shifts
  gaps = np.add.reduceat(parts, starts) if data.size else parts
  return np.cumsum(gaps + 1) - 1


def _safetensors() -> Any:
  try:
    import safetensors
    import safetensors.numpy
  except ImportError:
    raise ImportError(
      'Files of deltas need the package safetensors: `pip install safetensors`.'
    ) from None
  return safetensors
