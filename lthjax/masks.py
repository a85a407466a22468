"""Trees of masks and their algebra.

A tree of masks has the structure of the params. A leaf is a bool array of the
parameter's shape, true where the weight is alive, or `None` where the parameter
is dense and never pruned. Masks are data: pass them to jitted functions as
arguments, so that a new mask does not compile again.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from lthjax import counts, trees
from lthjax.selection import keep_largest

Where = Callable[[str, Any], bool]

_NOT_KERNELS = re.compile(
  r'(^|/)[^/]*(embed|norm)[^/]*(/|$)|(^|/)(bias|scale|offset|b|wte|wpe)$',
  re.IGNORECASE,
)


def kernels(name: str, leaf: Any) -> bool:
  """Tells the kernels of dense, convolution and attention layers.

  These are the parameters of two or more dimensions that are neither a bias nor
  a scale and are not inside an embedding or a normalization, going by their
  names as Flax, Equinox and Haiku give them.

  Args:
    name: the leaf's name, such as ``'decoder/attention/out/kernel'``.
    leaf: the parameter, or its shape.

  Returns:
    Whether pruning should consider it.

  Example:
    >>> import jax.numpy as jnp
    >>> from lthjax import masks
    >>> masks.kernels('fc/kernel', jnp.ones((3, 2)))
    True
    >>> masks.kernels('token_embedding/embedding', jnp.ones((3, 2)))
    False
  """
  return len(leaf.shape) >= 2 and not _NOT_KERNELS.search(name)


def full(
  params: chex.ArrayTree, where: Where | str | list[str] = kernels
) -> chex.ArrayTree:
  """Makes masks that keep every weight, and choose what may be pruned.

  Args:
    params: tree of arrays or of `jax.ShapeDtypeStruct`.
    where: ``where(name, leaf)`` tells the leaves that may be pruned; or a glob
      or list of globs over their names, such as ``'encoder/*/kernel'``.

  Returns:
    Tree of masks: all true where chosen, `None` elsewhere.

  Raises:
    ValueError: if no leaf is chosen, or a glob matches none.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> params = {'fc': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
    >>> lth.masks.full(params)['fc']['bias'] is None
    True
  """
  leaves = trees.by_name(params)
  if callable(where):
    chosen = {n for n, x in leaves.items() if x is not None and where(n, x)}
  else:
    globs = [where] if isinstance(where, str) else list(where)
    arrays = [n for n, x in leaves.items() if x is not None]
    chosen = set(trees.first_match(globs, arrays, 'where'))
  if not chosen:
    raise ValueError(
      'No leaf of the params was selected for pruning. They are'
      f' {", ".join(leaves) or "empty"}; choose some with'
      ' `where=lambda name, leaf: ...` or a glob such as `where="*/kernel"`.'
    )

  def make(path, leaf):
    if trees.path_name(path) not in chosen:
      return None
    return jnp.ones_like(leaf, dtype=bool)  # sharded like the parameter

  return jax.tree_util.tree_map_with_path(make, params)


def apply(masks: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
  """Sets the dead weights to exactly +0.0.

  Args:
    masks: tree of masks.
    params: tree of arrays of the same structure.

  Returns:
    The params; dense and alive entries are the same bits as before.

  Raises:
    ValueError: if the masks do not fit the params.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'w': jnp.array([[True, False]])}
    >>> lth.masks.apply(masks, {'w': jnp.array([[1.0, jnp.nan]])})
    {'w': Array([[1., 0.]], dtype=float32)}
  """
  trees.check_like(masks, params, 'params')

  def mask_leaf(m, p):
    return p if m is None else jnp.where(m, p, jnp.zeros((), p.dtype))

  return jax.tree.map(mask_leaf, masks, params, is_leaf=trees.is_none)


def intersect(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Keeps what is alive in both: ``a & b``.

  Args:
    a: tree of masks.
    b: tree of masks that prunes the same leaves.

  Returns:
    Tree of masks.

  Raises:
    ValueError: if the two differ in structure or shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = (
    ...   jnp.array([[True, True, False]]),
    ...   jnp.array([[True, False, True]]),
    ... )
    >>> lth.masks.intersect(a, b)
    Array([[ True, False, False]], dtype=bool)
  """
  return _combine(jnp.logical_and, a, b)


