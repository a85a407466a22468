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
from lthjax._errors import describe, refuse
from lthjax.deploy import _kernels
from lthjax.deploy._layouts import Lookup, Sparse, replace, to_matrix

_EMPTY = Lookup(
  windows=np.zeros(0, np.uint16),
  locs=np.zeros(0, np.uint8),
  values=np.zeros(0, np.float32),
  scale=np.zeros(0, np.float32),
  offsets=np.zeros(0, np.int32),
)
_NONE = np.zeros(0, np.float32)  # In place of a bias.


def linear(
  x: jax.Array, sparse: Sparse, bias: jax.Array | None = None
) -> jax.Array:
  """Multiplies activations with a sparse kernel and adds a bias.

  Differentiable in ``x``, the values of the kernel and the bias, by `jax.grad`
  and `jax.vjp`, also repeatedly; values have gradients for alive weights only.
  Sums are in float32; x of bfloat16 or float16 is cast up, and the result down
  again. Infinite and NaN inputs reach exactly those outputs whose alive weights
  read them.

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
  shift = _NONE if bias is None else jnp.asarray(bias, jnp.float32)
  if sparse.values.dtype != jnp.float32:
    # Values of low precision come from casts of what `split` gave.
    sparse = replace(sparse, values=sparse.values.astype(jnp.float32))
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
  _check_parts(sparse)
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
  if bias is None:
    return
  if jnp.shape(_checks.array('bias', bias)) != (sparse.outputs,):
    raise ValueError(
      f'`bias` has shape {jnp.shape(bias)}, but this kernel has'
      f' {sparse.outputs} outputs.'
    )


def _check_parts(sparse: Sparse) -> None:
  """Checks that nothing has cast the structure, or taken the values away."""
  kinds = {'values': jnp.floating, 'indices': jnp.uint16, 'starts': jnp.int32}
  parts = {name: getattr(sparse, name) for name in kinds}
  refuse(
    [
      f'{name} is {describe(x)}'
      for name, x in parts.items()
      if not jnp.issubdtype(getattr(x, 'dtype', object), kinds[name])
    ],
    'This `Sparse` kernel has other parts than those that `condense` made: {}.'
    ' Cast params before `condense`, or the values that `split` gives; and put'
    ' what was split together again with `join`.',
    TypeError,
  )


# Each of the three products is linear in its arguments, and has the two others
# as its derivatives.


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
  dbias = jnp.sum(dy, axis=range(dy.ndim - 1)) if bias.size else bias
  return _transposed(dy, sparse), _of_values(sparse, x, dy), dbias


@jax.custom_vjp
def _transposed(dy: jax.Array, sparse: Sparse) -> jax.Array:
  """Multiplies ``[..., out]`` with the transposed kernel."""
  return _input_gradient(sparse.inputs)(dy, sparse)


def _transposed_fwd(dy: jax.Array, sparse: Sparse) -> Any:
  return _transposed(dy, sparse), (dy, sparse)


def _transposed_bwd(kept: Any, more: jax.Array) -> Any:
  dy, sparse = kept
  return _product(more, sparse, _NONE), _of_values(sparse, more, dy)


@jax.custom_vjp
def _pairs(x: jax.Array, dy: jax.Array, sparse: Sparse) -> jax.Array:
  """Sums ``x`` times ``dy`` over the batch, for each alive weight."""
  return _value_gradients(sparse.capacity)(x, dy, sparse)


def _pairs_fwd(x: jax.Array, dy: jax.Array, sparse: Sparse) -> Any:
  return _pairs(x, dy, sparse), (x, dy, sparse)


def _pairs_bwd(kept: Any, more: jax.Array) -> Any:
  x, dy, sparse = kept
  other = replace(sparse, values=more, lookup=None)
  none = jax.tree.map(_no_gradient, sparse)
  return _transposed(dy, other), _product(x, other, _NONE), none


_product.defvjp(_product_fwd, _product_bwd)
_transposed.defvjp(_transposed_fwd, _transposed_bwd)
_pairs.defvjp(_pairs_fwd, _pairs_bwd)


def _of_values(sparse: Sparse, x: jax.Array, dy: jax.Array) -> Sparse:
  """Returns the gradient of a kernel, which only its values have."""
  none = jax.tree.map(_no_gradient, sparse)
  return replace(none, values=_pairs(x, dy, sparse))


def _no_gradient(x: Any) -> Any:
  """Zeros for floats, and JAX's placeholder for integers."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.zeros(x.shape, x.dtype)
  return np.zeros(x.shape, jax.dtypes.float0)


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
      return mapped(*args), True

    def one(i):
      def pick(x, is_batched):
        return jax.lax.dynamic_index_in_dim(x, i, 0, False) if is_batched else x

      return mapped(*jax.tree.map(pick, tuple(args), tuple(batched)))

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
        lookup.windows,
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
