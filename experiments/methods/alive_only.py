"""Training of alive weights only, through sparse kernels."""

import contextvars
import functools
import os
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lthjax as lth
from common import seeds
from common.classification import Classification, plain_optimizer
from lthjax import deploy, models, trees
from lthjax.training import TrainState


class AliveOnly:
  """Trains networks without their dead weights.

  All masks with at most as many alive weights per layer as those given share
  one program. Seeds train beside each other, a core each, with the batches that
  they have in masked training. Where masks move, a move is a step of masked
  training, and the kernels are packed again after it.
  """

  def __init__(
    self,
    task: Classification,
    config: Any,
    masks: chex.ArrayTree,
    tx: optax.GradientTransformation | None = None,
  ):
    """Compiles nothing yet; ``masks`` are those of all seeds.

    Args:
      task: the network and its data.
      config: with ``eval_every``, and the optimizer if ``tx`` is not given.
      masks: masks of all seeds.
      tx: the optimizer, without masks.
    """
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
        f'{", ".join(dense)} cannot be trained on alive weights only, as'
        ' sparse_from and sparse_kernels ask for: this takes fully connected'
        ' networks.'
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
    tx = tx or plain_optimizer(config, seeds.one(masks, 0))
    self.every = config.eval_every
    self.trainer = self.task.trainer(tx, every=self.every, vmapped=False)
    # One program each, whatever the masks.
    self._gather = jax.jit(
      lambda dense, sparse: deploy.split(deploy.regather(dense, sparse))[0]
    )
    self._scatter = jax.jit(
      lambda values, structure: deploy.densify(deploy.join(values, structure))
    )

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
    """Trains a state of all seeds with masks that stay; returns it as such.

    The optimizer state that it returns is that of `lthjax.sparsify` as well.
    """
    count = len(jax.tree.leaves(masks)[0])
    each = state._replace(step=jnp.repeat(state.step, count))
    runs = [
      self.begin(*seeds.one((each, masks), seed)) for seed in range(count)
    ]
    first = now = int(state.step)
    while now < until:
      now = min(until, (now // self.every + 1) * self.every)
      runs, found = self._advance(runs, now, metrics=report is not None)
      if report is not None and found:
        report(now, seeds.stack(found))
    ended: list[Any] = [self.end(run) for run in runs]
    trained = seeds.stack(ended)
    old: Any = state.opt_state
    # What the last move brought to life trains by now.
    opt_state = old._replace(
      step=old.step + (now - first),
      inner_state=trained.opt_state,
      trained=None if old.trained is None else masks,
    )
    return trained._replace(step=runs[0].step, opt_state=opt_state)

  def _advance(
    self, runs: list[TrainState], now: int, *, metrics: bool
  ) -> tuple[list[TrainState], list[Any]]:
    """Trains all seeds until a step, and returns their metrics there."""

    def advance(run: TrainState) -> tuple[TrainState, list[Any]]:
      found: list[Any] = []
      note = (lambda step, metrics: found.append(metrics)) if metrics else None
      run = self.trainer.fit(run, self.task.dataset, until=now, report=note)
      return run, found

    done: list[tuple[TrainState, list[Any]]] = []
    if not self.task.compilations:  # Threads would compile it once each.
      done.append(advance(runs[0]))
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      started = [
        pool.submit(contextvars.copy_context().run, advance, run)
        for run in runs[len(done) :]
      ]
      done += [one.result() for one in started]
    return [run for run, _ in done], [x for _, found in done for x in found]

  def fit_moving(
    self,
    fit: Callable[..., TrainState],
    state: TrainState,
    moves: Iterable[int],
    *,
    until: int,
    report: Callable[..., None] | None = None,
  ) -> TrainState:
    """Trains a state of all seeds whose masks move.

    Args:
      fit: masked training, ``fit(state, until=, report=)``, which takes the
        steps that move masks.
      state: to begin with.
      moves: the steps at which masks move, in order.
      until: the last step.
      report: as in `lthjax.trainer`.

    Returns:
      The state at the last step, which has no best step.
    """
    now = int(state.step)
    for move in [*(m for m in moves if now < m <= until), None]:
      stop = until if move is None else move - 1
      if now < stop:
        masks = lth.get_masks(state.opt_state)
        state = self.fit(state, masks, until=stop, report=report)
      if move is not None:
        state = fit(state, until=move, report=report)
        now = move
    return state

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
      return self._gather(x, sparse)

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
    """The state of one seed with dense params and slots, zero where dead."""
    alike = jax.tree.structure(state.params)

    def is_values(x):
      return jax.tree.structure(x) == alike

    def scatter(x):
      return self._scatter(x, structure) if is_values(x) else x

    def dense(values, model_state):
      structure, model_state = model_state
      return self._scatter(values, structure), model_state

    own: Any = state.model_state
    structure, _ = own
    inner: Any = state.opt_state
    inner = jax.tree.map(scatter, inner, is_leaf=is_values)
    params, model_state = dense(state.params, state.model_state)
    best_params, best_state = dense(state.best.params, state.best.model_state)
    best = state.best._replace(params=best_params, model_state=best_state)
    return state._replace(
      params=params, model_state=model_state, best=best, opt_state=inner
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
