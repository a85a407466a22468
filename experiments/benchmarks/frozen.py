"""The cost of training few weights of a decoder, and the size of its state.

  python experiments/benchmarks/frozen.py

Takes two minutes on two quiet CPU cores. A training step of a small decoder
with Adam: plain, frozen with masks on all leaves, frozen with masks on the
kernels of the blocks and everything else frozen whole, and packed, where a
tenth of these kernels trains. Ratios are medians over turns. The goals: frozen
at most 1.03 of a plain step, and at most 2.1 floats of state for each number of
a packed delta.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import timing

import lthjax as lth
from lthjax import lota, models

CONFIG = models.LlamaConfig(
  vocabulary=1024,
  width=128,
  layers=4,
  heads=4,
  key_value_heads=4,
  head_dim=32,
  mlp=384,
  tied=True,
)
BATCH, TIME = 8, 64
SPARSITY = 0.9
STEPS = 3  # of each call


def everywhere(params: Any, masks: Any) -> Any:
  """Masks with an array at every leaf: what has none trains."""
  return jax.tree.map(
    lambda m, x: jnp.ones(x.shape, bool) if m is None else m,
    masks,
    params,
    is_leaf=lambda m: m is None,
  )


def size(tree: Any) -> int:
  """Counts the floats of an optimizer state."""
  return sum(
    x.size
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(x.dtype, jnp.floating)
  )


def main() -> None:
  """Prints two tables."""
  model = models.llama(CONFIG)
  base = model.init(jax.random.key(0))
  shape = (BATCH, TIME)
  tokens = jax.random.randint(jax.random.key(1), shape, 0, CONFIG.vocabulary)
  kernels = lth.masks.full(base, where='blocks/*kernel')
  scores = lth.scores.magnitude(base)
  masks = lota.largest(scores, kernels, sparsity=SPARSITY)

  def loss(params, tokens):
    logits = model.apply(params, tokens)[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, tokens[:, 1:]
    )
    return losses.mean()

  def runner(tx, start, read=lambda base, trained: trained):
    @jax.jit
    def run(base, trained, state, tokens):
      def body(_, carry):
        trained, state = carry
        # What is packed takes the gradients of the network.
        grads = jax.grad(loss)(read(base, trained), tokens)
        updates, state = tx.update(grads, state, trained)
        return optax.apply_updates(trained, updates), state

      return jax.lax.fori_loop(0, STEPS, body, (trained, state))

    state = tx.init(start)
    floats[tx] = size(state)
    return lambda: run(base, start, state, tokens)

  floats: dict[Any, int] = {}
  adam = optax.adam(1e-3)
  delta = lota.zeros(masks)
  named = {
    'plain': (adam, base),
    'frozen, masks on all leaves': (
      lth.frozen(adam, everywhere(base, masks)),
      base,
    ),
    'frozen, masks on kernels': (lth.frozen(adam, masks), base),
    'packed': (lth.packed(adam), delta, lota.add),
  }
  functions = {name: runner(*how) for name, how in named.items()}
  found = timing.ratios(functions)
  print(f'{timing.machine()}\n')
  print('| training step | of plain | floats of state |')
  print('|---|---|---|')
  for name, (tx, *_) in named.items():
    print(f'| {name} | {found[name]:.3f} | {floats[tx]:,} |')
  count = lth.masks.count(masks)
  packed = floats[named['packed'][0]]
  print(f'\nPacked: {packed / count:.3f} floats for each of {count:,} numbers')


if __name__ == '__main__':
  main()
