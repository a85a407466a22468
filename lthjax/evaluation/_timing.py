"""How long a call takes, for several networks in turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lthjax import _checks


class Latency(NamedTuple):
  """Seconds of a call.

  Attributes:
    p50: the median.
    p95: what 19 of 20 calls stay below.
    first: the first call, which compiles.
    throughput: examples per second, at the median.
  """

  p50: float
  p95: float
  first: float
  throughput: float


def seconds_in_turn(
  functions: Mapping[str, Callable[[], Any]], repeats: int = 30
) -> dict[str, list[float]]:
  """Calls functions in turn, so that a drifting machine is fair to all.

  Args:
    functions: ``{name: function}``, called without arguments. What they return
      is waited for.
    repeats: calls of each, after a first one that compiles.

  Returns:
    ``{name: seconds}``: of the first call, and then of all repeats.

  Example:
    >>> import lthjax as lth
    >>> found = lth.evaluation.seconds_in_turn({'f': lambda: 1}, repeats=3)
    >>> len(found['f'])
    4
  """
  _checks.mapping('functions', functions, 'names to functions')
  for name, function in functions.items():
    _checks.function(f'functions[{name!r}]', function, '()')
  repeats = _checks.at_least('repeats', repeats, 1)
  times: dict[str, list[float]] = {name: [] for name in functions}
  for _ in range(repeats + 1):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      times[name].append(time.perf_counter() - start)
  return times


def latency(
  models: Mapping[str, Callable[[Any], Any]],
  inputs: Any,
  *,
  batch_sizes: Sequence[int] = (1, 8, 64, 256),
  repeats: int = 100,
) -> dict[str, dict[int, Latency]]:
  """Measures the latency of networks, side by side, at several batch sizes.

  Args:
    models: ``{name: f}``; ``f(inputs)`` is compiled, as by `jax.jit`.
    inputs: array ``[examples, ...]``, repeated where a batch needs more.
    batch_sizes: examples per call.
    repeats: calls of each, after a first one that compiles.

  Returns:
    ``{name: {batch size: Latency}}``.

  Example:
    >>> import jax, numpy as np
    >>> import lthjax as lth
    >>> f = jax.jit(lambda x: x.sum(-1))
    >>> found = lth.evaluation.latency(
    ...   {'dense': f}, np.ones((4, 2)), batch_sizes=[1, 8], repeats=3
    ... )
    >>> list(found['dense'])
    [1, 8]
  """
  _checks.mapping('models', models, 'names to functions of inputs')
  for name, f in models.items():
    _checks.function(f'models[{name!r}]', f, '(inputs)')
  x = _checks.array('inputs', inputs)
  if not np.ndim(x) or not len(x):
    raise _checks.wrong_value('inputs', x, 'be an array of examples')
  found: dict[str, dict[int, Latency]] = {name: {} for name in models}
  for size in _checks.integers('batch_sizes', batch_sizes):
    size = _checks.at_least('batch_sizes', size, 1)
    batch = jax.numpy.asarray(x)[np.arange(size) % len(x)]
    calls = {n: (lambda f=f, b=batch: f(b)) for n, f in models.items()}
    for name, times in seconds_in_turn(calls, repeats).items():
      first, *others = times
      p50, p95 = map(float, np.quantile(others, [0.5, 0.95]))
      found[name][size] = Latency(p50, p95, first, size / p50)
  return found
