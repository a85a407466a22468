"""Sparse products on the CPU against dense ones and other libraries'.

  python experiments/benchmarks/deploy.py
  taskset -c 0 python experiments/benchmarks/deploy.py  # on one core

Prints how many times faster than XLA's dense product each is, for a layer of
3072 inputs and 768 outputs and over densities and batches: the compiled kernels
of `lthjax.deploy` in float32 and int8, SciPy's CSR, and, where torch is
installed, its dense and CSR products. Then a training step on alive weights
only against masked dense training, and the bytes of each format. Ten minutes on
two CPU cores. All calls take turns, and the shortest of each counts; with one
core, CPU time is measured instead of wall-clock time.

Expected with AVX-512 on one core at 90 %: 5 times at batch 1, 5.5 at 8, 5.3 at
64, 4 at 256; training 3.3 times at 10 % and 5.5 times at 3.6 % alive.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse
import timing

import lthjax as lth
from lthjax import deploy, models

DENSITIES = (0.5, 0.25, 0.1, 0.05, 0.02)
BATCHES = (1, 4, 8, 64, 256)
SHAPE = (3072, 768)


def shortest(
  functions: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, float]:
  """Milliseconds of the shortest call of each, in turns."""
  one_core = len(os.sched_getaffinity(0)) == 1
  clock = time.process_time if one_core else time.perf_counter
  for function in functions.values():
    jax.block_until_ready(function())
  best = dict.fromkeys(functions, np.inf)
  for _ in range(repeats):
    for name, function in functions.items():
      start = clock()
      jax.block_until_ready(function())
      best[name] = min(best[name], clock() - start)
  return {name: 1e3 * value for name, value in best.items()}


def constant_fan_in(
  rng: np.random.Generator, shape: tuple[int, int], density: float
) -> np.ndarray:
  """Masks with as many alive weights in every column."""
  order = rng.random(shape).argsort(0).argsort(0)
  return order < round(density * shape[0])


def torch_products(
  kernel: np.ndarray, x: np.ndarray, torch: Any
) -> dict[str, Callable[[], Any]]:
  """Dense and CSR products of torch, if it is installed."""
  if torch is None:
    return {}
  activations = torch.from_numpy(x)
  dense = torch.from_numpy(np.ascontiguousarray(kernel.T))
  csr = dense.to_sparse_csr()
  columns = activations.T.contiguous()
  return {
    'torch dense': lambda: torch.nn.functional.linear(activations, dense),
    'torch CSR': lambda: csr @ columns,
  }


def products(repeats: int) -> None:
  """Prints times of one layer."""
  torch = optional_torch()
  rng = np.random.default_rng(0)
  dense_product = jax.jit(lambda x, w: x @ w)
  sparse_product = jax.jit(lambda x, w: deploy.linear(x, w))
  rows = []
  for density in DENSITIES:
    mask = constant_fan_in(rng, SHAPE, density)
    kernel = rng.normal(size=SHAPE).astype(np.float32) * mask
    params, masks = {'w': jnp.asarray(kernel)}, {'w': jnp.asarray(mask)}
    sparse = deploy.condense(params, masks)['w']
    int8 = deploy.condense(params, masks, int8=True)['w']
    csr = scipy.sparse.csr_matrix(kernel.T)
    for batch in BATCHES:
      x = rng.normal(size=(batch, SHAPE[0])).astype(np.float32)
      device, columns = jnp.asarray(x), np.ascontiguousarray(x.T)
      calls = {
        'XLA dense': lambda x=device, w=params['w']: dense_product(x, w),
        'lthjax': lambda x=device, s=sparse: sparse_product(x, s),
        'lthjax int8': lambda x=device, s=int8: sparse_product(x, s),
        'scipy CSR': lambda x=columns, s=csr: s @ x,
        **torch_products(kernel, x, torch),
      }
      if batch > 4:  # Only the lookup layout has 8-bit values.
        del calls['lthjax int8']
      found = shortest(calls, repeats)
      rows.append((density, batch, found))
  names = list(dict.fromkeys(name for _, _, found in rows for name in found))
  print(f'\n| sparsity | batch | {" | ".join(names)} |')
  print('|---' * (len(names) + 2) + '|')
  for density, batch, found in rows:
    dense = found['XLA dense']
    cells = [
      f'{found[name]:.3f} ms ({dense / found[name]:.1f})'
      if name in found
      else ''
      for name in names
    ]
    print(f'| {1 - density:.0%} | {batch} | {" | ".join(cells)} |')


def optional_torch() -> Any:
  """Returns torch, on as many threads as there are cores, or `None`."""
  try:
    import torch  # pyright: ignore
  except ImportError:
    print('torch is not installed, so its columns are left out.')
    return None
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  return torch


def training(repeats: int) -> None:
  """Prints times of a training step of LeNet-300-100, batch 60, Adam."""
  model = models.lenet_300_100(input_shape=(28, 28, 1))
  params, state = model.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.random((60, 28, 28, 1)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 10, 60))
  tx = optax.adam(1.2e-3)

  def apply(params, x):
    return model.apply(params, state, x)[0]

  def loss(logits):
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()

  print(
    '\n| alive | masked dense, ms | alive weights only, ms | times faster |'
  )
  print('|---|---|---|---|')
  for density in (0.2, 0.1, 0.036):
    masks = lth.prune(
      lth.scores.magnitude(params),
      lth.masks.full(params),
      sparsity=1 - density,
    )
    masked = lth.masks.apply(masks, params)
    held = lth.static(tx, masks)
    values, structure = deploy.split(
      deploy.condense(params, masks, lookup=False)
    )
    apply_sparse = deploy.sparse_apply(apply, params)

    @jax.jit
    def dense_step(params, opt_state, held=held):
      grads = jax.grad(lambda p: loss(apply(p, x)))(params)
      updates, opt_state = held.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), opt_state

    @jax.jit
    def sparse_step(values, opt_state, structure, apply_sparse=apply_sparse):
      grads = jax.grad(
        lambda v: loss(apply_sparse(deploy.join(v, structure), x))
      )(values)
      updates, opt_state = tx.update(grads, opt_state, values)
      return optax.apply_updates(values, updates), opt_state

    dense_state, sparse_state = held.init(masked), tx.init(values)
    found = shortest(
      {
        'dense': lambda p=masked, s=dense_state, f=dense_step: f(p, s),
        'sparse': lambda v=values, s=sparse_state, t=structure, f=sparse_step: (
          f(v, s, t)
        ),
      },
      10 * repeats,
    )
    ratio = found['dense'] / found['sparse']
    print(
      f'| {density:.1%} | {found["dense"]:.3f} | {found["sparse"]:.3f} |'
      f' {ratio:.1f} |'
    )


def sizes() -> None:
  """Prints megabytes of the layer in every format."""
  rng = np.random.default_rng(0)
  print('\n| sparsity | dense | tiles | lookup | int8 lookup | on disk |')
  print('|---|---|---|---|---|---|')
  for density in (0.5, 0.1, 0.02):
    mask = constant_fan_in(rng, SHAPE, density)
    params = {'w': jnp.asarray(rng.normal(size=SHAPE), jnp.float32)}
    masks = {'w': jnp.asarray(mask)}
    sparse = deploy.condense(params, masks, lookup=True)['w']
    int8 = deploy.condense(params, masks, lookup=True, int8=True)['w']
    tiles = sum(
      x.nbytes for x in (sparse.values, sparse.indices, sparse.starts)
    )
    lookup, small = (
      sum(x.nbytes for x in jax.tree.leaves(s.lookup)) for s in (sparse, int8)
    )
    disk = deploy.storage(params, masks).total[1]
    cells = [params['w'].nbytes, tiles, lookup, small, disk]
    row = ' | '.join(f'{cell / 2**20:.2f} MiB' for cell in cells)
    print(f'| {1 - density:.0%} | {row} |')


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(
    description=(__doc__ or '').split('\n', 1)[0]
  )
  parser.add_argument(
    '--repeats', type=int, default=30, help='calls of each, in turns'
  )
  repeats = parser.parse_args().repeats
  found = deploy.build_kernels()
  cores = len(os.sched_getaffinity(0))
  print(f'{timing.machine()}; {found.isa}; on {cores} of them')
  products(repeats)
  training(repeats)
  sizes()


if __name__ == '__main__':
  main()
