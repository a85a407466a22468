"""Exact selection against a full sort: a million float32.

  python experiments/benchmarks/selection.py

Takes half a minute on two CPU cores. The goal is 30 times the speed of
`jnp.sort`, for a flat array and for a kernel; see experiments/results.
"""

import jax
import jax.numpy as jnp
import timing

import lthjax as lth


def main() -> None:
  """Prints a table."""
  size, keep = 1_000_000, 100_000
  flat = jax.random.normal(jax.random.key(0), (size,))
  kernel = flat.reshape(1000, 1000)
  ties = jnp.round(kernel, 1)
  half = kernel.astype(jnp.bfloat16)
  select = jax.jit(lth.keep_largest)
  sort = jax.jit(jnp.sort)
  nm = lth.patterns.NM(2, 4)
  masks = lth.masks.full(kernel)
  group = jax.jit(lambda scores: lth.prune(scores, masks, pattern=nm))
  found = timing.medians(
    {
      'jnp.sort, flat': lambda: sort(flat),
      'keep_largest, flat': lambda: select(flat, keep),
      'keep_largest, 1000 x 1000': lambda: select(kernel, keep),
      'keep_largest, many ties': lambda: select(ties, keep),
      'keep_largest, bfloat16': lambda: select(half, keep),
      'NM(2, 4)': lambda: group(kernel),
    }
  )
  reference = found['jnp.sort, flat']
  print(f'{size:,} scores, {keep:,} kept; {timing.machine()}\n')
  print('| what | ms | times faster than sorting |')
  print('|---|---|---|')
  for name, time in found.items():
    print(f'| {name} | {time:.2f} | {reference / time:.0f} |')


if __name__ == '__main__':
  main()
