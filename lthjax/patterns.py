"""Which shapes of weights may survive."""

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lthjax import masks as masks_lib
from lthjax import trees
from lthjax.selection import keep_largest

Shape = tuple[int, ...]
Axis = int | Mapping[str, int] | Callable[[str, Shape], int]
Axes = (
  int | Shape | Mapping[str, int | Shape] | Callable[[str, Shape], int | Shape]
)


class Pattern(Protocol):
  """What `lthjax.prune` asks of a pattern."""

  @property
  def density(self) -> float | None:
    """The density that the pattern itself fixes, or `None` if it is free."""

  def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a `ValueError` naming every leaf that the pattern cannot fit."""

  def select(
    self,
    name: str,
    scores: jax.Array,
    eligible: jax.Array,
    count: int | jax.Array | None,
  ) -> jax.Array:
    """Selects among the eligible entries of one leaf."""
    ...

  def fill(
    self, name: str, scores: jax.Array, keep: jax.Array, count: Any
  ) -> jax.Array:
    """Adds to the kept entries of one leaf the best of the others."""
    ...

  def faults(self, masks: Mapping[str, jax.Array]) -> list[str]:
    """Tells, leaf by leaf, which masks could not be had from `select`."""
    ...


class Unstructured(NamedTuple):
  """Any weight may survive on its own.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores, alive = jnp.array([[3.0, 1.0, 2.0]]), jnp.ones((1, 3), bool)
    >>> lth.patterns.Unstructured().select('w', scores, alive, 2)
    Array([[ True, False,  True]], dtype=bool)
  """

  @property
  def density(self) -> None:
    """Free: the budget decides."""
    return None

  def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Accepts every shape."""

  def select(self, name, scores, eligible, count):
    """Keeps the ``count`` largest scores of the leaf."""
    del name
    return keep_largest(scores, count, eligible)

  def fill(self, name, scores, keep, count):
    """Adds the largest of the other scores until ``count`` are kept."""
    del name
    missing = count - jnp.sum(keep, dtype=jnp.int32)
    return keep | keep_largest(scores, missing, ~keep)

  def faults(self, masks):
    """Finds fault with empty leaves only."""
    alive = masks_lib.alive_by_name(masks)
    if trees.is_traced(*alive.values()):
      return []
    return [f'{name} has none alive' for name, n in alive.items() if not n]


