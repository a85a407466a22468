"""Several measures of each group of examples, side by side."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lthjax import _checks
from lthjax.evaluation import _inputs
from lthjax.evaluation._calibration import ece, log_loss, overconfidence
from lthjax.evaluation._groups import accuracy

Measure = Callable[[Any, Any], Any]
MEASURES: dict[str, Measure] = {
  'accuracy': accuracy,
  'ece': ece,
  'log_loss': log_loss,
  'overconfidence': overconfidence,
}
_KINDS = ('groups', 'overall')


class GroupTable(NamedTuple):
  """Measures of each group, and how far groups are apart; as text, a table.

  Groups of few examples are apart by chance alone: look at ``n``, and compare
  with another seed.

  Attributes:
    names: the classes or groups, in order.
    n: number of examples of each, ``[groups]``.
    by_group: ``{measure: [..., groups]}``.
    overall: ``{measure: [...]}``, of all examples.
  """

  names: tuple[Any, ...]
  n: np.ndarray
  by_group: dict[str, np.ndarray]
  overall: dict[str, Any]

  def lowest(self) -> dict[str, Any]:
    """Returns the lowest value of a group, by measure."""
    return {name: x.min(-1) for name, x in self.by_group.items()}

  def highest(self) -> dict[str, Any]:
    """Returns the highest value of a group, by measure."""
    return {name: x.max(-1) for name, x in self.by_group.items()}

  def difference(self, to: str = 'groups') -> dict[str, Any]:
    """Returns the largest difference, by measure.

    Args:
      to: "groups" for that between two groups, "overall" for that of a group to
        all examples.
    """
    if _checks.one_of('to', to, _KINDS) == 'groups':
      return {name: np.ptp(x, -1) for name, x in self.by_group.items()}
    return {
      name: np.abs(x - self._whole(name)).max(-1)
      for name, x in self.by_group.items()
    }

  def ratio(self, to: str = 'groups') -> dict[str, Any]:
    """Returns the smallest ratio, at most 1; NaN where all are zero.

    Negative where signs differ.

    Args:
      to: as in `difference`.
    """
    _checks.one_of('to', to, _KINDS)
    found = {}
    with np.errstate(divide='ignore', invalid='ignore'):
      for name, x in self.by_group.items():
        if to == 'groups':
          low, high = x.min(-1), x.max(-1)
          found[name] = np.where(high < 0, high / low, low / high)[()]
        else:
          ratios = x / self._whole(name)
          found[name] = np.minimum(ratios, 1 / ratios).min(-1)
    return found

  def _whole(self, name: str) -> np.ndarray:
    return np.asarray(self.overall[name])[..., None]

  def __str__(self) -> str:
    lines = [['group', 'n', *self.by_group]]
    for i, (name, n) in enumerate(zip(self.names, self.n, strict=True)):
      cells = [_spell(x[..., i]) for x in self.by_group.values()]
      lines.append([str(name), f'{n:,}', *cells])
    whole = [_spell(x) for x in self.overall.values()]
    lines.append(['all', f'{self.n.sum():,}', *whole])
    apart = [_spell(x) for x in self.difference().values()]
    lines.append(['difference', '', *apart])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
      '  '.join(
        [
          line[0].ljust(widths[0]),
          *(x.rjust(w) for x, w in zip(line[1:], widths[1:], strict=True)),
        ]
      )
      for line in lines
    )


def table_by_group(
  probabilities: Any,
  labels: Any,
  groups: Any = None,
  *,
  measures: Mapping[str, Measure] | None = None,
) -> GroupTable:
  """Computes several measures of each group of examples, and of all.

  Args:
    probabilities: floats ``[..., examples, classes]`` that sum to one.
    labels: integers ``[examples]``.
    groups: integers, bools or strings ``[examples]``; `None` is the labels.
    measures: ``{name: f}``; ``f(probabilities, labels)`` returns ``[...]``. By
      default, accuracy, calibration error, log loss and overconfidence.

  Returns:
    The `GroupTable`, with the groups that have examples.

  Example:
    >>> import numpy as np
    >>> import lthjax as lth
    >>> p = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    >>> found = lth.evaluation.table_by_group(
    ...   p, np.array([0, 0, 1, 1]), ['a', 'a', 'b', 'a']
    ... )
    >>> print(found)
    group       n  accuracy    ece  log_loss  overconfidence
    a           3     0.333  0.467     0.742           0.400
    b           1     1.000  0.200     0.223          -0.200
    all         4     0.500  0.400     0.612           0.250
    difference        0.667  0.267     0.519           0.600

  References:
    Bird et al., Fairlearn: A Toolkit for Assessing and Improving Fairness in
    AI, Microsoft 2020: its ``MetricFrame``.
  """
  p = _inputs.probabilities(probabilities)
  y = _inputs.labels(labels, p)
  g = y if groups is None else _inputs.groups(groups, len(y))
  if measures is None:
    measures = MEASURES
  _checks.mapping('measures', measures, 'names to functions')
  for name, f in measures.items():
    call = '(probabilities, labels)'
    _checks.function(f'measures[{name!r}]', f, call)
  if not measures:
    raise _checks.wrong_value('measures', measures, 'have at least one')
  names, place, n = np.unique(g, return_inverse=True, return_counts=True)
  p = np.asarray(probabilities)  # In its own precision, as measures check it.
  members = [np.flatnonzero(place == i) for i in range(len(names))]
  by_group = {
    name: np.stack([_value(name, f, p[..., m, :], y[m]) for m in members], -1)
    for name, f in measures.items()
  }
  overall = {name: _value(name, f, p, y)[()] for name, f in measures.items()}
  return GroupTable(tuple(names.tolist()), n, by_group, overall)


def _value(name: str, f: Measure, p: np.ndarray, y: np.ndarray) -> np.ndarray:
  found = np.asarray(f(p, y), np.float64)
  if found.shape != p.shape[:-2]:
    raise ValueError(
      f'measures[{name!r}] returned the shape {found.shape}, but must return'
      f' one number for each network, {p.shape[:-2]}.'
    )
  return found


def _spell(x: Any) -> str:
  values = np.ravel(x)
  text = f'{values.mean():.3f}'
  return text if values.size < 2 else f'{text} ± {values.std(ddof=1):.3f}'
