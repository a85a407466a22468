"""Branches around a training step that leave it as cheap as a plain one.

A step that leaves the masks should read and write every array once, in place
where its buffers are donated. XLA copies an array, at many times the price of
the step, if it cannot prove that whoever reads the old values does so before
they are overwritten. What follows keeps its order provable.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import trees
from lthjax._late import Late
from lthjax.program import _interpreter

_FEW = 1024  # Arrays of so many entries are not worth saving.
_FEW_STEPS = 64  # An array of so few operations may be computed again.
# Operations whose entries depend on the same entries of what they are given.
_SINGLE = (
  'abs', 'add', 'add_any', 'and', 'bitcast_convert_type', 'cbrt', 'ceil',
  'clamp', 'convert_element_type', 'copy', 'div', 'eq', 'erf', 'exp', 'exp2',
  'expm1', 'floor', 'ge', 'gt', 'integer_pow', 'is_finite', 'le', 'log',
  'log1p', 'logistic', 'lt', 'max', 'min', 'mul', 'ne', 'neg', 'nextafter',
  'not', 'or', 'pow', 'reduce_precision', 'rem', 'reshape', 'round', 'rsqrt',
  'select_n', 'sign', 'sqrt', 'square', 'stop_gradient', 'sub', 'tanh', 'xor',
)  # fmt: skip
_CHEAP = {*_SINGLE, *_interpreter.CALLS, 'broadcast_in_dim'}


def choose(
  flag: Any,
  stay: Callable[[Any], Any],
  move: Callable[[Any], Any],
  carry: Any,
) -> Any:
  """Calls one of two functions, and pays for that one only."""
  if trees.is_traced(flag):
    return jax.lax.cond(flag, move, stay, carry)
  # Known without a trace; there a `cond` is compiled again at every call.
  return move(carry) if flag else stay(carry)


def copied(masks: Any, true: Any) -> Any:
  """Copies masks so that the originals may be overwritten meanwhile.

  A branch whose condition XLA does not know to be true is the one operation
  that it neither fuses nor removes.
  """
  if not trees.is_traced(true):
    return jax.tree.map(jnp.copy, masks)
  return jax.lax.cond(
    true,
    lambda masks: jax.tree.map(lambda m: m & true, masks),
    lambda masks: jax.tree.map(jnp.zeros_like, masks),  # the smallest program
    masks,
  )


def handed_out(masks: Any) -> Any:
  """Masks that a branch of `choose` returns as they are, as arrays of its own.

  XLA copies them there; nothing else does where nothing is traced.
  """
  if trees.is_traced(*jax.tree.leaves(masks)):
    return masks
  return jax.tree.map(jnp.copy, masks)


class TakesLate:
  """A function that moves masks, and takes a tree of `Late` params too."""

  def __init__(self, move: Callable[..., Any]):
    self._move = move

  def __call__(self, *args: Any) -> Any:
    return self._move(*args)


def leaf_by_leaf(f: Callable[[], Any], params: Any) -> Any:
  """Calls ``f() -> tree``, and returns `Late` leaves.

  Numbers that leaves share, such as the norm of all gradients, are computed at
  once. If leaves share arrays as well, as behind a condition, so is the tree.
  """
  program, treedef = _interpreter.trace(f)
  eqns, results = program.jaxpr.eqns, program.jaxpr.outvars
  maker = {v: i for i, eqn in enumerate(eqns) for v in eqn.outvars}
  costs = [sum(math.prod(v.aval.shape) for v in e.outvars) for e in eqns]
  known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))

  def needed(variables):
    todo, found = [*variables], set()
    while todo:
      v = todo.pop()
      if isinstance(v, jex.Var) and v not in known and maker[v] not in found:
        found.add(maker[v])
        todo += eqns[maker[v]].invars
    return sorted(found)

  def run(numbers, variables):
    env = dict(known)

    def read(v):
      return v.val if isinstance(v, jex.Literal) else env[v]

    for i in numbers:
      outs = _interpreter.bind(eqns[i], [read(v) for v in eqns[i].invars])
      env |= zip(eqns[i].outvars, outs, strict=True)
    return [read(v) for v in variables]

  few = [v for v in maker if math.prod(v.aval.shape) <= _FEW]
  known |= zip(few, run(needed(few), few), strict=True)
  each = [needed([v]) for v in results]
  if sum(costs[i] for own in each for i in own) > 2 * sum(costs):
    leaves = run(needed(results), results)
  else:
    leaves = [
      Late(x, functools.partial(_only, run, own, v), cheap=_cheap(eqns, own))
      for x, own, v in zip(jax.tree.leaves(params), each, results, strict=True)
    ]
  return jax.tree.unflatten(treedef, leaves)


def _cheap(eqns: Any, numbers: list[int]) -> bool:
  """Whether a leaf takes little more than reading what it is made of."""
  names = [eqns[i].primitive.name for i in numbers]
  return len(names) <= _FEW_STEPS and all(name in _CHEAP for name in names)


def _only(run: Callable[..., Any], numbers: list[int], v: Any) -> jax.Array:
  return run(numbers, [v])[0]


def run_settled(
  f: Callable[[], tuple[Any, Any]],
  settlers: Callable[[Any], Sequence[Callable[[Any], Any]]],
) -> tuple[Any, Any]:
  """Calls ``f() -> (updates, state)``, and settles every leaf of the state.

  ``settlers(structure of the state)`` returns a function for each leaf.

  Each leaf is settled once it is computed, so that the updates follow from what
  is kept. Otherwise XLA would compute the new state twice, once for either, and
  the second time from an old one that is overwritten, unless it is copied. A
  leaf on which updates of other weights depend, as in a norm, is settled last.
  """
  program, treedef = _interpreter.trace(f)
  settle = settlers(treedef.children()[1])
  first = len(program.jaxpr.outvars) - len(settle)
  results = program.jaxpr.outvars[first:]
  last = {v: i for i, v in enumerate(results) if isinstance(v, jex.Var)}
  mixed = _mixed(program.jaxpr, {v: 1 << i for v, i in last.items()})
  last = {v: i for v, i in last.items() if not mixed >> i & 1}
  settled = set()

  def step(eqn, inputs, path):
    del path
    outs = _interpreter.bind(eqn, inputs)
    for at, v in enumerate(eqn.outvars):
      if v in last:
        outs[at] = settle[last[v]](outs[at])
        settled.add(last[v])
    return outs

  values = _interpreter.interpret(program, [], step)
  for i in range(len(settle)):
    if i not in settled:  # a constant, or the same as another leaf
      values[first + i] = settle[i](values[first + i])
  return jax.tree.unflatten(treedef, values)


def _mixed(jaxpr: jex.Jaxpr, followed: dict[Any, int]) -> int:
  """Returns which values reach an operation on more than single entries.

  Args:
    jaxpr: a program.
    followed: ``{variable: bits}``, a bit for each value that is followed.
  """
  mixed = 0
  for eqn in jaxpr.eqns:
    each = [
      followed.get(v, 0) if isinstance(v, jex.Var) else 0 for v in eqn.invars
    ]
    bits = functools.reduce(operator.or_, each, 0)
    name = eqn.primitive.name
    inner = _interpreter.inside(eqn, ()) if bits else []
    if name in _interpreter.CALLS and len(inner) == 1:
      body: Any = inner[0][1]
      body = body.jaxpr if isinstance(body, jex.ClosedJaxpr) else body
      if len(body.invars) == len(each):
        mixed |= _mixed(body, dict(zip(body.invars, each, strict=True)))
      else:
        mixed |= bits
    elif name not in _SINGLE:
      mixed |= bits
    for v in eqn.outvars:
      followed[v] = followed.get(v, 0) | bits
  return mixed
