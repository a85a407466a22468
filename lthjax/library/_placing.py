"""Tickets taken apart, and put into trees again."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lthjax import _checks, trees
from lthjax._errors import differences, refuse
from lthjax.library import _contents, _format
from lthjax.library._contents import Leaf
from lthjax.tickets import Ticket
from lthjax.training._state import field, has_field

Masks = dict[str, np.ndarray | None]
Parts = dict[str, dict[str, Leaf | None]]


def take(ticket: Ticket, params: Callable[[Any], Any]) -> tuple[Masks, Parts]:
  """Returns flat masks, and what is kept of each part, after all checks."""
  _checks.function('params', params, 'params(state)')
  masks = _checks.bool_masks(ticket.masks, 'ticket.masks')
  trees_of: dict[str, dict[str, Any]] = {}
  for part in ('trained', 'start'):
    state = getattr(ticket, part)
    if state is None:
      continue
    leaves = _checks.arrays(params(state), f'params(ticket.{part})')
    trees.check_tables(masks, leaves, f'params of `ticket.{part}`')
    trees_of[part] = leaves
  state = ticket.trained
  if state is not None and has_field(state, 'model_state'):
    extra = field(state, 'model_state')
    if jax.tree.leaves(extra):
      trees_of['model_state'] = _checks.arrays(extra, 'model_state')
  _contents.check_dtypes(trees_of)
  known = {name: _host(leaves) for name, leaves in trees_of.items()}
  flat_masks: Masks = {
    name: None if mask is None else mask.reshape(-1)
    for name, mask in _host(masks).items()
  }
  return flat_masks, {
    part: {
      name: None
      if x is None
      else _leaf(x, None if part == 'model_state' else flat_masks[name])
      for name, x in leaves.items()
    }
    for part, leaves in known.items()
  }


def _host(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns NumPy arrays in C order and in the byte order of this machine."""
  found = trees.concrete({n: x for n, x in leaves.items() if x is not None})
  if found is None:
    raise TypeError(
      'The ticket is traced, or parts of it are on other processes, but only'
      ' values can be kept. Gather it first, outside of `jax.jit`.'
    )
  native = {}
  for name, x in found.items():
    x = np.asarray(x, order='C')
    native[name] = (
      x if x.dtype.isnative else x.astype(x.dtype.newbyteorder('='))
    )
  return {name: native.get(name) for name in leaves}


def _leaf(x: np.ndarray, mask: np.ndarray | None) -> Leaf:
  flat = x.reshape(-1)
  return Leaf(flat if mask is None else flat[mask], x.shape, mask)


def tables(
  shapes: Mapping[str, Any], masks: Masks, parts: Parts
) -> dict[str, Any]:
  """Returns the entries of a manifest for masks and parts."""
  return {
    'masks': {
      name: None
      if mask is None
      else {
        'shape': list(shapes[name].shape),
        'alive': int(mask.sum()),
        'sha256': _format.sha256(np.packbits(mask).data),
      }
      for name, mask in masks.items()
    },
    'parts': {
      part: {
        name: None
        if leaf is None
        else {
          'dtype': str(leaf.values.dtype),
          'shape': list(leaf.shape),
          'sha256': _format.sha256(_format.raw(leaf.values)),
        }
        for name, leaf in leaves.items()
      }
      for part, leaves in parts.items()
    },
  }


def check_like(
  table: Mapping[str, Any], like: Any, what: str, *, masks: bool = False
) -> None:
  """Raises if a tree of arrays or shapes is not that of a part."""

  def spell(x, dtype):
    return 'None' if x is None else f'{dtype}{list(x)}'

  there = {
    name: spell(x and x['shape'], 'bool' if masks else x and x['dtype'])
    for name, x in table.items()
  }
  found = _checks.arrays(like, 'like', shapes=True)
  here = {
    name: 'None' if x is None else spell(x.shape, 'bool' if masks else x.dtype)
    for name, x in found.items()
  }
  if masks:  # Those of params, or with `None` where dense.
    here = {n: 'None' if there.get(n) == 'None' else x for n, x in here.items()}
  refuse(
    differences(there, here, 'in `like`'),
    f'{what} does not fit: {{}}. Load it into the structure that it was added'
    ' from.',
  )


def put(leaves: Mapping[str, np.ndarray | None], like: Any) -> Any:
  """Returns a tree of JAX arrays, placed as another is."""
  types = {name: x.dtype for name, x in leaves.items() if x is not None}
  refuse(
    [
      f'{name} is {dtype}'
      for name, dtype in types.items()
      if jax.dtypes.canonicalize_dtype(dtype) != dtype
    ],
    'Some leaves have types that JAX does not keep now: {}. Set'
    ' `jax_enable_x64`.',
  )
  if like is None:
    return trees.nest(
      {n: None if x is None else jnp.asarray(x) for n, x in leaves.items()}
    )
  places, structure = trees.flatten(like)
  return structure.unflatten(
    None if (x := leaves[name]) is None else _place(x, place)
    for name, place in places.items()
  )


def _place(x: np.ndarray, like: Any) -> jax.Array:
  """Puts an array where another is; uncommitted ones compile nothing again."""
  place = getattr(like, 'sharding', None)
  asked = trees.is_abstract(like) or getattr(like, 'committed', False)
  return (
    jnp.asarray(x) if place is None or not asked else jax.device_put(x, place)
  )
