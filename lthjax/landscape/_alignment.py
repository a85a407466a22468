"""Permutations of hidden units that bring one network close to another.

Hidden units have no order: permute them, and the weights that leave them with
them, and the network computes the same. Two networks can lie in different
basins for their order alone.

References:
  Ainsworth, Hayase & Srinivasa, Git Re-Basin: Merging Models modulo Permutation
  Symmetries, arXiv:2209.04836, section 3.2 and algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import trees
from lthjax.landscape import _checks

Spec = Mapping[str, tuple[str | None, ...]]


class Alignment(NamedTuple):
  """What `align` found.

  Attributes:
    params: the second network, its units in the order of the first.
    permutations: for each group of units, which unit of the second network
      comes at each place.
  """

  params: chex.ArrayTree
  permutations: dict[str, np.ndarray]


def chain(params: chex.ArrayTree, layers: Sequence[str]) -> Spec:
  """Tells which axes move together in layers that follow one another.

  Kernels have their inputs on the last axis but one and their outputs on the
  last, as in Flax. A layer without a kernel, such as a normalization, has the
  units of the layer before it. The inputs of the first layer and the outputs of
  the last stay where they are.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`; or several such trees,
      as in ``(params, model_state)``, to move running statistics along.
    layers: the names of all layers, in the order of the computation. A leaf
      belongs to the layer whose name is among its keys.

  Returns:
    ``{name of leaf: (group of units or None, for each axis)}``. Each group has
    the name of its layer. For networks that are no chain, write it by hand.

  Raises:
    ValueError: if there are no layers, a leaf belongs to none or to several, a
      layer has no leaf or several kernels, or the first has no kernel.

  Example:
    >>> import jax
    >>> import lthjax as lth
    >>> model = lth.models.lenet_300_100()
    >>> params, _ = jax.eval_shape(model.init, jax.random.key(0))
    >>> spec = lth.landscape.chain(params, ['fc1', 'fc2', 'output'])
    >>> spec['fc1/kernel'], spec['fc2/kernel'], spec['output/kernel']
    ((None, 'fc1'), ('fc1', 'fc2'), ('fc2', None))
    >>> spec['fc1/bias'], spec['output/bias']
    (('fc1',), (None,))
  """
  leaves = trees.by_name(params)
  owners = {
    name: [layer for layer in layers if f'/{layer}/' in f'/{name}/']
    for name in leaves
  }
  kernels = {
    layer: [
      n for n in leaves if layer in owners[n] and len(leaves[n].shape) > 1
    ]
    for layer in layers
  }
  faults = [f'{n} belongs to no layer' for n, own in owners.items() if not own]
  faults += [
    f'{n} belongs to {" and ".join(own)}'
    for n, own in owners.items()
    if len(own) > 1
  ]
  for i, layer in enumerate(layers):
    if not any(layer in own for own in owners.values()):
      faults.append(f'{layer} has no leaf')
    elif len(kernels[layer]) > 1:
      faults.append(f'{layer} has several kernels')
    elif i == 0 and not kernels[layer]:
      faults.append(f'{layer} comes first, but has no kernel')
  if not layers:
    faults.append('none was given')
  if faults:
    raise ValueError(
      f'These layers are no chain: {"; ".join(faults)}. Name every layer of the'
      ' model once, in the order of the computation, or write the spec by hand.'
    )
  spec, inputs, outputs = {}, None, None
  last = [layer for layer in layers if kernels[layer]][-1]
  for layer in layers:
    if kernels[layer]:
      inputs, outputs = outputs, None if layer == last else layer
    for name, leaf in leaves.items():
      if layer not in owners[name]:
        continue
      axes = len(leaf.shape)
      ends = (outputs,) if axes == 1 else (inputs, outputs)
      spec[name] = (None,) * (axes - len(ends)) + ends
  return spec


def align(
  params_a: chex.ArrayTree, params_b: chex.ArrayTree, spec: Spec
) -> Alignment:
  """Permutes the hidden units of one network to be close to another's.

  Weight matching: group by group, the permutation that brings the weights of
  the second network closest to those of the first is found exactly, with the
  other groups as they are, until none gets better. The result is a local
  optimum. It is computed on the host, in double precision.

  An axis may be a multiple of the units of its group, as the inputs of a dense
  layer are after images were flattened: units then vary fastest along it, as
  channels that come last do.

  Unlike algorithm 1, groups are visited in the order of the spec and not in a
  random one: the same networks give the same result.

  Args:
    params_a: tree of floating point arrays.
    params_b: tree with leaves of the same names, shapes and dtypes.
    spec: which axis of which leaf belongs to which group of units, as `chain`
      makes it. It names every leaf.

  Returns:
    An `Alignment`. Its params compute the same as the second network, and are
    the bits of the first one where the two differed by their order alone and
    this order was found.

  Raises:
    ValueError: if the networks differ in structure or hold what is not finite,
      if the spec does not fit them, or has a group on two axes of one leaf.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a = {'in': jnp.array([[1.0, 2.0, 3.0]]), 'out': jnp.ones((3, 1))}
    >>> b = {'in': jnp.array([[3.0, 1.0, 2.0]]), 'out': jnp.ones((3, 1))}
    >>> spec = {'in': (None, 'units'), 'out': ('units', None)}
    >>> lth.landscape.align(a, b, spec).params['in']
    Array([[1., 2., 3.]], dtype=float32)
  """
  # Loading it takes most of a second, which most programs need not spend.
  from scipy import optimize

  _checks.check_alike(params_a, params_b)
  sizes = _group_sizes(params_a, spec)
  if bad := [n for n, axes in spec.items() if _repeats(axes)]:
    raise ValueError(
      f'In `spec`, {", ".join(bad)} has a group on two axes. Finding the best'
      ' permutation of such units is no assignment problem: leave them where'
      ' they are, with None for this group throughout.'
    )
  first, second = _on_host(params_a), _on_host(params_b)
  if bad := [
    n for n in first if not (_finite(first[n]) and _finite(second[n]))
  ]:
    raise ValueError(
      f'Units cannot be matched where weights are not finite: {", ".join(bad)}.'
      ' Did the training diverge?'
    )
  permutations = {group: np.arange(size) for group, size in sizes.items()}
  better = True
  while better:
    better = False
    for group, size in sizes.items():
      likeness = np.zeros((size, size))
      for name, x in first.items():
        axes = spec[name]
        for axis in (i for i, g in enumerate(axes) if g == group):
          y = _permuted(second[name], axes, permutations, but=axis)
          likeness += _inner_products(x, y, axis, size)
      rows, units = optimize.linear_sum_assignment(likeness, maximize=True)
      gain = likeness[rows, units] - likeness[rows, permutations[group]]
      # More than rounding: every round is progress, and so they end.
      if gain.sum() > 1e-12 * np.abs(likeness).sum():
        permutations[group], better = units, True
  return Alignment(permute(params_b, permutations, spec), permutations)


def permute(
  tree: chex.ArrayTree, permutations: Mapping[str, Any], spec: Spec
) -> chex.ArrayTree:
  """Reorders hidden units wherever they occur in a tree.

  Args:
    tree: params; or what has leaves of the same names and shapes, such as
      masks, of which those that are `None` stay so.
    permutations: for each group, which unit comes at each place.
    spec: as in `align`.

  Returns:
    The tree in the new order.

  Raises:
    ValueError: if the spec does not fit the tree, or something is no
      permutation of the units of its group.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'in': jnp.array([[True, False, False]]), 'out': None}
    >>> spec = {'in': (None, 'units'), 'out': ('units', None)}
    >>> lth.landscape.permute(masks, {'units': [2, 0, 1]}, spec)['in']
    Array([[False,  True, False]], dtype=bool)
  """
  sizes = _group_sizes(tree, spec)
  faults = [f'{g} has none' for g in sizes if g not in permutations]
  faults += [
    f'that of {group} does not hold each of 0 to {size - 1} once'
    for group, size in sizes.items()
    if group in permutations
    and not np.array_equal(np.sort(permutations[group]), np.arange(size))
  ]
  if faults:
    raise ValueError(
      f'The permutations do not fit the groups of units: {"; ".join(faults)}.'
      ' Give those that `align` returned for the same spec.'
    )

  def move(path, leaf):
    return _permuted(
      jnp.asarray(leaf), spec[trees.path_name(path)], permutations
    )

  return jax.tree_util.tree_map_with_path(move, tree)


def _permuted(
  x: Any,
  axes: tuple[str | None, ...],
  permutations: Mapping[str, Any],
  but: int | None = None,
) -> Any:
  """Reorders a leaf along all of its axes but one."""
  for axis, group in enumerate(axes):
    if group is not None and axis != but:
      x = x.take(_places(permutations[group], x.shape[axis]), axis=axis)
  return x


def _inner_products(
  a: np.ndarray, b: np.ndarray, axis: int, units: int
) -> np.ndarray:
  """How alike each unit of ``a`` is to each of ``b``, along one axis."""

  def rows(x):
    # (..., times * units, ...) -> (units, all else); times: see `align`.
    x = np.moveaxis(x, axis, -1)
    return np.moveaxis(x.reshape(-1, units), -1, 0)

  return rows(a) @ rows(b).T


def _places(permutation: Any, length: int) -> np.ndarray:
  """Positions along an axis that holds the units once or several times."""
  permutation = np.asarray(permutation)
  starts = np.arange(0, length, len(permutation))
  return (starts[:, None] + permutation).ravel()


def _group_sizes(tree: chex.ArrayTree, spec: Spec) -> dict[str, int]:
  """Counts the units of each group, and raises if the spec does not fit."""
  leaves = trees.by_name(tree)
  faults = [f'{n} is no leaf' for n in spec if n not in leaves]
  faults += [f'{n} is not in the spec' for n in leaves if n not in spec]
  lengths: dict[str, dict[str, int]] = {}
  for name, axes in spec.items():
    leaf = leaves.get(name)
    if leaf is None:
      continue
    if len(axes) != len(leaf.shape):
      faults.append(f'{name} has shape {leaf.shape}, but {len(axes)} axes')
      continue
    for axis, group in enumerate(axes):
      if group is not None:
        lengths.setdefault(group, {})[f'{name}[{axis}]'] = leaf.shape[axis]
  sizes = {group: min(found.values()) for group, found in lengths.items()}
  faults += [f'{group} has no units' for group, n in sizes.items() if not n]
  faults += [
    f'{place} has length {length}, which is no multiple of the {sizes[group]}'
    f' units of {group}'
    for group, found in lengths.items()
    for place, length in found.items()
    if sizes[group] and length % sizes[group]
  ]
  if faults:
    raise ValueError(
      f'The spec does not fit: {"; ".join(faults)}. It names every leaf, with'
      ' the group of units, or None, of each of its axes;'
      ' `lthjax.landscape.chain(params, layers)` makes one.'
    )
  return sizes


def _on_host(params: chex.ArrayTree) -> dict[str, np.ndarray]:
  """The leaves in double precision."""
  return {
    name: np.asarray(leaf, np.float64)
    for name, leaf in trees.by_name(jax.device_get(params)).items()
    if leaf is not None
  }


def _repeats(axes: tuple[str | None, ...]) -> bool:
  groups = [group for group in axes if group is not None]
  return len(set(groups)) < len(groups)


def _finite(x: np.ndarray) -> bool:
  return bool(np.isfinite(x).all())
