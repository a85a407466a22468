"""Files of pruned networks: alive values, and one bit per weight."""

import hashlib
import json
import math
import os
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, files, trees
from lthjax._errors import describe, refuse
from lthjax.deploy import _layouts

_FORMAT = 'lthjax-sparse-1'


def _safetensors() -> Any:
  try:
    import safetensors
    import safetensors.numpy
  except ImportError:
    raise ImportError(
      'Files of pruned networks need the package safetensors: `pip install'
      ' safetensors`.'
    ) from None
  return safetensors


def save(
  path: str | os.PathLike[str],
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  *,
  int8: bool = False,
) -> None:
  """Writes a pruned network: alive values, and one bit per weight.

  The file has the safetensors format and appears whole or not at all. A masked
  leaf ``name`` is stored as ``name.values`` and ``name.mask`` (and
  ``name.scale`` with ``int8``), all others under their name.

  Args:
    path: the file.
    params: tree of arrays, of nested dicts.
    masks: tree of masks.
    int8: whether to round masked kernels to 8 bits, with one scale per output
      (the last axis).

  Raises:
    ImportError: without the package safetensors.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {'w': jnp.array([[1.0, 2.0]]), 'b': jnp.ones(2)}
    >>> masks = {'w': jnp.array([[False, True]]), 'b': None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   deploy.save(f'{folder}/ticket.safetensors', params, masks)
    ...   params, masks = deploy.load(f'{folder}/ticket.safetensors')
    >>> params['w'], masks['b'] is None
    (Array([[0., 2.]], dtype=float32), True)
  """
  int8 = _checks.flag('int8', int8)
  library = _safetensors()
  given, alive = _checks.arrays(params), trees.by_name(masks)
  trees.check_tables(alive, given, 'params')
  _check_storable(given, alive)
  tensors, leaves = {}, {}
  for name, leaf in given.items():
    if leaf is None:
      leaves[name] = None
      continue
    value = np.asarray(leaf)
    leaves[name] = {'shape': list(value.shape), 'dtype': str(value.dtype)}
    if alive[name] is None:
      tensors[name] = value
      continue
    mask = np.asarray(alive[name])
    leaves[name]['alive'] = int(mask.sum())
    if int8:
      value, tensors[f'{name}.scale'] = _round(name, value, mask)
      leaves[name]['int8'] = True
    tensors[f'{name}.values'] = value[mask]
    tensors[f'{name}.mask'] = np.packbits(mask.ravel())
  if clash := sorted(leaves.keys() & (tensors.keys() - set(alive))):
    raise ValueError(
      f'Leaves are named like parts of others in a file: {", ".join(clash)}.'
      ' Rename them.'
    )
  tensors = {k: np.asarray(v, order='C') for k, v in tensors.items()}
  metadata = {
    'format': _FORMAT,
    'leaves': json.dumps(leaves),
    'digest': _digest(tensors),
  }
  path = files.local_path(path)
  files.write_bytes(path, library.numpy.save(tensors, metadata))


def _check_storable(params: dict[str, Any], masks: dict[str, Any]) -> None:
  """Raises where a file would lose something."""
  if trees.is_traced(*params.values(), *masks.values()):
    raise ValueError(
      '`save` writes numbers to a file: call it outside of `jax.jit`.'
    )
  faults = [
    f'{name} has parts of the same name ({other})'
    for name in params
    for other in params
    if other.startswith(f'{name}/')
  ]
  faults += [
    f'{name} has dtype {x.dtype}'
    for name, x in params.items()
    if x is not None and not _is_storable(x.dtype)
  ]
  refuse(
    faults,
    'These leaves do not fit into a file: {}. Rename or cast them; of random'
    ' keys, keep `jax.random.key_data(key)`.',
  )


