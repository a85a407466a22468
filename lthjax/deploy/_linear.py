"""Products with sparse kernels, their derivatives, and where they run.

On a CPU with compiled kernels the products read alive weights only. Elsewhere
the values are scattered into a dense kernel and multiplied: right, not fast.
"""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from lthjax import _checks
from lthjax.deploy import _kernels
from lthjax.deploy._layouts import Lookup, Sparse, to_matrix

_EMPTY = Lookup(
  counts=np.zeros(0, np.uint8),
  locs=np.zeros(0, np.uint8),
  values=np.zeros(0, np.float32),
  scale=np.zeros(0, np.float32),
  offsets=np.zeros(0, np.int32),
)


def linear(
  x: jax.Array, sparse: Sparse, bias: jax.Array | None = None
) -> jax.Array:
  """Multiplies activations with a sparse kernel and adds a bias.

  Differentiable in ``x``, the values of the kernel and the bias; gradients of
  values exist for alive weights only. Sums are in float32; x of bfloat16 or
  float16 is cast up, and the result down again. Infinite and NaN inputs reach
  exactly those outputs whose alive weights read them.

  Args:
    x: ``[..., in]``.
    sparse: kernel of ``in`` inputs and ``out`` outputs, several axes flattened.
    bias: ``[out]``, or `None`.

  Returns:
    ``[..., out]`` of the dtype of ``x``.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> kernel = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> mask = jnp.array([[True, False], [False, True], [False, False]])
    >>> sparse = deploy.condense({'w': kernel}, {'w': mask})['w']
    >>> deploy.linear(jnp.array([10.0, 100.0, 1000.0]), sparse)
    Array([ 10., 400.], dtype=float32)
  """
  x = jnp.asarray(_checks.array('x', x))
  _check(x, sparse, bias)
  single = x.astype(jnp.float32)
  shift = jnp.zeros(0) if bias is None else jnp.asarray(bias, jnp.float32)
  y = _product(single, sparse, shift)
  return y.astype(x.dtype)


def _check(x: jax.Array, sparse: Sparse, bias: Any) -> None:
  """Checks operands; the error says what does not fit."""
  if not isinstance(sparse, Sparse):
    raise TypeError(
      f'`linear` takes a `Sparse` kernel, but this is a'
      f' {type(sparse).__name__}. `lthjax.deploy.condense(params, masks)` makes'
      ' them of kernels and masks.'
    )
  if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
    raise TypeError(
      f'`x` has dtype {x.dtype}, but sparse kernels multiply float32, bfloat16'
      ' and float16. Cast it first.'
    )
  if x.ndim < 1 or x.shape[-1] != sparse.inputs:
    raise ValueError(
      f'`x` has shape {x.shape}, but this kernel of shape {sparse.shape} has'
      f' {sparse.inputs} inputs: the last axis of `x` must be that long.'
    )
  if bias is not None and jnp.shape(bias) != (sparse.outputs,):
    raise ValueError(
      f'`bias` has shape {jnp.shape(bias)}, but this kernel has'
      f' {sparse.outputs} outputs.'
    )


@jax.custom_vjp
def _product(x: jax.Array, sparse: Sparse, bias: jax.Array) -> jax.Array:
  return _forward(sparse.outputs)(x, sparse, bias)


def _product_fwd(x: jax.Array, sparse: Sparse, bias: jax.Array) -> Any:
  if sparse.int8:
    raise TypeError(
      'int8 kernels are for inference only and have no derivative. Train with'
      ' `condense(..., int8=False)`, and round afterwards.'
    )
  return _product(x, sparse, bias), (x, sparse, bias)


def _product_bwd(kept: Any, dy: jax.Array) -> Any:
  x, sparse, bias = kept
  dx = _input_gradient(sparse.inputs)(dy, sparse)
  dvalues = _value_gradients(sparse.capacity)(x, dy, sparse)
  zeros = jax.tree.map(_no_gradient, sparse)
  dbias = jnp.sum(dy, axis=range(dy.ndim - 1)) if bias.size else bias
  return dx, _with_values(zeros, dvalues), dbias


