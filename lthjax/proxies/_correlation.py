"""Rank correlation between a proxy and trained accuracy."""

from collections.abc import Mapping
from typing import Any

from lthjax import _checks
from lthjax._errors import refuse


def spearman(
  scores: Mapping[str, float], accuracies: Mapping[str, float]
) -> float:
  """Computes Spearman's rank correlation; ties get their mean rank.

  Args:
    scores: of each candidate, such as `Ranking.scores`.
    accuracies: of each candidate, after training.

  Returns:
    Spearman's rank correlation, from -1 to 1, as SciPy computes it.

  Example:
    >>> from lthjax import proxies
    >>> accuracies = {'a': 0.7, 'b': 0.8, 'c': 0.9}
    >>> rho = proxies.spearman({'c': 2.0, 'b': 30.0, 'a': 1.0}, accuracies)
    >>> print(f'{rho:.3f}')
    0.500

  References:
    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134,
    section 4, reports it for all proxies.
  """
  from scipy import stats  # Takes half a second.

  result: Any = stats.spearmanr(*_paired(scores, accuracies))
  return float(result.statistic)


def kendall(
  scores: Mapping[str, float], accuracies: Mapping[str, float]
) -> float:
  """Computes Kendall's tau-b: concordant minus discordant pairs.

  Args:
    scores: of each candidate, such as `Ranking.scores`.
    accuracies: of each candidate, after training.

  Returns:
    Kendall's tau-b, from -1 to 1, as SciPy computes it.

  Example:
    >>> from lthjax import proxies
    >>> accuracies = {'a': 0.7, 'b': 0.8, 'c': 0.9}
    >>> tau = proxies.kendall({'c': 2.0, 'b': 30.0, 'a': 1.0}, accuracies)
    >>> print(f'{tau:.3f}')  # two pairs of three
    0.333

  References:
    Kendall, The treatment of ties in ranking problems, Biometrika 33 (1945).
  """
  from scipy import stats  # Takes half a second.

  result: Any = stats.kendalltau(*_paired(scores, accuracies))
  return float(result.statistic)


def _paired(
  scores: Mapping[str, float], accuracies: Mapping[str, float]
) -> tuple[list[float], list[float]]:
  """Returns scores and accuracies in the same order."""
  for what, given in [('scores', scores), ('accuracies', accuracies)]:
    for x in _checks.mapping(what, given, 'candidates to numbers').values():
      _checks.real(what, x)
  refuse(
    sorted(scores.keys() ^ accuracies.keys()),
    'Scores and accuracies are of different candidates: {} appear in only one'
    ' of them. Give both for the same candidates.',
  )
  _checks.at_least('len(scores)', len(scores), 2)
  pairs = [(scores[name], accuracies[name]) for name in scores]
  xs, ys = map(list, zip(*pairs, strict=True))
  for what, values in (('scores', xs), ('accuracies', ys)):
    if len(set(values)) == 1:
      raise ValueError(
        f'All {what} are {values[0]}, so there is no order to compare.'
      )
  return xs, ys
