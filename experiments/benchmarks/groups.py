"""The time to find the groups of a large network.

  python experiments/benchmarks/groups.py

Takes a minute on two CPU cores. The goal is less than five seconds for
ResNet-50, and for a decoder of 30 layers that are not scanned.
"""

import time

import jax
import jax.numpy as jnp
import timing
import unrolled

import lthjax as lth
from lthjax import models

GOAL = 5


def main(repeats: int = 3) -> None:
  """Prints a table."""
  print(f'{timing.machine()}; the shortest of {repeats} calls\n')
  print(f'| network | leaves | groups | s, below {GOAL} |\n|---|---|---|---|')
  net = models.resnet_50()
  params, state = jax.eval_shape(net.init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  decoder = jax.eval_shape(lambda: unrolled.draw(30))
  x = jax.ShapeDtypeStruct((2, unrolled.TOKENS, unrolled.WIDTH), jnp.float32)
  cases = {
    'ResNet-50': (
      lambda both, x: net.apply(*both, x)[0],
      (params, state),
      images,
    ),
    'decoder of 30 layers, unrolled': (unrolled.loss, decoder, x),
  }
  for name, (apply, tree, given) in cases.items():
    best, found = float('inf'), []
    for _ in range(repeats):
      jax.clear_caches()
      start = time.perf_counter()
      found = lth.structure.groups(apply, tree, given)
      best = min(best, time.perf_counter() - start)
    leaves = len(jax.tree.leaves(tree))
    print(f'| {name} | {leaves} | {len(found)} | {best:.1f} |', flush=True)


if __name__ == '__main__':
  main()
