"""A walk over a program that keeps track of where the leaves are.

Every variable holds a `Weight`, if it holds entries of leaves, or `None`. What
an equation does to that is up to the rule for its primitive.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax.program._interpreter import Path, interpret


class Step(NamedTuple):
  """A rearrangement of entries on the way from a leaf to its use.

  Attributes:
    primitive: a primitive of JAX that moves, repeats or drops entries; or the
      function that makes a leaf a part of something larger.
    operands: what it takes besides the array.
    params: its parameters.
    output: which of its outputs, where there are several.
    batch: over how many leading axes to map it, one for each scan around.
  """

  primitive: Any
  operands: tuple[Any, ...]
  params: dict[str, Any]
  output: int | None
  batch: int

  def __call__(self, x: chex.Array) -> chex.Array:
    """Does to an array what the program does to the leaf."""
    call = getattr(self.primitive, 'bind', self.primitive)

    def run(x):
      y = call(x, *self.operands, **self.params)
      return y if self.output is None else y[self.output]

    for _ in range(self.batch):
      run = jax.vmap(run)
    return run(x)


class Use(NamedTuple):
  """A matmul or convolution, and a leaf that it multiplies with.

  Attributes:
    name: the leaf's name; `None` where no chosen leaf takes part, as where
      queries meet keys.
    primitive: ``'dot_general'`` or ``'conv_general_dilated'``; or ``'gather'``,
      a lookup in a table, which multiplies nothing.
    shapes: shapes of its two operands.
    runs: how often it runs: the product of the lengths of the scans around.
    multiply_adds: of all runs together.
    path: where it is in the program: the key of its visit in `run`.
    times: how many of them each entry of the leaf takes part in, as often as it
      occurs in the `view`.
    steps: what the program does to the leaf first, see `view`.
  """

  name: str | None
  primitive: str
  shapes: tuple[tuple[int, ...], ...]
  runs: int
  multiply_adds: int
  path: Path = ()
  times: int = 0
  steps: tuple[Step, ...] = ()

  def view(self, x: chex.Array) -> chex.Array:
    """Rearranges an array of the leaf's shape as the program does the leaf.

    Args:
      x: array of the leaf's shape, such as its mask or scores.

    Returns:
      What stands at the leaf's operand: in the shape of the operand, after a
      leading axis for each scan that walks over the leaf. It is zero in what
      belongs to other leaves, where several were concatenated.
    """
    for step in self.steps:
      x = step(x)
    return x


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
    scans: path and length of each loop that walks over one of the leading
      axes of what the steps of the parts give.
    repeated: whether entries were repeated along some axis.
    mixed: whether they were multiplied by another array.
    derived: whether they are rows chosen by indices, or norms: numbers that may
      serve as activations or scales, but whose use as a kernel is not known.
  """

  parts: tuple[Part, ...]
  scans: tuple[tuple[Path, int], ...] = ()
  repeated: bool = False
  mixed: bool = False
  derived: bool = False

  @property
  def name(self) -> str:
    """The names of the leaves."""
    return ' and '.join(part.name for part in self.parts)

  def same(self, other: 'Weight | None') -> bool:
    """Whether the other holds the same entries at the same places."""
    return other is not None and self[:2] == other[:2]

  def then(
    self, primitive: Any, operands: Any, params: Any, output: int | None = None
  ) -> 'Weight':
    """Returns the entries after another rearrangement."""
    step = Step(primitive, tuple(operands), params, output, len(self.scans))
    parts = (part._replace(steps=(*part.steps, step)) for part in self.parts)
    return self._replace(parts=tuple(parts))


Values = Sequence[Weight | None]
Rule = Callable[['Walk', jex.JaxprEqn, Values, Path], Values]


class Walk(NamedTuple):
  """A walk over a program, and what it has found so far.

  Attributes:
    rules: ``{primitive: rule}``, where ``rule(walk, eqn, values, path)`` tells
      what the outputs of an equation hold, given what its inputs hold.
    otherwise: the rule for all other primitives.
    uses: what `use` has noted.
    faults: what `lose` has noted.
    runs: how often the program runs.
  """

  rules: Mapping[str, Rule]
  otherwise: Rule
  uses: list[Use]
  faults: list[str]
  runs: int = 1

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
    weight: Weight | None,
    size: int,
    multiply_adds: int,
  ) -> None:
    """Notes that an equation multiplies with leaves, or with none.

    Args:
      eqn: the equation.
      path: of the equation.
      weight: what its kernel holds.
      size: number of entries of the kernel.
      multiply_adds: of one run; each entry takes part in equally many.
    """
    shapes = tuple(map(shape, eqn.invars))
    use = Use(
      name=None,
      primitive=eqn.primitive.name,
      shapes=shapes,
      runs=self.runs,
      multiply_adds=multiply_adds * self.runs,
      path=path,
    )
    if weight is None:
      self.uses.append(use)
      return
    walked = math.prod(length for _, length in weight.scans)
    times = use.multiply_adds // max(size * walked, 1)
    for part in weight.parts:
      use = use._replace(name=part.name, times=times, steps=part.steps)
      if len(weight.parts) > 1:
        entries = jnp.sum(use.view(jnp.ones(part.shape, bool)))
        use = use._replace(multiply_adds=times * int(entries))
      self.uses.append(use)

  def lose(self, eqn: jex.JaxprEqn, values: Values, why: str = '') -> Values:
    """Notes the leaves that cannot be followed through an equation."""
    if eqn.outvars:  # otherwise it prints or checks something
      self.faults.extend(
        f'{w.name} meets `{eqn.primitive.name}`{why}'
        for w in values
        if w and not w.derived
      )
    return [None] * len(eqn.outvars)


def shape(atom: Any) -> tuple[int, ...]:
  """Returns the shape of an input or output of an equation."""
  return atom.aval.shape
