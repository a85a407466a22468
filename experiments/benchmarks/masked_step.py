"""The cost of masks in a training step.

  python experiments/benchmarks/masked_step.py

Takes half a minute on two CPU cores. The goal is at most 1.03 of the dense
step, for LeNet-300-100 with batch 60. `moving_masks.py` times the optimizer
step alone, where no network hides the cost of masks.
"""

import jax
import optax
import timing

import lthjax as lth
from lthjax import models


def training_steps(steps: int = 100) -> dict[str, float]:
  """Milliseconds of a training step of LeNet-300-100, batch 60, with Adam."""
  model = models.lenet_300_100()
  params, _ = model.init(jax.random.key(0))
  masks = lth.prune(
    lth.scores.magnitude(params), lth.masks.full(params), sparsity=0.9
  )
  x = jax.random.normal(jax.random.key(1), (60, 28, 28, 1))
  y = jax.random.randint(jax.random.key(2), (60,), 0, 10)

  def loss(params, x, y):
    logits, _ = model.apply(params, {}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  def runner(tx, params):
    @jax.jit
    def run(params, opt_state, x, y):
      def body(_, carry):
        params, opt_state = carry
        grads = jax.grad(loss)(params, x, y)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

      return jax.lax.fori_loop(0, steps, body, (params, opt_state))

    opt_state = tx.init(params)
    return lambda: run(params, opt_state, x, y)

  tx = optax.adam(1.2e-3)
  found = timing.medians(
    {
      'dense': runner(tx, params),
      'masked': runner(lth.static(tx, masks), lth.masks.apply(masks, params)),
    }
  )
  return {name: time / steps for name, time in found.items()}


def main() -> None:
  """Prints a table."""
  print(f'{timing.machine()}\n')
  print('| what | dense, ms | masked, ms | masked / dense |')
  print('|---|---|---|---|')
  found = training_steps()
  dense, masked = found['dense'], found['masked']
  name = 'training step, LeNet-300-100, batch 60, Adam'
  print(f'| {name} | {dense:.3f} | {masked:.3f} | {masked / dense:.3f} |')


if __name__ == '__main__':
  main()
