"""Matmuls and convolutions, and how a leaf gets there and back."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lthjax.program._interpreter import Path


class Step(NamedTuple):
  """A rearrangement of entries on the way from a leaf to its use.

  Attributes:
    primitive: a primitive of JAX, or a function, that moves, repeats or drops
      entries, or pads them with zeros.
    operands: what it takes besides the array.
    params: its parameters.
    output: which of its outputs, where there are several.
    batch: number of leading axes to map it over, one for each loop around.
  """

  primitive: Any
  operands: tuple[Any, ...]
  params: dict[str, Any]
  output: int | None
  batch: int

  @property
  def name(self) -> str:
    """The name of the primitive or function."""
    return getattr(self.primitive, 'name', None) or self.primitive.__name__

  def __call__(self, x: chex.Array) -> chex.Array:
    """Does to an array what the program does to the leaf."""
    call = getattr(self.primitive, 'bind', self.primitive)

    def run(x):
      y = call(x, *self.operands, **self.params)
      return y if self.output is None else y[self.output]

    for _ in range(self.batch):
      run = jax.vmap(run)
    return run(x)


class Loop(NamedTuple):
  """A `jax.lax.scan`, or a mesh axis of a `jax.shard_map`.

  Attributes:
    path: of its equation.
    length: number of turns, or of devices along the mesh axis.
    axis: name of the mesh axis; `None` for a scan.
  """

  path: Path
  length: int
  axis: str | None = None


class Use(NamedTuple):
  """A matmul or convolution, and a leaf that it multiplies with.

  Attributes:
    name: the leaf's name; `None` where no chosen leaf takes part, as where
      queries meet keys.
    primitive: ``'dot_general'``, ``'ragged_dot_general'`` or
      ``'conv_general_dilated'``; or ``'gather'``, a lookup in a table, which
      multiplies nothing.
    shapes: shapes of its two operands.
    runs: number of times it runs: the product of the lengths of the loops.
    multiply_adds: number over all runs.
    paths: its addresses in the program, the keys of its visits in `run`: one,
      or one for each branch of a `jax.lax.cond`.
    loops: the loops around it, outermost first. Its notes have one axis each.
    operand: the side of the leaf: 0 for the left operand, 1 for the right.
    contracted: axes of the operand that are summed over.
    batch: axes of the operand that pair up with axes of the other operand, or
      with its groups of rows in a ragged matmul, such as experts.
    free: the other axes of the operand: those of neurons.
    window: the contracted axes that are spatial, in a convolution.
    groups: number of groups of a convolution; each reads its own inputs.
    shape: the leaf's shape.
    scans: the loops that walk over the leaf. The `view` has one axis each.
    exact: whether the leaf is only moved and cast before its use, and not, for
      instance, masked or scaled.
    times: number of multiply-adds per entry of the `view`; the mean over the
      groups in a ragged matmul.
    steps: what the program does to the leaf first; see `view`.
  """

  name: str | None
  primitive: str
  shapes: tuple[tuple[int, ...], ...]
  runs: int
  multiply_adds: int
  paths: tuple[Path, ...] = ()
  loops: tuple[Loop, ...] = ()
  operand: int = 1
  contracted: tuple[int, ...] = ()
  batch: tuple[int, ...] = ()
  free: tuple[int, ...] = ()
  window: tuple[int, ...] = ()
  groups: int = 1
  shape: tuple[int, ...] = ()
  scans: tuple[Loop, ...] = ()
  exact: bool = True
  times: float = 0
  steps: tuple[Step, ...] = ()

  @property
  def path(self) -> Path:
    """Its address in the program; in the first branch of a `jax.lax.cond`."""
    return self.paths[0]

  def like(self, other: 'Use') -> bool:
    """Returns whether another use differs only in its address."""

    def placeless(use):
      loops = (use.loops, use.scans)
      loops = [[loop._replace(path=()) for loop in each] for each in loops]
      return use._replace(paths=(), loops=loops[0], scans=loops[1])

    return placeless(self) == placeless(other)

  def view(self, x: chex.Array) -> chex.Array:
    """Rearranges an array of the leaf's shape as the program does the leaf.

    Args:
      x: array of the leaf's shape, such as its mask or scores.

    Returns:
      What stands at the leaf's operand: in the shape of the operand, after a
      leading axis for each loop that walks over the leaf. It is zero in what
      belongs to other leaves, where several were concatenated.
    """
    for step in self.steps:
      x = step(x)
    return x

  def pull_back(self, x: chex.Array) -> chex.Array:
    """Takes what stands at the operand back to the leaf's own layout.

    This is the transpose of `view`: entries of the leaf that are not in the
    operand are zero, and those that are in it several times are summed, or true
    if any is true. ``pull_back(ones)`` counts how often each one is there.

    Args:
      x: floating-point or bool array in the shape of the `view`.

    Returns:
      Array of the leaf's shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from lthjax import program
      >>> params = {'w': jnp.zeros((4, 2))}
      >>> apply = lambda params, x: x @ params['w'][1:].T
      >>> (use,) = program.uses(apply, params, jnp.zeros((5, 2)))
      >>> use.pull_back(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
      Array([[0., 0.],
             [1., 4.],
             [2., 5.],
             [3., 6.]], dtype=float32)
    """
    x = jnp.asarray(x)
    boolean = x.dtype == bool
    if not boolean and not jnp.issubdtype(x.dtype, jnp.inexact):
      raise ValueError(
        f'`pull_back` was given {x.dtype}, but sums entries, so it takes'
        ' floating-point or bool arrays: cast with `x.astype("float32")`.'
      )
    dtype = jnp.float32 if boolean else x.dtype
    like = jax.ShapeDtypeStruct(self.shape, dtype)
    shape = jax.eval_shape(self.view, like).shape
    if x.shape != shape:
      raise ValueError(
        f'`pull_back` was given an array of shape {x.shape}, but'
        f' {self.name or "the operand"} stands at the operand as {shape}. Pass'
        ' an array of the shape of `use.view(leaf)`.'
      )
    (leaf,) = jax.linear_transpose(self.view, like)(x.astype(dtype))
    return leaf != 0 if boolean else leaf
