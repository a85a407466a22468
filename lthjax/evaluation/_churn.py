"""Predictions that pruning changes."""

from typing import Any, NamedTuple

import numpy as np

from lthjax.evaluation import _inputs


def churn(probabilities: Any, dense: Any) -> Any:
  """Computes the share of examples on which two networks predict differently.

  Two dense networks of different seeds differ too. Only churn beyond theirs
  comes from pruning.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    dense: those of the dense network on the same examples; axes in front are
      broadcast.

  Returns:
    The share, ``[...]``.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> dense = np.array([[0.9, 0.1], [0.3, 0.7]])
    >>> pruned = np.array([[0.6, 0.4], [0.8, 0.2]])
    >>> float(lth.evaluation.churn(pruned, dense))
    0.5

  References:
    Milani Fard et al., Launch and Iterate: Reducing Prediction Churn, NeurIPS
    2016, section 2.
  """
  p = _inputs.probabilities(probabilities)
  q = _inputs.probabilities(dense, 'dense')
  _inputs.alike(p, q, ('probabilities', 'dense'))
  in_front = p.shape[:-2], q.shape[:-2]
  if all(in_front) and in_front[0] != in_front[1]:
    raise ValueError(
      f'`probabilities` and `dense` have the axes {in_front[0]} and'
      f' {in_front[1]} in front, but must have the same, as many seeds each.'
    )
  return (p.argmax(-1) != q.argmax(-1)).mean(-1)


class Exemplars(NamedTuple):
  """Examples on which most pruned networks part from most dense ones.

  Attributes:
    indices: of the examples, in order.
    pruned: the class that most pruned networks predict, ``[examples]``.
    dense: that of the dense networks, ``[examples]``.
    dense_accuracy: mean accuracy of the dense networks on these examples and
      elsewhere; NaN where there are none.
    pruned_accuracy: likewise of the pruned networks.
  """

  indices: np.ndarray
  pruned: np.ndarray
  dense: np.ndarray
  dense_accuracy: tuple[float, float]
  pruned_accuracy: tuple[float, float]


def exemplars(pruned: Any, dense: Any, labels: Any) -> Exemplars:
  """Finds the pruning-identified exemplars (PIE).

  Args:
    pruned: probabilities of several pruned networks, ``[networks, examples,
      classes]``. The paper takes 30.
    dense: those of several dense networks.
    labels: integers ``[examples]``.

  Returns:
    The `Exemplars`. Of classes that equally many predict, the first counts.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> sure = np.eye(3)
    >>> dense, pruned = sure[[[0, 1], [0, 1], [0, 2]]], sure[[[0, 2]] * 3]
    >>> found = lth.evaluation.exemplars(pruned, dense, np.array([0, 1]))
    >>> found.indices.tolist(), found.pruned.tolist(), found.dense.tolist()
    ([1], [0, 2], [0, 1])

  References:
    Hooker et al., What Do Compressed Deep Neural Networks Forget?,
    arXiv:1911.05248, section 4.
  """
  p = _inputs.probabilities(pruned, 'pruned')
  q = _inputs.probabilities(dense, 'dense')
  _inputs.alike(p, q, ('pruned', 'dense'))
  y = _inputs.labels(labels, p)
  for name, x in (('pruned', p), ('dense', q)):
    if x.ndim != 3 or len(x) < 2:
      raise ValueError(
        f'`{name}` has shape {x.shape}, but the majority of networks needs'
        ' [networks, examples, classes] with at least two. Stack the'
        ' probabilities of networks of several seeds.'
      )
  modes = _mode(p), _mode(q)
  apart = modes[0] != modes[1]

  def accuracies(x: np.ndarray) -> tuple[float, float]:
    hits = x.argmax(-1) == y
    there, elsewhere = hits[:, apart], hits[:, ~apart]
    return _mean(there), _mean(elsewhere)

  return Exemplars(np.flatnonzero(apart), *modes, accuracies(q), accuracies(p))


def _mode(x: np.ndarray) -> np.ndarray:
  votes = np.eye(x.shape[-1], dtype=int)[x.argmax(-1)]
  return votes.sum(0).argmax(-1)


def _mean(x: np.ndarray) -> float:
  return float(x.mean()) if x.size else float('nan')
