"""Weights on grids of 8 and 4 bits, on which zero stays exactly zero."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lthjax import _checks, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax.axes import Axes


class Quantized(NamedTuple):
  """A kernel as integers and the size of their steps.

  Attributes:
    codes: int8 of the kernel's shape.
    scales: float32; an axis is as long as that of the codes, or counts the
      groups that share a step.
  """

  codes: jax.Array
  scales: jax.Array


Rule = Callable[[jax.Array, jax.Array | None, Axes], Quantized]


def int8(
  kernel: jax.Array, mask: jax.Array | None = None, axes: Axes | None = None
) -> Quantized:
  """Rounds a kernel to 8 bits, with one step per output.

  Codes are symmetric, from -127 to 127, so that zero is on the grid. The step
  of an output is the largest absolute value of its alive weights over 127.

  Args:
    kernel: floating-point array.
    mask: bool array of its shape; dead weights become zero.
    axes: which axes are inputs and outputs; by default the last one counts
      outputs.

  Returns:
    Codes and scales.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> kernel = jnp.array([[1.27, 0.0], [-0.5, 0.0]])
    >>> lth.quantization.int8(kernel).codes.tolist()
    [[127, 0], [-50, 0]]
  """
  axes = _axes(kernel, axes)
  return _round(kernel, mask, 127, axes.summed, None)


def int4(
  kernel: jax.Array,
  mask: jax.Array | None = None,
  axes: Axes | None = None,
  *,
  group: int = 32,
) -> Quantized:
  """Rounds a kernel to 4 bits, with one step per group of inputs of an output.

  Codes are symmetric, from -7 to 7; each takes a byte here.

  Args:
    kernel: floating-point array.
    mask: bool array of its shape; dead weights become zero.
    axes: as for `int8`.
    group: how many inputs in a row share a step. It divides the last axis of
      inputs; groups do not go across the axes before it.

  Returns:
    Codes and scales.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> kernel = jnp.array([[0.7], [0.1], [7.0], [-2.0]])
    >>> codes, scales = lth.quantization.int4(kernel, group=2)
    >>> codes.ravel().tolist(), scales.shape
    ([7, 1, 7, -2], (2, 1))
  """
  axes = _axes(kernel, axes)
  group = _checks.at_least('group', group, 1)
  axis = max(axes.inputs, default=None)
  if axis is None or kernel.shape[axis] % group:
    raise ValueError(
      f'Groups of {group} inputs do not fit a kernel of shape {kernel.shape}'
      f' with {axes}. Choose a `group` that divides its last axis of inputs,'
      ' or leave the kernel out with `where=`.'
    )
  return _round(kernel, mask, 7, (axis,), group)


def dequantize(tree: chex.ArrayTree, dtype: Any = jnp.float32) -> Any:
  """Turns every `Quantized` of a tree into an array.

  Args:
    tree: such as `quantize` makes, or one `Quantized`.
    dtype: of these arrays.

  Returns:
    The tree, with arrays.
  """
  return jax.tree.map(
    lambda x: _value(x).astype(dtype) if isinstance(x, Quantized) else x,
    tree,
    is_leaf=lambda x: isinstance(x, Quantized),
  )


def quantize(
  params: chex.ArrayTree,
  rule: Rule = int8,
  *,
  where: masks_lib.Where | str | Sequence[str] = masks_lib.kernels,
  masks: chex.ArrayTree | None = None,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Rounds the kernels of a network.

  Args:
    params: tree of arrays.
    rule: `int8`, `int4` or ``functools.partial(int4, group=64)``.
    where: which leaves to round, as for `lthjax.masks.full`.
    masks: tree of masks; dead weights become zero.
    axes: ``{name or glob: lthjax.axes.Axes}`` of kernels whose names and shapes
      do not say which axes are inputs.

  Returns:
    The tree, with a `Quantized` in the place of each chosen leaf.

  Raises:
    ValueError: if weights are not finite, naming the leaves.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'kernel': jnp.eye(3), 'bias': jnp.ones(3)}
    >>> small = lth.quantization.quantize(params)
    >>> small['kernel'].codes.dtype, small['bias'].dtype
    (dtype('int8'), dtype('float32'))
    >>> lth.quantization.dequantize(small)['kernel'][0].tolist()
    [1.0, 0.0, 0.0]
  """
  return _map(_checked(rule), rule, params, where, masks, axes)


