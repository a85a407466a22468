"""The biases that are added to what matmuls and convolutions compute."""

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from lthjax.program._interpreter import (
  CALLS,
  Path,
  inside,
  interpret,
  loop_parts,
)

_SAME = ('convert_element_type', 'copy', 'copy_p', 'name', 'stop_gradient')


class _Leaf(NamedTuple):
  """A leaf that makes up the last axes of a value."""

  name: str
  shape: tuple[int, ...]


class _Sum(NamedTuple):
  """A sum that contains what some equations compute, and nothing done to it.

  Attributes:
    terms: ``{path: the biases added so far}``.
  """

  terms: Mapping[Path, frozenset[str]]


def biases(
  closed: Any, leaves: Mapping[str, tuple[int, ...]], paths: Collection[Path]
) -> dict[Path, str]:
  """Finds the bias of each of some matmuls and convolutions.

  A change of the bias then has the effect of the same change in whatever the
  equation computes: the leaf is added to it before anything else reads it, and
  is used nowhere else.

  Args:
    closed: a program whose first arguments are the leaves.
    leaves: ``{name: shape}`` of the leaves, in order.
    paths: of the equations.

  Returns:
    ``{path: name of the bias}`` of those that have one.
  """
  search = _Search(frozenset(paths), {}, collections.Counter(), set())
  facts = [_Leaf(name, tuple(shape)) for name, shape in leaves.items()]
  others = [None] * (len(closed.in_avals) - len(facts))
  search.read(interpret(closed, [*facts, *others], search, _nothing))
  return {
    path: min(found)
    for path, names in search.found.items()
    if path not in search.doubled
    and (found := [n for n in names if search.used[n] == 1])
  }


def _nothing(value: Any) -> None:
  del value


class _Search(NamedTuple):
  """A walk over a program.

  Attributes:
    paths: of the equations whose biases are wanted.
    found: ``{path: the biases in all that is read of it}``.
    used: how often each leaf is read.
    doubled: equations whose results occur twice in one sum.
  """

  paths: frozenset[Path]
  found: dict[Path, frozenset[str]]
  used: collections.Counter[str]
  doubled: set[Path]

  def __call__(self, eqn: Any, facts: list[Any], path: Path) -> Sequence[Any]:
    """Returns what the outputs of an equation are."""
    name = eqn.primitive.name
    if path in self.paths:
      self.read(facts)
      return [_Sum({path: frozenset()})]
    if name in CALLS:
      ((here, program),) = inside(eqn, path)
      return interpret(program, facts, self, _nothing, here)
    if name == 'scan':
      return self._scan(eqn, facts, path)
    if name in _SAME:
      return facts
    out = getattr(eqn.outvars[0].aval, 'shape', ()) if eqn.outvars else ()
    if name in ('broadcast_in_dim', 'reshape') and self._stays(eqn, facts, out):
      return facts[:1]
    if name in ('add', 'add_any') and any(isinstance(f, _Sum) for f in facts):
      return [self._add(*facts)]
    if name == 'sub' and isinstance(facts[0], _Sum):
      self.read(facts[1:])
      return facts[:1]
    self.read(facts)
    return [None] * len(eqn.outvars)

  def read(self, facts: Sequence[Any]) -> None:
    """Notes what is read by anything but a sum."""
    for fact in facts:
      if isinstance(fact, _Leaf):
        self.used[fact.name] += 1
      elif isinstance(fact, _Sum):
        for path, names in fact.terms.items():
          self.found[path] = self.found.get(path, names) & names

  def _scan(self, eqn: Any, facts: list[Any], path: Path) -> list[Any]:
    """Walks the body once; each turn has its own slices of stacked leaves."""
    consts, carry, stacks = loop_parts(eqn, facts)
    self.read([*consts, *carry, *(x for x in stacks if isinstance(x, _Sum))])
    slices_ = [
      fact._replace(shape=fact.shape[1:]) if isinstance(fact, _Leaf) else None
      for fact in stacks
    ]
    ((here, program),) = inside(eqn, path)
    others = [None] * len([*consts, *carry])
    self.read(interpret(program, [*others, *slices_], self, _nothing, here))
    return [None] * len(eqn.outvars)

  def _stays(self, eqn: Any, facts: Sequence[Any], out: Any) -> bool:
    """Returns whether a leaf still makes up the last axes."""
    leaf = facts[0]
    if not isinstance(leaf, _Leaf):
      return False
    rank = len(leaf.shape)
    places = eqn.params.get('broadcast_dimensions')
    kept = tuple(out[len(out) - rank :]) == leaf.shape
    if places is not None and rank:
      last = tuple(range(len(out) - rank, len(out)))
      kept = kept and tuple(places[-rank:]) == last
    return kept and rank > 0

  def _add(self, a: Any, b: Any) -> _Sum:
    """Adds a bias, another such sum, or an activation."""
    a, b = (a, b) if isinstance(a, _Sum) else (b, a)
    if isinstance(b, _Sum):
      self.doubled.update(a.terms.keys() & b.terms.keys())
      return _Sum({**a.terms, **b.terms})
    self.read([b])
    more = {b.name} if isinstance(b, _Leaf) else set()
    return _Sum({path: names | more for path, names in a.terms.items()})
