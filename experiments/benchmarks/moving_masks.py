"""What masks cost an optimizer, on steps that leave them and that move them.

  python experiments/benchmarks/moving_masks.py

The optimizer step alone, on 9.4 million parameters with SGD and momentum: no
network hides what masks cost. Takes two minutes on two CPU cores. The goals are
for RigL: at most 1.2 times the plain optimizer on a step that leaves the masks,
40 times on one that moves them, and so 1.6 times on average where every
hundredth step moves them.
"""

import functools
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
  moving: dict[str, Any] = {'update_every': EVERY, 'stop_step': 100 * EVERY}
  return {
    'plain': plain,
    'static': lth.static(plain, masks),
    'rigl': lth.rigl(plain, masks, **moving),
    'sparse_evolution': lth.sparse_evolution(plain, masks, key=key, **moving),
    'snfs': lth.snfs(plain, masks, **moving),
    'srigl': lth.srigl(plain, masks, **moving),
  }


def steps(
  tx: optax.GradientTransformation, params: Any, grads: Any
) -> dict[str, Callable[[], Any]]:
  """The step of one optimizer, compiled once, before and at a move."""

  @jax.jit
  def step(grads, opt_state, params):
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state: Any = tx.init(params)
  if not isinstance(opt_state, lth.SparsifyState):
    return {'leaves': functools.partial(step, grads, opt_state, params)}
  params = lth.masks.apply(lth.get_masks(opt_state), params)
  # A step from the start, so that slots and averages hold numbers.
  _, opt_state = step(grads, opt_state, params)

  def at(count: int) -> Callable[[], Any]:
    state = opt_state._replace(step=jnp.int32(count))
    return functools.partial(step, grads, state, params)

  found = {'leaves': at(EVERY - 2)}
  if hasattr(opt_state.topology_state, 'drop_ratios'):
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
  functions = {
    f'{name} {kind}': function
    for name, tx in optimizers().items()
    for kind, function in steps(tx, params, grads).items()
  }
  found = timing.medians(functions)
  plain = found['plain leaves']
  size = sum(x.size for x in jax.tree.leaves(params))
  print(f'{size:,} parameters; {timing.machine()}\n')
  print(
    '| optimizer step | leaves, ms | of plain | moves, ms | of plain'
    f' | average of {EVERY}, of plain |'
  )
  print('|---|---|---|---|---|---|')
  for name in optimizers():
    leaves, moves = found[f'{name} leaves'], found.get(f'{name} moves')
    cells = [name, f'{leaves:.1f}', f'{leaves / plain:.2f}', '', '', '']
    if moves is not None:
      average = leaves + (moves - leaves) / EVERY
      ratios = [f'{moves / plain:.1f}', f'{average / plain:.2f}']
      cells[3:] = [f'{moves:.0f}', *ratios]
    print(f'| {" | ".join(cells)} |')


if __name__ == '__main__':
  main()
