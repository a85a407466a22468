"""Sparse products on the CPU against dense ones and other libraries'.

  python experiments/benchmarks/deploy.py
  taskset -c 0 python experiments/benchmarks/deploy.py  # on one core
  python experiments/benchmarks/deploy.py --parts calls --repeats 100
  python experiments/benchmarks/deploy.py --parts products --densities 0.1

products  How many times faster than XLA's dense product each is, for a layer of
          3072 inputs and 768 outputs and over densities and batches: the
          compiled kernels of `lthjax.deploy` in float32, in int8 and for blocks
          of four neurons, SciPy's CSR, and, where torch is installed, its dense
          and CSR products. Five minutes.
training  A training step on alive weights only against masked dense training.
calls     Whole networks at 90 %: median and 95th percentile of a call.
sizes     Bytes of each format.

Networks take turns. Products and training steps do so too, with five calls in a
row, as servers and training loops make them: behind the first one, others have
not displaced its weights from the caches. The shortest counts. With one core,
CPU time is measured instead of wall-clock time. Ten minutes on two CPU cores in
all.

Expected with AVX-512 on one core at 90 %: 5 times at batch 1, 4 at 8, 6 at 64
and at 256; training 3.2 times at 10 % and 4.6 times at 3.6 % alive.
"""

import argparse
import itertools
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
from lthjax import deploy, evaluation

DENSITIES = (0.5, 0.25, 0.1, 0.05, 0.02)
BATCHES = (1, 4, 8, 64, 256)
SHAPE = (3072, 768)
ROW = 5  # Calls in a row.
SPIN = 0.01  # Seconds for which threads of torch spin behind a product.
# Widths of networks with ReLUs in between; the eight layers exceed caches.
NETWORKS = {
  'LeNet-300-100': (784, 300, 100, 10),
  'MLP': (3072, 1024, 1024, 10),
  'feed-forward layers': (768, 3072, 768),
  'eight layers': (3072, 768) * 4 + (3072,),
}


