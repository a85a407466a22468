"""Accuracy by class or group, and of the worst of them."""

from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.evaluation import _inputs


class Groups(NamedTuple):
  """Accuracy by group.

  The worst of many small groups is low by chance alone: look at its ``n``, and
  compare it with that of other seeds.

  Attributes:
    names: the classes or groups, in order.
    n: number of examples of each, ``[groups]``.
    accuracy: ``[..., groups]``.
  """

  names: tuple[Any, ...]
  n: np.ndarray
  accuracy: np.ndarray

  @property
  def worst(self) -> Any:
    """The lowest accuracy of a group, ``[...]``."""
    return self.accuracy.min(-1)

  @property
  def worst_index(self) -> Any:
    """The place of that group in ``names`` and ``n``, ``[...]``."""
    return self.accuracy.argmin(-1)

  def gap(self, dense: 'Groups') -> np.ndarray:
    """How much lower each group's accuracy is than with the dense network.

    Args:
      dense: the groups of the dense network, on the same data.

    Returns:
      Differences, ``[..., groups]``.
    """
    _checks.having('dense', dense, 'names accuracy', 'a `Groups`')
    if self.names != dense.names or (self.n != dense.n).any():
      raise ValueError(
        f'The groups are {self.names} here and {dense.names} of the dense'
        ' network, but must be the same, with as many examples. Evaluate both'
        ' networks on the same data.'
      )
    return dense.accuracy - self.accuracy


def accuracy(probabilities: Any, labels: Any) -> Any:
  """Computes the share of examples whose most probable class is the label.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.

  Returns:
    The accuracy, ``[...]``. Of equal probabilities, the first class counts.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[0.9, 0.1], [0.3, 0.7]])
    >>> float(lth.evaluation.accuracy(probabilities, np.array([0, 0])))
    0.5
  """
  p = _inputs.probabilities(probabilities)
  return (p.argmax(-1) == _inputs.labels(labels, p)).mean(-1)


def accuracy_by_group(
  probabilities: Any, labels: Any, groups: Any = None
) -> Groups:
  """Computes the accuracy of each class, or of each group of examples.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.
    groups: integers, bools or strings ``[examples]``; `None` is the labels.

  Returns:
    The `Groups` that have examples.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    >>> labels = np.array([0, 0, 1])
    >>> found = lth.evaluation.accuracy_by_group(probabilities, labels)
    >>> found.names, found.n.tolist(), found.accuracy.tolist()
    ((0, 1), [2, 1], [0.5, 1.0])
    >>> float(found.worst)
    0.5

  References:
    Hooker et al., What Do Compressed Deep Neural Networks Forget?,
    arXiv:1911.05248, section 3.
  """
  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)
  g = y if groups is None else _inputs.groups(groups, len(y))
  names, place, n = np.unique(g, return_inverse=True, return_counts=True)
  members = (place[:, None] == np.arange(len(names))).astype(float)
  hits = (p.argmax(-1) == y).astype(float)
  return Groups(tuple(names.tolist()), n, hits @ members / n)
