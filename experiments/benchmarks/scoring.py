"""The cost of scores at initialization, in training steps of the same network.

  python experiments/benchmarks/scoring.py

Takes a minute on two CPU cores. LeNet-300-100; a training step has Adam and a
batch size of 60, SNIP sees 128 examples, GraSP ten of each class in two
batches, and SynFlow prunes in 100 steps. The goals are less than 50 steps for
SNIP, 200 for GraSP and 300 for SynFlow.
"""

import jax
import optax
import timing

import lthjax as lth
from lthjax import data, models

GOALS = {'SNIP': 50, 'GraSP': 200, 'SynFlow, 100 steps': 300}


def main(steps: int = 100) -> None:
  """Prints a table; times so many training steps at once."""
  model = models.lenet_300_100()
  params, _ = model.init(jax.random.key(0))
  tx = optax.adam(1.2e-3)

  def draw(seed, size):
    key = jax.random.key(seed)
    return data.Split(
      jax.random.normal(key, (size, 28, 28, 1)),
      jax.random.randint(key, (size,), 0, 10),
    )

  def apply(params, x):
    return model.apply(params, {}, x)[0]

  def loss(params, batch, temperature=1.0):
    return optax.softmax_cross_entropy_with_integer_labels(
      apply(params, batch.images) / temperature, batch.labels
    ).mean()

  def synflow(params):
    return lth.scores.synflow(apply, params, (28, 28, 1))

  @jax.jit
  def train(params, opt_state, batch):
    def step(_, carry):
      params, opt_state = carry
      grads = jax.grad(loss)(params, batch)
      updates, opt_state = tx.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), opt_state

    return jax.lax.fori_loop(0, steps, step, (params, opt_state))

  opt_state, batch = tx.init(params), draw(0, 60)
  examples, halves = draw(1, 128), [draw(2, 50), draw(3, 50)]
  found = timing.medians(
    {
      'training': lambda: train(params, opt_state, batch),
      'SNIP': lambda: lth.scores.snip(loss, params, examples),
      'GraSP': lambda: lth.scores.grasp(loss, params, halves, temperature=200),
      'SynFlow, 100 steps': lambda: lth.prune_iteratively(
        synflow, params, sparsity=0.99
      ),
    }
  )
  step = found['training'] / steps
  print(f'{timing.machine()}\n')
  print('| what | ms | training steps | goal |')
  print('|---|---|---|---|')
  print(f'| training step | {step:.2f} | 1 | |')
  for name, goal in GOALS.items():
    time = found[name]
    print(f'| {name} | {time:.1f} | {time / step:.0f} | < {goal} |')


if __name__ == '__main__':
  main()
