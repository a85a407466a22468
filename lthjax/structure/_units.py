"""Functions over groups: reorder, mask and remove units."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse
from lthjax.structure._groups import (
  Groups,
  by_leaf,
  check_fit,
  resolve,
  stack_axes,
  stack_shape,
)

UnitMasks = Mapping[str, chex.Array]


def permute(
  tree: chex.ArrayTree, groups: Groups, permutations: Mapping[str, Any]
) -> Any:
  """Reorders units wherever they occur in a tree.

  The network computes the same if the groups have no pins, or only
  ``'reduced'``.

  Args:
    tree: params; or a tree whose leaves have the same names and shapes, such as
      masks. Leaves that are `None` stay so.
    groups: which axes move together.
    permutations: for each group to reorder, which unit comes at each place:
      ``[size]``, or ``[*stack, size]`` where the group `varies`.

  Returns:
    The tree in the new order.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.array([[1.0, 2.0, 3.0]]), 'out': jnp.ones((3, 1))}
    >>> groups = lth.structure.by_axes(
    ...   params, {'in': (None, 'units'), 'out': ('units', None)}
    ... )
    >>> lth.structure.permute(params, groups, {'units': [2, 0, 1]})['in']
    Array([[3., 1., 2.]], dtype=float32)
  """
  check_fit(groups, tree)
  _checks.mapping('permutations', permutations, 'groups to orders')
  orders = {name: np.asarray(order) for name, order in permutations.items()}
  refuse(
    _unknown(orders, groups) + _not_permutations(orders, groups),
    'The permutations do not fit the groups: {}. Give those that'
    ' `lthjax.landscape.align` returned for the same groups.',
  )
  on = by_leaf(groups)

  def move(path, leaf):
    name = trees.path_name(path)
    return reorder(jnp.asarray(leaf), groups, on.get(name, ()), orders)

  return jax.tree_util.tree_map_with_path(move, tree)


def masks(keeps: UnitMasks, params: chex.ArrayTree, groups: Groups) -> Any:
  """Makes masks of weights from masks of units.

  A weight is alive if all of the units that it belongs to are.

  Args:
    keeps: for some groups, which units stay: bool ``[size]``, or
      ``[*stack, size]`` where the group `varies`.
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    groups: which axes move together.

  Returns:
    Tree of masks, `None` at leaves without any of these units.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.ones((1, 3)), 'out': jnp.ones((3, 1))}
    >>> groups = lth.structure.by_axes(
    ...   params, {'in': (None, 'units'), 'out': ('units', None)}
    ... )
    >>> alive = {'units': jnp.array([True, False, True])}
    >>> lth.structure.masks(alive, params, groups)['in']
    Array([[ True, False,  True]], dtype=bool)
  """
  leaves = check_fit(groups, params)
  found = check_masks(keeps, groups)
  on = by_leaf(groups)

  def mask(path, leaf):
    name = trees.path_name(path)
    alive = _alive(leaf, groups, on.get(name, ()), found)
    if leaf is None or not alive:
      return None
    shape, whole = jnp.shape(leaves[name]), True
    for part in alive.values():
      whole = whole & part
    return jnp.broadcast_to(whole, shape)

  return jax.tree_util.tree_map_with_path(mask, params, is_leaf=trees.is_none)


def cut(params: chex.ArrayTree, groups: Groups, keeps: UnitMasks) -> Any:
  """Removes units for real: leaves get smaller.

  To check that the smaller params compute the same, use
  `lthjax.structure.compact`.

  Args:
    params: tree of arrays; or one like it, such as masks.
    groups: which axes move together.
    keeps: for some groups, the units to keep: bool ``[size]``, or ``[*stack,
      size]``, with equally many in all layers, where the group `varies`.

  Returns:
    The tree with smaller leaves. Units keep their order.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'in': jnp.array([[1.0, 2.0, 3.0]]), 'out': jnp.ones((3, 1))}
    >>> groups = lth.structure.by_axes(
    ...   params, {'in': (None, 'units'), 'out': ('units', None)}
    ... )
    >>> keeps = {'units': jnp.array([True, False, True])}
    >>> lth.structure.cut(params, groups, keeps)['in']
    Array([[1., 3.]], dtype=float32)
  """
  _checks.arrays(params)
  check_fit(groups, params)
  keeps = check_masks(keeps, groups)
  if (known := trees.concrete(keeps)) is None:
    raise ValueError(
      f'`keeps` of {", ".join(keeps)} were traced, but the shapes of the'
      ' smaller params must be known. Call `cut` outside of `jax.jit`;'
      ' inside, use `lthjax.structure.masks` and masks.'
    )
  faults = []
  for name, mask in known.items():
    counts = np.sum(mask, axis=-1)
    if not np.all(counts):
      faults.append(f'{name} keeps nothing')
    elif np.ptp(counts):
      faults.append(f'{name} keeps {counts.tolist()}')
  refuse(
    faults,
    'Layers of one stack must keep equally many units, and at least one, but'
    ' {}.',
  )
  on = by_leaf(groups)

  def smaller(path, leaf):
    members = on.get(trees.path_name(path), ())
    alive = _alive(leaf, groups, members, known)
    # Axes on which layers choose differently go first, while all layers are
    # still there to choose.
    for axis, mask in sorted(alive.items(), key=lambda item: -item[1].size):
      mask = np.asarray(mask)
      count = int(mask.sum(axis=axis).flat[0])
      # Alive positions first, in their order.
      order = np.argsort(~mask, axis=axis, kind='stable')
      leaf = _take(leaf, order.take(range(count), axis=axis), axis)
    return leaf

  return jax.tree_util.tree_map_with_path(smaller, params)


def reorder(
  x: Any, groups: Groups, members: Any, orders: Mapping[str, np.ndarray]
) -> Any:
  """Reorders one leaf, of which ``members`` are `by_leaf`'s."""
  # Orders that differ from layer to layer come first, on the original stack.
  known = [(n, m) for n, m in members if n in orders]
  for name, member in sorted(known, key=lambda item: -orders[item[0]].ndim):
    order, places = orders[name], member.places
    stack = stack_axes(groups, name, member.leaf)
    index = np.broadcast_to(
      np.arange(x.shape[member.axis]), (*order.shape[:-1], x.shape[member.axis])
    ).copy()
    # The places of each index take what was at those of its successor.
    index[..., places] = places[order]
    x = _take(x, _at(index, stack, member.axis, x.ndim), member.axis)
  return x


