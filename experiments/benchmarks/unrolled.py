"""Size of the compiled training step of an unrolled model.

  python experiments/benchmarks/unrolled.py

A decoder with twelve blocks that are not scanned: 84 kernels of three shapes.
The lines of the optimized program grow with the number of kernels, unless
masks of equal shape move together. The goals: RigL at most twice the plain
program, and `init` within three seconds. Takes five minutes on two CPU cores,
nearly all of it in the compiler.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
import timing

import lthjax as lth

BLOCKS = 12
WIDTH, HEADS, HIDDEN, TOKENS = 64, 4, 256, 16


def optimizers() -> dict[str, optax.GradientTransformation]:
  """Adam alone and under each of the methods, at 80 % sparsity."""
  plain = optax.adam(1e-3)
  masks = lth.random_masks(jax.random.key(0), sparsity=0.8)
  often: dict[str, Any] = {'update_every': 100, 'stop_step': 10_000}
  nm = lth.patterns.NM(2, 4)
  return {
    'plain': plain,
    'static': lth.static(plain, masks),
    'gradual, 2:4': lth.gradual(plain, pattern=nm, **often),
    'gradual': lth.gradual(plain, sparsity=0.8, **often),
    'top_kast': lth.top_kast(
      plain, sparsity=0.8, backward_sparsity=0.5, **often
    ),
    'rigl': lth.rigl(plain, masks, **often),
    'srigl': lth.srigl(plain, masks, **often),
  }


def draw(blocks: int = BLOCKS) -> dict[str, Any]:
  """Params of the decoder, one leaf for each kernel."""
  shapes = {
    **dict.fromkeys(('query', 'key', 'value', 'out'), (WIDTH, WIDTH)),
    **dict.fromkeys(('gate', 'up'), (WIDTH, HIDDEN)),
    'down': (HIDDEN, WIDTH),
  }
  keys = iter(jax.random.split(jax.random.key(1), blocks * len(shapes)))
  return {
    f'block_{i}': {
      'norm': {'scale': jnp.ones(WIDTH)},
      **{
        name: {'kernel': jax.random.normal(next(keys), shape) / shape[0] ** 0.5}
        for name, shape in shapes.items()
      },
    }
    for i in range(blocks)
  }


def loss(params: dict[str, Any], x: jax.Array) -> jax.Array:
  """The mean square of what a pre-norm decoder computes."""
  for block in params.values():
    scale = block['norm']['scale']
    y = scale * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    q, k, v = (
      (y @ block[name]['kernel']).reshape(*y.shape[:-1], HEADS, -1)
      for name in ('query', 'key', 'value')
    )
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + y.reshape(x.shape) @ block['out']['kernel']
    y = jax.nn.silu(x @ block['gate']['kernel']) * (x @ block['up']['kernel'])
    x = x + y @ block['down']['kernel']
  return jnp.mean(x**2)


def main() -> None:
  """Prints a table."""
  params = draw()
  x = jnp.ones((2, TOKENS, WIDTH))
  kernels = sum(leaf.ndim == 2 for leaf in jax.tree.leaves(params))
  print(f'{BLOCKS} blocks, {kernels} kernels; {timing.machine()}\n')
  print(
    '| training step | lines of the program | of plain | init, s, first |'
    ' compile, s |'
  )
  print('|---|---|---|---|---|')
  plain = 0
  for name, tx in optimizers().items():

    def step(params, opt_state, x, tx=tx):
      grads = jax.grad(loss)(lth.forward_params(opt_state, params), x)
      updates, opt_state = tx.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), opt_state

    jax.clear_caches()
    start = time.perf_counter()
    opt_state = jax.block_until_ready(tx.init(params))
    init = time.perf_counter() - start
    start = time.perf_counter()
    program = jax.jit(step).lower(params, opt_state, x).compile()
    lines = str(program.as_text()).count('\n')
    plain = plain or lines
    print(
      f'| {name} | {lines:,} | {lines / plain:.2f} | {init:.1f} |'
      f' {time.perf_counter() - start:.0f} |',
      flush=True,
    )


if __name__ == '__main__':
  main()
