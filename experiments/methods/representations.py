"""Compares the layers of networks by what they make of the same examples.

Two layers are alike if the distances between examples are, however wide the
layers and whatever their units. Gromov-Wasserstein distances say by how much
the distances differ under the best matching of examples, and spectral
clustering groups the layers by that.

Memoli, Gromov-Wasserstein distances and the metric approach to object matching,
Foundations of Computational Mathematics, 2011; solved by the conditional
gradient of Vayer et al., arXiv:1805.09114, in POT.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import numpy as np
import ot
from sklearn import cluster

import lthjax as lth


def layer_outputs(
  apply: Callable[..., Any], params: chex.ArrayTree, *args: Any
) -> dict[str, np.ndarray]:
  """What each kernel of ``apply(params, *args)`` makes of its inputs.

  Before biases, which change no distance, and before activations. Examples are
  on the first axis; all others become one.
  """

  def visit(eqn, inputs):
    (output,) = lth.program.bind(eqn, inputs)
    return [output], output.reshape(len(output), -1)

  uses = lth.program.uses(apply, params, *args)
  names = {use.path: use.name for use in uses if use.name is not None}
  visits = dict.fromkeys(names, visit)
  _, notes = lth.program.run(apply, visits, params, *args)
  return {names[path]: np.asarray(note) for path, note in notes.items()}


def distances(x: np.ndarray) -> np.ndarray:
  """Distances between the rows of a matrix, as shares of their mean."""
  x = x.astype(np.float64)
  found = np.linalg.norm(x[:, None] - x, axis=-1)
  return found / (found.mean() or 1)  # All 0 where all rows are alike.


def gromov_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
  """How far two distance matrices are apart, for the same examples.

  The problem is not convex. Descent starts from every example matched with
  itself, so that the result is never above the root mean square difference of
  the two matrices, and is 0 if they are the same.
  """
  weights = np.full(len(a), 1 / len(a))
  squared: Any = ot.gromov.gromov_wasserstein2(
    a, b, weights, weights, 'square_loss', G0=np.diag(weights)
  )
  return max(float(squared), 0) ** 0.5


def gromov_wasserstein_matrix(layers: Sequence[np.ndarray]) -> np.ndarray:
  """Distances between layers, each given as a matrix of examples."""
  spaces = [distances(layer) for layer in layers]
  found = np.zeros((len(spaces), len(spaces)))
  for i, j in zip(*np.triu_indices(len(spaces), 1), strict=True):
    found[i, j] = found[j, i] = gromov_wasserstein(spaces[i], spaces[j])
  return found


def spectral_clusters(matrix: np.ndarray, count: int) -> list[int]:
  """Groups what is near, numbered from 0 by where each group is first met.

  The affinity of two is exp(-d / m) at a distance of d, where m is the mean
  distance of all pairs.
  """
  mean = matrix[np.triu_indices(len(matrix), 1)].mean() or 1
  labels = cluster.SpectralClustering(
    count, affinity='precomputed', random_state=0
  ).fit_predict(np.exp(-matrix / mean))
  order = list(dict.fromkeys(labels.tolist()))
  return [order.index(label) for label in labels.tolist()]
