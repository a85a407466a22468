"""The loop over the equations of a program, shared by all that read programs.

Each reading of a program assigns a *fact* to every value: which leaves it
holds, the numbers themselves, numbers with a scale of their own, or the groups
that its axes belong to. `interpret` is the loop; its ``step`` decides what an
equation does to facts. An equation is addressed by its path: the numbers of the
equations that lead to it from the outermost program, where the number of a
branch follows that of a `jax.lax.cond`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jax.tree_util import keystr

from lthjax._errors import describe, refuse

Path = tuple[int, ...]
Step = Callable[[jex.JaxprEqn, list[Any], Path], Sequence[Any]]

# Primitives that call one program once.
CALLS = (
  'checkpoint', 'closed_call', 'composite', 'custom_jvp_call',
  'custom_vjp_call', 'custom_vmap_call', 'jit', 'remat2',
)  # fmt: skip


def trace(f: Callable[..., Any], *args: Any) -> tuple[jex.ClosedJaxpr, Any]:
  """Returns the program of ``f(*args)``, and the structure of its result."""
  if not callable(f):
    raise TypeError(
      f'The function was {f!r}, but must be callable: pass the one that applies'
      ' the model, before its arguments.'
    )
  check_arguments(*args)
  try:
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
  except Exception as error:
    leaves = ', '.join(map(describe, jax.tree.leaves(args[1:])))
    raise ValueError(
      f'The function failed on {leaves or "these arguments"}, with'
      f' {type(error).__name__}: {error}. Pass what it takes, params first.'
    ) from error
  return closed, jax.tree.structure(shapes)


def check_arguments(*args: Any) -> None:
  """Raises if a program cannot take these arguments."""
  kinds = bool | int | float | complex
  faults = (
    f'argument {path[0].idx} has {type(x).__name__}'
    f' at {keystr(path[1:], simple=True, separator="/") or "its top"}'
    for path, x in jax.tree_util.tree_leaves_with_path(args)
    if isinstance(x, type)
    or not (
      isinstance(x, kinds) or (hasattr(x, 'shape') and hasattr(x, 'dtype'))
    )
  )
  refuse(
    faults,
    'A program takes trees of arrays or of `jax.ShapeDtypeStruct`, but {}. Bind'
    ' everything else beforehand, as in'
    ' `lambda params, x: model.apply(params, x, train=False)`.',
    TypeError,
  )


def interpret(
  program: jex.Jaxpr | jex.ClosedJaxpr,
  facts: Sequence[Any],
  step: Step,
  constant: Callable[[Any], Any] = lambda value: value,
  path: Path = (),
) -> list[Any]:
  """Takes facts about a program's arguments to facts about its results."""
  # `step(eqn, facts, path)` takes the facts about the inputs of an equation to
  # those about its outputs; for inner programs it calls `interpret` again.
  closed = isinstance(program, jex.ClosedJaxpr)
  jaxpr = program.jaxpr if closed else program
  consts = [constant(x) for x in program.consts] if closed else []
  variables = [*jaxpr.constvars, *jaxpr.invars]
  env = dict(zip(variables, [*consts, *facts], strict=True))

  def read(atom):
    return constant(atom.val) if isinstance(atom, jex.Literal) else env[atom]

  # A value is dropped after its last reader, so that memory is freed as in the
  # program itself; results are kept.
  kept = {atom for atom in jaxpr.outvars if not isinstance(atom, jex.Literal)}
  last = {
    atom: number
    for number, eqn in enumerate(jaxpr.eqns)
    for atom in eqn.invars
    if not isinstance(atom, jex.Literal) and atom not in kept
  }
  for number, eqn in enumerate(jaxpr.eqns):
    outs = step(eqn, [read(atom) for atom in eqn.invars], (*path, number))
    env.update(zip(eqn.outvars, outs, strict=True))
    for atom in eqn.invars:
      if not isinstance(atom, jex.Literal) and last.get(atom) == number:
        env.pop(atom, None)
  return [read(atom) for atom in jaxpr.outvars]


def inside(
  eqn: jex.JaxprEqn, path: Path
) -> list[tuple[Path, jex.Jaxpr | jex.ClosedJaxpr]]:
  """Returns the programs inside an equation, with their paths."""
  # The body of a call or a scan is at the path of the equation itself; several
  # programs, such as the branches of a `jax.lax.cond`, are numbered.
  programs = _programs(eqn)
  if len(programs) == 1 and eqn.primitive.name != 'cond':
    return [(path, programs[0])]
  return [((*path, number), each) for number, each in enumerate(programs)]


def _programs(eqn: jex.JaxprEqn) -> list[jex.Jaxpr | jex.ClosedJaxpr]:
  kinds = (jex.Jaxpr, jex.ClosedJaxpr)
  return [
    each
    for value in eqn.params.values()
    for each in (value if isinstance(value, tuple | list) else [value])
    if isinstance(each, kinds)
  ]


def equations(
  program: jex.Jaxpr | jex.ClosedJaxpr, path: Path = ()
) -> Iterator[tuple[Path, jex.JaxprEqn]]:
  """Iterates over the equations of a program at any depth, in order."""
  closed = isinstance(program, jex.ClosedJaxpr)
  for number, eqn in enumerate((program.jaxpr if closed else program).eqns):
    here = (*path, number)
    yield here, eqn
    for inner, each in inside(eqn, here):
      yield from equations(each, inner)


def loop_parts(
  eqn: jex.JaxprEqn, values: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
  """Splits the inputs of a scan into constants, carries and what it slices."""
  first = eqn.params['num_consts']
  last = first + eqn.params['num_carry']
  return [*values[:first]], [*values[first:last]], [*values[last:]]


# Domains whose facts are numbers share the following.


def bind(eqn: jex.JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
  """Computes the outputs of an equation."""
  params = eqn.primitive.get_bind_params(eqn.params)
  outs = eqn.primitive.bind(*inputs, **params)
  return list(outs) if eqn.primitive.multiple_results else [outs]


def scan(
  eqn: jex.JaxprEqn,
  values: Sequence[Any],
  run: Callable[[list[Any], Any], tuple[Sequence[Any], Any]],
  fed: Any = None,
) -> tuple[list[Any], Any]:
  """Runs a scan as a scan, with another body; returns stacked notes as well."""
  # Emitted again, never unrolled: the program does not grow with the number of
  # turns, and neither does its compile time. `run(inputs, slice of fed)` gives
  # outputs and notes; carries may be trees, such as numbers with an exponent.
  consts, carry, stacks = loop_parts(eqn, values)

  def body(carry, slices):
    xs, fed = slices
    outs, notes = run([*consts, *carry, *xs], fed)
    return [*outs[: len(carry)]], ([*outs[len(carry) :]], notes)

  options = {key: eqn.params[key] for key in ('length', 'reverse', 'unroll')}
  carry, (ys, notes) = jax.lax.scan(body, carry, (stacks, fed), **options)
  return [*carry, *ys], notes


def branch(
  eqn: jex.JaxprEqn,
  values: Sequence[Any],
  run: Callable[[int, jex.ClosedJaxpr, Sequence[Any]], Any],
) -> Any:
  """Runs a `jax.lax.cond` as one, with ``run(number, program, inputs)``."""
  index, *operands = values

  def make(number, program):
    return lambda *inputs: run(number, program, inputs)

  branches = [make(*each) for each in enumerate(eqn.params['branches'])]
  return jax.lax.switch(index, branches, *operands)
