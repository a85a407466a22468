"""Layouts of sparse kernels in memory: tiles, and lookup tables for a CPU.

A kernel is a matrix ``[in, out]`` here. The *tiles* layout serves training and
batches of any size; *lookup* makes batches of one to four faster where the
processor has AVX-512. Tiles hold single weights, or *blocks* of four neurons
that share an input, which are faster than either. Masks decide what is stored,
not values: an alive 0.0 is stored, and a dead 5.0 is not.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 512  # Inputs per chunk of the tiles.
WINDOW = 128  # Inputs that a group of the lookup layout sees,
STEP = 32  # where windows begin,
ROWS = 16  # and outputs, or blocks of them, per tile,
SLOTS = 4  # which have so many slots each in a group.
TAKEN = 128  # Marks slots that hold an entry.
SHARING = 4  # Outputs of a block, which share their inputs.


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('windows', 'locs', 'values', 'scale', 'offsets'),
  meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Lookup:
  """The lookup layout: groups of 64 entries that a few instructions look up.

  A tile has 16 rows: outputs, or blocks of them. A group has four slots for
  each row of its tile, which hold the next entries of the row as long as their
  inputs lie in the group's window of 128.

  Attributes:
    windows: uint16[groups], where a window begins, in steps of 32 inputs.
    locs: uint8[groups * 64], place of an input in its window, plus 128; 0 where
      a slot is empty. In each group that of slot 16 k + 4 j + m, which belongs
      to row 4 j + m of the tile, is at 16 j + 4 k + m, as the processor unpacks
      them.
    values: float32[groups * block * 64] or int8[groups * 64], by group, output
      of the block, and slot; 0 where a slot is empty.
    scale: float32[out], what int8 values are multiplied by; empty for float32.
    offsets: int32[tiles + 1], groups before each tile.
  """

  windows: Any
  locs: Any
  values: Any
  scale: Any
  offsets: Any


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('values', 'indices', 'starts', 'lookup'),
  meta_fields=('shape', 'in_axes', 'dtype', 'int8', 'block'),
)
@dataclasses.dataclass(frozen=True)
class Sparse:
  """A sparse kernel that stands where its array stood.

  ``x @ sparse`` is `lthjax.deploy.linear`, so functions that are written ``x @
  params['kernel'] + params['bias']`` take it as it is. Nothing makes it dense
  unseen: other operations on it are errors.

  Attributes:
    values: float32[capacity], alive weights by chunk, block of outputs, input
      and output; zeros behind them.
    indices: uint16[capacity / block], the input of an entry, of as many weights
      as a block has outputs, within its chunk of 512.
    starts: int32[chunks * out / block + 1], where the entries of a block of
      outputs in a chunk begin, and their number.
    lookup: the second layout for batches of at most 4, or `None`.
    shape: shape of the kernel that it stands for.
    in_axes: axes of that shape that are inputs.
    dtype: dtype of that kernel.
    int8: whether values were rounded to 8 bits; such kernels do not train.
    block: outputs in a row that share their inputs: 1 or 4.
  """

  values: Any
  indices: Any
  starts: Any
  lookup: Lookup | None
  shape: tuple[int, ...]
  in_axes: tuple[int, ...]
  dtype: Any
  int8: bool = False
  block: int = 1
  __array_ufunc__ = None  # So that NumPy's arrays leave `@` to `__rmatmul__`.

  @property
  def inputs(self) -> int:
    """Number of inputs."""
    return math.prod(self.shape[axis] for axis in self.in_axes)

  @property
  def outputs(self) -> int:
    """Number of outputs."""
    return math.prod(
      n for axis, n in enumerate(self.shape) if axis not in self.in_axes
    )

  @property
  def capacity(self) -> int:
    """Number of weights that there is room for."""
    return self.values.shape[0]

  @property
  def ndim(self) -> int:
    """Number of axes of the kernel that it stands for."""
    return len(self.shape)

  def __rmatmul__(self, x: jax.Array) -> jax.Array:
    """Multiplies activations ``[..., in]`` with the kernel."""
    from lthjax.deploy import _linear  # It is made of this class.

    return _linear.linear(x, self)


def number_of_chunks(inputs: int) -> int:
  """At least one, so that a kernel without inputs has rows as well."""
  return max(-(-inputs // CHUNK), 1)


def as_matrix(x: np.ndarray, in_axes: tuple[int, ...]) -> np.ndarray:
  """Views a kernel as ``[in, out]``."""
  out_axes = [axis for axis in range(x.ndim) if axis not in in_axes]
  inputs = math.prod(x.shape[axis] for axis in in_axes)
  outputs = math.prod(x.shape[axis] for axis in out_axes)
  return x.transpose([*in_axes, *out_axes]).reshape(inputs, outputs)


def pack(
  kernel: np.ndarray,
  mask: np.ndarray,
  in_axes: tuple[int, ...],
  *,
  capacity: int | None = None,
  lookup: bool = False,
  int8: bool = False,
  block: int = 1,
) -> Sparse:
  """Packs the alive weights of a kernel.

  Args:
    kernel: float array.
    mask: bool array of its shape.
    in_axes: axes that are inputs.
    capacity: room for weights; as many as are alive by default.
    lookup: whether to build the second layout.
    int8: whether to round values to int8, with a scale per output.
    block: 4 if the mask is made of blocks.

  Returns:
    A `Sparse` of NumPy arrays.
  """
  w = as_matrix(np.asarray(kernel), in_axes).astype(np.float32)
  alive = as_matrix(np.asarray(mask), in_axes)
  scale = quantization(w, alive) if int8 else None
  if scale is not None:
    w = np.rint(w / scale).astype(np.float32)
  rows = w.shape[1] // block
  chunk, output, place = _entries(alive[:, ::block])
  row = chunk * rows + output
  starts = np.zeros(number_of_chunks(w.shape[0]) * rows + 1, np.int32)
  np.cumsum(np.bincount(row, minlength=starts.size - 1), out=starts[1:])
  room = max(-(-(capacity or 0) // block) - row.size, 0)
  groups = w.reshape(w.shape[0], rows, block)
  numbers = groups[chunk * CHUNK + place, output].ravel()
  second = None
  if lookup and w.shape[0] <= STEP << 16:
    second = pack_lookup(groups, alive[:, ::block], scale)
  if scale is not None:  # Tiles hold the numbers that int8 stands for.
    numbers = numbers * scale[output]
  return Sparse(
    values=np.pad(numbers, (0, room * block)),
    indices=np.pad(place.astype(np.uint16), (0, room)),
    starts=starts,
    lookup=second,
    shape=tuple(kernel.shape),
    in_axes=tuple(in_axes),
    dtype=jnp.dtype(kernel.dtype),
    int8=int8,
    block=block,
  )


def has_blocks(mask: np.ndarray, in_axes: tuple[int, ...]) -> bool:
  """Returns whether outputs in rows of four are alive for the same inputs."""
  alive = as_matrix(np.asarray(mask), in_axes)
  inputs, outputs = alive.shape
  if outputs % SHARING or not outputs:
    return False
  groups = alive.reshape(inputs, outputs // SHARING, SHARING)
  return bool((groups == groups[..., :1]).all())


def _entries(alive: np.ndarray) -> tuple[np.ndarray, ...]:
  """Chunk, output and place in the chunk of each alive weight, in order."""
  inputs, outputs = alive.shape
  chunks = number_of_chunks(inputs)
  padded = np.zeros((chunks * CHUNK, outputs), bool)
  padded[:inputs] = alive
  rows = padded.reshape(chunks, CHUNK, outputs).transpose(0, 2, 1)
  return np.nonzero(rows)


def quantization(w: np.ndarray, alive: np.ndarray) -> np.ndarray:
  """Scales of outputs: the largest alive weight is 127; 1 where all are zero.

  So are those that are so small that a 127th of them is no float32.
  """
  largest = np.max(np.where(alive, np.abs(w), 0), axis=0, initial=0)
  with np.errstate(under='ignore'):
    scale = largest / np.float32(127)
  return np.where(scale > 0, scale, 1).astype(np.float32)


def pack_lookup(
  w: np.ndarray, alive: np.ndarray, scale: np.ndarray | None
) -> Lookup:
  """Packs weights, divided by the scale if there is one.

  Args:
    w: [in, rows, block].
    alive: bool[in, rows].
    scale: [out], or `None`.
  """
  inputs, rows = alive.shape
  tiles = -(-rows // ROWS)
  counts = np.pad(alive.sum(0), (0, tiles * ROWS - rows))
  end = counts.cumsum().reshape(tiles, ROWS)
  row, place = np.nonzero(alive.T)
  windows, entries = _groups(place, end - counts.reshape(tiles, ROWS), end)
  windows = windows.T  # [tiles, groups of the longest tile]
  present = windows < inputs
  windows = windows[present]
  entries = entries.transpose(1, 0, 2, 3)[present].reshape(-1, SLOTS * ROWS)
  taken = entries >= 0
  entries = entries[taken]
  locs = np.zeros(taken.shape, np.uint8)
  locs[taken] = place[entries] - windows.repeat(taken.sum(1)) + TAKEN
  dtype = np.float32 if scale is None else np.int8
  values = np.zeros((*taken.shape, w.shape[2]), dtype)
  values[taken] = w[place[entries], row[entries]]
  return Lookup(
    windows=(windows // STEP).astype(np.uint16),
    locs=locs.reshape(-1, SLOTS, 4, 4).transpose(0, 2, 1, 3).ravel(),
    values=values.transpose(0, 2, 1).ravel(),
    scale=np.zeros(0, np.float32) if scale is None else scale,
    offsets=np.append(0, present.sum(1).cumsum()).astype(np.int32),
  )


def _groups(
  place: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Deals the entries of each row to groups, in order, in all tiles at once.

  Args:
    place: ascending inputs of the entries of a row, row after row.
    start: [tiles, rows], the first entry of each row.
    end: [tiles, rows], the entry behind its last one.

  Returns:
    The first input of each window, [groups, tiles], beyond all where a tile has
    ended, and entries, [groups, tiles, slots, rows], -1 where a slot is empty.
  """
  beyond = np.iinfo(np.int32).max
  places = np.append(place, beyond).astype(np.int32)
  windows, entries = [], []
  at = start
  while (at < end).any():
    following = np.where(at < end, places[at], beyond)
    window = following.min(1, keepdims=True) // STEP * STEP
    slots = []
    for _ in range(SLOTS):
      fits = (at < end) & (places[at] - window < WINDOW)
      slots.append(np.where(fits, at, -1))
      at = at + fits
    windows.append(window[:, 0])
    entries.append(np.stack(slots, 1))
  groups, (tiles, rows) = len(windows), start.shape
  return (
    np.reshape(windows, (groups, tiles)).astype(np.int32),
    np.reshape(entries, (groups, tiles, SLOTS, rows)).astype(np.int32),
  )