def _is_storable(dtype: Any) -> bool:
  names = ['bool', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2', 'complex64']
  names += [f'float{n}' for n in (16, 32, 64)]
  names += [f'{kind}int{n}' for kind in ('', 'u') for n in (8, 16, 32, 64)]
  return str(dtype) in names


def _digest(tensors: dict[str, np.ndarray]) -> str:
  """Returns a digest of all bytes."""
  digest = hashlib.sha256()
  for name, x in sorted(tensors.items()):
    digest.update(f'{name} {x.dtype} {x.shape}'.encode())
    digest.update(x.tobytes())
  return digest.hexdigest()


def _round(
  name: str, value: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Rounds to int8 with one scale per entry of the last axis."""
  if not value.ndim or not jnp.issubdtype(value.dtype, jnp.floating):
    raise ValueError(
      f'{name} is {describe(value)}, but int8 has a scale per output of floats.'
      ' Save it without `int8`, or without its mask.'
    )
  columns = value.shape[-1]
  rows, alive = (
    x.reshape(value.size // max(columns, 1), columns) for x in (value, mask)
  )
  rows = rows.astype(np.float32)
  if not np.isfinite(rows[alive]).all():
    raise ValueError(
      f'{name} has alive values that are not finite, which int8 cannot hold.'
      ' Save it without `int8`, or clean it first.'
    )
  scale = _layouts.quantization(rows, alive)
  return np.rint(rows / scale).astype(np.int8).reshape(value.shape), scale


def load(
  path: str | os.PathLike[str],
) -> tuple[Any, Any]:
  """Reads what `save` wrote.

  All counts are checked against the shapes before anything is built of them.

  Args:
    path: the file.

  Returns:
    Params and masks, as nested dicts.

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: without the package safetensors.
    ValueError: if the file is damaged, or not one of `save`.
  """
  library = _safetensors()
  path = files.local_path(path)
  data = path.read_bytes()
  try:
    tensors = {name: _array(x) for name, x in library.deserialize(data)}
    with library.safe_open(os.fspath(path), 'np') as file:
      metadata = file.metadata() or {}
    if metadata.get('format') != _FORMAT:
      raise ValueError('it has another format')
    leaves = json.loads(metadata['leaves'])
    if metadata.get('digest', digest := _digest(tensors)) != digest:
      raise ValueError('its contents are not those that were written')
    _check_counts(leaves, tensors)
    restored = {name: _restore(name, x, tensors) for name, x in leaves.items()}
    params = trees.nest({name: value for name, (value, _) in restored.items()})
    masks = trees.nest({name: mask for name, (_, mask) in restored.items()})
  except Exception as error:
    raise ValueError(
      f'{path} is damaged, or was not written by `lthjax.deploy.save`: {error}.'
    ) from error
  return params, masks


def _array(tensor: dict[str, Any]) -> np.ndarray:
  """An array of what safetensors read; bfloat16 too, which NumPy lacks."""
  names = {'BF16': 'bfloat16', 'BOOL': 'bool', 'I': 'int', 'U': 'uint'}
  names['C'] = 'complex'
  names |= {'F8_E4M3': 'float8_e4m3fn', 'F8_E5M2': 'float8_e5m2'}
  name = names.get(tensor['dtype'])
  if name is None:
    kind, bits = tensor['dtype'][:1], tensor['dtype'][1:]
    name = {'F': 'float', **names}[kind] + bits
  data = np.frombuffer(tensor['data'], jnp.dtype(name))
  return data.reshape(tensor['shape'])


def _check_counts(leaves: dict[str, Any], tensors: dict[str, Any]) -> None:
  """Raises if parts are missing or do not have the sizes they should have."""
  used = set()
  for name, leaf in leaves.items():
    if leaf is None:
      continue
    size, alive = math.prod(leaf['shape']), leaf.get('alive')
    wanted = {name: tuple(leaf['shape'])}
    if alive is not None:
      wanted = {f'{name}.values': (alive,), f'{name}.mask': (-(-size // 8),)}
      if leaf.get('int8'):
        wanted[f'{name}.scale'] = (leaf['shape'][-1],)
    for key, shape in wanted.items():
      if key not in tensors or tensors[key].shape != shape:
        raise ValueError(f'{key} should have shape {shape}')
      used.add(key)
    if alive is not None:
      bits = np.unpackbits(tensors[f'{name}.mask'])
      if bits[:size].sum() != alive or bits[size:].any():
        raise ValueError(f'{name}.mask does not have {alive} bits')
  if extra := sorted(tensors.keys() - used):
    raise ValueError(f'{extra[0]} belongs to no leaf')


def _restore(
  name: str, leaf: dict[str, Any] | None, tensors: dict[str, Any]
) -> tuple[Any, Any]:
  """One leaf, and its mask or `None`."""
  if leaf is None:
    return None, None
  shape, dtype = tuple(leaf['shape']), jnp.dtype(leaf['dtype'])
  if 'alive' not in leaf:
    return jnp.asarray(tensors[name].astype(dtype)), None
  bits = np.unpackbits(tensors[f'{name}.mask'], count=math.prod(shape))
  mask = bits.astype(bool).reshape(shape)
  value = np.zeros(shape, dtype)
  values = tensors[f'{name}.values']
  if leaf.get('int8'):
    place = np.nonzero(mask)[-1]
    values = values.astype(np.float32) * tensors[f'{name}.scale'][place]
  value[mask] = values.astype(dtype)
  return jnp.asarray(value), jnp.asarray(mask)
