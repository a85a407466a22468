"""Times several functions in turn, so that a drifting machine is fair."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def machine() -> str:
  """Names the machine that numbers are measured on."""
  device = jax.devices()[0]
  cpu = platform.processor() or platform.machine()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as file:
      names = [x.partition(':')[2] for x in file if x.startswith('model name')]
    cpu = names[0].strip() if names else cpu
  text = f'{cpu}, {os.cpu_count()} cores, jax {jax.__version__}'
  return text if device.platform == 'cpu' else f'{device.device_kind}; {text}'


def medians(
  functions: dict[str, Callable[[], Any]], repeats: int = 30
) -> dict[str, float]:
  """Runs the functions in turn and returns the median milliseconds of each."""
  times = _times(functions, repeats)
  return {name: 1e3 * statistics.median(x) for name, x in times.items()}


def shortest(
  functions: dict[str, Callable[[], Any]], repeats: int = 10
) -> dict[str, float]:
  """Returns the fewest milliseconds of each, for ratios on a busy machine."""
  return {n: 1e3 * min(x) for n, x in _times(functions, repeats).items()}


def _times(
  functions: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
  for function in functions.values():
    jax.block_until_ready(function())  # Compiles.
  times: dict[str, list[float]] = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      times[name].append(time.perf_counter() - start)
  return times