_product.defvjp(_product_fwd, _product_bwd)


def _no_gradient(x: Any) -> Any:
  """Zeros for floats, and JAX's placeholder for integers."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.zeros(x.shape, x.dtype)
  return np.zeros(x.shape, jax.dtypes.float0)


def _with_values(sparse: Sparse, values: jax.Array) -> Sparse:
  leaves, structure = jax.tree.flatten(sparse)
  return jax.tree.unflatten(structure, [values, *leaves[1:]])


def _parts(sparse: Sparse) -> tuple[Any, Any, Any]:
  return sparse.values, sparse.indices, sparse.starts


def _on_platform(kernel: Any, default: Any) -> Any:
  """Runs the compiled kernel on the CPU, and the other way elsewhere."""
  found = _kernels.kernels()
  if not found.available:
    _warn_once(found.reason)
    return default()
  return jax.lax.platform_dependent(cpu=kernel, default=default)


@functools.cache
def _warn_once(reason: str) -> None:
  warnings.warn(
    f'Sparse layers run without compiled kernels, and no faster than dense'
    f' ones. {reason}',
    stacklevel=2,
  )


def _batchable(f: Any, fold: bool) -> Any:
  """Says what `jax.vmap` makes of a function of activations and a kernel.

  Args:
    f: ``f(*activations, rest)``; activations have a batch of any shape first.
    fold: whether mapped activations become a longer batch, as long as nothing
      of the rest is mapped. Otherwise the calls follow each other.

  Returns:
    The function with this rule.
  """
  mapped = custom_vmap(f)

  @mapped.def_vmap
  def rule(size, batched, *args):
    *activations, rest = batched
    if fold and all(activations) and not any(jax.tree.leaves(rest)):
      return f(*args), True

    def one(i):
      def pick(x, is_batched):
        return jax.lax.dynamic_index_in_dim(x, i, 0, False) if is_batched else x

      return f(*jax.tree.map(pick, tuple(args), tuple(batched)))

    return jax.lax.map(one, jnp.arange(size)), True

  return mapped


@functools.cache
def _forward(outputs: int) -> Any:
  @functools.partial(_batchable, fold=True)
  def forward(x, rest):
    sparse, bias = rest
    shape = (*x.shape[:-1], outputs)

    def kernel():
      lookup = sparse.lookup or _EMPTY
      return jax.ffi.ffi_call(
        'lthjax_sparse_forward', jax.ShapeDtypeStruct(shape, jnp.float32)
      )(
        x,
        *_parts(sparse),
        bias,
        lookup.counts,
        lookup.locs,
        lookup.values,
        lookup.scale,
        lookup.offsets,
      )

    def default():
      y = x @ to_matrix(sparse)
      return y + bias if bias.size else y

    return _on_platform(kernel, default)

  return lambda x, sparse, bias: forward(x, (sparse, bias))


@functools.cache
def _input_gradient(inputs: int) -> Any:
  @functools.partial(_batchable, fold=True)
  def gradient(dy, sparse):
    shape = jax.ShapeDtypeStruct((*dy.shape[:-1], inputs), jnp.float32)
    return _on_platform(
      lambda: jax.ffi.ffi_call('lthjax_sparse_input_gradient', shape)(
        dy, *_parts(sparse)
      ),
      lambda: dy @ to_matrix(sparse).T,
    )

  return gradient


@functools.cache
def _value_gradients(capacity: int) -> Any:
  @functools.partial(_batchable, fold=False)
  def gradient(x, dy, sparse):
    shape = jax.ShapeDtypeStruct((capacity,), jnp.float32)

    def default():
      return jax.vjp(
        lambda values: x @ to_matrix(sparse, values), jnp.asarray(sparse.values)
      )[1](dy)[0]

    return _on_platform(
      lambda: jax.ffi.ffi_call('lthjax_sparse_value_gradients', shape)(
        x, dy, *_parts(sparse)
      ),
      default,
    )

  return gradient
