"""Names of the leaves of a pytree, and globs over those names."""

import collections
import fnmatch
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from lthjax._errors import refuse


def is_traced(*arrays: Any) -> bool:
  """Returns whether any value is unknown, as in `jax.jit` or `jax.vmap`."""
  return any(isinstance(x, Tracer) for x in arrays)


def is_none(x: Any) -> bool:
  """Returns whether a leaf is `None`: a parameter that is never pruned."""
  return x is None


def concrete(values: Mapping[str, Any]) -> dict[str, Any] | None:
  """Returns host values, or `None` where this process cannot know them all."""
  for x in values.values():
    if isinstance(x, Tracer):
      return None
    if isinstance(x, jax.Array) and not (  # with parts on other processes
      x.is_fully_addressable or x.is_fully_replicated
    ):
      return None
  return jax.device_get(dict(values))


def prunable(masks: chex.ArrayTree) -> dict[str, Any]:
  """Returns the masks that are not `None`, under their names."""
  return {n: m for n, m in by_name(masks).items() if m is not None}


def path_name(path: tuple[Any, ...]) -> str:
  """Returns the name of a leaf: the keys of its path, joined by slashes.

  Example:
    >>> from lthjax import trees
    >>> list(trees.by_name({'fc': {'kernel': 1, 'bias': 2}}))
    ['fc/bias', 'fc/kernel']
  """
  # Flax NNX wraps each array in a variable, whose attribute `value` ends the
  # path. Without it, one glob fits NNX, Linen, Equinox and dicts.
  if path and path[-1] == jax.tree_util.GetAttrKey('value'):
    path = path[:-1]
  return jax.tree_util.keystr(path, simple=True, separator='/')


def has_metadata(structure: Any) -> bool:
  """Returns whether nodes of a structure are boxes or variables of Flax."""
  node = structure.node_data()
  if node and (hasattr(node[0], 'get_metadata') or hasattr(node[0], 'unbox')):
    return True
  return any(map(has_metadata, structure.children()))


def by_name(tree: chex.ArrayTree) -> dict[str, Any]:
  """Returns the leaves of a tree, `None` included, under their names."""
  return flatten(tree)[0]