def positions(sparse: Sparse) -> tuple[jax.Array, jax.Array]:
  """Input and output of each weight; of padding, a row behind the last one."""
  entries = jnp.arange(sparse.indices.shape[0])
  row = jnp.searchsorted(sparse.starts, entries, side='right') - 1
  block = sparse.block
  rows = max(sparse.outputs // block, 1)
  place = row // rows * CHUNK + jnp.asarray(sparse.indices, jnp.int32)
  inputs = jnp.where(entries < sparse.starts[-1], place, sparse.inputs)
  outputs = (row % rows * block)[:, None] + jnp.arange(block)
  return jnp.repeat(inputs, block), outputs.ravel()


def to_matrix(sparse: Sparse, values: jax.Array | None = None) -> jax.Array:
  """Scatters the values into a matrix ``[in, out]`` of zeros."""
  values = jnp.asarray(sparse.values) if values is None else values
  zeros = jnp.zeros((sparse.inputs, sparse.outputs), values.dtype)
  return zeros.at[positions(sparse)].set(values, mode='drop')


def to_kernel(sparse: Sparse) -> jax.Array:
  """Returns the dense kernel in its own shape and dtype."""
  shape, in_axes = sparse.shape, sparse.in_axes
  order = [*in_axes, *(a for a in range(len(shape)) if a not in in_axes)]
  matrix = to_matrix(sparse).astype(sparse.dtype)
  moved = matrix.reshape([shape[axis] for axis in order])
  return moved.transpose(np.argsort(order))


def from_kernel(kernel: jax.Array, sparse: Sparse) -> jax.Array:
  """Reads the values at the places of the entries; zeros behind them."""
  order = [
    *sparse.in_axes,
    *(a for a in range(len(sparse.shape)) if a not in sparse.in_axes),
  ]
  matrix = kernel.transpose(order).reshape(sparse.inputs, sparse.outputs)
  return (
    matrix.astype(jnp.float32)
    .at[positions(sparse)]
    .get(mode='fill', fill_value=0)
  )


def replace(sparse: Sparse, **changes: Any) -> Sparse:
  """Returns a kernel with other parts."""
  return dataclasses.replace(sparse, **changes)
