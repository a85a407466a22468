"""The size of a family of tickets, and the time to list, load and add one.

  python experiments/benchmarks/library.py

Takes a minute on two CPU cores. Adds a hundred tickets of LeNet-300-100 at 10 %
density that rewind to the weights of one dense parent, and compares their bytes
with those of a hundred dense copies of the params; then lists a thousand
tickets in a fresh process's state, without anything read before.

The goals: less than 15 % of the dense copies (values 10 %, masks 3 %), and a
list in less than a second.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import timing

import lthjax as lth
from lthjax import models

TICKETS = 100
LISTED = 1000


def params_of(state: Any) -> Any:
  """States are params here."""
  return state


def rolled(tree: Any, shift: int) -> Any:
  """Other masks or params of the same density: rows moved on."""
  return jax.tree.map(lambda x: np.roll(x, shift, 0), tree)


def clock(function: Callable[..., Any], *args, **options) -> tuple[float, Any]:
  """Returns seconds and the result of a call."""
  start = time.perf_counter()
  result = function(*args, **options)
  return time.perf_counter() - start, result


def family(folder: str) -> None:
  """Prints the bytes of a family, and the time to add and to load a ticket."""
  model = models.lenet_300_100(input_shape=(28, 28, 1))
  params = jax.tree.map(np.asarray, model.init(jax.random.key(0))[0])
  full = lth.masks.full(params)
  dense = jax.tree.map(np.asarray, full)
  scores = lth.scores.magnitude(params)
  masks = jax.tree.map(np.asarray, lth.prune(scores, full, sparsity=0.9))
  library = lth.library.open(folder)
  root = library.add(
    lth.tickets.Ticket(0, 1.0, dense, params, params, {}), params=params_of
  )
  before = size(folder)
  seconds, key = 0.0, root
  ticket = lth.tickets.Ticket(1, 0.1, masks, params, params, {})
  for i in range(TICKETS):
    ticket = ticket._replace(
      masks=rolled(masks, i), trained=rolled(params, i + 1)
    )
    took, key = clock(library.add, ticket, parent=root, params=params_of)
    seconds += took
  copies = TICKETS * sum(x.nbytes for x in jax.tree.leaves(params))
  share = (size(folder) - before) / copies
  print(f'{TICKETS} tickets: {100 * share:.1f} % of dense copies of the params')
  took, loaded = clock(library.load, key, params)
  expected = lth.masks.apply(ticket.masks, ticket.trained)
  same = all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes()
    for x, y in zip(*map(jax.tree.leaves, (loaded, expected)), strict=True)
  )
  print(f'add {1e3 * seconds / TICKETS:.0f} ms, load {1e3 * took:.0f} ms')
  print(f'loaded to the bit: {same}')


def listing(folder: str) -> None:
  """Prints the time to list a thousand tickets."""
  library = lth.library.open(folder)
  params = {'w': np.arange(64, dtype=np.float32)}
  masks = {'w': np.arange(64) < 7}
  for i in range(LISTED):
    ticket = lth.tickets.Ticket(1, 0.1, masks, None, params, {'accuracy': i})
    library.add(ticket, params=params_of, domain='ab'[i % 2])
  took, found = clock(lth.library.open(folder).list)
  print(f'a list of {len(found)} tickets: {took:.2f} s')


def size(folder: str) -> int:
  """Bytes of all files."""
  paths = pathlib.Path(folder).rglob('*')
  return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> None:
  """Prints all of it."""
  print(timing.machine())
  for part in (family, listing):
    with tempfile.TemporaryDirectory() as folder:
      part(folder)


if __name__ == '__main__':
  main()
