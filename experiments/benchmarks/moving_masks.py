"""Cost of masks for the optimizer, at steps that leave them and that move them.

  python experiments/benchmarks/moving_masks.py

The optimizer step alone, on 9.4 million parameters with SGD and momentum: no
network hides what masks cost. Every step is measured with new buffers for its
results, and with the buffers of params and state donated, as in a real training
loop. Takes three minutes on two CPU cores. The goals for all methods but SNFS
and Top-KAST, which do more work at every step: at most 1.1 times the plain
optimizer on a step that leaves the masks; for RigL, at most 6 times on a step
that moves them.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import timing

import lthjax as lth

EVERY = 100  # steps from one move to the next


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
    'top_kast': lth.top_kast(
      plain, sparsity=0.9, backward_sparsity=0.8, **often
    ),
  }


def steps(
  tx: optax.GradientTransformation, params: Any, grads: Any, *, donate: bool
) -> dict[str, Callable[[], Any]]:
  """The step of one optimizer, compiled once, before and at a move."""

  def step(params, opt_state, grads):
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  step = jax.jit(step, donate_argnums=(0, 1) if donate else ())
  opt_state: Any = tx.init(params)
  params = jax.tree.map(jnp.copy, lth.forward_params(opt_state, params))
  now = [step(params, opt_state, grads)]  # so that slots hold numbers

  def at(count: int) -> Callable[[], Any]:
    def run() -> Any:
      params, opt_state = now.pop()
      if count:
        opt_state = opt_state._replace(step=jnp.int32(count))
      now.append(step(params, opt_state, grads))
      return now[0]

    return run

  if not isinstance(opt_state, lth.SparsifyState):
    return {'leaves': at(0)}
  found = {'leaves': at(EVERY - 2)}
  if len(opt_state.topology_state) > 1:
    found['moves'] = at(EVERY - 1)
  return found


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
    '| optimizer step | buffers | leaves, ms | of plain | moves, ms | of plain'
    f' | average of {EVERY}, of plain |'
  )
  print('|---|---|---|---|---|---|---|')
  for donate in (False, True):
    functions = {
      f'{name} {kind}': function
      for name, tx in optimizers().items()
      for kind, function in steps(tx, params, grads, donate=donate).items()
    }
    found = timing.medians(functions)
    plain = found['plain leaves']
    for name in optimizers():
      leaves, moves = found[f'{name} leaves'], found.get(f'{name} moves')
      cells = [name, 'donated' if donate else 'new']
      cells += [f'{leaves:.1f}', f'{leaves / plain:.2f}', '', '', '']
      if moves is not None:
        average = leaves + (moves - leaves) / EVERY
        ratios = [f'{moves / plain:.1f}', f'{average / plain:.2f}']
        cells[4:] = [f'{moves:.0f}', *ratios]
      print(f'| {" | ".join(cells)} |')


if __name__ == '__main__':
  main()
