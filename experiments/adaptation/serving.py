"""Several domains of one pretrained model, served by one compiled program."""

from typing import Any, NamedTuple

import jax
import numpy as np

from adaptation.network import ROWS, Network, some
from adaptation.tasks import Task
from lthjax import lota


class Served(NamedTuple):
  """What one program has made of several domains.

  Attributes:
    network: a decoder or an encoder.
    arm: how the changes were found.
    numbers: how many of them each domain has.
    losses: of the first task, in nats per word: as pretrained, and with the
      changes for each domain.
  """

  network: str
  arm: str
  numbers: list[int]
  losses: list[float]


def serve(
  net: Network, arm: str, base: Any, domains: list[Any], task: Task
) -> Served:
  """Swaps the changes for domains in and out, and back again.

  Args:
    net: the network.
    arm: how the changes were found.
    base: its pretrained params.
    domains: what was kept of each training from there: params and masks.
    task: of words, to test on.

  Raises:
    RuntimeError: if swapping compiles anything, or if rolling back does not
      bring back every bit.
  """
  deltas = [
    lota.difference(base, x['params']['model'], x['masks']) for x in domains
  ]
  none = jax.tree.map(np.zeros_like, domains[0]['masks'])
  served = lota.pad(base, [lota.zeros(none), *deltas])
  batch, traces = some(task.test, ROWS), []

  @jax.jit
  def test(base, delta, batch):
    traces.append(1)  # Python runs only when JAX traces.
    params = {'model': lota.add(base, delta), 'head': {}}
    return net.loss(params, batch, jax.random.key(0))

  losses = [test(base, delta, batch) for delta in served]
  back = [test(base, delta, batch) for delta in reversed(served)]
  if len(traces) > 1:
    raise RuntimeError('Swapping domains has compiled their program again.')
  for one, other in zip(losses, reversed(back), strict=True):
    if np.asarray(one).tobytes() != np.asarray(other).tobytes():
      raise RuntimeError('Rolling back has not brought back every bit.')
  numbers = [sum(x.size for x in d.values.values()) for d in deltas]
  return Served(net.kind, arm, numbers, [float(x) for x in losses])
