"""The axes of kernels, according to the matmuls of a program."""

from collections.abc import Callable
from typing import Any

import chex

from lthjax._errors import refuse
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

  Contracted axes are inputs, or the window of a convolution; the other axes of
  the operand are neurons. Axes that a scan walks over, that `jax.vmap` maps or
  that are indexed layer by layer, and the experts of a batched or ragged
  matmul, are stacks. All are followed back through transposes, reshapes and
  slices, so layouts and names do not matter. Nothing is computed.

  Args:
    apply: pure function ``apply(params, *args)`` of any framework.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    *args: trees of arrays or of `jax.ShapeDtypeStruct`.
    where: the leaves, as for `lthjax.program.uses`. By default, all that the
      program multiplies with. A tied embedding has the axes of its matmul,
      since a lookup has none.

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
      f'The program never multiplies with {what}, so their axes have no roles.'
      ' Pass the function that applies the model, and exclude leaves that are'
      ' not kernels with `where=`.'
    )
  faults, axes = [], {}
  for name, each in by_name.items():
    axes[name] = _agreed(name, each, faults)
  refuse(
    faults,
    'The axes of some kernels are not certain: {}. Exclude these leaves with'
    ' `where=`, and give their axes yourself:'
    ' `axes={name: lth.axes.Axes(inputs=..., outputs=...)}`.',
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