def flatten(tree: chex.ArrayTree) -> tuple[dict[str, Any], Any]:
  """Returns `by_name` and the structure, whose ``unflatten`` is the way back.

  Example:
    >>> from lthjax import trees
    >>> leaves, structure = trees.flatten({'a': 1, 'b': None})
    >>> structure.unflatten(leaves.values())
    {'a': 1, 'b': None}
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=is_none
  )
  named = {path_name(path): leaf for path, leaf in leaves}
  if len(named) < len(leaves):
    names = collections.Counter(path_name(path) for path, _ in leaves)
    refuse(
      [name for name, n in names.items() if n > 1],
      'Several leaves have the same name: {}. The name of a leaf is its keys'
      ' joined by slashes; rename one of them.',
    )
  return named, structure


def nest(leaves: Mapping[str, Any]) -> Any:
  """Returns nested dicts of leaves by name; a leaf without a name as it is.

  Example:
    >>> from lthjax import trees
    >>> trees.nest({'fc/bias': 1, 'fc/kernel': 2})
    {'fc': {'bias': 1, 'kernel': 2}}
  """
  if list(leaves) == ['']:
    return leaves['']
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *parents, last = name.split('/')
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return tree


def map_alive(
  f: Callable[..., Any], masks: chex.ArrayTree, *trees: chex.ArrayTree
) -> Any:
  """Maps ``f(name, mask, *leaves)`` over prunable leaves; others are `None`."""

  def visit(path, mask, *leaves):
    return None if mask is None else f(path_name(path), mask, *leaves)

  return jax.tree_util.tree_map_with_path(visit, masks, *trees, is_leaf=is_none)


def matches(globs: Iterable[str], name: str) -> bool:
  """Returns whether any of the globs matches a name."""
  return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def first_match(
  globs: Iterable[str],
  names: Iterable[str],
  what: str,
  noun: Literal['prunable leaf', 'leaf'] = 'prunable leaf',
) -> dict[str, str]:
  """Returns the first glob that matches each name.

  Args:
    globs: patterns in the syntax of `fnmatch`; ``*`` also matches slashes.
    names: names of leaves.
    what: the argument that has the globs, for the error.
    noun: what the names stand for, for the error.

  Returns:
    ``{name: glob}`` for the names that some glob matches. A glob without a
    match is an error.

  Example:
    >>> from lthjax import trees
    >>> trees.first_match(['out*', '*'], ['fc1', 'output'], 'fraction')
    {'fc1': '*', 'output': 'out*'}
  """
  globs, names = list(globs), list(names)
  refuse(
    [repr(g) for g in globs if not any(matches([g], name) for name in names)],
    f'`{what}` has patterns that match no {noun}: {{}}. The'
    f' {noun.replace("leaf", "leaves")} are {", ".join(names) or "none"}; write'
    ' a glob over these names.',
  )
  first = {
    name: next((g for g in globs if matches([g], name)), None) for name in names
  }
  return {name: glob for name, glob in first.items() if glob is not None}


def per_leaf(
  value: float | Mapping[str, float], names: Iterable[str], what: str
) -> dict[str, tuple[str, float]]:
  """Returns ``{name: (glob, number)}`` for one number, or numbers by glob."""
  if not isinstance(value, Mapping):
    return dict.fromkeys(names, ('*', value))
  first = first_match(value, names, what)
  return {name: (glob, value[glob]) for name, glob in first.items()}


def hidden(tree: chex.ArrayTree) -> Callable[[str], bool]:
  """Returns whether `optax.partition` or `optax.masked` hides a leaf."""
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
  )
  own = [path_name(p) for p, x in leaves if isinstance(x, optax.MaskedNode)]
  return lambda name: any(name == h or name.startswith(f'{h}/') for h in own)


def part_for(like: chex.ArrayTree, tree: chex.ArrayTree) -> Any:
  """Returns the leaves by name, without those that another tree hides."""
  hides = hidden(like)
  return {name: x for name, x in by_name(tree).items() if not hides(name)}


def copy_into(like: chex.ArrayTree, tree: chex.ArrayTree) -> Any:
  """Copies the leaves of a tree, by name, into the structure of another."""
  leaves = by_name(tree)

  def copy(path, _):
    leaf = leaves[path_name(path)]
    return None if leaf is None else jnp.array(leaf, copy=True)

  return jax.tree_util.tree_map_with_path(copy, like, is_leaf=is_none)


def fold_in_name(key: chex.PRNGKey, name: str) -> chex.PRNGKey:
  """Derives the key of a leaf from its name."""
  # Not `hash`, which differs from process to process.
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def check_like(masks: chex.ArrayTree, tree: chex.ArrayTree, what: str) -> None:
  """Raises unless masks fit a tree of arrays or shapes, called ``what``."""
  check_tables(by_name(masks), by_name(tree), what)


def check_tables(
  masks: Mapping[str, Any], leaves: Mapping[str, Any], what: str
) -> None:
  """Checks what `check_like` checks, for trees that are already flat."""
  refuse(
    _misfits(masks, leaves, what),
    f'The masks do not fit the {what}: {{}}. A tree of masks has the structure'
    f' of the {what}, with a bool array of the same shape or None at each leaf;'
    ' `lthjax.masks.full(params)` makes one.',
  )


def _misfits(
  masks: Mapping[str, Any], leaves: Mapping[str, Any], what: str
) -> Iterator[str]:
  """Describes each mask that does not fit its leaf."""
  for name in masks:
    if name not in leaves:
      yield f'{name or "the array"} has a mask only'
  for name in leaves:
    if name not in masks:
      yield f'{name or "the array"} has no mask'
  for name, mask in masks.items():
    if mask is None or name not in leaves:
      continue
    leaf, name = leaves[name], name or 'the array'
    if not hasattr(mask, 'dtype'):
      yield f'{name}: mask is a {type(mask).__name__}, not an array'
    elif mask.dtype != bool:
      yield f'{name}: mask of dtype {mask.dtype}, not bool'
    elif leaf is None:
      yield f'{name} is None in the {what} but has a mask'
    elif not hasattr(leaf, 'shape'):
      yield f'{name} is a {type(leaf).__name__} in the {what}'
    elif is_abstract(mask) and not is_abstract(leaf):
      yield f'{name}: mask is an abstract bool{list(mask.shape)}, not an array'
    elif mask.shape != leaf.shape:
      yield f'{name}: mask of shape {mask.shape}, {what} of shape {leaf.shape}'


def is_abstract(x: Any) -> bool:
  """Returns whether a leaf has a shape and no values."""
  return isinstance(x, jax.ShapeDtypeStruct)