def union(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Keeps what is alive in either: ``a | b``.

  Args:
    a: tree of masks.
    b: tree of masks that prunes the same leaves.

  Returns:
    Tree of masks.

  Raises:
    ValueError: if the two differ in structure or shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = (
    ...   jnp.array([[True, True, False]]),
    ...   jnp.array([[True, False, False]]),
    ... )
    >>> lth.masks.union(a, b)
    Array([[ True,  True, False]], dtype=bool)
  """
  return _combine(jnp.logical_or, a, b)


def difference(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  """Keeps what is alive in the first and dead in the second: ``a & ~b``.

  Args:
    a: tree of masks.
    b: tree of masks that prunes the same leaves.

  Returns:
    Tree of masks.

  Raises:
    ValueError: if the two differ in structure or shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = (
    ...   jnp.array([[True, True, False]]),
    ...   jnp.array([[True, False, True]]),
    ... )
    >>> lth.masks.difference(a, b)
    Array([[False,  True, False]], dtype=bool)
  """
  return _combine(lambda x, y: x & ~y, a, b)


def hamming(a: chex.ArrayTree, b: chex.ArrayTree) -> float:
  """Returns the share of prunable positions at which two masks differ.

  Args:
    a: tree of masks.
    b: tree of masks that prunes the same leaves.

  Returns:
    Normalized Hamming distance in [0, 1].

  Raises:
    ValueError: if the two differ in structure or shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = jnp.array([[True, True]]), jnp.array([[True, False]])
    >>> lth.masks.hamming(a, b)
    0.5
  """
  return density(_combine(jnp.logical_xor, a, b))


def jaccard(a: chex.ArrayTree, b: chex.ArrayTree) -> float:
  """Returns the Jaccard index of two masks: ``|a & b| / |a | b|``.

  Args:
    a: tree of masks.
    b: tree of masks that prunes the same leaves.

  Returns:
    A number in [0, 1]; 1 for two masks that keep nothing.

  Raises:
    ValueError: if the two differ in structure or shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> a, b = jnp.array([[True, True]]), jnp.array([[True, False]])
    >>> lth.masks.jaccard(a, b)
    0.5
  """
  either = count(union(a, b))
  return count(intersect(a, b)) / either if either else 1.0


def count(masks: chex.ArrayTree) -> int:
  """Counts the alive weights of the prunable leaves.

  Args:
    masks: tree of masks, not traced.

  Returns:
    An exact Python integer.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.count({'w': jnp.array([[True, False, True]]), 'b': None})
    2
  """
  return sum(alive_by_name(masks).values())


def density(masks: chex.ArrayTree) -> float:
  """Returns the alive share of the prunable weights; `None` leaves are out.

  Args:
    masks: tree of masks, not traced.

  Returns:
    A number in [0, 1].

  Raises:
    ValueError: if every mask is `None`.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.density({'w': jnp.array([[True, False]]), 'b': None})
    0.5
  """
  return count(masks) / _size(masks)


def alive_by_name(masks: chex.ArrayTree) -> dict[str, Any]:
  """Counts the alive weights of each prunable leaf.

  Args:
    masks: tree of masks.

  Returns:
    ``{name: number}``: Python integers, or traced int32 inside a
    transformation.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.alive_by_name({'w': jnp.array([[True, False]]), 'b': None})
    {'w': 1}
  """
  return counts.alive(trees.prunable(masks))


def shuffle(
  key: chex.PRNGKey,
  masks: chex.ArrayTree,
  within: Literal['layer', 'global', 'input'] = 'layer',
) -> chex.ArrayTree:
  """Moves the alive weights to random places.

  Args:
    key: random key; each leaf folds in its name.
    masks: tree of masks.
    within: ``'layer'`` keeps the number alive in every leaf, ``'global'`` only
      their total, and ``'input'`` also the number at every input, that is along
      the last axis of Flax's kernels: a pixel that no weight looked at stays
      unseen.

  Returns:
    Tree of masks with exactly as many alive weights.

  Raises:
    ValueError: if ``within`` is none of them.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import lthjax as lth
    >>> masks = {'w': jnp.arange(100).reshape(10, 10) < 7}
    >>> lth.masks.count(lth.masks.shuffle(jax.random.key(0), masks))
    7

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, appendix on random sparsity; Frankle et
    al., Pruning Neural Networks at Initialization: Why Are We Missing the
    Mark?, arXiv:2009.08576, section 5.
  """
  if within not in ('layer', 'global', 'input'):
    raise ValueError(
      f'`within` was {within!r}, but must be "layer" (keeps the number alive'
      ' in each leaf), "global" (keeps their total only) or "input" (keeps the'
      ' number at each input of a layer).'
    )
  noise = trees.map_alive(
    lambda name, m: jax.random.uniform(trees.fold_in_name(key, name), m.shape),
    masks,
  )
  if within == 'global':
    total = sum(jnp.sum(m, dtype=jnp.int32) for m in jax.tree.leaves(masks))
    return keep_largest(noise, total)

  def draw(_, m, x):
    if within == 'layer':
      return keep_largest(x, jnp.sum(m, dtype=jnp.int32))
    alive = jnp.sum(m, axis=-1, keepdims=True, dtype=jnp.int32)
    return keep_largest(x, alive, axis=-1)

  return trees.map_alive(draw, masks, noise)


def pack(masks: chex.ArrayTree) -> chex.ArrayTree:
  """Packs masks into one bit a weight.

  Args:
    masks: tree of masks.

  Returns:
    The same tree with one-dimensional uint8 arrays of ``ceil(size / 8)``.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.pack(jnp.array([[True, False, True]]))
    Array([160], dtype=uint8)
  """
  return jax.tree.map(lambda m: jnp.packbits(m.ravel()), masks)


def unpack(packed: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
  """Restores packed masks.

  Args:
    packed: what `pack` returned.
    like: params, masks or `jax.ShapeDtypeStruct`s of the original shapes.

  Returns:
    Tree of masks.

  Raises:
    ValueError: if a leaf does not have the bytes that its shape needs.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> lth.masks.unpack(jnp.array([160], jnp.uint8), like=jnp.zeros((1, 3)))
    Array([[ True, False,  True]], dtype=bool)
  """
  shapes = {n: x.shape for n, x in trees.by_name(like).items() if x is not None}

  def restore(name, bits):
    size = math.prod(shapes.get(name, (-1,)))
    if bits.shape != (-(-size // 8),):
      raise ValueError(
        f'{name or "The mask"} is packed in {bits.shape} bytes, which does'
        f' not fit the shape {shapes.get(name)} in `like`. Unpack with the'
        ' params, or the masks, that were packed.'
      )
    return jnp.unpackbits(bits, count=size).astype(bool).reshape(shapes[name])

  return trees.map_alive(restore, packed)


def summary(masks: chex.ArrayTree) -> str:
  """Describes masks as a table for people: a line a leaf, and the total.

  Args:
    masks: tree of masks, not traced.

  Returns:
    Text of several lines.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> print(lth.masks.summary({'w': jnp.array([[True, False]]), 'b': None}))
    leaf   shape   alive  density
    b      dense
    w      (1, 2)      1  50.00 %
    total  2           1  50.00 %
  """
  alive = alive_by_name(masks)
  rows = [('leaf', 'shape', 'alive', 'density')]
  for name, mask in trees.by_name(masks).items():
    if mask is None:
      rows.append((name, 'dense', '', ''))
    else:
      share = f'{100 * alive[name] / mask.size:.2f} %'
      rows.append((name, str(mask.shape), f'{alive[name]:,}', share))
  size = _size(masks)
  share = f'{100 * density(masks):.2f} %'
  rows.append(('total', f'{size:,}', f'{sum(alive.values()):,}', share))
  a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
  lines = [
    f'{w:<{a}}  {x:<{b}}  {y:>{c}}  {z:>{d}}'.rstrip() for w, x, y, z in rows
  ]
  return '\n'.join(lines)


def _size(masks: chex.ArrayTree) -> int:
  """Counts the prunable weights."""
  if not (leaves := jax.tree.leaves(masks)):
    raise ValueError(
      'These masks have no prunable leaf: every one is None. Choose some with'
      ' `lthjax.masks.full(params, where=...)`.'
    )
  return sum(m.size for m in leaves)


def _combine(f, a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
  trees.check_like(a, b, 'other masks')
  trees.check_like(b, a, 'other masks')
  return jax.tree.map(f, a, b)
