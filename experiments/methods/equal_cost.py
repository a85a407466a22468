"""Equal cost of training: how long, how wide, and what is seen on the way.

Costs are worked out without a network, for layers that use each weight once per
example, as fully connected ones do: a share of the weights is the same share
of the FLOPs.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import lthjax as lth
from common import seeds
from common.classification import Classification, image_shape
from lthjax import accounting, data, models, trees
from methods.sparse import METHODS, Cost, MethodName, Plan

ROUNDS = 8  # as the cost of a step may depend on how many there are


def relative_cost(name: MethodName, plan: Plan) -> float:
  """Cost of a training step, as a share of a dense one."""
  forward = Cost(1.0, 1 - plan.sparsity, at=lambda sparsity: 1 - sparsity)
  return METHODS[name].cost(forward, plan) / accounting.step_cost.dense(1.0)


def steps_of_equal_cost(
  name: MethodName,
  plan_of: Callable[[int], Plan],
  dense_steps: int,
  longest: float,
) -> int:
  """As many steps as cost what the dense network's cost, up to a multiple."""
  steps = dense_steps
  for _ in range(ROUNDS):
    multiple = min(longest, 1 / relative_cost(name, plan_of(steps)))
    steps = round(multiple * dense_steps)
  return steps


def small_dense(
  task: Classification, model: str, sparsity: float
) -> Classification:
  """The same data for the widest network with at most as many weights."""
  build: Callable[..., models.Model] = getattr(models, model)
  shape, classes = image_shape(task.dataset), data.num_classes(task.dataset)

  def network(width: float) -> models.Model | None:
    try:
      return build(shape, classes=classes, width=width)
    except ValueError:  # So narrow that a layer has no units.
      return None

  def weights(network: models.Model | None) -> int:
    if network is None:
      return 0
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return count_prunable(params)

  budget = round((1 - sparsity) * count_prunable(task.params))
  narrow, wide = 0.0, 1.0
  for _ in range(20):
    middle = (narrow + wide) / 2
    if weights(network(middle)) <= budget:
      narrow = middle
    else:
      wide = middle
  if (found := network(narrow) if narrow else None) is None:
    raise ValueError(
      f'sparsities had {sparsity}, but no {model} has so few weights. Leave'
      ' small_dense out, or take a lower sparsity.'
    )
  return task.with_model(found)


def count_prunable(params: chex.ArrayTree) -> int:
  """How many weights may be pruned."""
  masks = jax.eval_shape(lth.masks.full, params)
  return sum(math.prod(x.shape) for x in trees.prunable(masks).values())


class Exploring(NamedTuple):
  """State of `exploring`."""

  explored: Any  # the weights that were alive at any step
  inner_state: optax.OptState


def exploring(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Notes which weights an optimizer with masks has ever kept alive."""
  inner = optax.with_extra_args_support(inner)

  def init(params):
    state = inner.init(params)
    return Exploring(accounting.itop_init(lth.get_masks(state)), state)

  def update(updates, state, params=None, **extra_args):
    updates, inner_state = inner.update(
      updates, state.inner_state, params, **extra_args
    )
    masks = lth.get_masks(inner_state)
    explored = accounting.itop_update(state.explored, masks)
    return updates, Exploring(explored, inner_state)

  return optax.GradientTransformationExtraArgs(init, update)


def shares_explored(opt_state: Any, params: chex.ArrayTree) -> list[float]:
  """The share of the weights of a network that each seed has explored."""
  return [
    sum(lth.masks.alive_by_name(one).values()) / count_prunable(params)
    for one in seeds.unstack(opt_state.explored)
  ]


class Rated(NamedTuple):
  """State of `rated`."""

  rate: jax.Array


def rated() -> optax.GradientTransformation:
  """Multiplies updates by a rate in the state, so that runs share a program."""

  def init(params):
    del params
    return Rated(jnp.float32(1))

  def update(updates, state, params=None):
    del params
    return jax.tree.map(lambda x: x * state.rate, updates), state

  return optax.GradientTransformation(init, update)
