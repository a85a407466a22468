"""Training of alive weights only, through sparse kernels."""

import functools
import time
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from common import seeds
from common.classification import Classification, plain_optimizer
from lthjax import deploy, models, trees
from lthjax.training import TrainState


class AliveOnly:
  """Trains networks whose masks stay, without their dead weights.

  All masks with at most as many alive weights per layer as those given share
  one program. Seeds train one after the other, each with the batches that it
  has in masked training.
  """

  def __init__(self, task: Classification, config: Any, masks: chex.ArrayTree):
    """Compiles nothing yet; ``masks`` are those of all seeds."""
    counts = {
      name: np.asarray(mask).reshape(len(mask), -1).sum(1)
      for name, mask in trees.prunable(masks).items()
    }
    self.capacity = {name: int(count.max()) for name, count in counts.items()}
    self.params = task.params
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), task.params)
    sparse = self.condense(zeros, seeds.one(masks, 0))
    leaves = {
      trees.path_name(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(
        sparse, is_leaf=deploy.is_sparse
      )
    }
    dense = [name for name in counts if not deploy.is_sparse(leaves[name])]
    if dense:
      raise ValueError(
        f'sparse_from was given, but {", ".join(dense)} cannot be trained on'
        ' alive weights only: this takes fully connected networks.'
      )
    first, structure = deploy.split(sparse)
    state = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), task.model_state
    )
    runs = {
      train: deploy.sparse_apply(
        functools.partial(task.model.apply, train=train), task.params
      )
      for train in (False, True)
    }

    def apply(values, model_state, x, *, train=False):
      structure, state = model_state
      params = deploy.join(values, structure)
      logits, state = runs[train](params, state, x)
      return logits, (structure, state)

    model = models.Model(lambda key: (first, (structure, state)), apply)
    self.task = task.with_model(model)
    tx = plain_optimizer(config, seeds.one(masks, 0))
    self.every = config.eval_every
    self.trainer = self.task.trainer(tx, every=self.every, vmapped=False)

  def condense(self, params: chex.ArrayTree, masks: chex.ArrayTree) -> Any:
    return deploy.condense(
      params, masks, max_density=1.0, lookup=False, capacity=self.capacity
    )

  def fit(
    self,
    state: TrainState,
    masks: chex.ArrayTree,
    *,
    until: int,
    report: Callable[..., None] | None = None,
  ) -> TrainState:
    """Trains a state of all seeds with masks in it; returns it as such."""
    count = len(jax.tree.leaves(masks)[0])
    each = state._replace(step=jnp.repeat(state.step, count))
    runs = [
      self.begin(*seeds.one((each, masks), seed)) for seed in range(count)
    ]
    now = int(state.step)
    while now < until:
      now = min(until, (now // self.every + 1) * self.every)
      found: list[Any] = []

      def note(step, metrics, found=found):
        found.append(metrics)

      runs = [
        self.trainer.fit(
          run, self.task.dataset, until=now, report=report and note
        )
        for run in runs
      ]
      if report is not None and found:
        report(now, seeds.stack(found))
    ended: list[Any] = [self.end(run) for run in runs]
    trained = seeds.stack(ended)
    return trained._replace(step=runs[0].step, opt_state=state.opt_state)

  def begin(self, state: TrainState, masks: chex.ArrayTree) -> TrainState:
    """The state of one seed, with slots for alive weights alone."""
    sparse = self.condense(state.params, masks)
    values, structure = deploy.split(sparse)
    dense = jax.tree.structure(state.params)

    def is_dense(x):
      return jax.tree.structure(x) == dense

    def gather(x):
      if not is_dense(x):
        return x
      return deploy.split(deploy.regather(x, sparse))[0]

    inner: Any = state.opt_state
    inner = jax.tree.map(gather, inner.inner_state, is_leaf=is_dense)
    fresh = self.trainer.init(state.key)
    model_state = structure, state.model_state
    best = fresh.best._replace(params=values, model_state=model_state)
    return fresh._replace(
      step=state.step,
      params=values,
      opt_state=inner,
      model_state=model_state,
      key=state.key,
      best=best,
      diverged=state.diverged,
    )

  def end(self, state: TrainState) -> TrainState:
    """The state of one seed with dense params, zero where they are dead."""

    def dense(values, model_state):
      structure, model_state = model_state
      return deploy.densify(deploy.join(values, structure)), model_state

    params, model_state = dense(state.params, state.model_state)
    best_params, best_state = dense(state.best.params, state.best.model_state)
    best = state.best._replace(params=best_params, model_state=best_state)
    return state._replace(
      params=params, model_state=model_state, best=best, opt_state=None
    )


def milliseconds(
  calls: dict[str, Callable[[], Any]], steps: int, turns: int = 3
) -> dict[str, float]:
  """Milliseconds per step of the shortest of several trainings, in turns."""
  best = dict.fromkeys(calls, float('inf'))
  for turn in range(turns + 1):
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      if turn:  # The first one may compile.
        best[name] = min(best[name], time.perf_counter() - start)
  return {name: 1e3 * seconds / steps for name, seconds in best.items()}