def _alive(leaf, groups, members, masks) -> dict[int, Any]:
  """Returns ``{axis: mask}``, each with as many axes as the leaf."""
  alive: dict[int, Any] = {}
  for name, member in members:
    if name not in masks or leaf is None:
      continue
    shape, mask = jnp.shape(leaf), masks[name]
    # Which index each position belongs to; -1 for none.
    owner = np.full(shape[member.axis], -1)
    owner[member.places] = np.arange(len(member.places))[:, None]
    stack = stack_axes(groups, name, member.leaf)
    found = _at((owner < 0) | mask[..., owner], stack, member.axis, len(shape))
    alive[member.axis] = alive.get(member.axis, True) & found
  return alive


def _at(x: Any, stack: tuple[int, ...], axis: int, ndim: int) -> Any:
  """Gives ``[*stack, n]`` or ``[n]`` the axes of a leaf, for broadcasting."""
  # Axes of the stack may come after that of the units.
  ends = (*stack, axis) if x.ndim > 1 else (axis,)
  x = x.transpose(np.argsort(ends))
  return x.reshape(
    [x.shape[sorted(ends).index(i)] if i in ends else 1 for i in range(ndim)]
  )


def _take(x: Any, index: np.ndarray, axis: int) -> Any:
  """Takes along an axis, by an index with as many axes as the array."""
  if index.size == index.shape[axis]:  # The same for all layers.
    return x.take(index.ravel(), axis=axis)
  lib = np if isinstance(x, np.ndarray) else jnp
  return lib.take_along_axis(x, index, axis)


def _shapes(groups: Groups, name: str) -> list[tuple[int, ...]]:
  size = groups[name].size
  return [(size,), (*stack_shape(groups, name), size)]


def _unknown(given: Mapping[str, Any], groups: Groups) -> list[str]:
  known = ', '.join(map(str, groups)) or 'none'
  return [f'{n} is not a group ({known})' for n in given if n not in groups]


def _not_permutations(
  orders: Mapping[str, np.ndarray], groups: Groups
) -> list[str]:
  faults = []
  for name in orders.keys() & groups.keys():
    size, order = groups[name].size, orders[name]
    fits = order.shape in _shapes(groups, name)
    if not fits or (np.sort(order) != np.arange(size)).any():
      faults.append(
        f'that of {name} does not hold each of 0 to {size - 1} once'
      )
  return faults


def check_masks(masks: UnitMasks, groups: Groups) -> UnitMasks:
  """Returns masks of units by group; raises unless they fit."""
  _checks.mapping('masks of units', masks, 'groups to bool arrays')
  masks = {resolve(name, groups): mask for name, mask in masks.items()}
  faults = _unknown(masks, groups)
  for name in (n for n in masks if n in groups):
    shape, shapes = np.shape(masks[name]), _shapes(groups, name)
    dtype = str(getattr(masks[name], 'dtype', type(masks[name]).__name__))
    if shape not in shapes or dtype != 'bool':
      wanted = ' or '.join(map(str, dict.fromkeys(shapes)))
      faults.append(f'{name} has {dtype} {shape}, not bool {wanted}')
  refuse(
    faults,
    'The masks of units do not fit the groups: {}. Give a bool array, True for'
    ' the units to keep, for each group by name.',
  )
  return masks
