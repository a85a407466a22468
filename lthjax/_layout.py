"""Axes of kernels, read off their names and shapes."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from lthjax import _checks, _names, trees

Shape = tuple[int, ...]


class Axes(NamedTuple):
  """What the axes of one kernel count; each axis is in one of the tuples.

  Attributes:
    stack: layers, such as those of a scan or the experts of a mixture.
    window: places in the window of a convolution.
    inputs: the other axes that the layer sums over.
    outputs: neurons.
  """

  stack: Shape = ()
  window: Shape = ()
  inputs: Shape = ()
  outputs: Shape = ()

  @property
  def summed(self) -> Shape:
    """The axes that the layer sums over: window and inputs, in order."""
    return tuple(sorted((*self.window, *self.inputs)))

  @property
  def layer(self) -> Shape:
    """The axes of a single layer: all but the stack, in order."""
    return tuple(sorted((*self.summed, *self.outputs)))


# The last word of containers that stack their leaves, unless they are numbered.
_PLURALS = _names.one_of("""
  layers layer blocks block h stages units cells experts expert resblocks
  members
""")
_STACKS = _names.one_of("""
  scan scanned stack stacks stacked moe vmap vmapped ensemble repeat repeated
""")
# What Flax's metadata calls axes that count layers.
_STACK_AXES = _names.one_of("""
  layer layers block blocks stack stacks stage stages scan expert experts exp
  depth
""")
_ATTENTION = _names.one_of(
  'attn attention mha mhsa mhca msa selfattention crossattention'
)
_FUSED = _names.one_of('qkv kv qk wqkv wkv')
_QUERY = _names.one_of("""
  query key value queries keys values wq wk wv qproj kproj vproj
""")
_LETTERS = _names.one_of('q k v')
# What makes a query of the letter q, where nothing else speaks of attention.
_BESIDE_LETTERS = _names.one_of('proj projection einsum lin linear dense to w')
_OUT = _names.one_of('o out output wo oproj outproj vec combine merge')
# These project back too, if their shape says so.
_PROJECT = _names.one_of('proj projection lin linear dense general')
_CONV = _names.one_of("""
  conv convs convolution dwconv pwconv deconv depthwise pointwise patch
