"""Sparse kernels in place of dense ones, and the exact way back."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax import axes as axes_lib
from lthjax import masks as masks_lib
from lthjax._errors import refuse
from lthjax.deploy import _kernels, _layouts
from lthjax.deploy._layouts import Sparse

_MOST = 2**31 - 1  # Places of entries are int32.


def is_sparse(x: Any) -> bool:
  """Returns whether a leaf is a `Sparse` kernel.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {'w': jnp.array([[5.0], [1.0]]), 'b': jnp.ones(1)}
    >>> sparse = deploy.condense(params, {'w': params['w'] > 4, 'b': None})
    >>> deploy.is_sparse(sparse['w']), deploy.is_sparse(sparse['b'])
    (True, False)
  """
  return isinstance(x, Sparse)


def condense(
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  *,
  where: Callable[[str, Any], bool] | None = None,
  axes: Mapping[str, axes_lib.Axes] | None = None,
  max_density: float = 0.5,
  lookup: bool | Literal['auto'] = 'auto',
  blocks: bool | Literal['auto'] = 'auto',
  int8: bool = False,
  capacity: int | Mapping[str, int] | None = None,
) -> Any:
  """Replaces pruned kernels by `Sparse` ones, which hold alive weights only.

  Masks decide what is stored, not values: an alive 0.0 is stored. Stacked
  kernels and convolutions other than 1x1 stay dense, with their masks applied.

  Args:
    params: tree of arrays.
    masks: tree of masks.
    where: predicate ``where(name, leaf)`` that narrows down which masked leaves
      are replaced.
    axes: ``{name or glob: Axes}`` of kernels; by layout if not given.
    max_density: kernels with a larger alive share stay dense.
    lookup: whether to add the layout for batches of at most 4. By default it is
      added where the processor has AVX-512, unless ``capacity`` is given.
      Kernels of more than 2^21 inputs do without.
    blocks: whether four neurons in a row share their inputs, as
      ``lthjax.patterns.Block((1, 4))`` makes masks, which mostly multiplies 1.4
      to 1.9 times as fast. By default each kernel whose mask allows it is
      packed so, unless ``int8`` or ``capacity`` is given.
    int8: whether to round values to 8 bits, with one scale per output. For
      inference only.
    capacity: number of entries to leave room for, so that masks with fewer
      alive weights have the same program; for all kernels, or by name.

  Returns:
    The params, with `Sparse` leaves.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> params = {'w': jnp.arange(1.0, 7.0).reshape(3, 2), 'b': jnp.ones(2)}
    >>> masks = {'w': params['w'] > 4, 'b': None}
    >>> deploy.condense(params, masks)['w'].values
    Array([5., 6.], dtype=float32)
  """
  host, alive = _checks.arrays(params), trees.by_name(masks)
  trees.check_tables(alive, host, 'params')
  if trees.is_traced(*host.values(), *alive.values()):
    raise ValueError(
      '`condense` counts and packs alive weights: call it outside of `jax.jit`,'
      ' and pass the sparse params to the compiled function.'
    )
  max_density = _checks.closed_share('max_density', max_density)
  if where is not None:
    _checks.function('where', where, '(name, leaf) -> bool')
  if lookup != 'auto':
    lookup = _checks.flag('lookup', lookup)
  if blocks != 'auto':
    blocks = _checks.flag('blocks', blocks)
  int8 = _checks.flag('int8', int8)
  capacity = _rooms(capacity, host)
  strict = blocks is True
  lookup, blocks = _resolve(lookup, blocks, int8, capacity is not None)
  chosen = choose(params, masks, where, axes, max_density)
  _check_values(chosen, host, alive, capacity, int8, strict)

  def replace(path, leaf):
    name = trees.path_name(path)
    if name not in chosen:
      masked: Any = masks_lib.apply({name: alive[name]}, {name: leaf})
      return masked[name]
    room = capacity.get(name) if isinstance(capacity, Mapping) else capacity
    mask = np.asarray(alive[name])
    blocked = blocks and _layouts.has_blocks(mask, chosen[name])
    packed = _layouts.pack(
      np.asarray(leaf),
      mask,
      chosen[name],
      capacity=room,
      lookup=lookup,
      int8=int8,
      block=_layouts.SHARING if blocked else 1,
    )
    return jax.tree.map(jnp.asarray, packed)

  return jax.tree_util.tree_map_with_path(
    replace, params, is_leaf=trees.is_none
  )


def _rooms(
  capacity: Any, leaves: Mapping[str, Any]
) -> int | Mapping[str, int] | None:
  """Returns checked capacities."""
  if capacity is None:
    return None
  if not isinstance(capacity, Mapping):
    return _checks.at_least('capacity', capacity, 0)
  refuse(
    [str(name) for name in capacity if name not in leaves],
    '`capacity` has names that are not those of leaves: {}. The leaves are'
    f' {", ".join(leaves)}.',
  )
  return {
    name: _checks.at_least(f'capacity[{name!r}]', room, 0)
    for name, room in capacity.items()
  }


def _resolve(
  lookup: bool | Literal['auto'],
  blocks: bool | Literal['auto'],
  int8: bool,
  room: bool,
) -> tuple[bool, bool]:
  """Returns whether to pack the second layout, and whether blocks."""
  if blocks is True and int8:
    raise ValueError(
      '`blocks=True` was given with `int8=True`, but blocks hold floats. Leave'
      ' one of them out.'
    )
  if lookup is True and room:
    raise ValueError(
      '`lookup=True` packs one mask, and `capacity` leaves room for others.'
      ' Leave one of them out.'
    )
  if blocks == 'auto':
    blocks = not (room or int8)
  if lookup == 'auto':
    lookup = not room and _kernels.kernels().isa == 'avx512'
  return lookup, blocks


def choose(
  params: chex.ArrayTree,
  masks: chex.ArrayTree,
  where: Callable[[str, Any], bool] | None,
  axes: Mapping[str, axes_lib.Axes] | None,
  max_density: float,
) -> dict[str, tuple[int, ...]]:
  """Returns ``{name: input axes}`` of the kernels that become sparse."""
  leaves = trees.by_name(params)
  masked = {n: m for n, m in trees.by_name(masks).items() if m is not None}
  shapes = {name: jnp.shape(leaves[name]) for name in masked}
  found = axes_lib.resolve(axes, shapes, strict=False)
  chosen = {}
  for name, kernel in found.items():
    shape, leaf = shapes[name], leaves[name]
    window = [shape[axis] for axis in kernel.window]
    small = int(np.count_nonzero(masked[name])) <= max_density * math.prod(
      shape
    )
    matrix = not kernel.stack and math.prod(window) == 1 and len(shape) > 1
    if matrix and small and (where is None or where(name, leaf)):
      chosen[name] = (*kernel.window, *kernel.inputs)
  return chosen


def _check_values(
  chosen: Mapping[str, Any],
  leaves: Mapping[str, Any],
  masks: Mapping[str, Any],
  capacity: int | Mapping[str, int] | None,
  int8: bool,
  blocks: bool,
) -> None:
  """Checks the kernels that become sparse, and names all that cannot."""
  faults = []
  for name in chosen:
    leaf, alive = leaves[name], int(np.count_nonzero(masks[name]))
    room = capacity.get(name) if isinstance(capacity, Mapping) else capacity
    if leaf.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
      faults.append(
        f'{name} has dtype {leaf.dtype} (cast it to float32, bfloat16 or'
        ' float16)'
      )
    elif alive > _MOST:
      faults.append(f'{name} has {alive} alive weights (at most {_MOST})')
    elif room is not None and room > _MOST:
      faults.append(f'{name} has a capacity of {room} (at most {_MOST})')
    elif room is not None and room < alive:
      faults.append(
        f'{name} has {alive} alive weights for a capacity of {room} (raise it)'
      )
    elif (
      int8 and not np.isfinite(np.asarray(leaf)[np.asarray(masks[name])]).all()
    ):
      faults.append(f'{name} has values that are not finite (no int8 for them)')
    elif blocks and not _layouts.has_blocks(masks[name], chosen[name]):
      faults.append(
        f'{name} has a mask that is not made of blocks of four neurons (prune'
        ' with `lthjax.patterns.Block((1, 4))`)'
      )
  if faults:
    raise ValueError(
      f'These kernels cannot be condensed: {"; ".join(faults)}. Leave them'
      ' dense with `where=`, or change them as said.'
    )


def densify(sparse: Any) -> Any:
  """Returns dense params: exactly the params with their masks applied.

  Args:
    sparse: tree with `Sparse` leaves, as `condense` makes it.

  Returns:
    Tree of arrays, of the shapes and dtypes before.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> mask = jnp.array([[False, True], [False, False]])
    >>> deploy.densify(deploy.condense({'w': kernel}, {'w': mask}))['w']
    Array([[0., 2.],
           [0., 0.]], dtype=float32)
  """
  return jax.tree.map(
    lambda x: _layouts.to_kernel(x) if is_sparse(x) else x,
    sparse,
    is_leaf=is_sparse,
  )


def regather(dense: chex.ArrayTree, sparse: Any) -> Any:
  """Takes new values from dense params, such as those that one rewinds to.

  Args:
    dense: tree of arrays.
    sparse: tree with `Sparse` leaves, whose structure is kept. A second layout
      for small batches is dropped.

  Returns:
    The tree with the values of the dense one at the same places.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> mask = jnp.array([[False, True], [False, False]])
    >>> sparse = deploy.condense({'w': kernel}, {'w': mask})
    >>> deploy.regather({'w': 10 * kernel}, sparse)['w'].values
    Array([20.], dtype=float32)
  """
  leaves = trees.by_name(dense)

  def take(path, x):
    name = trees.path_name(path)
    shape = getattr(leaves.get(name), 'shape', 'nothing')
    if shape != tuple(jnp.shape(x)):
      raise ValueError(
        f'{name or "the array"} is {shape} in the dense params and'
        f' {jnp.shape(x)} in the sparse ones. Both must be of the same model.'
      )
    if not is_sparse(x):
      return leaves[name]
    values = _layouts.from_kernel(jnp.asarray(leaves[name]), x)
    return _layouts.replace(x, values=values, lookup=None)

  return jax.tree_util.tree_map_with_path(take, sparse, is_leaf=is_sparse)


def split(sparse: Any) -> tuple[Any, Any]:
  """Splits sparse params into floats to train and a structure to keep.

  Optimizer states made of the floats have slots for alive weights only.

  Args:
    sparse: tree with `Sparse` leaves.

  Returns:
    The tree with `Sparse` leaves replaced by their values, float32[capacity];
    and the structure, which `join` takes. A second layout for small batches is
    dropped, since its values would not be trained.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import deploy
    >>> kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> sparse = deploy.condense({'w': kernel}, {'w': kernel > 3})
    >>> values, structure = deploy.split(sparse)
    >>> values
    {'w': Array([4.], dtype=float32)}
    >>> deploy.densify(deploy.join({'w': -values['w']}, structure))['w']
    Array([[ 0.,  0.],
           [ 0., -4.]], dtype=float32)
  """
  values = jax.tree.map(
    lambda x: x.values if is_sparse(x) else x, sparse, is_leaf=is_sparse
  )
  structure = jax.tree.map(
    lambda x: (
      _layouts.replace(x, values=None, lookup=None) if is_sparse(x) else None
    ),
    sparse,
    is_leaf=is_sparse,
  )
  return values, structure


def join(values: Any, structure: Any) -> Any:
  """Puts values and structure together again, as `split` took them apart.

  Args:
    values: tree of arrays.
    structure: tree of what is left of `Sparse` leaves, and `None`.

  Returns:
    The tree with `Sparse` leaves.
  """
  parts, given = named(structure), named(values)
  faults = [
    f'{n or "the array"} has values only' for n in given if n not in parts
  ]
  faults += [
    f'{n or "the array"} has no values' for n in parts if n not in given
  ]
  faults += [
    f'{n or "the array"} has a `Sparse` kernel in place of values'
    for n, x in given.items()
    if is_sparse(x)
  ]
  for name, part in parts.items():
    if is_sparse(part) and name in given and not is_sparse(given[name]):
      room = (part.indices.shape[0] * part.block,)
      shape = jnp.shape(given[name])
      if shape != room:
        faults.append(f'{name} has {shape} values for {room} places')
  if faults:
    raise ValueError(
      f'The values do not fit the structure: {"; ".join(faults)}. Join what one'
      ' call of `lthjax.deploy.split` gave.'
    )

  def put(path, value):
    part = parts[trees.path_name(path)]
    return _layouts.replace(part, values=value) if is_sparse(part) else value

  return jax.tree_util.tree_map_with_path(put, values, is_leaf=trees.is_none)


def named(tree: Any) -> dict[str, Any]:
  """Returns leaves under their names; `Sparse` ones and `None` are whole."""
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: x is None or is_sparse(x)
  )
  return {trees.path_name(path): leaf for path, leaf in leaves}