class NM(NamedTuple):
  """At most n of every m consecutive weights survive (N:M sparsity).

  Groups run along the contraction axis, which is what sparse tensor cores need:
  ``in`` of dense kernels ``[in, out]`` and convolutions ``[..., in, out]``,
  ``head_dim`` of attention outputs ``[heads, head_dim, out]``, and ``in`` of
  query, key and value kernels ``[in, heads, head_dim]``. These are Flax's
  layouts; for weights laid out ``[out, in]``, give ``axis=-1``.

  Attributes:
    n: how many survive in a group.
    m: how many weights a group has.
    axis: the axis of the groups, if it is another: a number, ``{glob: axis}``
      over names, or a function of name and shape.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> scores = jnp.array([[1.0], [4.0], [3.0], [2.0]])
    >>> masks = lth.masks.full(scores)
    >>> lth.prune(scores, masks, pattern=lth.patterns.NM(2, 4)).ravel()
    Array([False,  True,  True, False], dtype=bool)

  References:
    Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv:2104.08378,
    section 3.
  """

  n: int
  m: int
  axis: Axis | None = None

  @property
  def density(self) -> float:
    """The share n / m that survives."""
    return self.n / max(self.m, 1)

  def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises if n and m, an axis or the size of an axis is off.

    Args:
      shapes: ``{name: shape}`` of the leaves to be pruned.

    Raises:
      ValueError: naming every leaf that does not fit, or globs without a leaf.
    """
    whole = isinstance(self.n, int) and isinstance(self.m, int)
    if not (whole and 1 <= self.n <= self.m):
      raise ValueError(
        f'N:M sparsity needs 1 <= n <= m, but n is {self.n} and m is'
        f' {self.m}. 2:4 is `NM(2, 4)`.'
      )
    if isinstance(self.axis, Mapping):
      trees.first_match(self.axis, shapes, 'axis')
    axes = {name: self._axis(name, shape) for name, shape in shapes.items()}
    faults = [
      f'{name} {shape} has no axis {axes[name]}'
      for name, shape in shapes.items()
      if not -len(shape) <= axes[name] < len(shape)
    ] or [
      f'{name} {shape} has {shape[axes[name]]} on axis {axes[name]}'
      for name, shape in shapes.items()
      if shape[axes[name]] % self.m
    ]
    if faults:
      raise ValueError(
        f'{self.n}:{self.m} sparsity needs the contraction axis to be a'
        f' multiple of {self.m}, but {"; ".join(faults)}. Leave them dense'
        ' with `lthjax.masks.full(params, where=...)`, or choose another'
        ' axis with `NM(n, m, axis=...)`.'
      )

  def select(self, name, scores, eligible, count):
    """Keeps the n (or ``count``) largest scores of each group."""
    count = self.n if count is None else count
    groups, axis = self._groups(name, scores.shape)
    keep = keep_largest(
      scores.reshape(groups), count, eligible.reshape(groups), axis=axis
    )
    return keep.reshape(scores.shape)

  def fill(self, name, scores, keep, count):
    """Adds the largest of the other scores until every group keeps n."""
    del count
    groups, axis = self._groups(name, scores.shape)
    keep = keep.reshape(groups)
    missing = self.n - jnp.sum(keep, axis=axis, keepdims=True, dtype=jnp.int32)
    grown = keep_largest(scores.reshape(groups), missing, ~keep, axis=axis)
    return (keep | grown).reshape(scores.shape)

  def faults(self, masks):
    """Finds the groups that do not keep n, once the shapes fit."""
    self.check({name: mask.shape for name, mask in masks.items()})
    off = {}
    for name, mask in masks.items():
      groups, axis = self._groups(name, mask.shape)
      alive = jnp.sum(mask.reshape(groups), axis=axis, dtype=jnp.int32)
      off[name] = jnp.sum(alive != self.n, dtype=jnp.int32)
    if trees.is_traced(*off.values()):
      return []
    return [
      f'{name} has {int(number)} groups of {self.m} on axis'
      f' {self._axis(name, masks[name].shape)} without exactly {self.n} alive'
      for name, number in off.items()
      if number
    ]

  def _groups(self, name: str, shape: tuple[int, ...]):
    """The shape with the axis split into groups, and the axis inside them."""
    axis = self._axis(name, shape) % len(shape)
    split = (shape[axis] // self.m, self.m)
    return (*shape[:axis], *split, *shape[axis + 1 :]), axis + 1

  def _axis(self, name: str, shape: tuple[int, ...]) -> int:
    return choose(self.axis, contraction_axis, name, shape)


def choose(
  given: Any, default: Callable[[str, Shape], Any], name: str, shape: Shape
) -> Any:
  """Looks up what holds of one leaf, such as an axis.

  Args:
    given: one value for all leaves, ``{glob: value}`` over names (first match
      wins), a function of name and shape, or `None`.
    default: function of name and shape, for what is not given.
    name: name of the leaf.
    shape: its shape.

  Returns:
    The value.

  Example:
    >>> from lthjax import patterns
    >>> patterns.choose({'out*': 0}, patterns.contraction_axis, 'fc', (4, 2))
    -2
  """
  if isinstance(given, Mapping):
    globs = (g for g in given if fnmatch.fnmatchcase(name, g))
    given = next((given[glob] for glob in globs), None)
  if given is None:
    return default(name, shape)
  return given(name, shape) if callable(given) else given


def contraction_axis(name: str, shape: tuple[int, ...]) -> int:
  """Returns the axis that a layer sums over, in Flax's layouts.

  Args:
    name: name of the kernel.
    shape: its shape: ``[in, out]``, ``[..., in, out]`` of convolutions and
      scanned layers, ``[heads, head_dim, out]`` of attention outputs, or
      ``[in, heads, head_dim]`` where the layer is called query, key or value.

  Returns:
    A negative axis.

  Example:
    >>> from lthjax import patterns
    >>> patterns.contraction_axis('conv/kernel', (3, 3, 16, 32))
    -2
    >>> patterns.contraction_axis('attention/query/kernel', (64, 4, 16))
    -3
  """
  return -3 if _projects(name, shape) else max(-2, -len(shape))


def neuron_axes(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the axes that count a layer's outputs, in Flax's layouts.

  Args:
    name: name of the kernel.
    shape: its shape, as for `contraction_axis`. The layers of a scanned one
      cannot be told from its inputs.

  Returns:
    Negative axes: the last, or the last two where the layer is called query,
    key or value and its kernel is ``[in, heads, head_dim]``.

  Example:
    >>> from lthjax import patterns
    >>> patterns.neuron_axes('conv/kernel', (3, 3, 16, 32))
    (-1,)
    >>> patterns.neuron_axes('attention/query/kernel', (64, 4, 16))
    (-2, -1)
  """
  return (-2, -1) if _projects(name, shape) else (-1,)


def _projects(name: str, shape: tuple[int, ...]) -> bool:
  """Tells kernels ``[in, heads, head_dim]`` by the name of their layer."""
  layer = name.split('/')[-2:-1]
  return layer in (['query'], ['key'], ['value']) and len(shape) >= 3