""")
_TRANSPOSED = _names.one_of('transpose transposed deconv')


def readings(
  shapes: Mapping[str, Shape], stacked: Mapping[str, Shape]
) -> dict[str, list[Axes]]:
  """Lists the ways in which each leaf can be read, given what is stacked."""
  attends = _attends(shapes)

  def read(name: str, stack: Shape) -> Axes | None:
    rest = [i for i in range(len(shapes[name])) if i not in stack]
    if len(rest) + len(stack) != len(shapes[name]):
      return None
    shape = tuple(shapes[name][i] for i in rest)
    axes = _read_layer(name, shape, bool(stack), attends(name))
    if axes is None:
      return None
    return Axes(stack, *(tuple(rest[i] for i in part) for part in axes[1:]))

  ways = {name: [read(name, stacked[name])] for name in stacked}
  families: dict[str, dict[str, list[str]]] = {}
  norms = _stacks_of_norms({n: shapes[n] for n in shapes if n not in stacked})
  for name in shapes:
    if name not in stacked:
      chain = containers(name)
      if not chain:  # Only where no name speaks of a stack.
        chain = [c for c in norms if name.startswith(f'{c}/')]
      families.setdefault(chain[0] if chain else '', {})[name] = chain
  for chains in families.values():
    ways |= _read_together(shapes, chains, read)
  found = {}
  for name, shape in shapes.items():
    found[name] = list(dict.fromkeys(w for w in ways[name] if w is not None))
    if not found[name] and _names.is_scale(name):
      found[name] = [Axes(outputs=tuple(range(len(shape))))]
  return found


def _stacks_of_norms(shapes: Mapping[str, Shape]) -> list[str]:
  """Lists containers that stack layers, as the scales of their norms show.

  A norm has a vector, so one with a matrix is a stack, and all that is beside
  it in the outermost container whose leaves have as many layers.
  """
  found = []
  for name, shape in shapes.items():
    if len(shape) != 2 or not _names.is_scale(name):
      continue
    keys = name.split('/')[:-1]
    for i in range(1, len(keys)):
      container = '/'.join(keys[:i])
      own = [x for n, x in shapes.items() if n.startswith(f'{container}/')]
      if all(x[:1] == shape[:1] for x in own):
        found.append(container)
        break
  return list(dict.fromkeys(found))


def _read_together(
  shapes: Mapping[str, Shape],
  chains: Mapping[str, list[str]],
  read: Callable[[str, Shape], Axes | None],
) -> dict[str, list[Axes | None]]:
  """Reads leaves of containers that stack all of their leaves or none."""
  # One reading for each choice of stacks under which all leaves make sense.
  every = sorted({c for chain in chains.values() for c in chain})[:8]
  choices = []
  for flags in itertools.product([False, True], repeat=len(every)):
    stacks = {c for c, flag in zip(every, flags, strict=True) if flag}
    found, numbers, holds_kernel = {}, {}, set()
    for name, chain in chains.items():
      own = [container for container in chain if container in stacks]
      found[name] = read(name, tuple(range(len(own))))
      for container, number in zip(own, shapes[name], strict=False):
        numbers.setdefault(container, set()).add(number)
      rank = len(shapes[name]) - len(own)
      if rank > 1 and _names.is_kernel(name) is not False:
        holds_kernel.update(own)
    alike = all(len(sizes) == 1 for sizes in numbers.values())
    if alike and holds_kernel == stacks:
      choices.append(found)
  # A leaf that makes no sense in any choice does not rule out the others.
  sensible = {n for n in chains if any(found[n] for found in choices)}
  fitting = [found for found in choices if all(found[n] for n in sensible)]
  return {n: [found[n] for found in fitting or choices] for n in chains}


def _read_layer(
  name: str, shape: Shape, stacked: bool, attends: bool
) -> Axes | None:
  """Reads the kernel of a single layer; `None` if nothing is certain."""
  rank, kernel = len(shape), _names.is_kernel(name)
  if rank < 2:
    # The kernels of a stack have two axes besides.
    return None if stacked and kernel else Axes(outputs=tuple(range(rank)))
  if rank == 2 and _names.is_scale(name):
    return None  # One layer has a vector.
  parts = _names.parts(name)
  out_first = 'weight' in parts[0]  # as in PyTorch and Equinox
  role, words = _role(parts, shape, attends)
  axes = None
  if rank == 2:
    axes = _read_matrix(shape, out_first, ['', *parts[1:2]][-1])
  elif role == 'query' and not out_first:
    axes = _read_query(shape, words, stacked)
  elif role == 'out' and rank == 3 and not out_first:
    if stacked or not _may_be_stack(shape):
      axes = Axes(inputs=(0, 1), outputs=(2,))
  elif role == 'conv' or (role is None and rank > 3):
    axes = _read_conv(shape, out_first, words, parts[0])
  if axes is None and kernel is False:
    return Axes(outputs=tuple(range(rank)))
  return axes


def _role(
  parts: list[list[str]], shape: Shape, attends: bool
) -> tuple[str | None, list[str]]:
  """Finds the component nearest to a leaf that says what its kernel does."""
  # [heads, head_dim, out] of as many inputs as outputs
  projects_back = len(shape) == 3 and shape[0] * shape[1] == shape[2]
  for part in parts:
    found = set(part)
    if found & _CONV:
      return 'conv', part
    if found & (_QUERY | _FUSED) or {'c', 'attn'} <= found:
      return 'query', part
    if found & _LETTERS and (attends or found & _BESIDE_LETTERS):
      return 'query', part
    if {'gating', 'einsum'} <= found or (attends and {'in', 'proj'} <= found):
      return 'query', part
    if attends and (found & _OUT or (projects_back and found & _PROJECT)):
      return 'out', part
  return None, []


def _is_fused(words: set[str]) -> bool:
  """Returns whether a layer computes several of query, key and value."""
  several = {'c', 'attn'}, {'key', 'value'}, {'in', 'proj'}
  return bool(words & _FUSED) or any(both <= words for both in several)


def _read_matrix(
  shape: Shape, out_first: bool, layer: Iterable[str]
) -> Axes | None:
  """Reads ``[in, out]`` or ``[out, in]``."""
  if out_first and 'c' in layer:
    # GPT-2's `Conv1D` has the inputs first, and copies of it the outputs.
    if 'proj' in layer or shape[0] == shape[1]:
      return None
    out_first = shape[0] > shape[1]  # `c_attn` and `c_fc` widen.
  if out_first:
    return Axes(inputs=(1,), outputs=(0,))
  return Axes(inputs=(0,), outputs=(1,))


def _read_query(shape: Shape, words: list[str], stacked: bool) -> Axes | None:
  """Reads the kernels of query, key and value, by themselves or fused."""
  rank = len(shape)
  fused = _is_fused(set(words))
  if 'einsum' in words:
    ins = rank - 2  # [heads, in, head_dim], and [3, heads, in, head_dim]
  elif rank == 3 and shape[1] == shape[0] * shape[2]:
    ins = 1  # [heads, in, head_dim]
  elif rank == 3 and not (fused or stacked) and _may_be_stack(shape):
    return None
  elif rank == 3 or (rank == 4 and fused):
    # [in, heads, head_dim]; with 3 for query, key and value first or second.
    ins = int(fused and shape[0] < 4)
  else:
    return None
  outs = tuple(axis for axis in range(rank) if axis != ins)
  return Axes(inputs=(ins,), outputs=outs)


def _may_be_stack(shape: Shape) -> bool:
  """Returns whether a kernel of attention looks like square ones of layers.

  ``[layers, in, out]`` or, as Linen may stack them, ``[in, layers, out]``.
  """
  first, second, third = shape
  return (second == third and 1 < first < second) or (
    first == third and 1 < second < first
  )


def _read_conv(
  shape: Shape, out_first: bool, words: list[str], leaf: list[str]
) -> Axes | None:
  """Reads ``[*window, in, out]`` or ``[out, in, *window]``."""
  rank = len(shape)
  window = shape[2:] if out_first else shape[:-2]
  if rank > 5:
    return None
  if 'd' in words:
    if str(rank - 2) not in words:  # `conv1d` has one axis of places
      return None
  elif not words and (max(window) > 15 or len({*window} - {1}) > 1):
    return None  # Without a name it must look like a window.
  transposed = not _TRANSPOSED.isdisjoint(words)
  if not out_first:
    if transposed and (leaf != ['kernel'] or 'd' in words):
      return None  # Flax has the inputs before the outputs, others after.
    if 'depthwise' in words and shape[-2] != 1:
      return None  # Keras has a neuron for each input.
    return Axes((), tuple(range(rank - 2)), (rank - 2,), (rank - 1,))
  if transposed:
    return None  # PyTorch has the inputs first, and Equinox the outputs.
  return Axes((), tuple(range(2, rank)), (1,), (0,))


def containers(name: str) -> list[str]:
  """Lists the containers around a leaf, from outside, that may be stacks."""
  parts, found = name.split('/'), []
  for i, part in enumerate(parts):
    words = _names.words(part)
    if ''.join(parts[i + 1 : i + 2]).isdigit():
      continue
    if not _PLURALS.isdisjoint(words[-1:]) or not _STACKS.isdisjoint(words):
      found.append('/'.join(parts[: i + 1]))
  return found


def _attends(names: Iterable[str]) -> Callable[[str], bool]:
  """Returns a function that says whether a leaf is part of attention."""
  # It is if a component of its name says so, or if a query, a key or a value is
  # beside it.
  beside: dict[str, set[str]] = {}
  for name in names:
    parts = name.split('/')
    for i in (-1, -2, -3)[: len(parts)]:
      kinds = set(_names.words(parts[i])) & (_LETTERS | _QUERY | _FUSED)
      beside.setdefault('/'.join(parts[:i]), set()).update(kinds)

  def attends(name: str) -> bool:
    parts = name.split('/')
    if any(not _ATTENTION.isdisjoint(_names.words(part)) for part in parts):
      return True
    near = [beside['/'.join(parts[:i])] for i in (-1, -2, -3)[: len(parts)]]
    return any(len(kinds) > 1 or kinds & (_QUERY | _FUSED) for kinds in near)

  return attends


def shapes_of(tree: Any) -> dict[str, Shape]:
  """Returns the shapes of a tree's arrays by name, or those given as such."""
  if is_flat(tree):
    shapes = {n: x if is_shape(x) else x.shape for n, x in tree.items()}
    return dict(sorted(shapes.items()))  # as JAX orders the keys of a dict
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  found = {
    trees.path_name(path): leaf.shape
    for path, leaf in leaves
    if isinstance(getattr(leaf, 'shape', None), tuple)
  }
  if leaves and not found:
    raise TypeError(
      f'Axes are those of arrays, but {_checks.describe(tree)} was given. Pass'
      ' a tree of arrays, or `{name: shape}`.'
    )
  return found


