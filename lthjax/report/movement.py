"""How far training moves the weights that a ticket keeps, and the others."""

from typing import NamedTuple

import chex
import jax
import numpy as np

from lthjax import trees
from lthjax.report import _leaves


class Movement(NamedTuple):
  """Mean distance between weights before and after training.

  Attributes:
    alive: mean ``|final - initial|`` of the weights that the masks keep; NaN if
      there are none.
    pruned: that of the weights that they remove.
  """

  alive: float
  pruned: float


def movement(
  initial: chex.ArrayTree, final: chex.ArrayTree, masks: chex.ArrayTree
) -> dict[str, Movement]:
  """Measures how far weights moved in the training of a dense network.

  The weights of a winning ticket move further than those that are pruned, and
  often towards larger values. Give the params of the network that was trained
  before pruning: in a sparse one, pruned weights are zero.

  Args:
    initial: params before training.
    final: params after training, of the dense network.
    masks: tree of masks, not traced.

  Returns:
    ``{name: movement}`` of every prunable leaf.

  Raises:
    ValueError: if there is no mask, or the masks do not fit the params.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> initial, final = {'w': jnp.zeros((1, 3))}, {'w': jnp.arange(3.0)[None]}
    >>> masks = {'w': jnp.array([[False, True, True]])}
    >>> lth.report.movement(initial, final, masks)
    {'w': Movement(alive=1.5, pruned=0.0)}

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, appendix F.
  """
  leaves = _leaves.arrays(masks)
  trees.check_like(masks, initial, 'initial params')
  trees.check_like(masks, final, 'final params')
  before, after = trees.by_name(initial), trees.by_name(final)
  found = {}
  for name, mask in leaves.items():
    if mask is not None:
      x, y = jax.device_get((before[name], after[name]))
      distance = np.abs(y.astype(np.float64) - x.astype(np.float64))
      found[name] = Movement(_mean(distance[mask]), _mean(distance[~mask]))
  return found


def _mean(x: np.ndarray) -> float:
  return float(x.mean()) if x.size else float('nan')
