"""Training of networks whose dead channels are removed for real."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common import seeds
from common.classification import Classification
from lthjax import models, trees
from lthjax.training import TrainState
from methods.alive_only import milliseconds

STEPS = 20  # that are timed in a row


class Smaller:
  """Tickets that train on without the channels that they have lost.

  The networks of the seeds have widths of their own, so they train one after
  the other, each with the batches that it has in masked training.
  """

  def __init__(
    self,
    task: Classification,
    tx: optax.GradientTransformation,
    state: TrainState,
    channels: chex.ArrayTree,
    layers: Sequence[str],
    every: int,
  ):
    """Removes the channels; compiles nothing yet.

    Args:
      task: the dense network and its data.
      tx: the optimizer, without masks.
      state: masked state of all seeds, whose optimizer is ``lthjax.static(tx,
        masks)``.
      channels: which channels each seed keeps, as
        `lthjax.structure.channel_masks` says it.
      layers: the layers in their order.
      every: steps between evaluations.
    """
    count = len(jax.tree.leaves(channels)[0])
    each = state._replace(step=jnp.repeat(state.step, count))
    whole = [seeds.one(each, seed) for seed in range(count)]
    self.whole = whole[0]._replace(opt_state=whole[0].opt_state.inner_state)
    self.data, self.runs = task.dataset, []
    self.dense = task.with_model(task.model).trainer(
      tx, every=every, vmapped=False
    )
    for one, kept in zip(whole, seeds.unstack(channels), strict=True):
      small = without(one, kept, layers)
      init = small.params, small.model_state
      model = models.Model(lambda key, init=init: init, task.model.apply)
      own = task.with_model(model)
      trainer = own.trainer(tx, every=every, vmapped=False)
      best = trainer.init(small.key).best
      self.runs.append((own, trainer, small._replace(best=best)))

  def fit(
    self, until: int, every: int, report: Callable[[int, Any], None]
  ) -> None:
    """Trains all seeds, and reports their evaluations together."""
    now = int(self.whole.step)
    while now < until:
      now = min(until, (now // every + 1) * every)
      found: list[Any] = []

      def note(step, metrics, found=found):
        found.append(metrics)

      self.runs = [
        (own, t, t.fit(run, self.data, until=now, report=note))
        for own, t, run in self.runs
      ]
      if found:
        report(now, seeds.stack(found))

  def test(self) -> dict[str, list[Any]]:
    """What `Classification.test` finds, of all seeds."""
    found = []
    for own, _, run in self.runs:
      alone = [seeds.repeat(x, 1) for x in (run.params, run.model_state)]
      state = run._replace(
        params=alone[0], model_state=alone[1], diverged=run.diverged[None]
      )
      found.append(own.test(state))
    names = dict.fromkeys(name for one in found for name in one)
    return {name: [one.get(name, [None])[0] for one in found] for name in names}

  def milliseconds(self, start: int) -> dict[str, float]:
    """Milliseconds of a training step of the first seed, both ways."""
    _, trainer, run = self.runs[0]
    run, until = run._replace(step=jnp.int32(start)), start + STEPS
    dense = self.whole._replace(step=jnp.int32(start))

    def fit(trainer, state):
      return lambda: trainer.fit(state, self.data, until=until).params

    calls = {
      'dense': fit(self.dense, dense),
      'smaller': fit(trainer, run),
    }
    return milliseconds(calls, STEPS)


def without(
  state: TrainState, channels: chex.ArrayTree, layers: Sequence[str]
) -> TrainState:
  """The state of one seed without the channels that a ticket has lost.

  Optimizer slots and running statistics lose them as well.
  """
  whole: Any = state.model_state
  statistics = {k: x for k, x in whole.items() if k in layers}
  groups = lth.structure.chain((state.params, statistics), layers)
  alive = trees.prunable(channels)
  keeps = {
    name: alive[leaf]
    for name, group in groups.items()
    for member in group.members
    if (leaf := member.leaf.removeprefix('0/')) in alive
  }
  dense = jax.tree.structure(state.params)

  def is_dense(x):
    return jax.tree.structure(x) == dense

  def cut(x: Any, statistics: Any = statistics) -> Any:
    return lth.structure.cut((x, statistics), groups, keeps)

  masked: Any = state.opt_state
  slots = jax.tree.map(
    lambda x: cut(x)[0] if is_dense(x) else x,
    masked.inner_state,
    is_leaf=is_dense,
  )
  params, statistics = cut(state.params)
  return state._replace(
    params=params,
    opt_state=slots,
    model_state={**whole, **statistics},
  )
