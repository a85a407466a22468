"""Programs compiled ahead of time, and matrices of JAX's own sparse format."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import describe
from lthjax.deploy import _kernels, _layouts

_DIGEST = 32  # Bytes behind an export, of which JAX takes no notice.


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
  _checks.function('apply_sparse', apply_sparse, 'f(sparse, *args)')
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
    data = bytes(exported.serialize())
    return data + hashlib.sha256(data).digest()
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
    whole, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(whole).digest() != digest:
      raise ValueError('they were cut or changed, or made otherwise')
    exported = jax.export.deserialize(bytearray(whole))
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
  parts = exported.in_tree.children()[0].children()[0].num_leaves
  wanted = [describe(x) for x in exported.in_avals[:parts]]

  def run(sparse, *args):
    leaves = jax.tree.leaves(sparse)
    given = [describe(jnp.asarray(x)) for x in leaves]
    if given != wanted:
      raise ValueError(
        f'The export takes params of {", ".join(wanted)}, but these are'
        f' {", ".join(given) or "empty"}. Give `condense` the same masks and'
        ' options as before the export; `lookup=False` if one of two machines'
        ' has AVX-512 and the other has not.'
      )
    return exported.call(leaves, *args)

  return jax.jit(run)


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
