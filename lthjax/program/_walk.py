"""A walk over a program that tracks the leaves.

A variable that holds entries of leaves has a `Weight`, any other has `None`.
The rule for a primitive decides what its equations do to them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lthjax.program._interpreter import Path, interpret
from lthjax.program._use import Loop, Step, Use


class Part(NamedTuple):
  """The entries of one leaf in a variable.

  Attributes:
    name: the leaf's name.
    shape: the leaf's shape.
    steps: how its entries were rearranged.
  """

  name: str
  shape: tuple[int, ...]
  steps: tuple[Step, ...] = ()


class Weight(NamedTuple):
  """What a variable of the program holds of the leaves.

  Attributes:
    parts: the entries; several leaves, if they were concatenated.
    scans: the loops that walk over the leading axes of what the steps of the
      parts give.
    repeated: whether entries were repeated along some axis.
    mixed: whether they were multiplied by another array.
    exact: whether they were only moved and cast.
    derived: whether they are rows picked by indices, or norms: numbers that can
      be activations or scales, but cannot be followed as kernels.
  """

  parts: tuple[Part, ...]
  scans: tuple[Loop, ...] = ()
  repeated: bool = False
  mixed: bool = False
  exact: bool = True
  derived: bool = False

  @property
  def name(self) -> str:
    """The names of the leaves."""
    return ' and '.join(part.name for part in self.parts)

  def same(self, other: 'Weight | None') -> bool:
    """Whether the other holds the same entries at the same places."""
    return other is not None and self[:2] == other[:2]

  def then(
    self,
    primitive: Any,
    operands: Any,
    params: Any = None,
    output: int | None = None,
    batch: int | None = None,
  ) -> 'Weight':
    """Returns the entries after another rearrangement."""
    batch = len(self.scans) if batch is None else batch
    step = Step(primitive, tuple(operands), params or {}, output, batch)
    parts = (part._replace(steps=(*part.steps, step)) for part in self.parts)
    return self._replace(parts=tuple(parts))


Values = Sequence[Weight | None]
Rule = Callable[['Walk', jex.JaxprEqn, Values, Path], Values]


class Walk(NamedTuple):
  """A walk over a program, and what it has found so far.

  Attributes:
    rules: ``{primitive: rule}``, where ``rule(walk, eqn, values, path)``
      returns what the outputs of an equation hold, given what its inputs hold.
    otherwise: the rule for all other primitives.
    uses: what `use` has noted.
    faults: what `lose` has noted.
    loops: the loops around.
    idle: number of devices that compute the same.
  """

  rules: Mapping[str, Rule]
  otherwise: Rule
  uses: list[Use]
  faults: list[str]
  loops: tuple[Loop, ...] = ()
  idle: int = 1

  def __call__(self, program: Any, values: Values, path: Path = ()) -> Values:
    """Returns what the outputs hold, given what the inputs hold."""

    def step(eqn, values, path):
      rule = self.rules.get(eqn.primitive.name, self.otherwise)
      return rule(self, eqn, values, path)

    return interpret(program, values, step, lambda constant: None, path)

  def use(
    self,
    eqn: jex.JaxprEqn,
    path: Path,
    multiply_adds: int,
    weight: Weight | None = None,
    **roles: Any,
  ) -> None:
    """Notes that an equation multiplies with leaves, or with none.

    Args:
      eqn: the equation.
      path: of the equation.
      multiply_adds: number per run, the same for each entry of the kernel.
      weight: what its kernel holds.
      **roles: fields of the use about its operand.
    """
    runs = math.prod(loop.length for loop in self.loops) // self.idle
    use = Use(
      name=None,
      primitive=eqn.primitive.name,
      shapes=tuple(map(shape, eqn.invars[:2])),
      runs=runs,
      multiply_adds=multiply_adds * runs,
      paths=(path,),
      loops=self.loops,
      **roles,
    )
    if weight is None:
      self.uses.append(use)
      return
    walked = math.prod(loop.length for loop in weight.scans)
    entries = max(math.prod(use.shapes[use.operand]) * walked, 1)
    whole, rest = divmod(use.multiply_adds, entries)
    times = whole if not rest else use.multiply_adds / entries
    use = use._replace(scans=weight.scans, exact=weight.exact, times=times)
    for part in weight.parts:
      use = use._replace(name=part.name, shape=part.shape, steps=part.steps)
      if len(weight.parts) > 1:
        number = round(times * _entries(use))
        use = use._replace(multiply_adds=number)
      self.uses.append(use)

  def lose(self, eqn: jex.JaxprEqn, values: Values, why: str = '') -> Values:
    """Notes the leaves that cannot be followed through an equation."""
    if eqn.outvars:  # Otherwise, it prints or checks something.
      self.faults.extend(
        f'{w.name} meets `{eqn.primitive.name}`{why}'
        for w in values
        if w and not w.derived
      )
    return [None] * len(eqn.outvars)


def _entries(use: Use) -> int:
  """Counts the entries of a leaf at its operand, even while JAX traces."""
  with jax.ensure_compile_time_eval():
    # On the host, where large counts do not wrap around as in int32.
    entries = np.asarray(use.view(jnp.ones(use.shape, bool)))
    return int(np.count_nonzero(entries))


def shape(atom: Any) -> tuple[int, ...]:
  """Returns the shape of an input or output of an equation."""
  return atom.aval.shape
