"""The cost of statistics and of pruning a decoder, in forward passes.

  python experiments/benchmarks/calibration.py

Takes ten minutes on two CPU cores. The goals: capture of squares at most 1.15
of a forward pass, of Gram matrices at most 1.15 and the share of their
multiply-adds; Wanda at most 1.5 of the capture of squares; SparseGPT of one
matrix at least three times as fast as its reference loop in PyTorch, with one
thread or all, if that is installed; and programs of 30 scanned layers compile
in at most 1.3 of the time of those of 3. Swaps have no goal: they are timed
because they take longest.
"""

import functools
import importlib.util
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing

import lthjax as lth
from lthjax import models

REPEATS = 7
MOST = 50  # swaps per output


def config(layers: int, width: int = 256) -> models.LlamaConfig:
  """Returns a decoder of the proportions of SmolLM2."""
  return models.LlamaConfig(
    vocabulary=512,
    width=width,
    layers=layers,
    heads=width // 32,
    key_value_heads=width // 64,
    head_dim=32,
    mlp=3 * width,
    tied=True,
  )


def captures() -> None:
  """Prints the cost of calibration and pruning."""
  its = config(6)
  model = models.llama(its)
  params = model.init(jax.random.key(0))
  tokens = jax.random.randint(jax.random.key(1), (8, 128), 0, its.vocabulary)
  calls = {'apply': model.hidden, 'where': 'blocks/*'}

  def calibrate(stat):
    return lth.calibrate(
      calls['apply'], params, tokens, stat=stat, where=calls['where']
    ).sums

  def prune(rule):
    return lth.prune_program(
      calls['apply'], params, tokens, rule=rule, where=calls['where']
    ).params

  forward = jax.jit(model.hidden)
  found = timing.shortest(
    {
      'forward pass': lambda: forward(params, tokens),
      'squares': lambda: calibrate(lth.stats.squares),
      'Gram matrices': lambda: calibrate(lth.stats.gram),
      'Wanda': lambda: prune(lth.rules.wanda(0.5)),
      'SparseGPT': lambda: prune(lth.rules.sparse_gpt(0.5)),
    },
    REPEATS,
  )
  base, squares = found['forward pass'], found['squares']
  share = gram_share(its, tokens.shape[1])
  goals = {
    'squares': f'{squares / base:.2f} of forward; at most 1.15',
    'Gram matrices': f'{found["Gram matrices"] / base:.2f} of forward; at most'
    f' {1.15 + share:.2f}',
    'Wanda': f'{found["Wanda"] / squares:.2f} of squares; at most 1.5',
    'SparseGPT': f'{found["SparseGPT"] / base:.1f} of forward',
  }
  print('| what | ms | ratio and goal |\n|---|---|---|')
  for name, each in found.items():
    print(f'| {name} | {each:.1f} | {goals.get(name, "")} |', flush=True)


def gram_share(its: models.LlamaConfig, time: int) -> float:
  """Multiply-adds of the Gram matrices, as a share of a forward pass."""
  heads = its.heads * its.head_dim
  pairs = its.key_value_heads * its.head_dim
  width, mlp = its.width, its.mlp
  kernels = width * (2 * heads + 2 * pairs + 3 * mlp)
  grams = 2 * width**2 + heads**2 + mlp**2
  return grams / (kernels + 2 * time * heads)


def matrices() -> None:
  """Prints the cost of SparseGPT beside that of the reference loop."""
  torch: Any = None
  if importlib.util.find_spec('torch') is None:
    print('\nWithout PyTorch there is no reference loop: `pip install torch`.')
  else:
    torch = importlib.import_module('torch')
  print('\n| inputs x outputs | SparseGPT, ms | reference, ms | times |')
  print('|---|---|---|---|')
  prune = jax.jit(lth.rules.sparse_gpt(0.5), static_argnums=0)
  for depth, width in ((576, 576), (576, 1536), (1536, 576)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4 * depth, depth), np.float32)
    kernel = rng.standard_normal((depth, width), np.float32)
    gram, alive = x.T @ x, np.ones(kernel.shape, bool)
    given = jax.device_put((kernel, gram, alive))
    calls: Any = {'ours': functools.partial(prune, 'w', *given)}
    if torch is not None:
      both = torch.tensor(kernel.T.copy()), torch.tensor(gram)
      # On a busy machine, threads that wait for each other are slower than one.
      for threads in {1, os.cpu_count() or 1}:
        calls[str(threads)] = functools.partial(
          reference, torch, threads, *both
        )
    found = timing.shortest(calls, REPEATS)
    ours = found.pop('ours')
    other = min(found.values(), default=None)
    rest = '| | |' if other is None else f'| {other:.0f} | {other / ours:.1f} |'
    print(f'| {depth} x {width} | {ours:.0f} {rest}', flush=True)


