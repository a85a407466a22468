"""What training changed: values, and the places they are added to."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import refuse

_INT32 = 2**31


class Delta(NamedTuple):
  """Numbers to add to some weights.

  A pytree of arrays: pass it to jitted functions as an argument. It holds the
  numbers and not the sums, because ``(w + d) - w`` is not ``d``.

  Attributes:
    values: ``{name: float32[k]}``, for the leaves that have any.
    indices: ``{name: int32[k]}``, ascending places in the flat leaf. Those of
      the size of the leaf, with which `pad` fills, are ignored.
  """

  values: dict[str, jax.Array]
  indices: dict[str, jax.Array]


def zeros(masks: chex.ArrayTree) -> Delta:
  """Makes a delta of zeros at the places that masks keep.

  Args:
    masks: tree of masks, not traced.

  Returns:
    A delta, for `lthjax.packed` to train.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.lota.zeros({'w': jnp.array([[True, False, True]]), 'b': None})
    Delta(values={'w': Array([0., 0.], dtype=float32)},
          indices={'w': Array([0, 2], dtype=int32)})
  """
  return _gather(masks, lambda name, places: np.zeros(len(places), np.float32))


def difference(
  base: chex.ArrayTree, tuned: chex.ArrayTree, masks: chex.ArrayTree
) -> Delta:
  """Reads off what was changed at the places that masks keep.

  Added to the base again it gives the tuned weights up to rounding, in float32.
  For exact values, train the delta with `lthjax.packed`.

  Args:
    base: params before training.
    tuned: params after it.
    masks: tree of masks, not traced, such as those of `lthjax.frozen`.

  Returns:
    The delta.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> base, tuned = {'w': jnp.ones(3)}, {'w': jnp.array([1.5, 1.0, 1.0])}
    >>> masks = {'w': jnp.array([True, False, False])}
    >>> lth.lota.difference(base, tuned, masks).values
    {'w': Array([0.5], dtype=float32)}
  """
  before, after = _checks.arrays(base, 'base'), _checks.arrays(tuned, 'tuned')
  trees.check_like(masks, base, 'base')
  trees.check_like(masks, tuned, 'tuned params')

  def values(name, places):
    new, old = (
      np.ravel(np.asarray(x[name]))[places].astype(np.float32)
      for x in (after, before)
    )
    return new - old

  return _gather(masks, values)


def add(params: Any, delta: Delta) -> Any:
  """Adds a delta to params: in float32, whatever the params are.

  Args:
    params: tree of arrays, of which nothing else changes a bit.
    delta: the numbers; several of equal shapes, as `pad` makes them, can take
      turns in one compiled program.

  Returns:
    The params with the delta. The gradient with respect to its values is that
    of the params, at its places.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> delta = lth.lota.Delta({'w': jnp.ones(1)}, {'w': jnp.array([2])})
    >>> lth.lota.add({'w': jnp.zeros((2, 2))}, delta)['w'].tolist()
    [[0.0, 0.0], [1.0, 0.0]]
  """
  check(delta)
  leaves, structure = trees.flatten(params)
  _checks.check_arrays(leaves, 'params')
  check_names(delta, leaves)

  return structure.unflatten(
    _changed(x, delta.values[name], delta.indices[name])
    if name in delta.values
    else x
    for name, x in leaves.items()
  )


@jax.jit
def _changed(x: jax.Array, values: jax.Array, places: jax.Array) -> jax.Array:
  """Adds to one leaf."""
  flat = jnp.ravel(x)
  own = flat.at[places].get(mode='fill', fill_value=0).astype(jnp.float32)
  new = (own + values).astype(x.dtype)
  return flat.at[places].set(new, mode='drop').reshape(x.shape)


def pad(params: chex.ArrayTree, deltas: Sequence[Delta]) -> list[Delta]:
  """Gives several deltas equal shapes, so that one program serves them all.

  Args:
    params: tree of arrays, or shapes, that the deltas are for.
    deltas: such as those of several domains.

  Returns:
    The deltas, with zeros added after the end of each leaf.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'w': jnp.zeros(4)}
    >>> one = lth.lota.zeros({'w': jnp.array([True, False, False, False])})
    >>> two = lth.lota.zeros({'w': jnp.array([True, False, True, True])})
    >>> lth.lota.pad(params, [one, two])[0].indices
    {'w': Array([0, 4, 4], dtype=int32)}
  """
  leaves = _checks.arrays(params, shapes=True)
  for delta in listed(deltas):
    check_names(delta, leaves)
  sizes = {
    name: max(d.values[name].size if name in d.values else 0 for d in deltas)
    for name in leaves
    if any(name in d.values for d in deltas)
  }

  def padded(table, name, fill, dtype):
    x = jnp.asarray(table.get(name, np.zeros(0, dtype)))
    width = sizes[name] - x.size
    return jnp.pad(x, (0, width), constant_values=fill) if width else x

  return [
    Delta(
      {name: padded(d.values, name, 0, np.float32) for name in sizes},
      {
        name: padded(d.indices, name, leaves[name].size, np.int32)
        for name in sizes
      },
    )
    for d in deltas
  ]


def support(params: chex.ArrayTree, delta: Delta) -> Any:
  """Returns masks of the places that a delta has.

  Args:
    params: tree of arrays, or shapes, that the delta is for.
    delta: of which the values do not matter.

  Returns:
    Tree of masks; `None` at leaves that it leaves alone.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> delta = lth.lota.Delta({'w': jnp.ones(1)}, {'w': jnp.array([2])})
    >>> lth.lota.support({'w': jnp.zeros(3)}, delta)
    {'w': Array([False, False,  True], dtype=bool)}
  """
  check(delta)
  leaves, structure = trees.flatten(params)
  _checks.check_arrays(leaves, 'params', shapes=True)
  check_names(delta, leaves)

  def mask(x, places):
    flat = jnp.zeros(x.size, bool).at[places].set(True, mode='drop')
    return flat.reshape(x.shape)

  return structure.unflatten(
    mask(x, delta.indices[name]) if name in delta.indices else None
    for name, x in leaves.items()
  )


def listed(deltas: Any) -> list[Delta]:
  """Checks several deltas."""
  if not isinstance(deltas, list | tuple) or isinstance(deltas, Delta):
    raise _checks.wrong_type('deltas', deltas, 'be a list of deltas')
  if not deltas:
    raise _checks.wrong_value('deltas', deltas, 'have one delta or more')
  return [check(delta) for delta in deltas]


def check(delta: Any) -> Delta:
  """Raises unless a value is a delta, with as many places as values."""
  tables = (
    isinstance(getattr(delta, field, None), Mapping)
    for field in ('values', 'indices')
  )
  if not all(tables):
    raise _checks.wrong_type(
      'delta', delta, 'be a `lthjax.lota.Delta`, as `lthjax.lota.zeros` makes'
    )
  faults = []
  for name in delta.values | delta.indices:
    pair = [table.get(name) for table in (delta.values, delta.indices)]
    kinds = [getattr(x, 'dtype', None) for x in pair]
    shapes = [getattr(x, 'shape', None) for x in pair]
    if kinds != [np.float32, np.int32] or len(shapes[0] or ()) != 1:
      faults.append(f'{name}: {" and ".join(map(_checks.describe, pair))}')
    elif shapes[0] != shapes[1]:
      faults.append(f'{name}: {shapes[0]} values and {shapes[1]} indices')
  refuse(
    faults,
    'A delta has a float32 vector of values and an int32 vector of as many'
    ' indices for each leaf, but {}. Make it with `lthjax.lota.zeros` or'
    ' `difference`.',
  )
  return delta


def check_names(delta: Delta, leaves: Mapping[str, Any]) -> None:
  """Raises if a delta is for other params."""
  faults = [f'{name} (unknown)' for name in delta.values if name not in leaves]
  known = trees.concrete(
    {n: x for n, x in delta.indices.items() if n in leaves and x.size}
  )
  for name, places in (known or {}).items():
    size = 0 if leaves[name] is None else leaves[name].size
    if places.min() < 0 or places.max() > size:
      faults.append(f'{name} (of {size:,} weights, index {places.max():,})')
  refuse(
    faults,
    'The delta is not for these params: {}. Pass the params that it was made'
    ' for.',
  )


def _gather(masks: chex.ArrayTree, values: Any) -> Delta:
  """Makes a delta of the values at the places of the masks."""
  alive = {
    name: m for name, m in _checks.bool_masks(masks).items() if m is not None
  }
  if (known := trees.concrete(alive)) is None:
    raise TypeError(
      '`masks` are traced, but must be known outside of `jax.jit`: the shapes'
      ' of a delta follow from them. Make it outside, and pass it as an'
      ' argument.'
    )
  refuse(
    [name for name, m in known.items() if m.size >= _INT32],
    'Leaves of 2^31 weights or more have no int32 indices: {}. Split them.',
  )
  places = {n: np.flatnonzero(m).astype(np.int32) for n, m in known.items()}
  return Delta(
    {n: jnp.asarray(values(n, at), jnp.float32) for n, at in places.items()},
    {n: jnp.asarray(at) for n, at in places.items()},
  )
