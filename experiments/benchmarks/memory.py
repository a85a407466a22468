"""The peak of memory while a decoder of the sizes of SmolLM2-135M is pruned.

  python experiments/benchmarks/memory.py

Takes ten minutes on two CPU cores. Each rule prunes random weights by 8,192
random tokens, in a process of its own. The goal is less than 4 GB.
"""

import resource
import subprocess
import sys
import time

import jax
import timing

import lthjax as lth
from lthjax import models

GOAL = 4
SMOLLM2 = models.LlamaConfig(
  vocabulary=49_152,
  width=576,
  layers=30,
  heads=9,
  key_value_heads=3,
  head_dim=64,
  mlp=1_536,
  tied=True,
)
WANDA = lth.rules.wanda(0.5)
RULES = {
  'magnitude': lth.rules.magnitude(0.5),
  'Wanda': WANDA,
  'SparseGPT': lth.rules.sparse_gpt(0.5),
  'refit': lth.rules.refit(WANDA),
  # How many weights are exchanged makes no difference to memory.
  'swaps and refit': lth.rules.refit(lth.rules.swaps(WANDA, most=2)),
}


def prune(name: str) -> None:
  """Prunes by one rule; prints seconds and the peak in GB."""
  model = models.llama(SMOLLM2)
  params = jax.jit(model.init)(jax.random.key(0))
  tokens = jax.random.randint(jax.random.key(1), (64, 128), 0, 49_152)
  start = time.perf_counter()
  found = lth.prune_program(model.hidden, params, tokens, rule=RULES[name])
  jax.block_until_ready(found)
  seconds = time.perf_counter() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  unit = 1 if sys.platform == 'darwin' else 1_024
  print(f'| {name} | {seconds:.0f} | {peak * unit / 1e9:.2f} |', flush=True)


def main() -> None:
  """Prints a table, or the row of a rule that is named."""
  if sys.argv[1:]:
    prune(sys.argv[1])
    return
  print(f'{timing.machine()}\n')
  print(f'| rule | s | peak in GB, below {GOAL} |\n|---|---|---|', flush=True)
  for name in RULES:
    subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == '__main__':
  main()
