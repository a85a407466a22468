"""Step sizes, of which a training takes the best on the validation part."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth


class Scaled(NamedTuple):
  """The state of an optimizer whose updates are multiplied by a number."""

  factor: jax.Array
  inner: Any


def scaled(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """Multiplies updates by a number in the state: all share a program."""

  def init(params):
    return Scaled(jnp.ones([]), tx.init(params))

  def update(updates, state, params=None):
    updates, inner = tx.update(updates, state.inner, params)
    updates = jax.tree.map(
      lambda u: (state.factor * u).astype(u.dtype), updates
    )
    return updates, Scaled(state.factor, inner)

  return optax.GradientTransformation(init, update)


def set_factor(opt_state: Any, factor: float) -> Any:
  """Replaces the number, wherever in the state of the optimizer it is."""

  def replaced(node):
    if isinstance(node, Scaled):
      return node._replace(factor=jnp.full_like(node.factor, factor))
    return node

  return jax.tree.map(
    replaced, opt_state, is_leaf=lambda node: isinstance(node, Scaled)
  )


def fit(
  trainer: lth.Trainer,
  state: Any,
  data: Any,
  *,
  rates: Sequence[float],
  until: int,
  evaluated: Any,
) -> tuple[Any, float]:
  """Trains at each multiple of the step size, and returns the best of them.

  The best has the lowest last validation loss, on average over the seeds; of
  one multiple there is nothing to choose. Evaluations of the best are reported.
  """
  best, diverged = None, None
  for rate in rates:
    curve: list[Any] = []

    def report(step, metrics, curve=curve):
      curve.append((step, metrics))

    tried = state._replace(opt_state=set_factor(state.opt_state, rate))
    try:
      found = trainer.fit(tried, data, until=until, report=report)
    except lth.training.DivergedError as error:
      diverged = error
      continue
    loss = np.inf
    if curve:
      last = np.asarray(curve[-1][1]['loss'])
      loss = np.inf if np.isnan(last).any() else float(last.mean())
    if best is None or loss < best[0]:
      best = loss, found, rate, curve
  if best is None:
    assert diverged is not None
    raise diverged
  _, found, rate, curve = best
  for step, metrics in curve:
    if evaluated is not None:
      evaluated(step, metrics)
  return found, rate
