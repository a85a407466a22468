"""Sparse activations of a trained decoder, by thresholds or by number."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from common import seeds
from common.language import Language
from lthjax import activations, trees

MethodName = Literal['uniform', 'greedy', 'top_k']
LABELS: dict[MethodName, str] = {
  'uniform': 'TEAL, uniform',
  'greedy': 'TEAL, greedy',
  'top_k': 'AbsTopK',
}
KERNELS = 'blocks/*kernel'
Rules = dict[str, Any]


def thresholds(
  task: Language,
  params: Any,
  tokens: jax.Array,
  how: MethodName,
  sparsity: float,
  step: float,
) -> dict[str, jax.Array]:
  """Thresholds of each kernel, ``[layers]``, block by block.

  The inputs of each block are those of the dense decoder.
  """
  model, found = task.model, []
  x = model.embed(params, tokens)
  for number in range(task.config.layers):
    block = seeds.one(params['blocks'], number)
    if how == 'greedy':
      found.append(
        activations.teal(
          model.block, block, x, sparsity=sparsity, step=step
        ).thresholds
      )
    else:
      found.append(
        activations.thresholds(model.block, block, x, sparsity=sparsity)
      )
    x = model.block(block, x)
  return {
    f'blocks/{name}': jnp.stack([each[name] for each in found])
    for name in found[0]
  }


@functools.cache
def by_threshold(apply: Callable[..., Any]) -> Callable[..., Any]:
  """The decoder with thresholds among its params, so that all share it."""

  def run(params, tokens):
    params = dict(params)
    return activations.sparsify(apply, params.pop('thresholds'))(params, tokens)

  return run


@functools.cache
def by_number(apply: Callable[..., Any], sparsity: float) -> Callable[..., Any]:
  """The decoder with a share of the activations of each token."""
  return activations.sparsify(apply, {KERNELS: largest(sparsity)})


@functools.cache
def largest(sparsity: float) -> Callable[[jax.Array], jax.Array]:
  def keep(x):
    count = x.shape[-1] - round(sparsity * x.shape[-1])
    return activations.abs_top_k(x, count)

  return keep


@functools.partial(jax.jit, static_argnums=(0, 1))
def _unread(apply, sparsity, rules, params, tokens) -> dict[str, jax.Array]:
  if sparsity is not None:
    rules = {KERNELS: largest(sparsity)}
  return activations.unread(apply, rules, params, tokens)


def unread(
  apply: Callable[..., Any],
  params: chex.ArrayTree,
  tokens: jax.Array,
  rules: Rules | None,
  sparsity: float,
) -> float:
  """The share of the weights of all kernels that a token does not read."""
  by_k = sparsity if rules is None else None
  shares = _unread(apply, by_k, rules, params, tokens)
  leaves = trees.by_name(params)
  sizes = {name: np.size(leaves[name]) for name in shares}
  total = sum(sizes[name] * float(shares[name].mean()) for name in shares)
  return total / sum(sizes.values())
