"""Types of axes: atoms, products and sums, made equal by unification.

Two axes that meet have the same type. A type starts as an atom; a reshape
refines it into a product of types, row-major, a slice or a concatenation into a
sum. What fixes the size or the order of an axis pins its atoms.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax.extend.core as jex
import numpy as np

from lthjax.program._interpreter import Path


class Type:
  """The type of an axis, a node of a union-find forest.

  Attributes:
    size: the number of positions.
    kind: ``'atom'``, ``'product'`` or ``'sum'``.
    parts: the factors or terms.
    pins: of an atom, what fixes it.
    link: the type that this one was found to equal.
  """

  __slots__ = ('kind', 'link', 'parts', 'pins', 'size')

  def __init__(
    self,
    size: int,
    pins: Collection[str] = (),
    kind: str = 'atom',
    parts: Sequence['Type'] = (),
  ):
    self.size, self.pins = size, set(pins)
    self.kind, self.parts = kind, list(parts)
    self.link: Type | None = None


class Value(NamedTuple):
  """What is known of a value of the program.

  Attributes:
    axes: the types of its axes.
    place: the axis along which its entries, integers, are positions; for an
      array of index vectors, one for each column.
    data: whether it depends on more than the params.
  """

  axes: tuple[Type, ...]
  place: Type | tuple[Type | None, ...] | None = None
  data: bool = False


Values = Sequence[Value]
# ``rule(walk, eqn, values, path)``, from inputs to outputs of an equation.
Rule = Callable[[Any, jex.JaxprEqn, Values, Path], Values]


def find(t: Type) -> Type:
  """Returns the representative of a type."""
  while t.link is not None:
    t.link = t.link.link or t.link
    t = t.link
  return t


def flat(t: Type, kind: str) -> list[Type]:
  """Returns the factors of a product, or the terms of a sum, however nested."""
  t = find(t)
  if t.kind != kind:
    return [t]
  return [each for part in t.parts for each in flat(part, kind)]


def product(types: Sequence[Type]) -> Type:
  """Returns the type of an axis that merges several, the last one fastest."""
  parts = [each for t in types for each in flat(t, 'product') if each.size != 1]
  if len(parts) == 1:
    return parts[0]
  size = math.prod(t.size for t in parts)
  return Type(size, kind='product', parts=parts) if parts else Type(1)


def total(types: Sequence[Type]) -> Type:
  """Returns the type of axes that are concatenated."""
  parts = [each for t in types for each in flat(t, 'sum') if each.size]
  if len(parts) == 1:
    return parts[0]
  size = sum(t.size for t in parts)
  return Type(size, kind='sum', parts=parts) if parts else Type(0)


def atoms(t: Type) -> Iterator[Type]:
  """Iterates over the atoms of a type."""
  t = find(t)
  if t.kind == 'atom':
    yield t
  for part in t.parts:
    yield from atoms(part)


def pin(t: Type, *pins: str) -> None:
  """Pins all atoms of a type."""
  for atom in atoms(t):
    atom.pins.update(pins)


def unify(a: Type, b: Type) -> None:
  """Makes two types of equal size the same."""
  a, b = find(a), find(b)
  if a is b or a.size <= 1:  # An axis of size 1 is broadcast.
    return
  if b.kind == 'atom':
    a, b = b, a
  if a.kind == 'atom':  # An atom takes whatever structure the other has.
    same = True
    pin(b, *a.pins)
  elif a.kind == b.kind == 'product':
    same = _match([a], [b])
  elif a.kind == b.kind == 'sum':  # Cut both where either is cut.
    cuts = sorted({*_bounds(flat(a, 'sum')), *_bounds(flat(b, 'sum'))})
    pieces = cut(a, cuts), cut(b, cuts)
    same = all(pieces)
    for x, y in zip(*(p or () for p in pieces), strict=False):
      unify(x, y)
  else:
    same = _distribute(*((a, b) if a.kind == 'sum' else (b, a)))
  a, b = find(a), find(b)
  if not same:
    tangle(a, b)
  elif a is not b:
    a.link = b


def tangle(*types: Type) -> None:
  """Gives up on types whose positions correspond in no simple way."""
  for t in types:
    pin(t, 'tangled')


def factor(t: Type, size: int) -> bool:
  """Refines an atom or a sum into a product of ``size`` and the rest."""
  t = find(t)
  inner = Type(t.size // size)
  if t.kind == 'atom':
    t.parts = [Type(size, t.pins), inner]
    pin(inner, *t.pins)
  else:
    terms = flat(t, 'sum')
    if any(term.size % inner.size for term in terms):
      return False
    # a x inner + b x inner = (a + b) x inner.
    outers = [Type(term.size // inner.size) for term in terms]
    for term, outer in zip(terms, outers, strict=True):
      unify(term, product([outer, inner]))
    if all(outer.size == 1 for outer in outers):  # Which of the terms it is.
      outers = [Type(size, ['parts'])]
    t.parts = [total(outers), inner]
  t.kind, t.pins = 'product', set()
  return True


def cut(t: Type, offsets: Sequence[int]) -> list[Type] | None:
  """Returns the pieces of a type between offsets; `None` if it has none."""
  t = find(t)
  bounds = sorted({0, *offsets, t.size})
  sizes = [b - a for a, b in itertools.pairwise(bounds)]
  if len(sizes) < 2:
    return [t]
  if t.kind == 'atom':
    t.kind, t.parts = 'sum', [Type(size, t.pins) for size in sizes]
    t.pins = set()
    return list(t.parts)
  if t.kind == 'product':
    head, *rest = flat(t, 'product')
    inner = math.prod(x.size for x in rest)
    if any(bound % inner for bound in bounds):  # Not between whole rows.
      return None
    pieces = cut(head, [bound // inner for bound in bounds])
    return pieces and [product([piece, *rest]) for piece in pieces]
  start, small = 0, []
  for term in flat(t, 'sum'):
    inside = [x - start for x in bounds if start < x < start + term.size]
    pieces = cut(term, inside)
    if pieces is None:
      return None
    small += pieces
    start += term.size
  ends = list(itertools.accumulate(x.size for x in small))
  return [
    total([x for x, end in zip(small, ends, strict=True) if a < end <= b])
    for a, b in itertools.pairwise(bounds)
  ]


def occurrences(
  t: Type, places: np.ndarray | None = None
) -> Iterator[tuple[Type, np.ndarray]]:
  """Iterates over ``(atom, positions [size, k])`` along an axis."""
  t = find(t)
  if places is None:
    places = np.arange(t.size)[:, None]
  if t.kind == 'atom':
    yield t, places
  elif t.kind == 'sum':
    ends = list(itertools.accumulate(part.size for part in t.parts))
    for part, end in zip(t.parts, ends, strict=True):
      yield from occurrences(part, places[end - part.size : end])
  else:
    # Row-major: a factor's position is the same all along the other factors.
    grid = places.reshape(*(part.size for part in t.parts), -1)
    for i, part in enumerate(t.parts):
      own = np.moveaxis(grid, i, 0).reshape(part.size, -1)
      yield from occurrences(part, own)


def _match(xs: list[Type], ys: list[Type]) -> bool:
  """Unifies two products factor by factor, from the left."""
  while xs and ys:
    (x, *xs), (y, *ys) = xs, ys
    x, y = find(x), find(y)
    if x.kind == 'product' or y.kind == 'product':
      xs, ys = [*flat(x, 'product'), *xs], [*flat(y, 'product'), *ys]
      if find(xs[0]) is find(ys[0]) or xs[0].size == ys[0].size:
        unify(xs.pop(0), ys.pop(0))
    elif x.size == y.size:
      unify(x, y)
    else:
      large, small = (x, y) if x.size > y.size else (y, x)
      if large.size % small.size or not factor(large, small.size):
        return False
      xs, ys = [x, *xs], [y, *ys]
  return True


def _distribute(s: Type, p: Type) -> bool:
  """Unifies a sum with a product."""
  head = flat(p, 'product')[0].size
  if factor(s, head):
    return _match([s], [p])
  terms = flat(s, 'sum')
  pieces = cut(p, _bounds(terms))
  for term, piece in zip(terms, pieces or (), strict=False):
    unify(term, piece)
  return pieces is not None


def _bounds(terms: Sequence[Type]) -> list[int]:
  return list(itertools.accumulate(t.size for t in terms))[:-1]


def fresh(shape: Sequence[int], *pins: str) -> tuple[Type, ...]:
  return tuple(Type(size, pins) for size in shape)


def shape(atom: Any) -> tuple[int, ...]:
  return getattr(atom.aval, 'shape', ())


def pin_all(value: Value, *pins: str) -> None:
  for axis in value.axes:
    pin(axis, *pins)


def same(values: Values) -> None:
  """Unifies values of one shape, axis by axis."""
  first, *others = values
  for value in others:
    for a, b in zip(first.axes, value.axes, strict=True):
      unify(a, b)


def tie(a: Any, b: Any) -> None:
  """Unifies the axes along which equal integers are positions."""
  if isinstance(a, Type) and isinstance(b, Type) and a.size == b.size:
    unify(a, b)
