"""Times several functions in turn, so that a drifting machine is fair."""

import os
import platform
import statistics
from collections.abc import Callable
from typing import Any

import jax

from lthjax import evaluation


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


def ratios(
  functions: dict[str, Callable[[], Any]], repeats: int = 30
) -> dict[str, float]:
  """Returns how many times as long as the first each takes.

  Medians of ratios within a turn, in which a drifting machine is much the same
  for all of them.
  """
  times = _times(functions, repeats)
  first = next(iter(times.values()))
  return {
    name: statistics.median(a / b for a, b in zip(x, first, strict=True))
    for name, x in times.items()
  }


def _times(
  functions: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
  times = evaluation.seconds_in_turn(functions, repeats)
  return {name: x[1:] for name, x in times.items()}  # The first one compiles.