def is_shape(x: Any) -> bool:
  """Returns whether a node of a tree is a shape."""
  return type(x) is tuple and all(type(n) is int for n in x)


def is_flat(tree: Any) -> bool:
  """Returns whether a tree is ``{name: shape}`` or ``{name: array}``."""
  return (
    isinstance(tree, Mapping)
    and bool(tree)
    and all(
      isinstance(n, str) and (is_shape(x) or isinstance(x, jax.Array))
      for n, x in tree.items()
    )
  )


def stacks_in_metadata(tree: Any) -> dict[str, Shape]:
  """Returns the axes that the variables of Flax name after layers."""
  if is_flat(tree):
    return {}

  def labels(x):
    if hasattr(x, 'unbox'):  # a box of Linen
      found = getattr(x, 'names', None)
    elif hasattr(x, 'get_metadata'):  # a variable of NNX
      metadata = x.get_metadata()
      found = metadata.get('out_sharding') or metadata.get('sharding_names')
    else:
      return None
    return tuple(found) if isinstance(found, Iterable) else None

  leaves = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda x: labels(x) is not None
  )[0]
  found = {}
  for path, leaf in leaves:
    found[trees.path_name(path)] = tuple(
      axis
      for axis, label in enumerate(labels(leaf) or ())
      if isinstance(label, str)
      and not _STACK_AXES.isdisjoint(_names.words(label))
    )
  return {name: axes for name, axes in found.items() if axes}