def straight_through(
  params: chex.ArrayTree,
  rule: Rule = int8,
  *,
  where: masks_lib.Where | str | Sequence[str] = masks_lib.kernels,
  masks: chex.ArrayTree | None = None,
  axes: Mapping[str, Axes] | None = None,
) -> Any:
  """Rounds kernels for the forward pass; gradients pass unchanged.

  Call it inside the loss, around the params. An optimizer that holds dead
  weights at zero, such as `lthjax.static`, needs nothing more: zero is on every
  grid. Scales follow the weights at every step, and no gradient goes through
  them.

  Args:
    params: tree of arrays.
    rule: as for `quantize`.
    where: as for `quantize`.
    masks: as for `quantize`.
    axes: as for `quantize`.

  Returns:
    Params on the grid, of the same types.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> def loss(params):
    ...   rounded = lth.quantization.straight_through(params)
    ...   return (rounded['kernel'] ** 2).sum()
    >>> params = {'kernel': jnp.array([[127.0], [2.2]])}
    >>> jax.grad(loss)(params)['kernel'].ravel().tolist()
    [254.0, 4.0]

  References:
    Bengio et al., Estimating or Propagating Gradients Through Stochastic
    Neurons for Conditional Computation, arXiv:1308.3432; Jacob et al.,
    Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, arXiv:1712.05877, section 3.
  """

  def round_(name, kernel, mask, axes):
    del name
    rounded = _value(rule(jax.lax.stop_gradient(kernel), mask, axes))
    return _pass(kernel, rounded.astype(kernel.dtype))

  return _map(round_, rule, params, where, masks, axes)


@jax.custom_jvp
def _pass(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns ``y``, with the gradient of ``x``."""
  del x
  return y


@_pass.defjvp
def _(primals, tangents):
  return _pass(*primals), tangents[0]


def _axes(kernel: Any, axes: Axes | None) -> Axes:
  """The axes of one kernel, and a check that it is one."""
  if not jnp.issubdtype(
    _checks.arrays(kernel, 'kernel')[''].dtype, jnp.floating
  ):
    raise TypeError(
      f'`kernel` has type {kernel.dtype}, but must be of floating point.'
    )
  if axes is None:
    last = max(kernel.ndim - 1, 0)
    axes = Axes(inputs=tuple(range(last)), outputs=(last,))
  return axes_lib.resolve({'kernel': axes}, {'kernel': kernel.shape})['kernel']


def _round(
  kernel: jax.Array,
  mask: jax.Array | None,
  largest: int,
  along: tuple[int, ...],
  group: int | None,
) -> Quantized:
  """Rounds to codes up to ``largest``, with steps shared along some axes."""
  weights = kernel.astype(jnp.float32)
  if mask is not None:
    _checks.check_masks({'mask': mask}, 'mask')
    if mask.shape != kernel.shape:
      raise ValueError(
        f'`mask` has the shape {mask.shape}, but must have that of the kernel,'
        f' {kernel.shape}.'
      )
    weights = jnp.where(mask, weights, 0.0)
  shape, parts = list(kernel.shape), weights
  if group is not None:
    axis = along[0]
    shape[axis : axis + 1] = [kernel.shape[axis] // group, group]
    parts, along = weights.reshape(shape), (axis + 1,)
  peak = jnp.max(jnp.abs(parts), along, keepdims=True, initial=0.0)
  steps = peak / largest
  # An output without weights has codes of zero, whatever the step.
  steps = jnp.where(steps > 0, steps, 1.0)
  codes = jnp.clip(jnp.round(parts / steps), -largest, largest)
  scales = steps if group is None else steps.squeeze(along)
  return Quantized(codes.astype(jnp.int8).reshape(kernel.shape), scales)


def _value(x: Quantized) -> jax.Array:
  """Codes times steps."""
  scales = x.scales
  for axis, size in enumerate(x.codes.shape):
    if scales.shape[axis] not in (1, size):
      scales = jnp.repeat(scales, size // scales.shape[axis], axis)
  return x.codes.astype(jnp.float32) * scales


def _checked(rule: Rule) -> Callable[..., Quantized]:
  """A rule that refuses weights that are not finite."""

  def visit(name, kernel, mask, axes):
    alive = kernel if mask is None else jnp.where(mask, kernel, 0)
    if not trees.is_traced(alive) and not bool(jnp.isfinite(alive).all()):
      raise ValueError(
        f'{name} has weights that are NaN or infinite, which no grid has. Train'
        ' it again, or leave it out with `where=`.'
      )
    return rule(kernel, mask, axes)

  return visit


def _map(visit, rule, params, where, masks, axes) -> Any:
  """Maps ``visit(name, kernel, mask, axes)`` over the chosen leaves."""
  leaves, structure = trees.flatten(params)
  _checks.check_arrays(leaves, 'params')
  _checks.function('rule', rule, 'rule(kernel, mask, axes)')
  chosen = masks_lib.full(params, where)
  its = axes_lib.resolve(axes, chosen)
  alive: Mapping[str, Any] = {}
  if masks is not None:
    trees.check_like(masks, params, 'params')
    alive = _checks.bool_masks(masks)
  selected = trees.prunable(chosen)
  return structure.unflatten(
    visit(name, x, alive.get(name), its[name]) if name in selected else x
    for name, x in leaves.items()
  )
