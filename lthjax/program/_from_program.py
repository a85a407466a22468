"""The axes of kernels, as the matmuls of a program have them."""

from collections.abc import Callable
from typing import Any

import chex

from lthjax._layout import Axes
from lthjax.program._interpreter import trace
from lthjax.program._kernels import Where, classify, select
from lthjax.program._roles import roles
from lthjax.program._use import Use
from lthjax.program._uses import uses_of


def from_program(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  *args: Any,
  where: Where | None = None,
) -> dict[str, Axes]:
  """Reads the axes of kernels off the program that multiplies with them.

  What is contracted are inputs, or the window of a convolution; the other axes
  of the operand are neurons; what a scan walks over or `jax.vmap` maps, the
  experts of a batched or ragged matmul and what is picked by a fixed index are
  stacks. All is followed back through transposes, reshapes and slices,
  so that layouts and names do not matter. Nothing is computed.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    *args: trees of arrays or of `jax.ShapeDtypeStruct`.
    where: the leaves, as for `lthjax.program.uses`. By default all those that
      the program multiplies with, including tied embeddings, whose axes are
      those of the matmul: a lookup has none.

  Returns:
    ``{name: Axes}``, for everything that takes ``axes=``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from lthjax import axes
    >>> def apply(params, x):  # [out, in], and two heads of three in one axis
    ...   x = x @ params['first'].T
    ...   return jnp.einsum('bi,ihd->bhd', x, params['qkv'].reshape(4, 2, 3))
    >>> params = {'first': jnp.ones((4, 8)), 'qkv': jnp.ones((4, 6))}
    >>> found = axes.from_program(apply, params, jnp.ones((5, 8)))
    >>> found['first']
    Axes(stack=(), window=(), inputs=(1,), outputs=(0,))
    >>> found['qkv']
    Axes(stack=(), window=(), inputs=(0,), outputs=(1,))
  """
  closed, _ = trace(apply, params, *args)
  chosen = select(params, where)
  if where is None:
    found = classify(closed, params, chosen)
    chosen = found.multiplied | found.lost
  by_name: dict[str, list[Use]] = {}
  for use in uses_of(closed, params, chosen):
    if use.name is not None and use.primitive != 'gather':
      by_name.setdefault(use.name, []).append(use)
  idle = sorted(chosen - set(by_name))
  if idle or not chosen:
    what = ', '.join(idle) or 'the leaves of the params'
    raise ValueError(
      f'The program never multiplies with {what}, so nothing says what their'
      ' axes count. Pass the function that applies the model, and leave out'
      ' with `where=` what is not a kernel.'
    )
  faults, axes = [], {}
  for name, each in by_name.items():
    axes[name] = _agreed(name, each, faults)
  if faults:
    raise ValueError(
      f'The axes of some kernels are not certain: {"; ".join(faults)}. Leave'
      ' these out with `where=`, and say what their axes count with'
      ' `axes={name: lth.axes.Axes(inputs=..., outputs=...)}`.'
    )
  return axes


def _agreed(name: str, uses: list[Use], faults: list[str]) -> Axes | None:
  """The axes that all uses of a leaf agree on."""
  first = None
  for use in uses:
    axes = _axes(name, use, faults)
    if first is None:
      first = axes, use
    elif axes != first[0] and None not in (axes, first[0]):
      faults.append(
        f'{name} has {first[0]} in {_site(first[1])}, but {axes} in'
        f' {_site(use)}'
      )
      break
  return first and first[0]


def _axes(name: str, use: Use, faults: list[str]) -> Axes | None:
  found = roles(use)
  for axis, each in enumerate(found):
    if each == {'inputs', 'window'}:
      each.discard('window')  # A filter stored as one axis.
    if len(each) > 1:
      faults.append(
        f'axis {axis} of {name} counts {" and ".join(sorted(each))} at once in'
        f' {_site(use)}'
      )
      return None
  fields = {
    field: tuple(axis for axis, each in enumerate(found) if field in each)
    for field in Axes._fields
  }
  return Axes(**fields)


def _site(use: Use) -> str:
  left, right = use.shapes
  return f'`{use.primitive}` of {left} and {right} at {use.path}'
