"""Seeds side by side: seconds per seed, for one training of the MNIST preset.

  python experiments/benchmarks/seeds.py --seeds 1 8 32 128

For an accelerator, where 128 seeds take hardly longer than one; on two CPU
cores `--seeds 1 3 5` takes a minute. MNIST must be prepared.
"""

import dataclasses
import pathlib
import sys
import time

import jax
import timing
import tyro

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import lottery_ticket


def main(seeds: tuple[int, ...] = (1, 8, 32, 128)) -> None:
  """Prints a table.

  Args:
    seeds: numbers of runs to train side by side, one row each.
  """
  print(f'{timing.machine()}\n')
  print('| seeds | first training, s | next training, s | s per seed |')
  print('|---|---|---|---|')
  for number in seeds:
    config = dataclasses.replace(lottery_ticket.PRESETS['mnist'], seeds=number)
    experiment = lottery_ticket.Experiment(config)
    state = experiment.start
    times = []
    for _ in range(2):
      start = time.perf_counter()
      jax.block_until_ready(experiment.fit(state, until=config.steps))
      times.append(time.perf_counter() - start)
    first, later = times
    print(f'| {number} | {first:.1f} | {later:.1f} | {later / number:.2f} |')


if __name__ == '__main__':
  tyro.cli(main)
