"""Files of pruned networks: alive values and one bit per weight; exports."""

import json
import math
import os
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, files, trees
from lthjax.deploy import _kernels, _layouts

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
  trees.check_like(masks, params, 'params')
  alive = trees.by_name(masks)
  tensors, leaves = {}, {}
  for name, leaf in trees.by_name(params).items():
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
  metadata = {'format': _FORMAT, 'leaves': json.dumps(leaves)}
  path = files.local_path(path)
  data = library.numpy.save(
    {k: np.asarray(v, order='C') for k, v in tensors.items()}, metadata
  )
  files.write_bytes(path, data)


def _round(
  name: str, value: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Rounds to int8 with one scale per entry of the last axis."""
  rows, alive = (x.reshape(-1, x.shape[-1]) for x in (value, mask))
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
    _check_counts(leaves, tensors)
  except Exception as error:
    raise ValueError(
      f'{path} is damaged, or was not written by `lthjax.deploy.save`: {error}.'
    ) from error
  restored = {name: _restore(name, x, tensors) for name, x in leaves.items()}
  params = trees.nest({name: value for name, (value, _) in restored.items()})
  masks = trees.nest({name: mask for name, (_, mask) in restored.items()})
  return params, masks


def _array(tensor: dict[str, Any]) -> np.ndarray:
  """An array of what safetensors read; bfloat16 too, which NumPy lacks."""
  names = {'BF16': 'bfloat16', 'BOOL': 'bool', 'I': 'int', 'U': 'uint'}
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
  name: str, leaf: dict[str, Any], tensors: dict[str, Any]
) -> tuple[Any, Any]:
  """One leaf, and its mask or `None`."""
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


def export(apply_sparse: Callable[..., Any], sparse: Any, *specs: Any) -> bytes:
  """Compiles a model ahead of time, for other processes to run.

  Args:
    apply_sparse: function of sparse params and other arguments, as
      `sparse_apply` makes it.
    sparse: sparse params. They stay arguments: the bytes hold none of them.
    *specs: `jax.ShapeDtypeStruct` of the other arguments; batch sizes may be
      symbolic, as `jax.export.symbolic_shape` makes them.

  Returns:
    Bytes for `load_export`.

  Raises:
    ImportError: without the package flatbuffers.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {'w': jnp.array([[5.0], [0.0]])}
    >>> sparse = deploy.condense(params, {'w': params['w'] > 4})
    >>> apply = deploy.sparse_apply(lambda p, x: x @ p['w'], params)
    >>> x = jnp.ones((3, 2))
    >>> data = deploy.export(apply, sparse, jax.typeof(x))
    >>> deploy.load_export(data)(sparse, x).tolist()
    [[5.0], [5.0], [5.0]]
  """
  checks = [
    jax.export.DisabledSafetyCheck.custom_call(target)
    for target in _kernels.TARGETS
  ]
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), sparse
  )
  leaves, structure = jax.tree.flatten(shapes)

  def flat(leaves, *args):
    return apply_sparse(jax.tree.unflatten(structure, leaves), *args)

  exported = jax.export.export(jax.jit(flat), disabled_checks=checks)(
    leaves, *specs
  )
  try:
    return bytes(exported.serialize())
  except ImportError:
    raise ImportError(
      'Exports need the package flatbuffers: `pip install flatbuffers`.'
    ) from None


def load_export(data: bytes) -> Callable[..., Any]:
  """Reads what `export` made, and gets the kernels ready that it calls.

  Args:
    data: the bytes.

  Returns:
    The compiled function ``f(sparse, *args)``.

  Raises:
    RuntimeError: if it needs compiled kernels, and there are none.
    ValueError: if the bytes are not those of an export.
  """
  if not isinstance(data, bytes | bytearray):
    raise _checks.wrong_type('data', data, 'be the bytes of an export')
  try:
    exported = jax.export.deserialize(bytearray(data))
  except ImportError:
    raise ImportError(
      'Exports need the package flatbuffers: `pip install flatbuffers`.'
    ) from None
  except Exception as error:
    raise ValueError(
      f'These {len(data)} bytes are not an export of `lthjax.deploy.export`:'
      f' {error}.'
    ) from error
  found = _kernels.kernels()
  if not found.available and _kernels.TARGETS[0] in exported.mlir_module():
    raise RuntimeError(
      f'This export calls compiled kernels, and there are none. {found.reason}'
    )
  return jax.jit(
    lambda sparse, *args: exported.call(jax.tree.leaves(sparse), *args)
  )


def to_bcsr(sparse: _layouts.Sparse) -> Any:
  """Returns a kernel as a `jax.experimental.sparse.BCSR` matrix ``[out, in]``.

  Args:
    sparse: one `Sparse` kernel.

  Returns:
    The matrix, whose rows are outputs.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {'w': jnp.array([[5.0, 0.0], [0.0, 6.0], [0.0, 0.0]])}
    >>> sparse = deploy.condense(params, {'w': params['w'] > 4})
    >>> deploy.to_bcsr(sparse['w']).todense().tolist()
    [[5.0, 0.0, 0.0], [0.0, 6.0, 0.0]]
  """
  from jax.experimental import sparse as jax_sparse

  _checks.having('sparse', sparse, 'values indices starts', 'a `Sparse` kernel')
  if trees.is_traced(sparse.values):
    raise ValueError(
      '`to_bcsr` counts entries, so call it outside of `jax.jit`.'
    )
  inputs, outputs = map(np.asarray, _layouts.positions(sparse))
  alive = inputs < sparse.inputs
  order = np.lexsort((inputs[alive], outputs[alive]))
  starts = np.zeros(sparse.outputs + 1, np.int32)
  np.cumsum(
    np.bincount(outputs[alive], minlength=sparse.outputs), out=starts[1:]
  )
  return jax_sparse.BCSR(
    (
      jnp.asarray(np.asarray(sparse.values)[alive][order]),
      jnp.asarray(inputs[alive][order], jnp.int32),
      jnp.asarray(starts),
    ),
    shape=(sparse.outputs, sparse.inputs),
  )
