"""Branches around a training step that leave it as cheap as a plain one.

A step that leaves the masks should read and write every array once, in place
where its buffers are donated. XLA copies an array, at many times the price of
the step, if it cannot prove that whoever reads the old values does so before
they are overwritten. What follows keeps its order provable.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from lthjax import trees
from lthjax.program import _interpreter


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
    lambda masks: jax.tree.map(jnp.logical_not, masks),
    masks,
  )


def run_settled(
  f: Callable[[], tuple[Any, Any]], settle: Sequence[Callable[[Any], Any]]
) -> tuple[Any, Any]:
  """Calls ``f() -> (updates, state)``, and settles every leaf of the state.

  Each leaf is settled once it is computed, so that the updates follow from what
  is kept. Otherwise XLA would compute the new state twice, once for either, and
  the second time from an old one that is overwritten, unless it is copied. The
  updates have to be the same either way where they are used.
  """
  program, treedef = _interpreter.trace(f)
  first = len(program.jaxpr.outvars) - len(settle)
  results = program.jaxpr.outvars[first:]
  last = {v: i for i, v in enumerate(results) if isinstance(v, jex.Var)}
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
