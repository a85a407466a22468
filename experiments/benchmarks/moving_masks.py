"""Cost of masks for the optimizer, at steps that leave them and that move them.

  python experiments/benchmarks/moving_masks.py

The optimizer step alone, on 9.4 million parameters with SGD and momentum: no
network hides what masks cost. Every step is measured with new buffers for its
results, and with the buffers of params and state donated, as in a real training
loop. Each method takes turns with the plain optimizer, and the shortest times
are compared, as others may use the machine. Where buffers lie changes these
times by a fifth, so that all are allocated several times: the row `plain` shows
what is left of that.
Memory is what the compiled step needs beside its arguments and results, most of
it to move masks; with new buffers, those of the results serve as well. Takes
three minutes on two CPU cores. The goals for all methods but SNFS and Top-KAST,
which do more work at every step: at most 1.1 times the plain optimizer on a
step that leaves the masks; for RigL, at most 6 times on a step that moves them,
and temporaries of at most the size of the masks, beside those of the optimizer.

A step that leaves the masks compiles to the passes of the plain one, two loops
per leaf, and branches add none. The plain one reads and writes 24 bytes per
weight, of which it reads 16. A mask adds one to the reads of either pass: 1.08
times as many bytes, and 1.125 times as many reads, which are what a core waits
for. With new buffers, XLA copies the masks that a step hands on: one tree of
`static`, and two of RigL, of which the second says what trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import timing

import lthjax as lth

EVERY = 100  # steps from one move to the next
PLACES = 12  # allocations of all buffers


def optimizers() -> dict[str, optax.GradientTransformation]:
  """The plain optimizer under each of the methods, at 90 % sparsity."""
  plain = optax.sgd(0.1, momentum=0.9)
  key = jax.random.key(0)
  masks = lth.random_masks(key, sparsity=0.9)
  often: dict[str, Any] = {'update_every': EVERY, 'stop_step': 100 * EVERY}
  phases: dict[str, Any] = {
    'sparse_steps': [EVERY],
    'dense_steps': [2 * EVERY],
  }
  return {
    'plain': plain,
    'static': lth.static(plain, masks),
    'rigl': lth.rigl(plain, masks, **often),
    'sparse_evolution': lth.sparse_evolution(plain, masks, key=key, **often),
    'snfs': lth.snfs(plain, masks, **often),
    'srigl': lth.srigl(plain, masks, **often),
    'gradual': lth.gradual(plain, sparsity=0.9, **often),
    'ac_dc': lth.ac_dc(plain, sparsity=0.9, **phases),
    'straight_through': lth.straight_through(plain, sparsity=0.9, **often),
    'sr_ste': lth.sr_ste(plain, sparsity=0.9, **often),
    'top_kast': lth.top_kast(
      plain, sparsity=0.9, backward_sparsity=0.8, **often
    ),
  }


class Steps(NamedTuple):
  """The compiled step of one optimizer.

  Attributes:
    renew: allocates params and state again.
    leaves: runs a step that leaves the masks.
    moves: runs one that moves them, or `None` if none does.
    memory: bytes of temporaries.
  """

  renew: Callable[[], None]
  leaves: Callable[[], Any]
  moves: Callable[[], Any] | None
  memory: int


def compile_steps(
  tx: optax.GradientTransformation, params: Any, grads: Any, *, donate: bool
) -> Steps:
  """The step of one optimizer, compiled once, before and at a move."""

  def step(params, opt_state, grads):
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state: Any = tx.init(params)
  params = jax.tree.map(jnp.copy, lth.forward_params(opt_state, params))
  compiled = (
    jax.jit(step, donate_argnums=(0, 1) if donate else ())
    .lower(params, opt_state, grads)
    .compile()
  )
  memory: Any = compiled.memory_analysis()
  now = [compiled(params, opt_state, grads)]  # so that slots hold numbers

  def renew() -> None:
    now.append(jax.block_until_ready(jax.tree.map(jnp.copy, now.pop())))

  def at(count: int) -> Callable[[], Any]:
    def run() -> Any:
      params, opt_state = now.pop()
      if count:
        opt_state = opt_state._replace(step=jnp.int32(count))
      now.append(compiled(params, opt_state, grads))
      return now[0]

    return run

  if not isinstance(opt_state, lth.SparsifyState):
    return Steps(renew, at(0), None, memory.temp_size_in_bytes)
  moves = at(EVERY - 1) if len(opt_state.topology_state) > 1 else None
  return Steps(renew, at(EVERY - 2), moves, memory.temp_size_in_bytes)


def draw(key: chex.PRNGKey) -> dict[str, jax.Array]:
  """Normal numbers in the shapes of two blocks of a transformer."""
  shapes = [(768, 3072), (3072, 768)] * 2
  keys = jax.random.split(key, len(shapes))
  pairs = enumerate(zip(keys, shapes, strict=True))
  return {str(i): jax.random.normal(k, shape) for i, (k, shape) in pairs}


def main() -> None:
  """Prints a table."""
  params, grads = draw(jax.random.key(1)), draw(jax.random.key(2))
  size = sum(x.size for x in jax.tree.leaves(params))
  print(f'{size:,} parameters; {timing.machine()}\n')
  print(
    '| optimizer step | buffers | leaves, ms | of plain | moves, of plain |'
    f' average of {EVERY}, of plain | temporaries, MB | of the params |'
  )
  print('|---|---|---|---|---|---|---|---|')
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  for donate in (False, True):
    plain = compile_steps(optimizers()['plain'], params, grads, donate=donate)
    for name, tx in optimizers().items():
      own = compile_steps(tx, params, grads, donate=donate)
      turns = {'plain': plain.leaves, 'leaves': own.leaves}
      found: dict[str, float] = {}
      for _ in range(PLACES):
        plain.renew()
        own.renew()
        times = timing.shortest(turns, 12)
        found = {k: min(t, found.get(k, t)) for k, t in times.items()}
      cells = [name, 'donated' if donate else 'new', f'{found["leaves"]:.1f}']
      ratio = found['leaves'] / found['plain']
      cells += [f'{ratio:.2f}', '', '']
      if own.moves is not None:
        moves = timing.shortest({'moves': own.moves}, 5)['moves']
        moves /= found['plain']
        average = ratio + (moves - ratio) / EVERY
        cells[4:] = [f'{moves:.1f}', f'{average:.2f}']
      cells += [f'{own.memory / 1e6:.1f}', f'{own.memory / size:.2f}']
      print(f'| {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
  main()
