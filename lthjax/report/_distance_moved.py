"""Distance that training moves the weights that masks keep and remove."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from lthjax import trees
from lthjax._errors import refuse
from lthjax.report import _leaves
from lthjax.report._leaves import label


class DistanceMoved(NamedTuple):
  """Mean distance between weights before and after training.

  Attributes:
    alive: mean ``|final - initial|`` of the weights that the masks keep; NaN if
      there are none.
    pruned: the same for the weights that they remove.
  """

  alive: float
  pruned: float


def distance_moved(
  initial: chex.ArrayTree, final: chex.ArrayTree, masks: chex.ArrayTree
) -> dict[str, DistanceMoved]:
  """Measures how far weights moved in one training run of a dense network.

  Pass the params of the network that was trained before pruning: in a sparse
  one, pruned weights are zero.

  Args:
    initial: params of one run before training. For replicated runs, select one
      with ``jax.tree.map(lambda x: x[0], params)``.
    final: params after training, of the dense network.
    masks: tree of masks of that run, not traced.

  Returns:
    ``{name: movement}`` of every prunable leaf.

  Example:
    >>> import jax.numpy as jnp
    >>> import lthjax as lth
    >>> initial, final = {'w': jnp.zeros((1, 3))}, {'w': jnp.arange(3.0)[None]}
    >>> masks = {'w': jnp.array([[False, True, True]])}
    >>> lth.report.distance_moved(initial, final, masks)
    {'w': DistanceMoved(alive=1.5, pruned=0.0)}

  References:
    Frankle & Carbin, The Lottery Ticket Hypothesis: Finding Sparse, Trainable
    Neural Networks, arXiv:1803.03635, appendix F.
  """
  return distances_of(_leaves.arrays(masks), initial, final)


def distances_of(
  leaves: Mapping[str, Any], initial: chex.ArrayTree, final: chex.ArrayTree
) -> dict[str, DistanceMoved]:
  """Does the same for NumPy masks by name."""
  before = _on_host(initial, leaves, 'initial')
  after = _on_host(final, leaves, 'final')
  found = {}
  for name, x in before.items():
    mask, distance = leaves[name], np.abs(after[name] - x)
    found[name] = DistanceMoved(_mean(distance[mask]), _mean(distance[~mask]))
  return found


def _on_host(
  params: chex.ArrayTree, masks: Mapping[str, Any], what: str
) -> dict[str, np.ndarray]:
  """Returns the prunable leaves in double precision, if all are finite."""
  named = trees.by_name(params)
  trees.check_tables(masks, named, f'{what} params')
  # In double precision, differences of half-precision weights are exact.
  leaves = {
    name: np.asarray(jax.device_get(x), np.float64)
    for name, x in named.items()
    if masks[name] is not None
  }
  bad = {name: np.sum(~np.isfinite(x)) for name, x in leaves.items()}
  refuse(
    (f'{label(name)} ({n})' for name, n in bad.items() if n),
    f'The {what} params are not finite in {{}}, so there is no distance. Did'
    ' the training diverge?',
  )
  return leaves


def _mean(x: np.ndarray) -> float:
  return float(x.mean()) if x.size else float('nan')