def shortest(
  functions: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, float]:
  """Milliseconds of the shortest call of each, in turns of several calls."""
  one_core = len(os.sched_getaffinity(0)) == 1
  clock = time.process_time if one_core else time.perf_counter
  for function in functions.values():
    jax.block_until_ready(function())
  best = dict.fromkeys(functions, np.inf)
  for _ in range(-(-repeats // ROW)):
    for name, function in functions.items():
      for _ in range(ROW):
        start = clock()
        jax.block_until_ready(function())
        best[name] = min(best[name], clock() - start)
      if 'torch' in name and not one_core:
        time.sleep(SPIN)  # They would take a core from whatever is next.
  return {name: 1e3 * value for name, value in best.items()}


def constant_fan_in(
  rng: np.random.Generator,
  shape: tuple[int, int],
  density: float,
  block: int = 1,
) -> np.ndarray:
  """Masks with as many alive weights in every column, or group of columns."""
  order = rng.random((shape[0], shape[1] // block)).argsort(0).argsort(0)
  return (order < round(density * shape[0])).repeat(block, axis=1)


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


def products(repeats: int, densities: tuple[float, ...] = DENSITIES) -> None:
  """Prints times of one layer."""
  torch = optional_torch()
  rng = np.random.default_rng(0)
  dense_product = jax.jit(lambda x, w: x @ w)
  sparse_product = jax.jit(lambda x, w: deploy.linear(x, w))
  rows = []
  for density in densities:
    mask = constant_fan_in(rng, SHAPE, density)
    blocky = constant_fan_in(rng, SHAPE, density, block=4)
    kernel = rng.normal(size=SHAPE).astype(np.float32) * mask
    params, masks = {'w': jnp.asarray(kernel)}, {'w': jnp.asarray(mask)}
    sparse = deploy.condense(params, masks)['w']
    int8 = deploy.condense(params, masks, int8=True)['w']
    blocks = deploy.condense(params, {'w': blocky}, blocks=True)['w']
    csr = scipy.sparse.csr_matrix(kernel.T)
    for batch in BATCHES:
      x = rng.normal(size=(batch, SHAPE[0])).astype(np.float32)
      device, columns = jnp.asarray(x), np.ascontiguousarray(x.T)
      calls = {
        'XLA dense': lambda x=device, w=params['w']: dense_product(x, w),
        'lthjax': lambda x=device, s=sparse: sparse_product(x, s),
        'lthjax int8': lambda x=device, s=int8: sparse_product(x, s),
        'lthjax blocks': lambda x=device, s=blocks: sparse_product(x, s),
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


def drawn(
  widths: tuple[int, ...], density: float, block: int = 1
) -> tuple[Any, Any]:
  """Params and masks of a network; 20 % of the output layer at least."""
  rng = np.random.default_rng(0)
  params, masks = {}, {}
  for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
    kernel = rng.normal(size=(inputs, outputs)) * (2 / inputs) ** 0.5
    params[f'layer{i}'] = {
      'kernel': jnp.asarray(kernel, jnp.float32),
      'bias': jnp.zeros(outputs),
    }
    share = density if outputs > 10 else max(density, 0.2)
    parts = block if outputs % block == 0 else 1
    mask = constant_fan_in(rng, (inputs, outputs), share, parts)
    masks[f'layer{i}'] = {'kernel': jnp.asarray(mask), 'bias': None}
  return params, masks


def network(params: Any, x: jax.Array) -> jax.Array:
  """Layers with ReLUs in between."""
  *hidden, last = params.values()
  for layer in hidden:
    x = jax.nn.relu(x @ layer['kernel'] + layer['bias'])
  return x @ last['kernel'] + last['bias']


def steps(
  widths: tuple[int, ...], batch: int, density: float, spare: float
) -> dict[str, Callable[[], Any]]:
  """Training steps with Adam: masked, and on alive weights only.

  Args:
    widths: of the network.
    batch: its size.
    density: alive share of the hidden layers.
    spare: how many times as much room as alive weights sparse kernels have.
  """
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.random((batch, widths[0])), jnp.float32)
  labels = jnp.asarray(rng.integers(0, widths[-1], batch))
  params, masks = drawn(widths, density)
  masked, tx = lth.masks.apply(masks, params), optax.adam(1.2e-3)
  held = lth.static(tx, masks)
  capacity = {
    name: round(spare * count)
    for name, count in lth.masks.alive_by_name(masks).items()
  }
  values, structure = deploy.split(
    deploy.condense(params, masks, capacity=capacity)
  )
  run = deploy.sparse_apply(network, params)

  def loss(logits):
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()

  @jax.jit
  def dense_step(params, opt_state):
    grads = jax.grad(lambda p: loss(network(p, x)))(params)
    updates, opt_state = held.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  @jax.jit
  def sparse_step(values, opt_state, structure):
    grads = jax.grad(lambda v: loss(run(deploy.join(v, structure), x)))(values)
    updates, opt_state = tx.update(grads, opt_state, values)
    return optax.apply_updates(values, updates), opt_state

  dense_state, sparse_state = held.init(masked), tx.init(values)
  return {
    'dense': lambda: dense_step(masked, dense_state),
    'sparse': lambda: sparse_step(values, sparse_state, structure),
  }


def training(repeats: int) -> None:
  """Prints times of training steps with Adam."""
  cases = [('LeNet-300-100', 60, d, 1.0) for d in (0.2, 0.1, 0.036)]
  cases += [('LeNet-300-100', 60, 0.036, 5.0), ('MLP', 128, 0.1, 1.0)]
  heads = ('network', 'batch', 'alive', 'room', 'masked dense, ms')
  print(
    f'\n| {" | ".join((*heads, "alive weights only, ms", "times faster"))} |'
  )
  print('|---' * 7 + '|')
  for name, batch, density, spare in cases:
    functions = steps(NETWORKS[name], batch, density, spare)
    found = shortest(functions, 3 * repeats)
    ratio = found['dense'] / found['sparse']
    print(
      f'| {name} | {batch} | {density:.1%} | {spare:g} |'
      f' {found["dense"]:.3f} | {found["sparse"]:.3f} | {ratio:.1f} |'
    )


def calls(repeats: int) -> None:
  """Prints the median and the 95th percentile of calls at 90 %."""
  kinds = ('dense', 'sparse', 'int8', 'blocks')
  print(f'\n| network | batch | {" | ".join(kinds)} |')
  print('|---' * (2 + len(kinds)) + '|')
  dense_call = jax.jit(network)
  for name, widths in NETWORKS.items():
    params, masks = drawn(widths, 0.1)
    masked = lth.masks.apply(masks, params)
    run = jax.jit(deploy.sparse_apply(network, params))
    given = {
      'sparse': deploy.condense(params, masks),
      'int8': deploy.condense(params, masks, int8=True),
      'blocks': deploy.condense(*drawn(widths, 0.1, block=4)),
    }
    for batch in (1, 64):
      x = jnp.ones((batch, widths[0]))
      functions = {'dense': lambda x=x, p=masked: dense_call(p, x)}
      for kind, p in given.items():
        if batch <= 4 or kind != 'int8':
          functions[kind] = lambda x=x, p=p, run=run: run(p, x)
      times = evaluation.seconds_in_turn(functions, repeats)
      cells = [''] * len(kinds)
      for kind, found in times.items():
        half, most = 1e3 * np.percentile(found[1:], (50, 95))
        cells[kinds.index(kind)] = f'{half:.3f} ({most:.3f}) ms'
      print(f'| {name} | {batch} | {" | ".join(cells)} |')


def sizes() -> None:
  """Prints megabytes of the layer in every format."""
  rng = np.random.default_rng(0)
  heads = ('dense', 'tiles', 'blocks', 'lookup', 'int8 lookup', 'on disk')
  print(f'\n| sparsity | {" | ".join(heads)} |')
  print('|---' * 7 + '|')
  for density in (0.5, 0.1, 0.02):
    mask = constant_fan_in(rng, SHAPE, density)
    params = {'w': jnp.asarray(rng.normal(size=SHAPE), jnp.float32)}
    masks = {'w': jnp.asarray(mask)}
    sparse = deploy.condense(params, masks, lookup=True)['w']
    int8 = deploy.condense(params, masks, lookup=True, int8=True)['w']
    blocky = {'w': constant_fan_in(rng, SHAPE, density, block=4)}
    blocks = deploy.condense(params, blocky, blocks=True)['w']
    tiles, in_blocks = (
      sum(x.nbytes for x in (s.values, s.indices, s.starts))
      for s in (sparse, blocks)
    )
    lookup, small = (
      sum(x.nbytes for x in jax.tree.leaves(s.lookup)) for s in (sparse, int8)
    )
    disk = deploy.storage(params, masks).total[1]
    cells = [params['w'].nbytes, tiles, in_blocks, lookup, small, disk]
    row = ' | '.join(f'{cell / 2**20:.2f} MiB' for cell in cells)
    print(f'| {1 - density:.0%} | {row} |')


PARTS = {'products': products, 'training': training, 'calls': calls}


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(
    description=(__doc__ or '').split('\n', 1)[0]
  )
  parser.add_argument(
    '--repeats', type=int, default=30, help='calls of each, in turns'
  )
  parser.add_argument(
    '--parts', nargs='+', choices=[*PARTS, 'sizes'], default=[*PARTS, 'sizes']
  )
  parser.add_argument(
    '--densities', nargs='+', type=float, default=DENSITIES, help='of products'
  )
  options = parser.parse_args()
  found = deploy.build_kernels()
  cores = len(os.sched_getaffinity(0))
  print(f'{timing.machine()}; {found.isa}; on {cores} of them')
  for name in options.parts:
    if name == 'products':
      products(options.repeats, options.densities)
    elif name in PARTS:
      PARTS[name](options.repeats)
    else:
      sizes()


if __name__ == '__main__':
  main()
