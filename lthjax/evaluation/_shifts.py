"""How networks do on inputs that are shifted from those they trained on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax._errors import refuse


class Shift(NamedTuple):
  """What a shift does to a network.

  Attributes:
    accuracy: ``[..., severities]``.
    ece: the expected calibration error, ``[..., severities]``.
  """

  accuracy: np.ndarray
  ece: np.ndarray


def mean_corruption_error(
  errors: Mapping[str, Any], dense: Mapping[str, Any]
) -> Any:
  """Computes errors under corruptions relative to those of the dense network.

  Errors of a corruption are summed over severities and divided by those of the
  dense network; the mean over corruptions follows (mCE). The paper divides by
  errors of AlexNet.

  Args:
    errors: ``{corruption: error rates}``, ``[..., severities]``.
    dense: those of the dense network, with the same corruptions.

  Returns:
    The mean, ``[...]``: 1 is as good as the dense network, and lower is better.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> dense = {'fog': np.array([0.1, 0.3]), 'rotate': np.array([0.2, 0.2])}
    >>> ticket = {'fog': np.array([0.2, 0.6]), 'rotate': np.array([0.1, 0.3])}
    >>> float(lth.evaluation.mean_corruption_error(ticket, dense))
    1.5

  References:
    Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations, arXiv:1903.12261, section 4.1.
  """
  what = 'names of corruptions to error rates'
  for name, found in (('errors', errors), ('dense', dense)):
    _checks.mapping(name, found, what)
  if errors.keys() != dense.keys() or not errors:
    raise ValueError(
      f'`errors` has {", ".join(map(str, errors)) or "nothing"} and `dense`'
      f' {", ".join(map(str, dense)) or "nothing"}, but both need the same'
      ' corruptions, at least one.'
    )
  sums = {
    name: (_sum('errors', x), _sum('dense', dense[name]))
    for name, x in errors.items()
  }
  refuse(
    [
      str(name) for name, (_, of_dense) in sums.items() if (of_dense <= 0).any()
    ],
    'The dense network makes no error under {}, so nothing can be relative to'
    ' it. Leave these corruptions out, or take higher severities.',
  )
  return np.mean([mine / of_dense for mine, of_dense in sums.values()], 0)[()]


def _sum(name: str, x: Any) -> np.ndarray:
  found = np.asarray(_checks.array(name, x), np.float64)
  if not found.ndim or not ((found >= 0) & (found <= 1)).all():
    wanted = 'have error rates in [0, 1] for each severity'
    raise _checks.wrong_value(name, x, wanted)
  return found.sum(-1)
