"""Differences of paired seeds, in words."""

from common import findings


def test_differences_by_hand():
  # Of differences of 1 and 3 points, t is 12.7062 and the standard error 1.
  found = findings.difference([0.51, 0.53], [0.5, 0.5], 1, scale=100)
  assert found == f'+2.0 [{2 - 12.7062:+.1f}, {2 + 12.7062:+.1f}]'
  assert findings.difference([0.25], [0.5]) == '-0.25'
  assert findings.text([1.0, 1.0, 1.0], 0) == '+1 [+1, +1]'
