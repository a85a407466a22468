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
BLOCK = 64  # Inputs per block of the lookup layout,
LANES = 16  # and outputs per tile of it.
NOTHING = 255  # Position of a lane that has no input left in its block.
SHARING = 4  # Outputs of a block, which share their inputs.


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('counts', 'locs', 'values', 'scale', 'offsets'),
  meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Lookup:
  """The lookup layout: for each block of inputs, the positions of 16 outputs.

  Attributes:
    counts: uint8[tiles * blocks], steps that a block takes in a tile.
    locs: uint8[steps * 16], position of an input in its block, or 255.
    values: float32[steps * 16] or int8[steps * 16]; 0 where there is none.
    scale: float32[out], what int8 values are multiplied by; empty for float32.
    offsets: int32[tiles + 1], steps before each tile.
  """

  counts: Any
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
  second = pack_lookup(w, alive, scale) if lookup else None
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
  """Scales of outputs: the largest alive weight is 127; 1 where none is."""
  largest = np.max(np.where(alive, np.abs(w), 0), axis=0, initial=0)
  return np.where(largest > 0, largest / np.float32(127), 1).astype(np.float32)


def pack_lookup(
  w: np.ndarray, alive: np.ndarray, scale: np.ndarray | None
) -> Lookup:
  """Packs weights ``[in, out]``, divided by the scale if there is one."""
  inputs, outputs = w.shape
  blocks, tiles = max(-(-inputs // BLOCK), 1), -(-outputs // LANES)
  padded = np.zeros((blocks * BLOCK, tiles * LANES), bool)
  padded[:inputs, :outputs] = alive
  # Alive weights by tile, block, lane and position.
  blocked = padded.reshape(blocks, BLOCK, tiles, LANES).transpose(2, 0, 3, 1)
  counts = blocked.sum(3).max(2, initial=0)
  before = np.zeros(tiles * blocks + 1, np.int64)
  np.cumsum(counts.ravel(), out=before[1:])
  tile, block, lane, loc = np.nonzero(blocked)
  nth = (blocked.cumsum(3) - 1)[tile, block, lane, loc]
  at = (before[tile * blocks + block] + nth) * LANES + lane
  locs = np.full(before[-1] * LANES, NOTHING, np.uint8)
  locs[at] = loc
  dtype = np.float32 if scale is None else np.int8
  values = np.zeros(before[-1] * LANES, dtype)
  values[at] = w[block * BLOCK + loc, tile * LANES + lane]
  return Lookup(
    counts=counts.ravel().astype(np.uint8),
    locs=locs,
    values=values,
    scale=np.zeros(0, np.float32) if scale is None else scale,
    offsets=before[:: blocks or 1].astype(np.int32),
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
