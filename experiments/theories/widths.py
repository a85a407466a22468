"""Tickets of one number of weights, from networks of several widths.

If a ticket is a lucky draw, a wider network, which holds more draws, has a
better one of the same size.
"""

from typing import Any

import chex
import jax
import optax

import lthjax as lth
from common import seeds
from common.classification import Classification
from lthjax.training import with_masks
from methods import criteria

ADAM = 1.2e-3


def measure(
  task: Classification,
  keys: chex.PRNGKey,
  new_keys: chex.PRNGKey,
  steps: int,
  fraction: float,
  weights: int,
) -> tuple[int, dict[str, list[float]]]:
  """Prunes to so many weights, in rounds that each keep the same share.

  All layers compete. Each round rewinds to initialization. Wider networks take
  more rounds, since pruning much at once costs accuracy.

  Args:
    task: the network and its data.
    keys: one key per seed.
    new_keys: keys of the controls.
    steps: training steps of each round, and of the ticket.
    fraction: largest share of the alive weights that a round may prune.
    weights: alive weights in the end.

  Returns:
    The number of weights of the whole network; test accuracy in %, per seed, of
    the dense network, the ticket, its mask on new weights, and its mask
    shuffled within layers.
  """
  dense = lth.masks.full(task.params)
  size = lth.masks.count(dense)
  if weights >= size:
    raise ValueError(
      f'weights was {weights:,}, but the narrowest network has {size:,}. Find'
      ' smaller tickets.'
    )
  trainer = task.trainer(lth.static(optax.adam(ADAM), dense), every=steps)
  start = trainer.init(keys)

  def fit(state: Any, masks: chex.ArrayTree) -> Any:
    return trainer.fit(with_masks(state, masks), task.dataset, until=steps)

  def accuracy(state: Any) -> list[float]:
    found = task.test_accuracy(state.params, state.model_state)
    return [100 * x for x in found]

  masks = seeds.repeat(dense, len(keys))
  state = whole = fit(start, masks)
  for ratio in criteria.imp_ratios([size / weights], fraction):
    sparsity = 1 - 1 / ratio
    masks = jax.vmap(
      lambda params, alive, sparsity=sparsity: lth.prune(
        lth.scores.magnitude(params), alive, sparsity=sparsity, scope='global'
      )
    )(state.params, masks)
    state = fit(start, masks)
  shuffled = jax.vmap(lth.masks.shuffle)(new_keys, masks)
  return size, {
    'dense': accuracy(whole),
    'ticket': accuracy(state),
    'new weights': accuracy(fit(trainer.init(new_keys), masks)),
    'shuffled': accuracy(fit(start, shuffled)),
  }
