"""Runs any model with sparse kernels, by following them through its program."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import _checks
from lthjax.deploy import _linear
from lthjax.deploy._condense import is_sparse, named
from lthjax.deploy._layouts import Sparse
from lthjax.program import _interpreter


class _View(NamedTuple):
  """A sparse kernel as the program has cast, transposed and reshaped it.

  Attributes:
    name: of the leaf.
    sparse: the kernel.
    shape: as the program sees it.
    ins: axes of that shape that are inputs; row-major, they are the inputs of
      the kernel in its own order.
    outs: axes that are outputs, likewise. Axes of length one may be in neither.
    dtype: what the program has cast the kernel to.
  """

  name: str
  sparse: Sparse
  shape: tuple[int, ...]
  ins: tuple[int, ...]
  outs: tuple[int, ...]
  dtype: Any


def sparse_apply(
  apply: Callable[..., Any], params: chex.ArrayTree
) -> Callable[..., Any]:
  """Makes a function that runs a model with sparse params.

  The model is traced with arrays of the params' shapes. Where its program
  multiplies with a kernel that is `Sparse`, the sparse product takes the place
  of the dense one; kernels may be cast, transposed and reshaped before, as long
  as inputs and outputs stay apart, also inside of `jax.jit`, `jax.checkpoint`,
  `jax.lax.cond` and functions with derivatives of their own.

  Args:
    apply: pure function ``apply(params, *args)``.
    params: tree of arrays or of `jax.ShapeDtypeStruct`: the params that the
      model was written for.

  Returns:
    A function ``f(sparse, *args)``. It is traced once for each shape of args.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {'w': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    >>> sparse = deploy.condense(params, {'w': params['w'] > 3})
    >>> f = deploy.sparse_apply(lambda p, x: jax.nn.relu(x @ p['w']), params)
    >>> f(sparse, jnp.ones((1, 2)))
    Array([[0., 4.]], dtype=float32)
  """
  _checks.function('apply', apply, 'apply(params, *args)')
  _checks.arrays(params, shapes=True)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params
  )
  programs: dict[Any, Any] = {}

  def run(sparse, *args):
    _interpreter.check_arguments(sparse, *args)
    _check_fits(sparse, shapes)
    leaves, structure = jax.tree.flatten(args)
    key = (
      structure,
      tuple(
        (jnp.shape(x), jnp.result_type(x), getattr(x, 'weak_type', False))
        for x in leaves
      ),
    )
    if key not in programs:
      programs[key] = _interpreter.trace(apply, shapes, *args)
    closed, result = programs[key]
    facts = [
      _view(name, leaf)
      for name, leaf in named(sparse).items()
      if leaf is not None
    ]
    outs = _interpreter.interpret(closed, [*facts, *leaves], _step)
    if held := [out.name for out in outs if isinstance(out, _View)]:
      raise ValueError(
        f'The model returns {", ".join(held)}, which is sparse. Leave it dense'
        ' with `condense(..., where=...)`.'
      )
    return jax.tree.unflatten(result, outs)

  return run


def _check_fits(sparse: Any, shapes: Any) -> None:
  """Checks that sparse params are those of the model."""
  wanted, given = (
    {name: jnp.shape(x) for name, x in named(tree).items() if x is not None}
    for tree in (shapes, sparse)
  )
  if given != wanted:
    wrong = sorted(
      name or 'the array'
      for name in given.keys() | wanted.keys()
      if given.get(name) != wanted.get(name)
    )
    raise ValueError(
      'The sparse params are not those of this model: names or shapes differ'
      f' at {", ".join(wrong)}.'
    )


def _view(name: str, leaf: Any) -> Any:
  if not is_sparse(leaf):
    return leaf
  outs = [axis for axis in range(leaf.ndim) if axis not in leaf.in_axes]
  return _View(name, leaf, leaf.shape, leaf.in_axes, tuple(outs), leaf.dtype)


def _step(
  eqn: jex.JaxprEqn, facts: list[Any], path: tuple[int, ...]
) -> Sequence[Any]:
  """Computes an equation; products with sparse kernels are sparse."""
  views = [x for x in facts if isinstance(x, _View)]
  if not views:
    return _interpreter.bind(eqn, facts)
  name = eqn.primitive.name
  if rule := _RULES.get(name):
    out = rule(eqn, *facts)
    if out is not None:
      return [out]
  elif name in _interpreter.CALLS:
    ((inner, program),) = _interpreter.inside(eqn, path)[:1]
    return _interpreter.interpret(program, facts, _step, path=inner)
  elif name == 'cond' and not isinstance(facts[0], _View):
    return _cond(eqn, facts, path)
  raise ValueError(
    f'{", ".join(view.name for view in views)} meets `{name}`, which sparse'
    ' kernels cannot: they can be cast, transposed and reshaped with inputs and'
    ' outputs kept apart, and multiplied with activations from the side of'
    ' their inputs. Leave the leaf dense with `condense(..., where=...)`.'
  )


def _cond(eqn: jex.JaxprEqn, facts: list[Any], path: tuple[int, ...]) -> Any:
  """Takes a branch; sparse kernels are constants of every branch."""
  arrays = [None if isinstance(x, _View) else x for x in facts[1:]]

  def run(number, program, inputs):
    mixed = [
      view if isinstance(view, _View) else x
      for view, x in zip(facts[1:], inputs, strict=True)
    ]
    return _interpreter.interpret(program, mixed, _step, path=(*path, number))

  return _interpreter.branch(eqn, [facts[0], *arrays], run)


# Rules return `None` for what they cannot do.


def _result(eqn: jex.JaxprEqn) -> Any:
  """Shape and dtype of what an equation computes."""
  return eqn.outvars[0].aval


def _cast(eqn: jex.JaxprEqn, view: _View) -> _View | None:
  dtype = eqn.params['new_dtype']
  known = dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
  return view._replace(dtype=dtype) if known else None


def _transpose(eqn: jex.JaxprEqn, view: _View) -> _View:
  order = eqn.params['permutation']
  return view._replace(
    shape=tuple(view.shape[axis] for axis in order),
    ins=tuple(order.index(axis) for axis in view.ins),
    outs=tuple(order.index(axis) for axis in view.outs),
  )


def _reshape(eqn: jex.JaxprEqn, view: _View, *others: Any) -> _View | None:
  """Splits and merges axes, as long as no new axis has both kinds."""
  del others
  shape = tuple(_result(eqn).shape)
  if list(view.ins) != sorted(view.ins) or list(view.outs) != sorted(view.outs):
    return None  # The order of entries is not row-major any more.
  kinds = [
    (axis in view.ins, size)
    for axis, size in enumerate(view.shape)
    if size != 1
  ]
  new, ins, outs = list(enumerate(shape)), [], []
  while kinds:  # One run of axes of the same kind after the other.
    kind, total = kinds[0][0], 1
    while kinds and kinds[0][0] == kind:
      total *= kinds.pop(0)[1]
    found = 1
    while found < total and new:
      axis, size = new.pop(0)
      found *= size
      if size != 1:
        (ins if kind else outs).append(axis)
    if found != total:
      return None
  return view._replace(shape=shape, ins=tuple(ins), outs=tuple(outs))


def _broadcast(eqn: jex.JaxprEqn, view: _View, *others: Any) -> _View | None:
  """New axes of length one only."""
  same = math.prod(_result(eqn).shape) == math.prod(view.shape)
  dims = eqn.params['broadcast_dimensions']
  in_order = list(dims) == sorted(dims)
  return _reshape(eqn, view, *others) if same and in_order else None


def _dot(eqn: jex.JaxprEqn, left: Any, right: Any) -> jax.Array | None:
  """A matmul with a sparse kernel on one side."""
  if isinstance(left, _View) and isinstance(right, _View):
    return None
  (left_in, right_in), batch = eqn.params['dimension_numbers']
  view: _View = right if isinstance(right, _View) else left
  x: Any = left if view is right else right
  ours, theirs = (right_in, left_in) if view is right else (left_in, right_in)
  real = [axis for axis in ours if view.shape[axis] != 1]
  ins = [axis for axis in view.ins if view.shape[axis] != 1]
  if any(batch) or sorted(real) != sorted(ins):
    return None
  # Axes of x in the order of the kernel's inputs; those of length one anywhere.
  partner = dict(zip(ours, theirs, strict=True))
  order = [partner[axis] for axis in ins]
  order += [partner[axis] for axis in ours if axis not in ins]
  free = [axis for axis in range(x.ndim) if axis not in theirs]
  moved = x.transpose([*free, *order])
  front = moved.shape[: len(free)]
  y = _linear.linear(moved.reshape(*front, view.sparse.inputs), view.sparse)
  outs = [axis for axis in view.outs if view.shape[axis] != 1]
  y = y.reshape([*front, *(view.shape[axis] for axis in outs)])
  # The outputs in the order of the axes that the program sees.
  ranks = sorted(range(len(outs)), key=lambda i: outs[i])
  y = y.transpose([*range(len(front)), *(len(front) + i for i in ranks)])
  if view is left:
    split = len(front)
    y = y.transpose([*range(split, y.ndim), *range(split)])
  wanted = _result(eqn)
  return y.reshape(wanted.shape).astype(wanted.dtype)


def _conv(eqn: jex.JaxprEqn, image: Any, view: Any) -> jax.Array | None:
  """A 1x1 convolution, which is a matmul at every pixel."""
  params = eqn.params
  spec = params['dimension_numbers']
  out_axis, in_axis, *window = spec.rhs_spec
  if (
    isinstance(image, _View)
    or params['feature_group_count'] * params['batch_group_count'] > 1
    or any(x != (0, 0) for x in params['padding'])
    or any(x != 1 for x in params['lhs_dilation'])
    or any(view.shape[axis] != 1 for axis in window)
    or {*view.ins} - {in_axis, *window}
    or view.outs != (out_axis,)
  ):
    return None
  x = image.transpose([spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1]])
  steps = [slice(None, None, step) for step in params['window_strides']]
  x = x[(slice(None), *steps)]
  y = _linear.linear(x, view.sparse)
  places = [spec.out_spec[0], *spec.out_spec[2:], spec.out_spec[1]]
  wanted = _result(eqn)
  return y.transpose([places.index(axis) for axis in range(y.ndim)]).astype(
    wanted.dtype
  )


_RULES = {
  'broadcast_in_dim': _broadcast,
  'conv_general_dilated': _conv,
  'convert_element_type': _cast,
  'dot_general': _dot,
  'expand_dims': _reshape,
  'reshape': _reshape,
  'squeeze': _reshape,
  'transpose': _transpose,
}