def exchanges() -> None:
  """Prints the cost of swaps."""
  print('\n| swaps, inputs x outputs | s | microseconds each |\n|---|---|---|')
  swap = jax.jit(functools.partial(lth.rules.swap, most=MOST))
  for depth, width in ((576, 576), (576, 1536), (1536, 576)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4 * depth, depth), np.float32)
    x += rng.standard_normal(depth, np.float32)  # So that inputs are related.
    kernel = rng.standard_normal((depth, width), np.float32)
    gram = x.T @ x
    rest = jnp.diagonal(jnp.asarray(gram)), jnp.ones(kernel.shape, bool)
    keep = lth.rules.wanda(0.5)('w', jnp.asarray(kernel), *rest).keep
    given = jax.device_put((kernel, keep, gram))
    found = timing.shortest({'ours': lambda given=given: swap(*given)}, 2)
    gone = np.asarray(keep) & ~np.asarray(swap(*given))
    each = 1e3 * found['ours'] / max(gone.sum(), 1)
    cost = f'{found["ours"] / 1e3:.1f} | {each:.0f}'
    print(f'| {depth} x {width} | {cost} |', flush=True)


def reference(torch: Any, threads: int, weights: Any, gram: Any) -> Any:
  """SparseGPT as its algorithm is written, column by column."""
  torch.set_num_threads(threads)
  weights, hessian = weights.clone(), gram.clone()
  depth, block = weights.shape[1], 128
  diagonal = torch.arange(depth)
  hessian[diagonal, diagonal] += 0.01 * torch.mean(torch.diag(hessian))
  inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
  upper = torch.linalg.cholesky(inverse, upper=True)
  for first in range(0, depth, block):
    last = min(first + block, depth)
    part, corner = weights[:, first:last].clone(), upper[first:last, first:last]
    scores = part**2 / torch.diag(corner).reshape(1, -1) ** 2
    limit = torch.sort(scores.flatten())[0][scores.numel() // 2]
    dead = scores <= limit
    new, errors = torch.zeros_like(part), torch.zeros_like(part)
    for i in range(last - first):
      column = part[:, i]
      kept = column.clone()
      kept[dead[:, i]] = 0
      new[:, i] = kept
      error = (column - kept) / corner[i, i]
      part[:, i:] -= error.unsqueeze(1).matmul(corner[i, i:].unsqueeze(0))
      errors[:, i] = error
    weights[:, first:last] = new
    weights[:, last:] -= errors.matmul(upper[first:last, last:])
  return weights.numpy()


def compile_times() -> None:
  """Prints the time to compile programs of 3 and of 30 scanned layers."""
  tokens = jnp.zeros((2, 16), jnp.int32)
  rules = {
    'Wanda': lth.rules.wanda(0.5),
    'SparseGPT': lth.rules.sparse_gpt(0.5),
  }
  found: dict[str, list[float]] = {}
  for layers in (3, 30):
    its = config(layers, 64)
    model = models.llama(its)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def squares(params, tokens, model=model):
      return lth.calibrate(model.hidden, params, tokens, where='blocks/*')

    calls = {'squares': squares} | {
      name: functools.partial(pruned, model, rule)
      for name, rule in rules.items()
    }
    for name, call in calls.items():
      best = float('inf')
      for _ in range(3):
        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(call).lower(params, tokens).compile()
        best = min(best, time.perf_counter() - start)
      found.setdefault(name, []).append(best)
  print('\n| program | 3 layers, s | 30 layers, s | ratio, at most 1.3 |')
  print('|---|---|---|---|')
  for name, (few, many) in found.items():
    print(f'| {name} | {few:.2f} | {many:.2f} | {many / few:.2f} |')


def pruned(model: models.Decoder, rule: lth.rules.Rule, params, tokens) -> Any:
  """Prunes the blocks of a decoder."""
  return lth.prune_program(
    model.hidden, params, tokens, rule=rule, where='blocks/*'
  ).params


def main() -> None:
  """Prints all tables."""
  print(f'{timing.machine()}; the shortest of {REPEATS} calls\n')
  captures()
  matrices()
  exchanges()
  compile_times()


if __name__ == '__main__':
  main()
